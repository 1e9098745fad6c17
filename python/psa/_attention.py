# SPDX-License-Identifier: Apache-2.0
"""`psa.attention`: one call, its plan found or made."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from . import _ffi
from ._arrays import Placement, arrays_of
from .config import Config, preset as preset_named
from .plan import Plan, as_config, index_of, same_package, whole
from .published import PSAConfig

_PLANS = 64  # kept; each holds at most a few integers per token


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    preset: str | None = None,
    config: Config | PSAConfig | Mapping[str, Any] | None = None,
    layout: str = "bhld",
    grid: Sequence[int] | None = None,
    text_tokens: int = 0,
    text_side: str = "front",
    causal: bool | None = None,
    scale: float | None = None,
    kv_lengths: Any = None,
    scores: Any = None,
    levels: Any = None,
    return_lse: bool = False,
    return_levels: bool = False,
    out: Any = None,
    num_threads: int = 0,
) -> Any:
    """Pyramid sparse attention of q on k and v; docs/semantics.md defines it.

    Letters: B batch, Hq and Hkv query and KV heads (Hkv divides Hq), Lq and Lk lengths, D head_dim
    (at most 256), Nq = ceil(Lq / block_q), Nk = ceil(Lk / block_kv).

    Args:
        q: [B,Hq,Lq,D]; k, v: [B,Hkv,Lk,D]. All NumPy arrays (float32, float16, ml_dtypes'
            bfloat16) or all torch tensors (float32, float16, bfloat16) of one dtype and device;
            on CUDA 16-bit. Any strides whose last is 1; nothing is copied. On CUDA the work is
            queued on torch's current stream and nothing waits.
        preset: name of a built-in configuration, one of `psa.presets()`; or
        config: a Config, a PSAConfig, or a dict of Config's settings. Without either: Config(), a
            density of about .15 in the order of the caller's tokens.
        layout: "bhld", or "blhd" where q, k, v and out are [B,L,H,D].
        grid: frames, height and width of the video in tokens, row-major in the sequence; presets
            that reorder tokens need it. Lq = Lk = text_tokens + frames * height * width.
        text_tokens: tokens of the sequence that are text, at its `text_side`, "front" or "back".
        causal, scale: override those of the configuration; scale 0 is 1/sqrt(D).
        kv_lengths: [B] whole numbers, keys that exist in each batch element, 0..Lk; a tensor on
            the device where q is saves a copy.
        scores: [B,Hq,Nq,Nk] float32, for importance = "user_scores".
        levels: [B,Hq,Nq,Nk] uint8, a level map of an earlier call with equal block sizes: nothing
            is selected.
        return_lse, return_levels: return these too, in this order after out.
        out: where to write, apart from all inputs; left out: a new array or tensor that has the
            order of axes in memory that q has.
        num_threads: on the CPU; 0: one per processor that the process may use; else 1..1024.

    Returns:
        out, with the shape and dtype of q; lse [B,Hq,Lq] float32, natural log, biases included
        (S-6); levels [B,Hq,Nq,Nk] uint8: 0 nothing, 1..5 pool factors 1, 2, 4, 8, 16, 6 the block
        mean (S-3). A query that sees no key gives 0, and lse -inf (S-7).

    Raises:
        ValueError, TypeError: an argument out of its range or of another type; the text names it.
        psa.UnsupportedError: valid, but no backend here computes it.
        NotImplementedError: q, k or v requires a gradient; psa computes none.

    Plans are made once for each combination of shapes, dtype, device and configuration, and kept.
    Under torch.compile this is one operator without a graph break; give the configuration as a
    Config or a preset there, and the first call of a process outside a CUDA graph capture.
    """
    if preset is not None:
        if config is not None:
            raise ValueError("preset and config are both given; allowed: one of them")
        config = preset_named(preset).config
    elif not isinstance(config, Config):
        config = as_config(config)
    if layout not in ("bhld", "blhd"):
        raise ValueError(f"layout is {layout!r}; allowed: 'bhld', 'blhd'")
    if causal is not None and not isinstance(causal, bool):
        raise TypeError(f"causal is {causal!r}, a {type(causal).__name__}; it must be a bool")
    if scale is not None and not hasattr(scale, "__float__"):
        raise TypeError(f"scale is {scale!r}, a {type(scale).__name__}; it must be a number")
    scale = None if scale is None else float(scale)
    num_threads = whole("num_threads", num_threads, 32)
    tokens = _layout(grid, text_tokens, text_side)
    target = out
    if layout == "blhd":
        q, k, v = _heads_first("q", q), _heads_first("k", k), _heads_first("v", v)
        target = None if out is None else _heads_first("out", out)
    arguments = (
        *(q, k, v, kv_lengths, scores, levels, config._text, tokens),
        *(causal, scale, num_threads, return_lse, return_levels, target),
    )
    if arrays_of("q", q).kind == "torch.Tensor":
        from . import torch_ops

        result = torch_ops.compute(*arguments)
    else:
        result = compute(*arguments)
    computed, *extras = result if isinstance(result, tuple) else (result,)
    if out is None:
        out = computed if layout == "bhld" else computed.swapaxes(1, 2)
    return (out, *extras) if extras else out


def _layout(grid: Sequence[int] | None, text_tokens: int, text_side: str) -> tuple[int, ...]:
    """Grid or three zeros, text tokens, number in _ffi.TEXT_SIDES."""
    if grid is not None and not hasattr(grid, "__len__"):
        raise TypeError(f"grid is {grid!r}; it must be (frames, height, width) in tokens")
    sizes = (0, 0, 0) if grid is None else tuple(grid)
    if len(sizes) != 3:
        raise ValueError(f"grid is {grid!r}; it must be (frames, height, width) in tokens")
    frames, height, width = (whole("a number of grid", size, 64) for size in sizes)
    side = index_of("text_side", text_side, _ffi.TEXT_SIDES)
    return (frames, height, width, whole("text_tokens", text_tokens, 64), side)


def compute(
    q: Any,
    k: Any,
    v: Any,
    kv_lengths: Any,
    scores: Any,
    levels: Any,
    config: str,
    layout: Sequence[int],
    causal: bool | None,
    scale: float | None,
    num_threads: int,
    return_lse: bool,
    return_levels: bool,
    out: Any,
) -> Any:
    """`attention` on [B,H,L,D] tensors, with the text of a configuration."""
    arrays = arrays_of("q", q)
    placement = arrays.placement("q", q)
    for name, array in (("q", q), ("k", k), ("v", v)):
        same_package("q", arrays, name, array)
        other = arrays.placement(name, array)
        if other != placement:
            raise TypeError(f"{name} is {other}; q is {placement}")
        if len(array.shape) != 4:
            raise ValueError(f"{name} has {len(array.shape)} axes; it must have 4, [B,H,L,D]")
    shapes = (tuple(q.shape), tuple(k.shape))
    plan = _plan(placement, *shapes, config, tuple(layout), causal, scale, num_threads)
    return plan.forward(
        q,
        k,
        v,
        kv_lengths=kv_lengths,
        scores=scores,
        levels=levels,
        return_lse=return_lse,
        return_levels=return_levels,
        out=out,
    )


@functools.lru_cache(maxsize=_PLANS)
def _plan(
    placement: Placement,
    shape_q: tuple[int, ...],
    shape_kv: tuple[int, ...],
    config: str,
    layout: tuple[int, ...],
    causal: bool | None,
    scale: float | None,
    num_threads: int,
) -> Plan:
    settings = Config.from_text(config)
    if causal is not None:
        settings = dataclasses.replace(settings, causal=causal)
    if scale is not None:
        settings = dataclasses.replace(settings, scale=scale)
    *grid, text_tokens, text_side = layout
    return Plan(
        shape_q,
        shape_kv,
        settings,
        dtype=_ffi.DTYPES[placement.dtype],
        device=f"{_ffi.DEVICES[placement.device_type]}:{placement.device_index}",
        grid=grid if any(grid) else None,
        text_tokens=text_tokens,
        text_side=_ffi.TEXT_SIDES[text_side],
        num_threads=num_threads,
    )


def _heads_first(name: str, array: Any) -> Any:
    """[B,L,H,D] as [B,H,L,D], without a copy."""
    arrays_of(name, array)
    if len(array.shape) != 4:
        raise ValueError(f"{name} has {len(array.shape)} axes; it must have 4, [B,L,H,D]")
    return array.swapaxes(1, 2)
