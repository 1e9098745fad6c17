# SPDX-License-Identifier: Apache-2.0
"""torch.ops.psa.attention and attention_out: `psa.attention` as operators, so that PyTorch's
compiler, fake tensors and CUDA graphs know it.

They carry the configuration as its text and return empty tensors for results that were not asked
for, since an operator has a fixed number of results.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from . import _attention
from ._arrays import arrays_of
from .config import Config, presets
from .plan import same_package

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? kv_lengths, Tensor? scores, Tensor? levels, "
    "str config, int[] layout, bool? causal, float? scale, int num_threads, "
    "bool return_lse, bool return_levels"
)


def compute(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_lengths: Any,
    scores: torch.Tensor | None,
    levels: torch.Tensor | None,
    config: str,
    layout: tuple[int, ...],
    causal: bool | None,
    scale: float | None,
    num_threads: int,
    return_lse: bool,
    return_levels: bool,
    out: torch.Tensor | None,
) -> Any:
    """`_attention.compute` through the operators."""
    tensors = {"q": q, "k": k, "v": v, "scores": scores, "levels": levels, "out": out}
    for name, tensor in tensors.items():
        if tensor is not None:
            same_package("q", _tensors, name, tensor)
            _tensors.check_inference(name, tensor)
    if kv_lengths is not None:
        kv_lengths = _tensors.lengths(q, kv_lengths)
    arguments = (q, k, v, kv_lengths, scores, levels, config, layout, causal, scale, num_threads)
    if out is None:
        out, *more = torch.ops.psa.attention(*arguments, return_lse, return_levels)
    else:
        more = torch.ops.psa.attention_out(*arguments, return_lse, return_levels, out)
    wanted = [x for x, given in zip(more, (return_lse, return_levels)) if given]
    return (out, *wanted) if wanted else out


def _attention_op(q: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    out = torch.empty_like(q)
    return (out, *_attention_out_op(q, *arguments, out))


def _attention_out_op(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    q, return_lse, return_levels = arguments[0], arguments[-3], arguments[-2]
    result = _attention.compute(*arguments)
    more = list(result[1:]) if isinstance(result, tuple) else []
    lse = more.pop(0) if return_lse else q.new_empty(0, dtype=torch.float32)
    levels = more.pop(0) if return_levels else q.new_empty(0, dtype=torch.uint8)
    return lse, levels


def _attention_fake(q: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    out = torch.empty_like(q)
    return (out, *_attention_out_fake(q, *arguments, out))


def _attention_out_fake(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, config, return_lse, return_levels = (arguments[i] for i in (0, 1, 6, -3, -2))
    block_q, block_kv = _blocks(config)
    blocks = (-(-q.shape[2] // block_q), -(-k.shape[2] // block_kv))
    lse = q.new_empty(q.shape[:3] if return_lse else (0,), dtype=torch.float32)
    levels = q.new_empty((*q.shape[:2], *blocks) if return_levels else (0,), dtype=torch.uint8)
    return lse, levels


@functools.cache
def _blocks(config: str) -> tuple[int, int]:
    block_q, block_kv = Config.from_text(config).block
    return block_q, block_kv


def _refuse_backward(context: Any, *gradients: Any) -> Any:
    raise NotImplementedError("psa is for inference: torch.ops.psa.attention has no backward")


_tensors = arrays_of("", torch.empty(0))
_library: Any = torch.library.Library("psa", "DEF")  # type: ignore[no-untyped-call]
for _name, _results, _implementation, _fake in (
    ("attention", "(Tensor, Tensor, Tensor)", _attention_op, _attention_fake),
    ("attention_out", "(Tensor, Tensor)", _attention_out_op, _attention_out_fake),
):
    _out = ", Tensor(a!) out" if _name == "attention_out" else ""
    _library.define(
        f"{_name}({_ARGUMENTS}{_out}) -> {_results}", tags=(torch.Tag.pt2_compliant_tag,)
    )
    for _key in ("CPU", "CUDA"):
        _library.impl(_name, _implementation, _key)
    torch.library.register_fake(f"psa::{_name}", _fake, lib=_library)
torch.library.register_autograd("psa::attention", _refuse_backward, lib=_library)
presets()  # read now: the compiler cannot trace the library's functions
