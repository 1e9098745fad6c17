# SPDX-License-Identifier: Apache-2.0
"""Inputs, oracle and tolerances that the tests share."""

import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# docs/numerics.md, "Python": relative L2 error of out, absolute error of lse.
TOLERANCE = {"float32": 1e-5, "float16": 2 * 2**-11, "bfloat16": 2 * 2**-8}


def make_qkv(heads_q=4, heads_kv=2, len_q=300, len_kv=300, head_dim=32, batch=2, seed=0):
    """Normal q, k, v in float32; lengths that no block size divides."""
    random = np.random.default_rng(seed)
    shapes = ((heads_q, len_q), (heads_kv, len_kv), (heads_kv, len_kv))
    return tuple(
        random.standard_normal((batch, heads, length, head_dim), dtype=np.float32)
        for heads, length in shapes
    )


def dense_attention(q, k, v, causal=False, scale=None, kv_lengths=None):
    """out and lse in double: S-6, S-7 and S-8 with every block at level 1."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    batch, heads, len_q, head_dim = q.shape
    len_kv = k.shape[2]
    k, v = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    logits = np.einsum("bhqd,bhkd->bhqk", q, k) * (scale or head_dim**-0.5)
    lengths = np.full(batch, len_kv) if kv_lengths is None else np.asarray(kv_lengths)
    lengths = lengths[:, None, None, None]
    key = np.arange(len_kv)
    visible = key < lengths
    if causal:
        visible = visible & (key <= np.arange(len_q)[:, None] + lengths - len_q)
    logits = np.where(visible, logits, -np.inf)
    top = logits.max(-1, keepdims=True, initial=-1e300)
    weights = np.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    out = np.einsum("bhqk,bhkd->bhqd", weights, v) / np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):
        return out, (np.log(total) + top)[..., 0]


def relative_l2(given, wanted):
    given, wanted = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    return np.linalg.norm(given - wanted) / np.linalg.norm(wanted)


def code_blocks(path, language):
    """The fenced blocks of a page."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def qkv():
    return make_qkv()
