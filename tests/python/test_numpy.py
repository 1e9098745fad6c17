# SPDX-License-Identifier: Apache-2.0
"""psa.attention and psa.Plan on NumPy arrays, against a dense oracle and the reference backend."""

import threading

import numpy as np
import psa
import pytest

from conftest import TOLERANCE, dense_attention, make_qkv, relative_l2

SMALL = {"block": (32, 32), "density": 0.3}


def close(out, wanted, dtype="float32"):
    return relative_l2(out, wanted) <= TOLERANCE[dtype]


# ---- every block at level 1: dense attention ----------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("causal", [False, True])
def test_keep_all_is_dense_attention(qkv, dtype, causal):  # S-6, S-8
    q, k, v = (x.astype(dtype) for x in qkv)
    out, lse = psa.attention(q, k, v, preset="dense", causal=causal, return_lse=True)
    wanted, wanted_lse = dense_attention(q, k, v, causal)
    assert out.dtype == dtype and out.shape == q.shape
    assert close(out, wanted, dtype)
    assert lse.dtype == np.float32
    np.testing.assert_allclose(lse, wanted_lse, atol=TOLERANCE[dtype] * 10)


@pytest.mark.parametrize(("len_q", "len_kv"), [(1, 1), (40, 130), (130, 40)])
@pytest.mark.parametrize("causal", [False, True])
def test_lengths_of_queries_and_keys_differ(len_q, len_kv, causal):  # S-7, S-8
    q, k, v = make_qkv(len_q=len_q, len_kv=len_kv)
    out = psa.attention(q, k, v, preset="dense", causal=causal)
    assert close(out, dense_attention(q, k, v, causal)[0])


def test_padded_batch(qkv):  # S-1
    lengths = [300, 77]
    out = psa.attention(*qkv, preset="dense", kv_lengths=lengths)
    assert close(out, dense_attention(*qkv, kv_lengths=lengths)[0])
    same = psa.attention(*qkv, preset="dense", kv_lengths=np.array(lengths, np.int64))
    np.testing.assert_array_equal(out, same)


def test_row_without_keys_is_zero_and_minus_infinity(qkv):  # S-7
    out, lse = psa.attention(*qkv, preset="dense", kv_lengths=[300, 0], return_lse=True)
    assert not out[1].any() and np.isneginf(lse[1]).all()


def test_scale(qkv):
    out = psa.attention(*qkv, preset="dense", scale=0.5)
    assert close(out, dense_attention(*qkv, scale=0.5)[0])
    one_in_config = psa.attention(*qkv, config={"rule": "dense", "rest": "skip", "scale": 0.5})
    np.testing.assert_array_equal(out, one_in_config)


# ---- sparse calls: the reference backend on the same level map ----------------------------------

