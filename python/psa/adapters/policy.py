# SPDX-License-Identifier: Apache-2.0
"""What a layer does in a step: dense, or psa with which configuration."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..config import Config, Preset, preset, preset_from_yaml
from ..plan import as_config
from .steps import Step

Schedule = Callable[[int, int, "int | None"], "Config | str | None"]
"""(layer, step, number of steps if known) -> a configuration, a preset's name, or None: dense."""

# The first tenth of the steps stays dense unless something else is said: these steps decide the
# layout of the video, and an error there is carried through all others.
_USUAL_WARMUP = 0.1
_OWN_PRESETS = ("balanced", "quality", "speed")
# Warm-up steps of the published presets are out of so many steps.
_PUBLISHED_STEPS = {"wan2.2-a14b": 40}
_USUAL_STEPS = 50


@dataclasses.dataclass(frozen=True)
class Policy:
    config: Config
    warmup: int | float
    """Dense steps at the start: a count, or as a float a fraction of the steps, rounded up."""
    dense_layers: frozenset[int] = frozenset()
    min_tokens: int = 0
    """Shorter sequences stay dense."""
    reuse_steps: int = 1
    """A level map serves so many steps."""
    schedule: Schedule | None = None
    layers: Mapping[int, Config] = dataclasses.field(default_factory=dict)
    """Configurations of single layers, in place of `config`."""

    def __post_init__(self) -> None:
        for config in (self.config, *self.layers.values()):
            _check_video(config)

    def config_at(self, layer: int, step: Step) -> Config | None:
        """None: dense."""
        if layer in self.dense_layers or step.index < self.warmup_steps(step.total):
            return None
        if self.schedule is None:
            return self.layers.get(layer, self.config)
        chosen = self.schedule(layer, step.index, step.total)
        if isinstance(chosen, str):
            chosen = preset(chosen).config
        if chosen is not None:
            _check_video(chosen)
        return chosen

    def warmup_steps(self, total: int | None) -> int:
        if isinstance(self.warmup, int):
            return self.warmup
        return 0 if total is None else math.ceil(self.warmup * total - 1e-6)


def _check_video(config: Config) -> None:
    if config.causal:
        raise ValueError("causal is true; attention of a video transformer is not causal")
    if config.importance == "user_scores":
        raise ValueError("importance is 'user_scores', and a pipeline brings no scores")


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a preset means for a model."""

    config: Config
    warmup: int | float
    layers: Mapping[int, Config] = dataclasses.field(default_factory=dict)


def resolve(given: Any, overrides: Mapping[str, Any], auto: str) -> Choice:
    """What `given` means, with the settings `overrides` changed in every layer.

    Args:
        given: a preset's name, "auto", the path of a YAML file (.yaml, .yml), settings as text
            ("order=gilbert density=.2"), a Config (or what stands for one: a dict of settings, a
            PSAConfig), or a Preset.
        auto: name of the preset for "auto".
    """
    known = inspect.signature(Config).parameters
    for name in overrides:
        if name not in known:
            raise ValueError(f"setting {name!r} is not known; allowed: {', '.join(known)}")
    base = _resolve_base(auto if given == "auto" else given)
    layers = {n: dataclasses.replace(config, **overrides) for n, config in base.layers.items()}
    return Choice(dataclasses.replace(base.config, **overrides), base.warmup, layers)


def _resolve_base(given: Any) -> Choice:
    if isinstance(given, os.PathLike) or isinstance(given, str) and _is_yaml(given):
        given = preset_from_yaml(given)
    if isinstance(given, Preset):
        return Choice(given.config, given.warmup_steps, given.layers)
    if not isinstance(given, str):
        return Choice(as_config(given), _USUAL_WARMUP)
    if "=" in given:
        return Choice(Config.from_text(given), _USUAL_WARMUP)
    found = preset(given)
    if given in _OWN_PRESETS:
        return Choice(found.config, _USUAL_WARMUP)
    return Choice(found.config, found.warmup_steps / _PUBLISHED_STEPS.get(given, _USUAL_STEPS))


def _is_yaml(text: str) -> bool:
    return text.endswith((".yaml", ".yml"))


def layer_numbers(layers: Iterable[int], count: int) -> frozenset[int]:
    """Layers from 0; negative ones count from the end, as in a list."""
    numbers = []
    for layer in layers:
        if not -count <= layer < count:
            raise ValueError(
                f"dense_layers has {layer}; allowed: {-count}..{count - 1}, the model has {count} "
                "self-attention layers"
            )
        numbers.append(layer % count)
    return frozenset(numbers)
