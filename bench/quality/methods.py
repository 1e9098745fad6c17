# SPDX-License-Identifier: Apache-2.0
"""The methods that are compared, each with the settings that it may choose and one knob.

The knob scales how much is read, and is set so that a method meets a density. A method that has
settings to choose from (order, estimator, block) is reported with those that were best on the
tuning captures.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import psa

ORDERS = ("none", "gilbert", "tile3d")
ESTIMATORS = ("pooled_lse", "sampled_mass", "sampled_max")
BLOCKS = ((128, 128), (128, 64))
PUBLISHED_QUOTA = (0.10, 0.15, 0.15, 0.35)  # psa_balanced of CogVideo_5b, the plug-in's default
PUBLISHED_THRESHOLD = (0.5, 0.6, 0.7, 0.8)  # psa_balanced of Wan2.1_1.3b
PUBLISHED_CAP = (0.7, 0.65, 0.6)  # of the same
UNDERSTANDING = psa.preset("qwen2.5-vl").config
# The rest read with its first-order term, with the cutoff of psa's presets or without.
_CUTOFF = psa.preset("balanced").config.rest_cutoff
_BY_ROW = {"rest": "linear", "weigh_values": True, "cutoffs": (_CUTOFF, 0.0)}
_LINEAR = {**_BY_ROW, "budget_scope": "head"}
_NOT_WEIGHED = {"weigh_values": False}
_CAUSAL = {"causal": True, "sink": 1}
_CAUSAL_LINEAR = {**_BY_ROW, "cutoffs": (_CUTOFF, 2 * _CUTOFF, 0.0)}  # those of psa tune
_CAUSAL_SPACE = {"orders": ("none",), "estimators": (*ESTIMATORS, "antidiagonal")}


@dataclass(frozen=True)
class Trial:
    """What one measurement runs: a configuration, or a level map over its blocks."""

    config: psa.Config
    window: tuple[int, int, int] | None = None
    """Tiles of a 3-D window; the configuration's order is then tile3d."""

    def key(self) -> str:
        return f"{self.config} window={self.window}" if self.window else str(self.config)

    def needs_data(self) -> bool:
        """Whether the density depends on q and k."""
        config = self.config
        return config.rule != "quota" or config.similarity is not None


@dataclass(frozen=True)
class Choice:
    """One way to run a method."""

    text: str
    at: Callable[[float], Trial]
    most: float | None = None
    """The knob runs from 0 to this; None: there is no knob."""
    others: tuple[Choice, ...] = ()
    """The same with other sizes of block and cutoffs, to be tried once this is the best."""


@dataclass(frozen=True)
class Method:
    name: str
    note: str
    choices: Callable[[float, tuple[int, int, int] | None], Iterator[Choice]]
    """Of a density and a grid, in tokens."""
    is_psa: bool = False
    pays_selection: bool = False
    """Its density and the cost of its selection together meet the wanted density."""


def _shares(config: psa.Config, shape: tuple[float, ...], knob: float) -> psa.Config:
    """`config` with the budget `shape` times the knob."""
    settings = {"budget": tuple(min(1.0, share * knob) for share in shape)}
    return psa.Config.from_mapping(settings, config)


def settings_text(order: str, estimator: str, block: str, cutoff: float) -> str:
    """In the words of psa tune, with commas."""
    return ", ".join([order, estimator, block] + ([f"cutoff {cutoff:g}"] if cutoff else []))


def _searched(shape: tuple[float, ...], orders=ORDERS, estimators=ESTIMATORS, blocks=BLOCKS,
              cutoffs=(0.0,), **fixed) -> Callable[[float, object], Iterator[Choice]]:
    """All combinations of settings for a budget that the knob scales."""

    def choice(order, estimator, block, cutoff, others=()) -> Choice:
        config = psa.Config(order=order, importance=estimator, block=block, rest_cutoff=cutoff,
                            **fixed)
        return Choice(settings_text(order, estimator, f"{block[0]}x{block[1]}", cutoff),
                      lambda knob: Trial(_shares(config, shape, knob)), most=1 / shape[0],
                      others=tuple(choice(order, estimator, *other) for other in others))

    def choices(_density, _grid) -> Iterator[Choice]:
        first, *others = itertools.product(blocks, cutoffs)
        for order, estimator in itertools.product(orders, estimators):
            yield choice(order, estimator, *first, others)

    return choices


def _split(**fixed) -> Callable[[float, object], Iterator[Choice]]:
    """The split of a density over four levels (S-24), with nothing to choose."""

    def choices(_density, _grid) -> Iterator[Choice]:
        def at(knob: float) -> Trial:
            least = 1.001 / 128  # S-24: a density has to exceed that of block means alone
            return Trial(psa.Config(density=max(knob, least), **fixed))

        yield Choice(str(at(0.15).config).split(" ", 1)[-1], at, most=1)

    return choices


