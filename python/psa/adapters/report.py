# SPDX-License-Identifier: Apache-2.0
"""What the attention layers of a run did: density, time and error of each layer in each step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ..config import Config


@dataclass(frozen=True)
class Row:
    """One layer in one step; numbers are means over its calls (branches of guidance)."""

    step: int
    layer: str
    is_psa: bool
    density: float
    """Logit columns that were computed over all (S-21); 1 where attention was dense."""
    ms: float
    """Time of the layer's attention module: projections, normalisation and attention."""
    error: float | None
    """Relative L2 error of sampled rows of the attention output against dense attention of the
    same q, k and v; None where nothing was sampled."""


@dataclass(frozen=True)
class Summary:
    """Density, time and error of each layer in each step of a pipeline's last run."""

    rows: list[Row]
    notices: list[str]
    """Reasons for which layers stayed dense that the caller may not expect."""

    @property
    def density(self) -> float:
        """Mean of all rows; 1 if there are none."""
        return _mean([row.density for row in self.rows], 1.0)

    def by_step(self) -> dict[int, list[Row]]:
        return _grouped(self.rows, lambda row: row.step)

    def by_layer(self) -> dict[str, list[Row]]:
        return _grouped(self.rows, lambda row: row.layer)

    def __str__(self) -> str:
        if not self.rows:
            return "psa: nothing has run yet"
        lines = [*_table("step", self.by_step()), "", *_table("layer", self.by_layer())]
        lines += [f"dense: {notice}" for notice in self.notices]
        return "\n".join(lines)


class Recorder:
    """Collects what layers did. Numbers of a device stay there until somebody asks for them."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, str], Cell] = {}

    def clear(self) -> None:
        self._cells.clear()

    def cell(self, step: int, layer: str) -> Cell:
        """Of a layer in a step, in which it may be called several times."""
        return self._cells.setdefault((step, layer), Cell())

    def rows(self) -> list[Row]:
        return [cell.row(step, layer) for (step, layer), cell in self._cells.items()]


class Cell:
    def __init__(self) -> None:
        self.errors: list[torch.Tensor] = []
        self._densities: list[torch.Tensor] = []
        self._times: list[Callable[[], float]] = []

    def add(self, density: torch.Tensor) -> None:
        """A call that psa computed."""
        self._densities.append(density)

    def row(self, step: int, layer: str) -> Row:
        errors = [float(error) for error in self.errors]
        return Row(
            step=step,
            layer=layer,
            is_psa=bool(self._densities),
            density=_mean([float(density) for density in self._densities], 1.0),
            ms=_mean([ms() for ms in self._times], 0.0),
            error=_mean(errors, 0.0) if errors else None,
        )

    @contextmanager
    def timed(self, device: torch.device) -> Iterator[None]:
        """Adds the time of what is done inside; on CUDA that of the device, without a wait."""
        if device.type == "cuda":
            event: Any = torch.cuda.Event  # it has no types
            begin, end = event(enable_timing=True), event(enable_timing=True)
            begin.record(torch.cuda.current_stream(device))
            yield
            end.record(torch.cuda.current_stream(device))
            self._times.append(lambda: _elapsed_ms(begin, end))
        else:
            start = time.perf_counter()
            yield
            ms = (time.perf_counter() - start) * 1e3
            self._times.append(lambda: ms)


def _elapsed_ms(begin: Any, end: Any) -> float:
    end.synchronize()
    return float(begin.elapsed_time(end))


def map_density(
    levels: torch.Tensor, config: Config, lengths: tuple[int, ...] | None, q: torch.Tensor
) -> torch.Tensor:
    """Density (S-21) of the level map [B,H,Nq,Nk] of a call with q [B,H,L,D] and as many keys, of
    which `lengths` exist; a scalar where the map is.

    The library's own psa_measure_levels reads maps in host memory: every call would wait for it.
    """
    batch, heads, _, columns = levels.shape
    costs, queries = _costs(tuple(levels.shape), q.shape[2], *config.block, lengths, levels.device)
    row = torch.arange(batch * columns, device=levels.device, dtype=torch.int32)
    place = levels.to(torch.int32) * (batch * columns) + row.view(batch, 1, 1, columns)
    computed: torch.Tensor = (costs[place].sum(dim=3) * queries).sum()
    return computed / heads


@functools.lru_cache(maxsize=8)
def _costs(
    shape: tuple[int, ...],
    tokens: int,
    block_q: int,
    block_kv: int,
    lengths: tuple[int, ...] | None,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a level map [B,H,Nq,Nk]: the rows that a code reads of a KV block, [7*B*Nk] by code, batch
    element and block, and what a query block weighs in the density, [Nq]."""
    batch, _, rows, columns = shape
    real = torch.tensor([tokens] * batch if lengths is None else lengths)[:, None]
    keys = (real - torch.arange(columns) * block_kv).clamp(0, block_kv)  # [B,Nk]
    factors = (1, 2, 4, 8, 16, block_kv)
    costs = torch.stack([torch.zeros_like(keys), *((keys + f - 1) // f for f in factors)])
    queries = (tokens - torch.arange(rows) * block_q).clamp(max=block_q)
    weights = queries.double() / (tokens * max(1, int(real.sum())))
    return costs.flatten().to(device, torch.float32), weights.to(device, torch.float32)


@functools.lru_cache(maxsize=8)
def lengths_on(device: torch.device, lengths: tuple[int, ...]) -> torch.Tensor:
    """[B] int32; kept, since copying them to a device waits for it."""
    return torch.tensor(lengths, dtype=torch.int32, device=device)


def rows_error(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    count: int,
    lengths: tuple[int, ...] | None,
    scale: float | None,
) -> torch.Tensor:
    """Relative L2 error of `count` evenly spaced rows of out [B,H,L,D] against dense attention,
    where `lengths` of the keys exist."""
    length = q.shape[2]
    rows = torch.arange(count, device=q.device) * length // count
    mask = None
    if lengths is not None:
        valid = torch.arange(length, device=q.device) < lengths_on(q.device, lengths)[:, None]
        mask = valid[:, None, None]
    dense = torch.nn.functional.scaled_dot_product_attention(
        q[:, :, rows], k, v, attn_mask=mask, scale=scale
    ).float()
    difference = (out[:, :, rows].float() - dense).norm()
    error: torch.Tensor = difference / dense.norm().clamp_min(1e-30)
    return error


def _mean(numbers: Iterable[float], empty: float) -> float:
    values = list(numbers)
    return sum(values) / len(values) if values else empty


_Key = TypeVar("_Key", bound=Hashable)


def _grouped(rows: Iterable[Row], key: Callable[[Row], _Key]) -> dict[_Key, list[Row]]:
    groups: dict[_Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _table(title: str, groups: Mapping[Any, list[Row]]) -> list[str]:
    width = max(len(title), *(len(str(name)) for name in groups))
    lines = [f"{title:<{width}}  with psa  density  ms/layer  rel L2 error"]
    for name, rows in groups.items():
        psa = [row for row in rows if row.is_psa]
        errors = [row.error for row in psa if row.error is not None]
        lines.append(
            f"{name!s:<{width}}  {f'{len(psa)}/{len(rows)}':>8}"
            f"  {_mean([row.density for row in rows], 1):7.4f}"
            f"  {_mean([row.ms for row in rows], 0):8.2f}"
            f"  {f'{_mean(errors, 0):12.4f}' if errors else ''}".rstrip()
        )
    return lines
