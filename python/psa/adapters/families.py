# SPDX-License-Identifier: Apache-2.0
"""What psa must know of each diffusers model: its self-attention layers, and how the tokens of a
call lie: video grid, text, side of the text.

A family is found by the name of the model's class or of one of its bases, so that nothing of
diffusers is imported here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UnsupportedError


@dataclass(frozen=True)
class TokenLayout:
    """Tokens of one self-attention call: a video grid, and text before or after it."""

    grid: tuple[int, int, int]  # frames, height, width
    text_tokens: int = 0
    text_side: str = "front"

    @property
    def tokens(self) -> int:
        return math.prod(self.grid) + self.text_tokens


@dataclass(frozen=True)
class Family:
    """Models of one class."""

    layers: re.Pattern[str]
    """Full names of the attention modules that psa takes over, in `named_modules()`."""
    layout: Callable[[Any, Mapping[str, Any]], TokenLayout | None]
    """Of a forward call of the model: (model, its arguments by name); None where the arguments
    do not tell it."""


def family_of(model: nn.Module) -> Family:
    """The family of `model`. Raises UnsupportedError for a class that psa does not know."""
    for base in type(model).__mro__:
        if base.__name__ in FAMILIES:
            return FAMILIES[base.__name__]
    raise UnsupportedError(
        f"the transformer is a {type(model).__name__}; supported: {', '.join(FAMILIES)}"
    )


def self_attention(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of the layers that psa takes over, in the order of the model's definition.

    Raises UnsupportedError where there are none.
    """
    pattern = family_of(model).layers
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if pattern.fullmatch(name) and hasattr(module, "processor")
    ]
    if not layers:
        raise UnsupportedError(
            f"{type(model).__name__} has no attention modules named {pattern.pattern}; psa does "
            "not know this version of diffusers"
        )
    return layers


def _wan_layout(model: Any, arguments: Mapping[str, Any]) -> TokenLayout:
    frames, height, width = arguments["hidden_states"].shape[-3:]  # [B,C,F,H,W]
    patch_frames, patch_height, patch_width = model.config.patch_size
    return TokenLayout((frames // patch_frames, height // patch_height, width // patch_width))


def _cogvideox_layout(model: Any, arguments: Mapping[str, Any]) -> TokenLayout:
    _, frames, _, height, width = arguments["hidden_states"].shape  # [B,F,C,H,W]
    patch = model.config.patch_size
    patch_frames = getattr(model.config, "patch_size_t", None) or 1
    return TokenLayout(
        (frames // patch_frames, height // patch, width // patch),
        text_tokens=arguments["encoder_hidden_states"].shape[1],
    )


def _hunyuan_layout(model: Any, arguments: Mapping[str, Any]) -> TokenLayout:
    frames, height, width = arguments["hidden_states"].shape[-3:]  # [B,C,F,H,W]
    patch, patch_frames = model.config.patch_size, model.config.patch_size_t
    return TokenLayout(
        (frames // patch_frames, height // patch, width // patch),
        text_tokens=arguments["encoder_hidden_states"].shape[1],
        text_side="back",
    )


def _ltx_layout(model: Any, arguments: Mapping[str, Any]) -> TokenLayout | None:
    # hidden_states [B,L,C] are tokens already; the pipeline passes the sizes of the latent along.
    sizes = [arguments.get(name) for name in ("num_frames", "height", "width")]
    if any(size is None for size in sizes):
        return None
    frames, height, width = (int(size) for size in sizes if size is not None)
    patch, patch_frames = model.config.patch_size, model.config.patch_size_t
    return TokenLayout((frames // patch_frames, height // patch, width // patch))


FAMILIES = {
    "WanTransformer3DModel": Family(re.compile(r"blocks\.\d+\.attn1"), _wan_layout),
    "CogVideoXTransformer3DModel": Family(
        re.compile(r"transformer_blocks\.\d+\.attn1"), _cogvideox_layout
    ),
    "HunyuanVideoTransformer3DModel": Family(
        re.compile(r"(single_)?transformer_blocks\.\d+\.attn"), _hunyuan_layout
    ),
    "LTXVideoTransformer3DModel": Family(
        re.compile(r"transformer_blocks\.\d+\.attn1"), _ltx_layout
    ),
}
