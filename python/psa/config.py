# SPDX-License-Identifier: Apache-2.0
"""What is computed: `Config`, with the setting names of the command line, and the presets.

What each setting means is docs/semantics.md; names and forms of values are docs/cli.md, "Settings".
Ranges are checked by the library when a plan is made of them, names and types here.
"""

from __future__ import annotations

import ctypes
import dataclasses
import difflib
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from ctypes import byref, c_double
from dataclasses import InitVar, dataclass, field
from typing import Any, TypeVar

from . import _ffi

_Parser = Callable[[str, Any], Any]
_T = TypeVar("_T")

_SWITCH = {"true": True, "on": True, "yes": True, "1": True}
_SWITCH |= {"false": False, "off": False, "no": False, "0": False}


def _reject(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"{name} is {value!r}; allowed: {allowed}")


def _integer(name: str, value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise _reject(name, value, "whole numbers") from None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be an int")
    return int(value.__index__())


def _number(name: str, value: Any) -> float:
    """A float, rounded to the nearest that the library's single precision holds."""
    if isinstance(value, bool) or not isinstance(value, str) and not hasattr(value, "__float__"):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be a number")
    try:
        return _single(float(value))
    except (ValueError, OverflowError):
        raise _reject(name, value, "numbers") from None


def _single(value: float) -> float:
    """The shortest decimal that has the same value as `value` in single precision."""
    bits = struct.pack("<f", value)
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == bits:
            return short
    return value  # NaN: the library refuses it


def _items(name: str, value: Any, separators: str) -> Sequence[Any]:
    if isinstance(value, str):
        separator = next((s for s in separators if s in value), ",")
        return value.split(separator)
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} is {value!r}; it must be a list of numbers")
    return list(value)


def _sizes(count: int, form: str) -> _Parser:
    def parse(name: str, value: Any) -> tuple[int, ...]:
        items = _items(name, value, "x")
        if len(items) != count:
            raise _reject(name, value, f"{count} whole numbers, {form}")
        sizes = tuple(_integer(f"a number of {name}", item) for item in items)
        return tuple(_within(f"a number of {name}", size, 2**31 - 1) for size in sizes)

    return parse


def _within(name: str, value: int, high: int) -> int:
    """`value`, which must be in 0..high: outside, its C type would wrap around."""
    if not 0 <= value <= high:
        raise _reject(name, value, f"0..{high}")
    return value


def _count(name: str, value: Any) -> int:
    return _within(name, _integer(name, value), 2**31 - 1)


def _seed(name: str, value: Any) -> int:
    return _within(name, _integer(name, value), 2**64 - 1)


def _shares(name: str, value: Any) -> tuple[float, ...]:
    shares = tuple(_number(f"a number of {name}", item) for item in _items(name, value, ","))
    if not 1 <= len(shares) <= _ffi.MAX_LEVELS:
        raise _reject(name, value, f"1..{_ffi.MAX_LEVELS} numbers")
    return shares


def _densities(name: str, value: Any) -> tuple[float, ...] | None:
    if value is None or value == "none":
        return None
    densities = tuple(_number(f"a number of {name}", item) for item in _items(name, value, ","))
    if not densities:
        raise _reject(name, value, "a number for each query head, or none")
    return densities


def _similarity(name: str, value: Any) -> tuple[float, ...] | None:
    if value is None or value == "none":
        return None
    cosines = tuple(_number(f"a number of {name}", item) for item in _items(name, value, ","))
    if not 1 <= len(cosines) < _ffi.MAX_LEVELS:
        raise _reject(name, value, f"1..{_ffi.MAX_LEVELS - 1} numbers, or none")
    while len(cosines) > 1 and cosines[-1] == cosines[-2]:  # the last one holds for all that follow
        cosines = cosines[:-1]
    return cosines


def _switch(name: str, value: Any) -> bool:
    if isinstance(value, str) and value.lower() in _SWITCH:
        return _SWITCH[value.lower()]
    if isinstance(value, str):
        raise _reject(name, value, ", ".join(_SWITCH))
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be a bool")
    return value


