# SPDX-License-Identifier: Apache-2.0
"""`Plan`: everything that depends on shapes alone, decided once and used for many calls."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections.abc import Iterator, Mapping, Sequence
from ctypes import byref, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any

from . import _ffi
from ._arrays import Arrays, Placement, arrays_of
from .config import Config
from .published import PSAConfig

_AXES = ("batch", "head", "token", "channel")


@dataclass(frozen=True)
class Stats:
    """What a call did; the times of its stages are in milliseconds."""

    density: float
    """Logit columns that were computed over all visible ones (S-21)."""
    selection_cost: float
    """Cost of the selection in the unit of density (S-21)."""
    blocks: tuple[int, ...]
    """Entries of the level map by code: 0 skip, 1..5 levels, 6 block mean."""
    reorder_ms: float
    pyramid_ms: float
    importance_ms: float
    levels_ms: float
    attention_ms: float


class Plan:
    """A checked problem with its kernels chosen. Immutable: any number of threads and streams may
    use one plan at once.

    Letters: B batch, Hq and Hkv query and KV heads, Lq and Lk lengths, D head_dim, Nq and Nk query
    and KV blocks. Tensors are [B,H,L,D] with any strides whose last is 1.

    Args:
        shape_q: (B, Hq, Lq, D); D at most 256.
        shape_kv: (B, Hkv, Lk, D), Hkv divides Hq; left out: that of q.
        config: a Config, a PSAConfig or a dict of Config's settings; left out: Config().
        dtype: "f32", "f16" or "bf16", of q, k, v and out; on CUDA one of the last two.
        device: "cpu", "cuda" or "cuda:N".
        grid: frames, height and width of the video in tokens; Lq = text_tokens + their product.
        text_tokens: tokens of the sequence that are text, at its `text_side`, "front" or "back".
        backend: "auto", or one that `python -m psa doctor` lists: "cpu", "reference", "cuda".
        isa: instruction set of the backend, as listed there; left out: the best.
        num_threads: on the CPU; 0: one per processor that the process may use; else 1..1024.

    Raises:
        ValueError, TypeError: an argument out of its range or of another type.
        UnsupportedError: valid, but no backend here computes it.
    """

    def __init__(
        self,
        shape_q: Sequence[int],
        shape_kv: Sequence[int] | None = None,
        config: Config | PSAConfig | Mapping[str, Any] | None = None,
        *,
        dtype: str = "f32",
        device: str = "cpu",
        grid: Sequence[int] | None = None,
        text_tokens: int = 0,
        text_side: str = "front",
        backend: str = "auto",
        isa: str | None = None,
        num_threads: int = 0,
    ) -> None:
        self.config = as_config(config)
        self._shape_q = _four("shape_q", shape_q)
        self._shape_kv = self._shape_q if shape_kv is None else _four("shape_kv", shape_kv)
        self._placement = _placement(dtype, device)
        problem = self._problem(grid, text_tokens, text_side)
        options: _ffi.PlanOptions = _ffi.initial(_ffi.PlanOptions, "psa_plan_options_init")
        options.num_threads = whole("num_threads", num_threads, 32)
        options.backend = _words("backend", backend)
        options.isa = None if isa is None else _words("isa", isa)
        handle = c_void_p()
        lib = _ffi.library()
        _ffi.check(
            lib.psa_plan_create(
                byref(problem), byref(self.config._to_c()), byref(options), byref(handle)
            )
        )
        self._handle = handle
        # Not at exit: the CUDA driver may be gone by then, and memory goes with the process.
        weakref.finalize(self, lib.psa_plan_destroy, handle).atexit = False
        size, q_blocks, kv_blocks = c_size_t(), c_int64(), c_int64()
        _ffi.check(lib.psa_plan_workspace_size(handle, byref(size)))
        _ffi.check(lib.psa_plan_blocks(handle, byref(q_blocks), byref(kv_blocks)))
        self.workspace_bytes = size.value
        """Bytes of scratch memory of each call."""
        self.blocks = (q_blocks.value, kv_blocks.value)
        """(Nq, Nk) = (ceil(Lq / block_q), ceil(Lk / block_kv)): shape of a head's level map."""

    def _problem(
        self, grid: Sequence[int] | None, text_tokens: int, text_side: str
    ) -> _ffi.Problem:
        problem: _ffi.Problem = _ffi.initial(_ffi.Problem, "psa_problem_init")
        problem.batch, problem.heads_q, problem.len_q, problem.head_dim = self._shape_q
        batch, problem.heads_kv, problem.len_kv, head_dim = self._shape_kv
        for axis, q, kv in ((0, problem.batch, batch), (3, problem.head_dim, head_dim)):
            if q != kv:
                raise ValueError(
                    f"k.shape[{axis}] ({_AXES[axis]}) is {kv} and q.shape[{axis}] is {q}; "
                    "they must be equal"
                )
        problem.dtype_q = problem.dtype_kv = problem.dtype_out = self._placement.dtype
        problem.device_type = self._placement.device_type
        problem.device_index = self._placement.device_index
        if grid is not None:
            if len(grid) != 3:
                raise ValueError(f"grid is {grid!r}; it must be (frames, height, width) in tokens")
            problem.grid_frames, problem.grid_height, problem.grid_width = (
                whole("a number of grid", size, 64) for size in grid
            )
        problem.text_tokens = whole("text_tokens", text_tokens, 64)
        problem.text_side = index_of("text_side", text_side, _ffi.TEXT_SIDES)
        return problem

    def forward(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        kv_lengths: Any = None,
        scores: Any = None,
        levels: Any = None,
        return_lse: bool = False,
        return_levels: bool = False,
        out: Any = None,
    ) -> Any:
        """Attention. On CUDA the work is queued on torch's current stream, and nothing waits.

        Args:
            q: [B,Hq,Lq,D]; k, v: [B,Hkv,Lk,D]; all NumPy arrays or all torch tensors, of the
                plan's dtype and device.
            kv_lengths: [B] whole numbers, keys that exist in each batch element, 0..Lk; the
                rest is padding at the end and not read.
            scores: [B,Hq,Nq,Nk] float32, with importance = "user_scores".
            levels: [B,Hq,Nq,Nk] uint8, a level map of an earlier call: nothing is selected.
            return_lse, return_levels: return these too, in this order after out.
            out: [B,Hq,Lq,D] to write to, apart from all inputs; left out: a new one that has the
                order of axes in memory that q has.

        Returns:
            out [B,Hq,Lq,D]; lse [B,Hq,Lq] float32, natural log, biases included (S-6); levels
            [B,Hq,Nq,Nk] uint8, what was read: 0 nothing, 1..5 the levels, 6 the block mean (S-3).

        Raises:
            TypeError, ValueError: a tensor that does not fit the plan.
            NotImplementedError: a gradient would be needed.
        """
        call = _Call(self, q, k, v, kv_lengths, scores, levels)
        results = [call.write_out(out)]
        if return_lse:
            results.append(call.write("lse", self._shape_q[:3], "float32"))
        if return_levels:
            results.append(call.write("levels_out", self._map_shape, "uint8"))
        call.run(None)
        return results[0] if len(results) == 1 else tuple(results)

    def measure(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        kv_lengths: Any = None,
        scores: Any = None,
        levels: Any = None,
        out: Any = None,
    ) -> Stats:
        """One `forward` with its density and the time of each stage. On CUDA it waits for the
        stream after each stage."""
        stats: _ffi.Stats = _ffi.initial(_ffi.Stats, "psa_stats_init")
        call = _Call(self, q, k, v, kv_lengths, scores, levels)
        call.write_out(out)
        call.run(stats)
        return _stats(stats)

    def select_levels(
        self, q: Any, k: Any, v: Any = None, *, kv_lengths: Any = None, scores: Any = None
    ) -> Any:
        """The level map that `forward` would use: [B,Hq,Nq,Nk] uint8, for `forward(levels=...)`
        of this and of later steps. Arguments and errors are those of `forward`; v is needed with
        weigh_values alone."""
        return _Call(self, q, k, v, kv_lengths, scores, None).select()

    def density(self, levels: Any, *, kv_lengths: Any = None) -> float:
        """Density of a level map [B,Hq,Nq,Nk] (S-21): computed logit columns over all visible
        ones. What is on a device is copied to the host."""
        arrays = arrays_of("levels", levels)
        levels, kv_lengths = _on_host(levels), _on_host(kv_lengths)
        _require("levels", levels, arrays, self._map_shape, "uint8")
        lengths = None
        if kv_lengths is not None:
            lengths = arrays.lengths(levels, kv_lengths)
            _require("kv_lengths", lengths, arrays, self._shape_q[:1], "int32")
        stats: _ffi.Stats = _ffi.initial(_ffi.Stats, "psa_stats_init")
        _ffi.check(
            _ffi.library().psa_measure_levels(
                self._handle,
                arrays.pointer(levels),
                None if lengths is None else arrays.pointer(lengths),
                None,
                byref(stats),
            )
        )
        return float(stats.density)

    def describe(self) -> str:
        """What will run and why, several lines: kernels, blocks, order, levels, workspace, and
        why better kernels were not chosen."""
        length = c_size_t()
        lib = _ffi.library()
        _ffi.check(lib.psa_plan_describe(self._handle, None, 0, byref(length)))
        text = ctypes.create_string_buffer(length.value + 1)
        _ffi.check(lib.psa_plan_describe(self._handle, text, len(text), None))
        return text.value.decode()

    def __repr__(self) -> str:
        return f"<psa.Plan q={self._shape_q} kv={self._shape_kv} {self._placement} [{self.config}]>"

    @property
    def _map_shape(self) -> tuple[int, ...]:
        return (*self._shape_q[:2], *self.blocks)


