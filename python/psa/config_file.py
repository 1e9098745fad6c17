# SPDX-License-Identifier: Apache-2.0
"""YAML configuration files: our own settings, and the published attention_config.yaml.

docs/cli.md, "Configuration files", defines both. Needs PyYAML, which nothing else of psa does.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import yaml

from .config import NAMES, Config, Preset, preset as preset_named, suggestion
from .published import METHODS, PSAConfig, one_of

_MAX_BYTES = 1 << 18
_CALL_KEYS = ("grid", "text", "text_side", "warmup_steps", "layers")
_MODEL_KEYS = ("default_attention", "video_scale", "text_length", "attention_configs")
_SCALE_KEYS = ("width_divisor", "height_divisor", "depth_divisor")
_ATTENTION_KEYS = (
    *("type", "description", "use_rearrange", "use_sim_mask", "block_size", "mask_ratios"),
    *("mask_mode", "attn_impl", "tile_size", "warmup_steps", "rearrange_method", "verbose"),
    *("sim_thresholds", "sim_2x_threshold", "sim_4x_threshold", "sim_8x_threshold"),
    *("text_length", "enable_logging", "log_dir"),
)


class _Loader(yaml.SafeLoader):
    """Refuses aliases, which can make a small file huge, and keys that are given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not read", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: str | os.PathLike[str], model: str, attention: str) -> Preset:
    """See `preset_from_yaml`."""
    name = os.fspath(path)
    with open(path, "rb") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise ValueError(f"{name} has more than {_MAX_BYTES} bytes")
    try:
        root = yaml.load(text, _Loader)
        if not isinstance(root, dict):
            raise ValueError("expected lines of the form key: value")
        if any(isinstance(value, dict) and "attention_configs" in value for value in root.values()):
            return _published(root, name, model, attention)
        if model or attention:
            raise ValueError("the file has one configuration and no models to choose from")
        return _own(root, name)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{name}: {error}") from error


def _own(root: dict[Any, Any], name: str) -> Preset:
    _check_keys(root, (*NAMES, *_CALL_KEYS), "the file")
    settings = {key: value for key, value in root.items() if key not in _CALL_KEYS}
    start = preset_named(root["preset"]) if "preset" in root else None
    config = Config.from_mapping(settings)
    grid = root.get("grid")
    return Preset(
        name=name,
        description="configuration file",
        config=config,
        warmup_steps=_count(root, "warmup_steps", 0, 0),
        text_tokens=_count(root, "text", start.text_tokens if start else 0, 0),
        text_side=one_of("text_side", root.get("text_side", "front"), ("front", "back")),
        grid=None if grid is None else _grid(grid),
        layers=_layers(_map(root, "layers"), config),
    )


def _layers(given: dict[Any, Any], base: Config) -> dict[int, Config]:
    """`{0: {density: .2}, "2-5": {rest: skip}}` over `base`."""
    known = [name for name in NAMES if name != "preset"]
    configs: dict[int, Config] = {}
    for key in given:
        first, dash, last = str(key).partition("-")
        if not (first.isdecimal() and (last if dash else first).isdecimal()):
            raise ValueError(f"a key of layers is {key!r}; allowed: a number, or first-last")
        settings = _map(given, key)
        _check_keys(settings, known, f"layer {key}")
        config = Config.from_mapping(settings, base)
        for layer in range(int(first), int(last if dash else first) + 1):
            if layer in configs:
                raise ValueError(f"layer {layer} is given twice")
            configs[layer] = config
    return configs


def _grid(given: Any) -> tuple[int, int, int]:
    sizes = given.replace("x", ",").split(",") if isinstance(given, str) else given
    try:
        frames, height, width = (int(size) for size in sizes)
    except (TypeError, ValueError):
        raise ValueError(f"grid is {given!r}; it must be F,H,W: three whole numbers") from None
    return frames, height, width