def _word(words: Sequence[str]) -> _Parser:
    def parse(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be a str")
        if value not in words:
            raise _reject(name, value, ", ".join(words))
        return value

    return parse


def _setting(default: _T, parse: _Parser) -> _T:
    """A field whose value `parse` checks and brings into its one form."""
    result: _T = field(default=default, metadata={"parse": parse})
    return result


_TEXT_RULES = ("sparse", "full")


@dataclass(frozen=True)
class Config:
    """Everything that decides what is computed; the defaults read a density of about .15 in the
    order of the caller's tokens.

    Equal configurations compare and hash equal. `str(config)` is the canonical text of what differs
    from the defaults, as in the command line's problem strings, and `Config.from_text` reads it.
    Source of each setting: the clause of docs/semantics.md in brackets.

    Raises:
        ValueError: a word or form that is not known; TypeError: a value of another type. Ranges
            are checked when a plan is made.
    """

    rule: str = _setting("quota", _word((*_ffi.RULES, "dense")))
    """"quota", "threshold": how ranked blocks get levels [S-14, S-15]. "dense": all at level 1."""
    budget: Sequence[float] = _setting((0.0825, 0.1275, 0.1875, 0.4275), _shares)
    """Cumulative shares read at level <= 1, 2, ... (pool factors 1, 2, 4, 8, 16); 1..5 numbers. By
    quota they are of the blocks that the whole call sees: causal rows get equal counts [S-14]."""
    head_density: Sequence[float] | None = _setting(None, _densities)
    """A density for each query head, spent in the default split in place of `budget`; quota only
    [S-24]."""
    budget_scope: str = _setting("row", _word(_ffi.SCOPES))
    """"row": each query block spends the budget on its own best blocks; "head": all query blocks of
    a head share it, the best pairs of the head get it. "head" needs quota, and is not causal
    [S-28]."""
    rest: str = _setting("mean", _word(_ffi.RESTS))
    """"mean", "linear", "skip": blocks that no level takes [S-17, S-23, S-25]."""
    rest_cutoff: float = _setting(0.0, _number)
    """Block means below rest_cutoff / block[1] of the least importance with a level are not read,
    and level 1 gets what they would have cost [S-26]; 0: all are read."""
    block: Sequence[int] = _setting((128, 128), _sizes(2, "QxKV"))
    """Tokens of a query and of a KV block, each 16, 32, 64 or 128 [S-2]."""
    min_full: int = _setting(1, _count)
    """At least so many blocks of a row at level 1 [S-18]."""
    sink: int = _setting(0, _count)
    """The first so many KV blocks at level 1 [S-18]."""
    similarity: Sequence[float] | None = _setting(None, _similarity)
    """Pool at level 2, 3, ... only blocks whose keys are this similar, cosines -1..1 [S-16]."""
    share_group_map: bool = _setting(False, _switch)
    """One level map for the query heads of a KV head [S-13]."""
    compat: str = _setting("none", _word(_ffi.COMPATS))
    """"official": results of the published code where they are well defined [S-22]."""
    importance: str = _setting("pooled_lse", _word(_ffi.IMPORTANCES))
    """Estimator: "pooled_lse", "sampled_max", "sampled_mass", "antidiagonal", or "user_scores",
    where each call brings `scores` [S-9 to S-13]."""
    samples_q: int = _setting(0, _count)
    """Sampled tokens per query block; 0: a quarter of it [S-9]."""
    samples_kv: int = _setting(0, _count)
    """Sampled tokens per KV block; 0: a quarter of it [S-9]."""
    stride: int = _setting(8, _count)
    """Tokens of an antidiagonal group: 4, 8, 16 [S-11]."""
    pooled: int = _setting(16, _count)
    """Tokens of a sub-block of pooled_lse: 8, 16 [S-12]."""
    seed: int = _setting(0, _seed)
    """Of samples and clusters: equal seeds give equal level maps."""
    weigh_values: bool = _setting(False, _switch)
    """Importance counts times how far the values of a block lie from those that a row sees on
    average [S-27]."""
    text_keys: str = _setting("full", _word(_TEXT_RULES))
    """"full": KV blocks with text are read at level 1 [S-18]; "sparse": as any other."""
    text_queries: str = _setting("full", _word(_TEXT_RULES))
    """"full": query blocks with text read everything at level 1 [S-18]."""
    order: str = _setting("none", _word(_ffi.ORDERS))
    """"none", "gilbert", "tile3d", "kmeans", "hybrid": order of the tokens before they are cut
    into blocks [S-19, S-20]; all but "none" need the grid of the call."""
    tile: Sequence[int] = _setting((2, 8, 8), _sizes(3, "F,H,W"))
    """Box of tile3d: frames, height, width in tokens."""
    clusters: Sequence[int] = _setting((128, 256), _sizes(2, "QxKV"))
    """Clusters of the queries and of the keys of kmeans and hybrid, 1..4096 [S-20]."""
    iterations: int = _setting(4, _count)
    """Rounds of kmeans, 1..100."""
    causal: bool = _setting(False, _switch)
    """A query sees no later key; queries are aligned to the end of the keys [S-8]."""
    scale: float = _setting(0.0, _number)
    """Soft-max scale; 0: 1/sqrt(head_dim)."""
    levels: InitVar[int | None] = None
    """Sets the number of levels: cuts `budget`, or repeats its last share."""
    density: InitVar[float | None] = None
    """Sets `budget` so that the density is about this, in the default split [S-21], for all heads:
    `head_density` is dropped (`from_mapping` keeps one that it is given beside it); quota only."""
    _text = ""  # no field: str(self)

    def __post_init__(self, levels: int | None, density: float | None) -> None:
        for one in dataclasses.fields(self):
            self._set(one.name, one.metadata["parse"](one.name, getattr(self, one.name)))
        if self.rule == "dense":
            self._set("rule", "quota")
            self._set("budget", (1.0,))
        if levels is not None:
            count = _integer("levels", levels)
            if not 1 <= count <= _ffi.MAX_LEVELS:
                raise _reject("levels", levels, f"1..{_ffi.MAX_LEVELS}")
            repeated = (self.budget[-1],) * _ffi.MAX_LEVELS
            self._set("budget", (*self.budget, *repeated)[:count])
        if density is not None:
            self._set_density(_number("density", density))

        # Kept, since torch.compile can read an attribute but not trace this.
        self._set("_text", _canonical_text(self))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _set_density(self, density: float) -> None:
        if self.rule != "quota":
            raise ValueError(
                f"density is {density}, and rule is 'threshold', which spends importance; "
                "density needs rule = 'quota'"
            )
        c = self._to_c()
        _ffi.check(_ffi.library().psa_config_set_density(byref(c), c_double(density)))
        self._set("budget", _shares("budget", c.budget[: c.num_levels]))
        self._set("head_density", None)

    @classmethod
    def from_preset(cls, name: str) -> Config:
        """The configuration of a preset; `presets()` has the names. Raises ValueError."""
        return preset(name).config

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any], start: Config | None = None) -> Config:
        """From the names above, over `start` (left out: the defaults) or over the built-in
        configuration that a key `preset` names; values may also be the command line's text, such
        as `{"preset": "balanced", "block": "128x64", "budget": ".1,.15"}`.

        Raises:
            ValueError: a name that is not known (the nearest known one is named) or a bad value.
        """
        given = dict(settings)
        for name in given:
            if name in ("grid", "text", "text_side"):
                raise ValueError(f"setting {name!r} belongs to the call, not to its configuration")
            if name not in NAMES:
                raise ValueError(f"setting {name!r} is not known{suggestion(name, NAMES)}")
        if "preset" in given:
            start = cls.from_preset(given.pop("preset"))
        elif start is None:
            start = cls()
        rule = given.get("rule")
        if isinstance(rule, str) and "," in rule:  # "quota,.1,.15": the rule and its budget
            given["rule"], budget = rule.split(",", 1)
            given.setdefault("budget", budget)
        # Densities per head stand over what else the mapping says, one budget over those of start.
        by_head = {"head_density": given.pop("head_density")} if "head_density" in given else {}
        if "budget" in given:
            given["head_density"] = None
        return dataclasses.replace(dataclasses.replace(start, **given), **by_head)

    @classmethod
    def from_text(cls, text: str) -> Config:
        """From words `name=value` with spaces between; a switch may stand alone.

        `Config.from_text("order=gilbert density=.15")`. Raises ValueError as from_mapping does.
        """
        settings: dict[str, Any] = {}
        for word in text.split():
            name, equals, value = word.partition("=")
            if name in settings:
                raise ValueError(f"setting {name!r} is given twice")
            settings[name] = value if equals else "true"
        return cls.from_mapping(settings)

    @classmethod
    def from_yaml(
        cls, path: str | os.PathLike[str], *, model: str = "", attention: str = ""
    ) -> Config:
        """The configuration of a YAML file, in our own form or that of the published
        attention_config.yaml; `preset_from_yaml` also gives warm-up steps and text tokens.

        Args:
            model: which model of a published file, such as "Wan2.1_1.3b"; may be left out where
                there is only one.
            attention: which of its entries; left out: the model's default.

        Raises:
            ValueError: the file is malformed, with its line; OSError: it cannot be read;
            ModuleNotFoundError: PyYAML is not installed.
        """
        return preset_from_yaml(path, model=model, attention=attention).config

    def __str__(self) -> str:
        return self._text

    def _to_c(self) -> _ffi.Config:
        c: _ffi.Config = _ffi.initial(_ffi.Config, "psa_config_init")
        c.block_q, c.block_kv = self.block
        c.rule = _ffi.RULES.index(self.rule)
        c.num_levels = len(self.budget)
        c.budget[:] = _padded(self.budget, _ffi.MAX_LEVELS)
        if self.head_density is not None:
            c.head_density = (ctypes.c_float * len(self.head_density))(*self.head_density)
            c.num_head_densities = len(self.head_density)
        c.budget_scope = _ffi.SCOPES.index(self.budget_scope)
        c.rest = _ffi.RESTS.index(self.rest)
        c.rest_cutoff = self.rest_cutoff
        c.min_full_blocks = self.min_full
        c.importance = _ffi.IMPORTANCES.index(self.importance)
        c.samples_q, c.samples_kv = self.samples_q, self.samples_kv
        c.antidiagonal_stride = self.stride
        c.pooled_tokens = self.pooled
        c.seed = self.seed
        c.weigh_values = int(self.weigh_values)
        c.use_similarity_cap = int(self.similarity is not None)
        c.min_cosine[:] = _padded(self.similarity or (0.0,), _ffi.MAX_LEVELS - 1)
        c.text_keys_full = _TEXT_RULES.index(self.text_keys)
        c.text_queries_full = _TEXT_RULES.index(self.text_queries)
        c.sink_blocks = self.sink
        c.share_group_map = int(self.share_group_map)
        c.reorder = _ffi.ORDERS.index(self.order)
        c.tile[:] = self.tile
        c.clusters_q, c.clusters_kv = self.clusters
        c.kmeans_iterations = self.iterations
        c.causal = int(self.causal)
        c.softmax_scale = self.scale
        c.compat = _ffi.COMPATS.index(self.compat)
        return c

    @classmethod
    def _from_c(cls, c: _ffi.Config) -> Config:
        return cls(
            block=(c.block_q, c.block_kv),
            rule=_ffi.RULES[c.rule],
            budget=c.budget[: c.num_levels],
            head_density=c.head_density[: c.num_head_densities] if c.num_head_densities else None,
            budget_scope=_ffi.SCOPES[c.budget_scope],
            rest=_ffi.RESTS[c.rest],
            rest_cutoff=c.rest_cutoff,
            min_full=c.min_full_blocks,
            importance=_ffi.IMPORTANCES[c.importance],
            samples_q=c.samples_q,
            samples_kv=c.samples_kv,
            stride=c.antidiagonal_stride,
            pooled=c.pooled_tokens,
            seed=c.seed,
            weigh_values=bool(c.weigh_values),
            similarity=c.min_cosine[:] if c.use_similarity_cap else None,
            text_keys=_TEXT_RULES[c.text_keys_full],
            text_queries=_TEXT_RULES[c.text_queries_full],
            sink=c.sink_blocks,
            share_group_map=bool(c.share_group_map),
            order=_ffi.ORDERS[c.reorder],
            tile=c.tile[:],
            clusters=(c.clusters_q, c.clusters_kv),
            iterations=c.kmeans_iterations,
            causal=bool(c.causal),
            scale=c.softmax_scale,
            compat=_ffi.COMPATS[c.compat],
        )