class _Call:
    """The tensors of one psa_forward or psa_select_levels, kept alive until it returns."""

    def __init__(
        self,
        plan: Plan,
        q: Any,
        k: Any,
        v: Any,
        kv_lengths: Any,
        scores: Any,
        levels: Any,
    ) -> None:
        self._plan, self._like = plan, q
        self._arrays = arrays = arrays_of("q", q)
        self._io: _ffi.Io = _ffi.initial(_ffi.Io, "psa_io_init")
        self._kept: list[Any] = [q, k, v]
        self._io.q = self._tensor("q", q)
        self._io.k = self._tensor("k", k)
        if v is not None:
            self._io.v = self._tensor("v", v)
        if kv_lengths is not None:
            lengths = arrays.lengths(q, kv_lengths)
            self._io.kv_lengths = self._optional("kv_lengths", lengths, plan._shape_q[:1], "int32")
        if scores is not None:
            self._io.scores = self._optional("scores", scores, plan._map_shape, "float32")
        if levels is not None:
            self._io.levels = self._optional("levels", levels, plan._map_shape, "uint8")

    def _tensor(self, name: str, array: Any) -> _ffi.Tensor:
        arrays, plan = self._arrays, self._plan
        same_package("q", arrays, name, array)
        arrays.check_inference(name, array)
        placement = arrays.placement(name, array)
        if placement != plan._placement:
            raise TypeError(f"{name} is {placement}; the plan was made for {plan._placement}")
        if len(array.shape) != 4:
            raise ValueError(f"{name} has {len(array.shape)} axes; it must have 4, [B,H,L,D]")
        c = _ffi.Tensor(arrays.pointer(array), *placement)
        c.shape[:] = array.shape
        c.stride[:] = arrays.strides(name, array)
        return c

    def _optional(self, name: str, array: Any, shape: Sequence[int], word: str) -> int:
        same_package("q", self._arrays, name, array)
        _require(name, array, self._arrays, shape, word)
        if getattr(array, "device", None) != getattr(self._like, "device", None):
            raise TypeError(f"{name} is on {array.device}; q is on {self._like.device}")
        self._kept.append(array)
        return self._arrays.pointer(array)

    def empty(self, shape: Sequence[int], word: str) -> Any:
        return self._arrays.empty(self._like, shape, word)

    def write_out(self, out: Any) -> Any:
        """The array that the attention is written to: `out`, or a new one."""
        array = self._arrays.empty_like(self._like) if out is None else out
        self._io.out = self._tensor("out", array)
        if not self._arrays.is_writable(array):
            raise ValueError("out is read-only")
        self._kept.append(array)
        return array

    def write(self, name: str, shape: Sequence[int], word: str) -> Any:
        """A new array that the call fills."""
        array = self.empty(shape, word)
        setattr(self._io, name, self._arrays.pointer(array))
        return array

    def run(self, stats: _ffi.Stats | None) -> None:
        forward = _ffi.library().psa_forward
        with self._workspace() as (address, stream):
            _ffi.check(
                forward(
                    self._plan._handle,
                    byref(self._io),
                    address,
                    self._plan.workspace_bytes,
                    stream,
                    None if stats is None else byref(stats),
                )
            )

    def select(self) -> Any:
        levels = self.empty(self._plan._map_shape, "uint8")
        select = _ffi.library().psa_select_levels
        with self._workspace() as (address, stream):
            _ffi.check(
                select(
                    self._plan._handle,
                    byref(self._io),
                    self._arrays.pointer(levels),
                    address,
                    self._plan.workspace_bytes,
                    stream,
                )
            )
        return levels

    @contextlib.contextmanager
    def _workspace(self) -> Iterator[tuple[int, int | None]]:
        """Address of scratch memory and the stream, while the work is queued."""
        if self._arrays.is_capturing(self._like):
            _captured.add(self._plan)
        owner, address = self._arrays.workspace(self._like, self._plan.workspace_bytes)
        yield address, self._arrays.stream(self._like)
        del owner