SPARSE = {
    "means": SMALL,
    "linear": {**SMALL, "rest": "linear"},
    "heads": {"block": (32, 32), "head_density": (0.2, 0.3, 0.4, 0.25)},
    "threshold": {"block": (32, 32), "rule": "threshold", "budget": (0.3, 0.5, 0.6, 0.8)},
    "causal": {**SMALL, "causal": True, "sink": 1, "importance": "antidiagonal"},
    "gilbert": {**SMALL, "order": "gilbert"},
    "similarity": {**SMALL, "similarity": (0.1, 0.05)},
    "blocks": {"block": (64, 16), "density": 0.3},
    "values": {**SMALL, "weigh_values": True},
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_call_agrees_with_the_reference(name):
    config = psa.Config(**SPARSE[name])
    grid = (3, 10, 10)
    q, k, v = make_qkv()
    out, lse, levels = psa.attention(
        q, k, v, config=config, grid=grid, return_lse=True, return_levels=True
    )
    reference = psa.Plan(q.shape, k.shape, config, grid=grid, backend="reference")
    wanted, wanted_lse = reference.forward(q, k, v, levels=levels, return_lse=True)
    assert close(out, wanted)
    np.testing.assert_allclose(lse, wanted_lse, atol=1e-5)
    assert 0 < reference.density(levels) < 0.7
    assert set(np.unique(levels)) > {1}


def test_equal_keys_and_values_make_every_map_dense():
    """Pooling equal rows loses nothing (S-4, S-5)."""
    q, k, v = make_qkv()
    k[:], v[:] = k[:, :, :1], v[:, :, :1]
    out = psa.attention(q, k, v, config=SMALL)
    assert close(out, dense_attention(q, k, v)[0])


# ---- level maps ---------------------------------------------------------------------------------


def test_level_map_of_one_call_serves_the_next(qkv):
    q, k, v = qkv
    out, levels = psa.attention(q, k, v, config=SMALL, return_levels=True)
    assert levels.dtype == np.uint8 and levels.shape == (2, 4, 10, 10)
    again, same = psa.attention(q, k, v, config=SMALL, levels=levels, return_levels=True)
    np.testing.assert_array_equal(out, again)
    np.testing.assert_array_equal(levels, same)
    everything = psa.attention(q, k, v, config=SMALL, levels=np.ones_like(levels))
    assert close(everything, dense_attention(q, k, v)[0])


def test_selection_that_weighs_values_needs_them(qkv):
    q, k, v = qkv
    plan = psa.Plan(q.shape, k.shape, psa.Config(**SMALL, weigh_values=True))
    _, used = plan.forward(q, k, v, return_levels=True)
    np.testing.assert_array_equal(plan.select_levels(q, k, v), used)
    assert (psa.Plan(q.shape, k.shape, SMALL).select_levels(q, k) != used).any()
    with pytest.raises(ValueError, match="v"):
        plan.select_levels(q, k)


def test_plan_selects_the_levels_that_it_reads(qkv):
    q, k, v = qkv
    plan = psa.Plan(q.shape, k.shape, SMALL)
    levels = plan.select_levels(q, k)
    _, used = plan.forward(q, k, v, return_levels=True)
    np.testing.assert_array_equal(levels, used)
    stats = plan.measure(q, k, v)
    assert stats.density == pytest.approx(plan.density(levels))
    assert sum(stats.blocks) == levels.size
    assert stats.attention_ms > 0
    assert plan.density(np.ones_like(levels)) == 1
    assert plan.density(levels, kv_lengths=[300, 150]) > 0


def test_user_scores_decide(qkv):  # S-13
    q, k, v = qkv
    config = {"block": (32, 32), "importance": "user_scores", "budget": [0.1], "rest": "skip"}
    scores = np.zeros((2, 4, 10, 10), np.float32)
    scores[..., 7] = 1
    _, levels = psa.attention(q, k, v, config=config, scores=scores, return_levels=True)
    wanted = np.zeros_like(levels)
    wanted[..., 7] = 1
    np.testing.assert_array_equal(levels, wanted)


# ---- layouts, strides, outputs ------------------------------------------------------------------


def test_blhd_is_bhld_with_axes_swapped(qkv):
    q, k, v = qkv
    turned = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in qkv]
    out, lse = psa.attention(*turned, layout="blhd", config=SMALL, return_lse=True)
    wanted, wanted_lse = psa.attention(q, k, v, config=SMALL, return_lse=True)
    assert out.flags.c_contiguous and out.shape == turned[0].shape
    np.testing.assert_array_equal(out, wanted.swapaxes(1, 2))
    np.testing.assert_array_equal(lse, wanted_lse)
    target = np.empty_like(turned[0])
    assert psa.attention(*turned, layout="blhd", config=SMALL, out=target) is target
    np.testing.assert_array_equal(target, out)


def test_strided_views_are_read_in_place():
    wide = np.random.default_rng(0).standard_normal((2, 300, 3, 4, 32), dtype=np.float32)
    q, k, v = (wide[:, :, i].swapaxes(1, 2) for i in range(3))  # of a packed projection
    wanted = psa.attention(*(np.ascontiguousarray(x) for x in (q, k, v)), config=SMALL)
    np.testing.assert_array_equal(psa.attention(q, k, v, config=SMALL), wanted)
    shared = np.broadcast_to(k[:, :1], (2, 4, 300, 32))
    assert psa.attention(q, shared, v, config=SMALL).shape == q.shape


def test_out_is_written_and_returned(qkv):
    q, k, v = qkv
    out = np.full_like(q, np.nan)
    assert psa.attention(q, k, v, config=SMALL, out=out) is out
    np.testing.assert_array_equal(out, psa.attention(q, k, v, config=SMALL))


def test_bfloat16_of_ml_dtypes(qkv):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    q, k, v = (x.astype(bfloat16) for x in qkv)
    assert close(psa.attention(q, k, v, preset="dense"), dense_attention(q, k, v)[0], "bfloat16")


def test_threads_give_equal_bits(qkv):
    outs = [psa.attention(*qkv, config=SMALL, num_threads=n) for n in (1, 2, 3)]
    np.testing.assert_array_equal(outs[0], outs[1])
    np.testing.assert_array_equal(outs[0], outs[2])


def test_calls_of_several_threads_at_once(qkv):
    wanted = psa.attention(*qkv, config=SMALL)
    outs = [None] * 8

    def call(index):
        outs[index] = psa.attention(*qkv, config=SMALL)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(outs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        np.testing.assert_array_equal(out, wanted)


def test_plan_describes_itself(qkv):
    q, k, _ = qkv
    plan = psa.Plan(q.shape, k.shape, {"block": (64, 32)}, num_threads=2)
    assert plan.blocks == (5, 10)
    assert plan.workspace_bytes > 0
    for text in ("q [2,4,300,32]", "2 threads", "5 x 64 queries", "pooled_lse"):
        assert text in plan.describe()
    assert "block=64x32" in repr(plan)


def test_plans_are_kept_and_dropped(qkv):
    from psa import _attention

    _attention._plan.cache_clear()
    for _ in range(3):
        psa.attention(*qkv, config=SMALL)
    info = _attention._plan.cache_info()
    assert (info.misses, info.hits) == (1, 2)
    psa.attention(*qkv, config=SMALL, causal=True)
    assert _attention._plan.cache_info().misses == 2