def _canonical_text(config: Config) -> str:
    words = []
    fields = {one.name: one for one in dataclasses.fields(config)}
    rule, budget = fields.pop("rule"), fields.pop("budget")
    if (config.rule, config.budget) != (rule.default, budget.default):
        words.append(f"rule={config.rule},{_value_text(config.budget)}")
    for name, one in fields.items():
        value = getattr(config, name)
        if value != one.default:
            words.append(f"{name}={_value_text(value)}")
    return " ".join(words)


NAMES = ("preset", *(one.name for one in dataclasses.fields(Config)), "levels", "density")


def _padded(numbers: Sequence[float], count: int) -> tuple[float, ...]:
    return (*numbers, *(numbers[-1],) * count)[:count]


def _value_text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        separator = "x" if isinstance(value[0], int) else ","
        return separator.join(_value_text(item) for item in value)
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def suggestion(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


@dataclass(frozen=True)
class Preset:
    """A named configuration and what a model adapter needs beside it."""

    name: str
    description: str
    config: Config
    warmup_steps: int = 0
    """Denoising steps at the start that stay dense; psa only reports them."""
    divisors: tuple[int, int, int] = (0, 0, 0)
    """Frames, pixel rows and pixel columns for each token; 0 where unknown."""
    text_tokens: int = 0
    """Text tokens of the attention sequence."""
    text_side: str = "front"
    grid: tuple[int, int, int] | None = None
    """Frames, height and width in tokens; only where a file gives them."""
    layers: Mapping[int, Config] = field(default_factory=dict)
    """Configurations of single layers of a model, from 0; only where a file gives them."""


_known: dict[str, Preset] = {}  # filled at the first use; torch.compile can read it from then on


def _presets() -> dict[str, Preset]:
    if _known:
        return _known
    lib = _ffi.library()
    for index in range(lib.psa_preset_count()):
        c = _ffi.Preset()
        c.struct_size = ctypes.sizeof(c)
        _ffi.check(lib.psa_preset_at(index, byref(c)))
        _known[c.name.decode()] = Preset(
            name=c.name.decode(),
            description=c.description.decode(),
            config=Config._from_c(c.config),
            warmup_steps=c.warmup_steps,
            divisors=(c.divisor_frames, c.divisor_height, c.divisor_width),
            text_tokens=c.text_tokens,
        )
    return _known


def presets() -> tuple[str, ...]:
    """Names of the built-in presets, our own first; `preset(name)` has their contents."""
    return tuple(_presets())


def preset(name: str) -> Preset:
    """The preset `name`. Raises ValueError with the known names."""
    known = _presets()
    if name not in known:
        raise _reject("preset", name, ", ".join(known))
    return known[name]


def preset_from_yaml(
    path: str | os.PathLike[str], *, model: str = "", attention: str = ""
) -> Preset:
    """What a configuration file says; arguments and errors as of `Config.from_yaml`."""
    from .config_file import read  # needs PyYAML

    return read(path, model, attention)
