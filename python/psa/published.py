# SPDX-License-Identifier: Apache-2.0
"""The settings of the published code (psa_triton) under their own names, and what they are here.

docs/cli.md, "Configuration files", has the table of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .config import Config

_FACTORS = (1, 2, 4, 8)  # published code calls the pool factor "level"; 0 is skip
METHODS = {"Gilbert": "gilbert", "STA": "tile3d", "SemanticAware": "kmeans", "Hybrid": "hybrid"}
_IMPLEMENTATIONS = ("new_mask_type", "old_mask_type")
_MODES: dict[str, dict[str, Any]] = {
    "topk": {"rule": "quota", "importance": "sampled_max"},
    "thresholdbound": {"rule": "threshold", "importance": "sampled_max"},
    # Their causal path for language models.
    "energybound": {"rule": "threshold", "importance": "antidiagonal", "causal": True, "sink": 1},
}


def _default_ratios() -> dict[int, tuple[float, float]]:
    return {1: (0.0, 0.1), 2: (0.1, 0.15), 4: (0.15, 0.15), 8: (0.15, 0.35), 0: (0.35, 1.0)}


@dataclass
class PSAConfig:
    """Settings under the names of the published plug-in, for `PSAAttention` and `psa.attention`.

    Accepted: every combination that psa computes, also those that the published kernels refuse,
    such as use_sim_mask with the mask format that is the default there.

    Raises:
        ValueError: from `to_config`, and where the configuration is used: a value not allowed.
    """

    block_m: int = 128
    """Tokens of a query block."""
    block_n: int = 64
    """Tokens of a KV block."""
    tile_n: int = 32
    """A choice of the published kernel; no effect here."""
    mask_ratios: Mapping[int, Sequence[float]] = field(default_factory=_default_ratios)
    """Pool factor 1, 2, 4, 8, or 0 for skip: (from, to), cumulative shares. Each begins where the
    one before ends; what is left out takes nothing."""
    mask_mode: str = "topk"
    """"topk": shares of blocks; "thresholdbound": of importance; "energybound": of importance,
    causal."""
    use_sim_mask: bool = False
    """Pool only blocks whose keys are similar, as the three thresholds say."""
    sim_2x_threshold: float = 0.0
    sim_4x_threshold: float = 0.0
    sim_8x_threshold: float = -1.0
    rearrange_method: str | None = None
    """"Gilbert", "STA", "SemanticAware", "Hybrid", None. Calls must then give `grid`; the published
    plug-in ignores this setting."""
    attn_impl: str = "new_mask_type"
    """Mask format of the published kernels; no effect here."""
    tile_size: Sequence[int] = (2, 8, 8)
    """Box of STA: frames, height, width in tokens."""

    def to_config(self) -> Config:
        """The same in psa's own settings. Raises ValueError or TypeError."""
        one_of("attn_impl", self.attn_impl, _IMPLEMENTATIONS)
        order = "none"
        if self.rearrange_method is not None:
            order = METHODS[one_of("rearrange_method", self.rearrange_method, METHODS)]
        similarity = (self.sim_2x_threshold, self.sim_4x_threshold, self.sim_8x_threshold)
        return Config(
            block=(self.block_m, self.block_n),
            budget=budget_of(self.mask_ratios),
            rest="skip",
            similarity=similarity if self.use_sim_mask else None,
            order=order,
            tile=self.tile_size,
            **_MODES[one_of("mask_mode", self.mask_mode, _MODES)],
        )


def one_of(name: str, value: Any, words: Sequence[str] | Mapping[str, Any]) -> str:
    """`value`, which must be one of `words`."""
    if value not in words:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(words)}")
    return str(value)


def budget_of(ratios: Mapping[int, Sequence[float]]) -> list[float]:
    """mask_ratios as cumulative shares of levels 1..4."""
    unknown = set(ratios) - {*_FACTORS, 0}
    if unknown:
        raise ValueError(f"mask_ratios has the key {unknown.pop()!r}; allowed: 1, 2, 4, 8, 0")
    budget = []
    upto = 0.0
    for factor in (*_FACTORS, 0):
        bounds = ratios.get(factor, (upto, upto))
        if len(bounds) != 2:
            raise ValueError(f"mask_ratios[{factor}] is {bounds!r}; it must be (from, to)")
        low, high = (float(bound) for bound in bounds)
        if abs(low - upto) > 1e-6:
            raise ValueError(
                f"mask_ratios[{factor}] begins at {low:g}; it must begin where the level before "
                f"ends, at {upto:g}"
            )
        if not low <= high <= 1:
            raise ValueError(f"mask_ratios[{factor}] ends at {high:g}; allowed: {low:g}..1")
        upto = high
        budget.append(upto)
    return budget[:-1]
