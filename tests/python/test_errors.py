# SPDX-License-Identifier: Apache-2.0
"""Every wrong argument has an exception whose text names it, what was given, what is allowed."""

import numpy as np
import psa
import pytest

from conftest import make_qkv

Q, K, V = make_qkv()
LEVELS = np.ones((2, 4, 3, 3), np.uint8)

CASES = {
    "list": ((Q.tolist(), K, V), {}, TypeError, "q is a builtins.list; allowed: numpy.ndarray"),
    "none": ((Q, None, V), {}, TypeError, "k is a builtins.NoneType"),
    "double": ((Q.astype("f8"), K, V), {}, TypeError, "q is float64; allowed: float32, float16"),
    "byte_order": ((Q.astype(">f4"), K, V), {}, TypeError, "q is >f4"),
    "mixed": ((Q, K.astype("f2"), V), {}, TypeError, "k is f16 on cpu; q is f32 on cpu"),
    "axes": ((Q[0], K, V), {}, ValueError, "q has 3 axes; it must have 4"),
    "v_axes": ((Q, K, V[0]), {}, ValueError, "v has 3 axes; it must have 4"),
    "batch": (
        (Q, K[:1], V[:1]),
        {},
        ValueError,
        r"k.shape\[0\] \(batch\) is 1 and q.shape\[0\] is 2",
    ),
    "heads": ((Q[:, :3], K, V), {}, ValueError, "heads_q is 3; it must be a multiple of heads_kv"),
    "values": ((Q, K, V[:, :, :9]), {}, ValueError, r"v.shape\[2\] \(token\) is 9"),
    "head_dim": (make_qkv(head_dim=257), {}, ValueError, "head_dim is 257; allowed: 1..256"),
    "empty": ((Q[:, :, :0], K, V), {}, ValueError, "len_q is 0"),
    "channels": ((Q[..., ::2], K[..., ::2], V[..., ::2]), {}, ValueError, r"stride\[3\]"),
    "backwards": ((Q[:, :, ::-1], K, V), {}, ValueError, r"q.stride\[2\] is -32"),
    "layout": ((Q, K, V), {"layout": "lbhd"}, ValueError, "layout is 'lbhd'; allowed"),
    "blhd_axes": ((Q[0], K, V), {"layout": "blhd"}, ValueError, "q has 3 axes"),
    "blhd_list": ((Q.tolist(), K, V), {"layout": "blhd"}, TypeError, "q is a builtins.list"),
    "grid_number": ((Q, K, V), {"grid": 300}, TypeError, "grid is 300; it must be"),
    "preset": ((Q, K, V), {"preset": "blanced"}, ValueError, "preset is 'blanced'.*balanced"),
    "both": (
        (Q, K, V),
        {"preset": "dense", "config": {}},
        ValueError,
        "preset and config are both",
    ),
    "config": ((Q, K, V), {"config": 3}, TypeError, "config is a int; allowed: psa.Config"),
    "setting": ((Q, K, V), {"config": {"blok": 1}}, ValueError, "'blok' is not known.*'block'"),
    "block": ((Q, K, V), {"config": {"block": (48, 64)}}, ValueError, "block_q is 48; allowed: 16"),
    "no_grid": (
        (Q, K, V),
        {"preset": "balanced"},
        ValueError,
        "grid is .*frames, height and width",
    ),
    "grid": ((Q, K, V), {"grid": (3, 10)}, ValueError, r"grid is \(3, 10\); it must be"),
    "grid_type": ((Q, K, V), {"grid": (3, 10, 1.5)}, TypeError, "a number of grid is 1.5, a float"),
    "grid_size": (
        (Q, K, V),
        {"preset": "balanced", "grid": (3, 3, 3)},
        ValueError,
        "grid is 3x3x3",
    ),
    "text": ((Q, K, V), {"text_tokens": -1}, ValueError, "text_tokens is -1"),
    "side": ((Q, K, V), {"text_side": "left"}, ValueError, "text_side is 'left'; allowed: front"),
    "scale": ((Q, K, V), {"scale": -1.0}, ValueError, "softmax_scale is -1"),
    "scale_type": (
        (Q, K, V),
        {"scale": "1"},
        TypeError,
        "scale is '1', a str; it must be a number",
    ),
    "causal": ((Q, K, V), {"causal": 1}, TypeError, "causal is 1, a int; it must be a bool"),
    "threads_type": ((Q, K, V), {"num_threads": 1.0}, TypeError, "num_threads is 1.0, a float"),
    "threads": ((Q, K, V), {"num_threads": 5000}, ValueError, "num_threads is 5000; allowed"),
    "lengths": ((Q, K, V), {"kv_lengths": [300, 301]}, ValueError, r"kv_lengths\[1\] is 301"),
    "lengths_wrap": ((Q, K, V), {"kv_lengths": [300, 2**32]}, ValueError, r"kv_lengths\[1\] is"),
    "lengths_count": ((Q, K, V), {"kv_lengths": [1, 2, 3]}, ValueError, "kv_lengths has shape"),
    "lengths_type": ((Q, K, V), {"kv_lengths": [0.5, 1]}, TypeError, "kv_lengths is float64"),
    "levels_type": ((Q, K, V), {"levels": LEVELS.astype("i4")}, TypeError, "levels is int32"),
    "levels_shape": (
        (Q, K, V),
        {"levels": LEVELS[:1]},
        ValueError,
        r"levels has shape \[1, 4, 3, 3\]",
    ),
    "levels_code": ((Q, K, V), {"levels": LEVELS * 9}, ValueError, "levels.* is 9"),
    "levels_strides": (
        (Q, K, V),
        {"levels": np.asfortranarray(LEVELS)},
        ValueError,
        "levels is not contiguous",
    ),
    "scores": ((Q, K, V), {"config": {"importance": "user_scores"}}, ValueError, "scores is null"),
    "out_type": ((Q, K, V), {"out": Q.astype("f2")}, TypeError, "out is f16 on cpu"),
    "out_shape": ((Q, K, V), {"out": Q[:, :, :9].copy()}, ValueError, r"out.shape\[2\]"),
    "out_overlap": ((Q, K, V), {"out": Q}, ValueError, "out overlaps q"),
    "causal_order": (
        (Q, K, V),
        {"preset": "balanced", "grid": (3, 10, 10), "causal": True},
        ValueError,
        "causal",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_argument(name):
    tensors, options, kind, text = CASES[name]
    with pytest.raises(kind, match=text):
        psa.attention(*tensors, **options)


def test_read_only_out():
    out = np.empty_like(Q)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        psa.attention(Q, K, V, out=out)


def test_misaligned_array():
    raw = np.zeros(Q.nbytes + 1, np.uint8)
    odd = raw[1:].view(np.float32).reshape(Q.shape)
    with pytest.raises(ValueError, match="q is not aligned"):
        psa.attention(odd, K, V)


PLAN_CASES = {
    "axes": ({"shape_q": (1, 2, 3)}, ValueError, "shape_q is .*4 axes"),
    "type": ({"shape_q": (1, 2, 3, 4.0)}, TypeError, "a number of shape_q is 4.0, a float"),
    "wrap": ({"shape_q": (2**70, 2, 3, 4)}, ValueError, "more than 64 bits hold"),
    "huge": ({"shape_q": (2**31 - 1, 2**20, 2**20, 4)}, ValueError, "at most 2.48 entries"),
    "dtype": ({"dtype": "f64"}, ValueError, "dtype is 'f64'; allowed: f32, f16, bf16"),
    "device": ({"device": "tpu"}, ValueError, "device is 'tpu'; allowed: cpu, cuda"),
    "device_index": ({"device": "cuda:x"}, ValueError, "device is 'cuda:x'"),
    "backend": ({"backend": "gpu"}, ValueError, "backend is .*gpu"),
    "backend_type": ({"backend": 1}, TypeError, "backend is 1, a int; it must be a str"),
    "isa": ({"isa": "sse9"}, ValueError, "sse9"),
    "levels": ({"config": {"block": (16, 16), "pooled": 5}}, ValueError, "pooled_tokens is 5"),
}


@pytest.mark.parametrize("name", PLAN_CASES)
def test_wrong_argument_of_a_plan(name):
    options, kind, text = PLAN_CASES[name]
    with pytest.raises(kind, match=text):
        psa.Plan(**{"shape_q": (1, 2, 64, 16), **options})


def test_tensors_that_do_not_fit_the_plan():
    plan = psa.Plan(Q.shape, K.shape)
    with pytest.raises(TypeError, match="q is f16 on cpu; the plan was made for f32 on cpu"):
        plan.forward(Q.astype("f2"), K.astype("f2"), V.astype("f2"))
    with pytest.raises(ValueError, match=r"q.shape\[2\] \(token\) is 9; the plan was made for 300"):
        plan.forward(Q[:, :, :9], K, V)
    with pytest.raises(ValueError, match="levels has shape"):
        plan.density(LEVELS[0])


def test_unsupported_call_is_both_kinds_of_error():
    with pytest.raises(psa.UnsupportedError) as caught:
        psa.Plan((1, 1, 64, 16), dtype="f32", device="cuda")  # 16-bit types only
    assert isinstance(caught.value, NotImplementedError) and isinstance(caught.value, psa.PsaError)