def _windows(density: float, grid: tuple[int, int, int] | None) -> Iterator[Choice]:
    """Boxes of whole tiles whose density lies within a tenth of `density`."""
    if grid is None:
        return
    config = psa.Config(order="tile3d", rest="skip")
    tiles = [size // tile for size, tile in zip(grid, config.tile)]
    wanted = density * math.prod(tiles)
    for box in itertools.product(*(range(1, count + 1) for count in tiles)):
        if abs(math.prod(box) - wanted) <= wanted / 10:
            yield Choice(f"tile3d, window of {'x'.join(map(str, box))} tiles",
                         lambda _knob, box=box: Trial(config, box))


def window_levels(grid: tuple[int, int, int], tile: tuple[int, ...],
                  box: tuple[int, int, int]) -> np.ndarray:
    """Level map [Nq, Nk] of a window of `box` tiles around each query's tile, moved inward at the
    faces of the video so that all windows have one size. Tiles must divide the grid."""
    if any(size % t for size, t in zip(grid, tile)):
        raise ValueError(f"tiles of {tile} do not divide the grid {grid}")
    levels = np.ones((1, 1), bool)
    for size, t, width in zip(grid, tile, box):
        count = size // t
        here = np.arange(count)
        begin = np.clip(here - width // 2, 0, count - width)[:, None]
        levels = np.kron(levels, (here >= begin) & (here < begin + width))
    return levels.astype(np.uint8)


BINARY = Method("binary top-k", "best blocks in full, the rest skipped: VSA",
                _searched((1,), rest="skip"))
PUBLISHED = Method("published quota", "1, 2, 4, 8-fold pooling in the published shares, rest "
                   "skipped", _searched(PUBLISHED_QUOTA, rest="skip"))
BIDIRECTIONAL = (
    BINARY,
    Method("binary mass", "blocks in full up to a share of the mass: SpargeAttn",
           _searched((1,), rule="threshold", rest="skip")),
    Method("3-D window", "tiles around the query's: sliding tile attention", _windows),
    Method("binary + block mean", "best blocks in full, the rest as means: TensorRT-Edge-LLM",
           _searched((1,), rest="mean")),
    PUBLISHED,
    Method("published quota, cap", "the same with the published similarity cap",
           _searched(PUBLISHED_QUOTA, rest="skip", similarity=PUBLISHED_CAP)),
    Method("published threshold", "published shares of the mass",
           _searched(PUBLISHED_THRESHOLD, rule="threshold", rest="skip")),
    Method("published threshold, cap", "the same with the published similarity cap",
           _searched(PUBLISHED_THRESHOLD, rule="threshold", rest="skip",
                     similarity=PUBLISHED_CAP)),
    Method("psa, four levels", "the split of a density over four levels, rest as means, along the "
           "Gilbert curve", _split(order="gilbert"), is_psa=True),
    Method("psa, one level, linear", "best blocks in full, the rest as means with their "
           "first-order term", _searched((1,), **_LINEAR), is_psa=True),
    Method("psa, one level, linear, all costs", "the same, selection and first-order term inside "
           "the density", _searched((1,), **_LINEAR), is_psa=True, pays_selection=True),
    Method("psa, one level, linear, values not weighed", "ranked by importance alone",
           _searched((1,), **(_LINEAR | _NOT_WEIGHED)), is_psa=True),
    Method("psa, one level, linear, budget by row", "each query block reads as many blocks",
           _searched((1,), **_BY_ROW), is_psa=True),
    Method("psa, mass, linear", "blocks in full up to a share of the mass, the rest as above",
           _searched((1,), rule="threshold", rest="linear", weigh_values=True), is_psa=True),
)

CAUSAL_PUBLISHED = Method("published understanding", "antidiagonal, published shares of the mass, "
                          "similarity cap, sink",
                          _searched(UNDERSTANDING.budget, orders=("none",),
                                    estimators=("antidiagonal",), blocks=(UNDERSTANDING.block,),
                                    rule="threshold", rest="skip",
                                    similarity=UNDERSTANDING.similarity, **_CAUSAL))
CAUSAL_BINARY = Method("binary top-k", BINARY.note,
                       _searched((1,), rest="skip", **_CAUSAL_SPACE, **_CAUSAL))
CAUSAL = (
    CAUSAL_BINARY,
    Method("binary mass", "blocks in full up to a share of the mass: SpargeAttn",
           _searched((1,), rule="threshold", rest="skip", **_CAUSAL_SPACE, **_CAUSAL)),
    Method("binary + block mean", "best blocks in full, the rest as means: TensorRT-Edge-LLM",
           _searched((1,), rest="mean", **_CAUSAL_SPACE, **_CAUSAL)),
    CAUSAL_PUBLISHED,
    Method("published understanding, no cap", "the same without the similarity cap",
           _searched(UNDERSTANDING.budget, rule="threshold", rest="skip", **_CAUSAL_SPACE,
                     **_CAUSAL)),
    Method("psa, four levels", "the same split, antidiagonal",
           _split(importance="antidiagonal", **_CAUSAL), is_psa=True),
    Method("psa, one level, linear", "best blocks in full, the rest as means with their "
           "first-order term", _searched((1,), **_CAUSAL_LINEAR, **_CAUSAL_SPACE, **_CAUSAL),
           is_psa=True),
    Method("psa, one level, linear, all costs", "the same, selection and first-order term inside "
           "the density", _searched((1,), **_CAUSAL_LINEAR, **_CAUSAL_SPACE, **_CAUSAL),
           is_psa=True, pays_selection=True),
    Method("psa, one level, linear, values not weighed", "ranked by importance alone",
           _searched((1,), **(_CAUSAL_LINEAR | _NOT_WEIGHED), **_CAUSAL_SPACE, **_CAUSAL),
           is_psa=True),
    Method("binary top-k, values weighed", "the published one with psa's ranking",
           _searched((1,), rest="skip", weigh_values=True, **_CAUSAL_SPACE, **_CAUSAL)),
    Method("psa, mass, linear", "blocks in full up to a share of the mass, the rest as above",
           _searched((1,), rule="threshold", rest="linear", weigh_values=True, **_CAUSAL_SPACE,
                     **_CAUSAL),
           is_psa=True),
)