def _published(root: dict[Any, Any], name: str, model: str, attention: str) -> Preset:
    for key, value in root.items():  # a misspelt key must not wait to be selected
        _check_keys(value, _MODEL_KEYS, f"model {key}")
        for one in _map(value, "attention_configs").values():
            _check_keys(one, _ATTENTION_KEYS, "attention_configs")
    if not model and len(root) > 1:
        raise ValueError(f"the file has several models; choose one with model=: {', '.join(root)}")
    model = one_of("model", model or next(iter(root)), root)
    chosen = root[model]
    entries = _map(chosen, "attention_configs")
    entry_name = one_of("attention", attention or chosen.get("default_attention", ""), entries)
    entry = entries[entry_name]
    scale = _map(chosen, "video_scale")
    _check_keys(scale, _SCALE_KEYS, "video_scale")
    text_source = entry if "text_length" in entry else chosen
    missing = 1 if scale else 0
    return Preset(
        name=f"{model}/{entry_name}",
        description=f"{name}: {model}/{entry_name}",
        config=_published_config(entry),
        warmup_steps=_count(entry, "warmup_steps", 0, 0),
        divisors=(
            _count(scale, "depth_divisor", missing, 1),
            _count(scale, "height_divisor", missing, 1),
            _count(scale, "width_divisor", missing, 1),
        ),
        text_tokens=_count(text_source, "text_length", 0, 0),
    )


def _published_config(entry: dict[str, Any]) -> Config:
    if one_of("type", entry.get("type", "psa"), ("psa", "dense")) == "dense":
        return preset_named("dense").config
    if "mask_ratios" not in entry:
        raise ValueError("mask_ratios is missing")
    blocks = _map(entry, "block_size")
    _check_keys(blocks, ("m", "n", "tile_n"), "block_size")
    mode = entry.get("mask_mode", "thresholdbound")
    method = one_of("rearrange_method", entry.get("rearrange_method", "Gilbert"), METHODS)
    reorders = _switch(entry, "use_rearrange", mode != "energybound")
    caps = _switch(entry, "use_sim_mask", True)
    return PSAConfig(
        block_m=blocks.get("m", 128),
        block_n=blocks.get("n", 128),
        mask_ratios=_map(entry, "mask_ratios"),
        mask_mode=mode,
        use_sim_mask=caps,
        rearrange_method=method if reorders else None,
        attn_impl=entry.get("attn_impl", "new_mask_type"),
        tile_size=entry.get("tile_size", (2, 8, 8)),
        **(_thresholds(entry) if caps else {}),
    ).to_config()


def _thresholds(entry: dict[str, Any]) -> dict[str, Any]:
    short = _map(entry, "sim_thresholds")
    _check_keys(short, ("x2", "x4", "x8"), "sim_thresholds")
    found = {}
    for factor in (2, 4, 8):
        key = f"sim_{factor}x_threshold"
        value = entry.get(key, short.get(f"x{factor}"))
        if value is None:
            raise ValueError("use_sim_mask needs sim_thresholds with x2, x4 and x8")
        found[key] = value
    return found


def _check_keys(map_: Any, known: Collection[str], where: str) -> None:
    if not isinstance(map_, dict):
        raise ValueError(f"{where} must be a map")
    for key in map_:
        if key not in known:
            raise ValueError(f"key {key!r} is not known in {where}{suggestion(str(key), known)}")


def _map(map_: dict[str, Any], key: str) -> dict[Any, Any]:
    value = map_.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be a map")
    return value


def _count(map_: dict[str, Any], key: str, missing: int, low: int) -> int:
    value = map_.get(key, missing)
    if isinstance(value, bool) or not isinstance(value, int) or value < min(low, missing):
        raise ValueError(f"{key} is {value!r}; allowed: whole numbers from {low}")
    return value


def _switch(map_: dict[str, Any], key: str, missing: bool) -> bool:
    value = map_.get(key, missing)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}; allowed: true, false")
    return value
