# SPDX-License-Identifier: Apache-2.0
"""Pyramid Sparse Attention for video models, on NumPy arrays and torch tensors.

    out = psa.attention(q, k, v, preset="balanced", grid=(21, 30, 52))  # [B,H,L,D]

docs/python.md is the guide; `python -m psa doctor` says what this machine offers. Importing psa
loads neither NumPy, nor torch, nor the library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._attention import attention
from ._ffi import library_path
from .config import Config, Preset, preset, preset_from_yaml, presets
from .errors import PsaError, UnsupportedError
from .plan import Plan, Stats
from .published import PSAConfig

if TYPE_CHECKING:
    from . import transformers
    from ._plot import plot
    from .adapters import disable, enable, enabled, summary
    from .torch_module import PSAAttention

    __version__: str

psa_attention = attention  # its name in the published code

__all__ = [
    "Config",
    "PSAAttention",
    "PSAConfig",
    "Plan",
    "Preset",
    "PsaError",
    "Stats",
    "UnsupportedError",
    "attention",
    "disable",
    "enable",
    "enabled",
    "library_path",
    "plot",
    "preset",
    "preset_from_yaml",
    "presets",
    "psa_attention",
    "summary",
    "transformers",
]


_ADAPTERS = ("disable", "enable", "enabled", "summary")  # they need torch


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from ._ffi import version

        return version()
    if name == "PSAAttention":
        from .torch_module import PSAAttention

        return PSAAttention
    if name == "plot":
        from ._plot import plot

        return plot
    if name in _ADAPTERS:
        from . import adapters

        return getattr(adapters, name)
    if name == "transformers":
        return importlib.import_module("psa.transformers")
    raise AttributeError(f"module 'psa' has no attribute {name!r}")
