# SPDX-License-Identifier: Apache-2.0
"""`PSAAttention`: psa.attention as a torch module, with the published plug-in's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ._attention import attention
from .config import Config
from .plan import as_config
from .published import PSAConfig


class PSAAttention(torch.nn.Module):
    """`PSAAttention(PSAConfig(...))(q, k, v)`, as in psa_triton, so that the import alone changes.

    It has no parameters and no state. Errors are those of `psa.attention`.

    Args:
        config: a PSAConfig, or whatever `psa.attention` takes as `config`; left out: PSAConfig(),
            as in the published code.
        grid, text_tokens, text_side: as in `psa.attention`, for all calls.
    """

    def __init__(
        self,
        config: PSAConfig | Config | Mapping[str, Any] | None = None,
        *,
        grid: Sequence[int] | None = None,
        text_tokens: int = 0,
        text_side: str = "front",
    ) -> None:
        super().__init__()
        self.config = PSAConfig() if config is None else config
        self._settings = as_config(self.config)
        self._layout: dict[str, Any] = {
            "grid": grid,
            "text_tokens": text_tokens,
            "text_side": text_side,
        }

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> Any:
        """q: [B,Hq,Lq,D]; k, v: [B,Hkv,Lk,D]; result [B,Hq,Lq,D]. `options` are those of
        `psa.attention`, such as grid=(F,H,W) or return_lse=True."""
        return attention(q, k, v, config=self._settings, **{**self._layout, **options})

    def extra_repr(self) -> str:
        return str(self._settings)