# Plans whose work is part of a CUDA graph: it reads their token order whenever it is replayed.
_captured: set[Plan] = set()


def as_config(given: Config | PSAConfig | Mapping[str, Any] | None) -> Config:
    """`given` as a Config: None is the default, a mapping holds settings by name."""
    if given is None:
        return Config()
    if isinstance(given, Config):
        return given
    if isinstance(given, PSAConfig):
        return given.to_config()
    if isinstance(given, Mapping):
        return Config.from_mapping(given)
    raise TypeError(
        f"config is a {type(given).__name__}; allowed: psa.Config, psa.PSAConfig, a dict"
    )


def same_package(first: str, arrays: Arrays, name: str, array: Any) -> None:
    """TypeError unless `array` is of the package of the argument `first`."""
    other = arrays_of(name, array)
    if other is not arrays:
        raise TypeError(f"{name} is a {other.kind}; {first} is a {arrays.kind}")


def _require(name: str, array: Any, arrays: Arrays, shape: Sequence[int], word: str) -> None:
    """An optional tensor must have exactly this shape and type, and no gaps."""
    if arrays.word(array) != word:
        raise TypeError(f"{name} is {arrays.word(array)}; it must be {word}")
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {list(array.shape)}; it must have {list(shape)}")
    if not arrays.is_contiguous(array):
        raise ValueError(f"{name} is not contiguous")


def _on_host(array: Any) -> Any:
    """A tensor on a device copied to the host; everything else as it is."""
    return array.cpu() if getattr(array, "is_cuda", False) else array


def _four(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    if len(shape) != 4:
        raise ValueError(f"{name} is {shape!r}; it must have 4 axes, [B,H,L,D]")
    return tuple(whole(f"a number of {name}", size, 64) for size in shape)


def whole(name: str, value: Any, bits: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be an int")
    number = value if isinstance(value, int) else int(value.__index__())
    if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        raise ValueError(f"{name} is {number}, more than {bits} bits hold")
    return number


def _words(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be a str")
    return value.encode()


def index_of(name: str, value: Any, words: Sequence[str]) -> int:
    if value not in words:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(words)}")
    return words.index(value)


_DTYPE_WORDS = {"f32": 0, "float32": 0, "f16": 1, "float16": 1, "bf16": 2, "bfloat16": 2}


def _placement(dtype: Any, device: Any) -> Placement:
    word = getattr(dtype, "__name__", str(dtype)).removeprefix("torch.")
    if word not in _DTYPE_WORDS:
        raise ValueError(f"dtype is {dtype!r}; allowed: {', '.join(_ffi.DTYPES)}")
    kind, _, index = str(device).partition(":")
    if kind not in _ffi.DEVICES or not (index or "0").isdecimal():
        raise ValueError(f"device is {str(device)!r}; allowed: cpu, cuda, cuda:N")
    return Placement(
        _DTYPE_WORDS[word], _ffi.DEVICES.index(kind), whole("device", int(index or 0), 32)
    )


def _stats(c: _ffi.Stats) -> Stats:
    return Stats(
        density=c.density,
        selection_cost=c.selection_cost,
        blocks=tuple(c.blocks),
        reorder_ms=c.reorder_ms,
        pyramid_ms=c.pyramid_ms,
        importance_ms=c.importance_ms,
        levels_ms=c.levels_ms,
        attention_ms=c.attention_ms,
    )
