# SPDX-License-Identifier: Apache-2.0
"""psa as an attention implementation of transformers, for the prefill of long prompts.

`register()` once, then `model.set_attn_implementation("psa")`. psa computes causal self-attention
of many queries, also in padded batches and in prefill by chunks; everything else is what "sdpa"
computes: decoding, short prompts, towers that are not causal, masks that say more than causality
and padding, training.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .._attention import attention
from ..config import Config
from ..errors import UnsupportedError
from .fallback import Notices
from .policy import resolve

_LOGGER = logging.getLogger("psa.transformers")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_Result = tuple[torch.Tensor, "torch.Tensor | None"]


def register(
    preset: Any = "prefill",
    *,
    name: str = "psa",
    dense_layers: Iterable[int] = (),
    min_tokens: int = 2048,
    num_threads: int = 0,
    strict: bool = False,
    **overrides: Any,
) -> str:
    """Makes psa the attention implementation `name`; registering again replaces its options.

    Args:
        preset: a name of `psa.presets()`, the path of a YAML file, settings as text, a Config or a
            Preset; calls are causal whatever it says, so its order of tokens must be "none" and its
            budget_scope "row". Its settings for single layers are those of decoder layers
            (`layer_idx`, from 0).
        name: for `set_attn_implementation` and `from_pretrained(attn_implementation=...)`; several
            names may have different options.
        dense_layers: decoder layers (`layer_idx`, from 0) that are always dense.
        min_tokens: fewer queries stay dense: decoding, short prompts, short chunks.
        num_threads: as in `psa.attention`.
        strict: raise UnsupportedError where long causal attention would stay dense.
        overrides: settings of Config that differ from the preset's, such as density=.4.

    Returns:
        name.

    Raises:
        ValueError, TypeError: an option out of its range or of another type.
        UnsupportedError: transformers is too old; it needs AttentionInterface (4.48) and
            AttentionMaskInterface (4.53).
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError as error:
        raise UnsupportedError(
            f"transformers has no AttentionInterface with masks ({error}); psa needs 4.53 or newer"
        ) from error
    choice = resolve(preset, overrides, "prefill")
    _check_causal("", choice.config)
    for layer, config in choice.layers.items():
        _check_causal(f" in layer {layer}", config)
    if isinstance(min_tokens, bool) or not isinstance(min_tokens, int) or min_tokens < 2:
        raise ValueError(f"min_tokens is {min_tokens!r}; allowed: whole numbers from 2")
    implementation = _Implementation(
        config=choice.config,
        layers=choice.layers,
        dense_layers=frozenset(dense_layers),
        min_tokens=min_tokens,
        num_threads=num_threads,
        notices=Notices(_LOGGER, strict),
        spans=_MaskSpans(),
    )
    AttentionInterface.register(name, implementation)
    # Without a function of its own an implementation gets no masks at all.
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


def _check_causal(where: str, config: Config) -> None:
    for name, needed in (("order", "none"), ("budget_scope", "row")):
        given = getattr(config, name)
        if given != needed:
            raise ValueError(
                f'{name} is {given!r}{where}; causal attention needs "{needed}", as in the presets '
                "prefill and qwen2.5-vl"
            )


@dataclass(frozen=True)
class Span:
    """Of one batch element: queries [first_query, last_query) see the keys [first_key, last_key),
    causally and aligned at the end; the other queries are padding."""

    first_query: int
    last_query: int
    first_key: int
    last_key: int


@dataclass(frozen=True)
class _Implementation:
    """An attention function as transformers calls it."""

    config: Config
    layers: Mapping[int, Config]
    """Configurations of single layers, in place of `config`."""
    dense_layers: frozenset[int]
    min_tokens: int
    num_threads: int
    notices: Notices
    spans: _MaskSpans

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **kwargs: Any,
    ) -> _Result:
        """query [B,Hq,Lq,D]; key, value [B,Hkv,Lk,D]; returns [B,Lq,Hq,D] and no weights."""

        def dense() -> _Result:
            from transformers.integrations.sdpa_attention import sdpa_attention_forward

            result: _Result = sdpa_attention_forward(
                module,
                query,
                key,
                value,
                attention_mask,
                dropout=dropout,
                scaling=scaling,
                is_causal=is_causal,
                **kwargs,
            )
            return result

        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        layer: Any = getattr(module, "layer_idx", None)
        if not causal or query.shape[2] < self.min_tokens or layer in self.dense_layers:
            return dense()
        spans: list[Span] | None = None
        reason = _refusal(query, key, value, dropout, kwargs)
        if reason is None:
            spans = self.spans.of(attention_mask, query, key)
            if spans is None:
                assert attention_mask is not None
                reason = (
                    f"the mask of shape {list(attention_mask.shape)} says more than causality "
                    "and padding"
                )
        if spans is not None:
            try:
                config = self.layers.get(layer, self.config)
                return self._psa(query, key, value, spans, scaling, config), None
            except UnsupportedError as error:
                reason = str(error)
        assert reason is not None
        self.notices.dense(f"{type(module).__name__} {layer}", reason)
        return dense()

    def _psa(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        spans: list[Span],
        scaling: float | None,
        config: Config,
    ) -> torch.Tensor:
        batch, heads, length, head_dim = query.shape
        out = query.new_empty(batch, length, heads, head_dim)
        for element, span in enumerate(spans):
            out[element, : span.first_query] = 0
            out[element, span.last_query :] = 0
        # Elements whose span is the same are one call; a batch without padding is one altogether.
        for span in dict.fromkeys(spans):
            elements = [i for i, other in enumerate(spans) if other == span]
            where = slice(None) if len(elements) == batch else elements
            queries = slice(span.first_query, span.last_query)
            keys = slice(span.first_key, span.last_key)
            if span.first_query == span.last_query:  # padding alone
                continue
            out[where, queries] = attention(
                query[where, :, queries],
                key[where, :, keys],
                value[where, :, keys],
                config=config,
                causal=True,
                scale=scaling,
                num_threads=self.num_threads,
            ).transpose(1, 2)
        return out


class _MaskSpans:
    """What masks say, kept for the mask seen last: the layers of a model share one."""

    def __init__(self) -> None:
        self._mask: Callable[[], torch.Tensor | None] = lambda: None
        self._spans: list[Span] | None = None

    def of(
        self, mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor
    ) -> list[Span] | None:
        """The span of each batch element; None if the mask says anything else."""
        batch, queries = query.shape[0], query.shape[2]
        if mask is None:
            # No mask means causal from the first key on: with more keys than queries these are
            # the empty places of a static cache.
            return [Span(0, queries, 0, queries)] * batch
        if mask is not self._mask():
            self._mask, self._spans = (
                weakref.ref(mask),
                _read_spans(mask, batch, queries, key.shape[2]),
            )
        return self._spans


def _read_spans(mask: torch.Tensor, batch: int, queries: int, keys: int) -> list[Span] | None:
    if mask.dtype != torch.bool or mask.ndim != 4 or mask.shape[1] != 1:
        return None
    if tuple(mask.shape[2:]) != (queries, keys):
        return None
    spans = [_read_span(one[0]) for one in mask.expand(batch, 1, queries, keys)]
    if any(span is None for span in spans):
        return None
    return [span for span in spans if span is not None]


def _read_span(mask: torch.Tensor) -> Span | None:
    """Of the mask [Lq,Lk] of one batch element."""
    queries, keys = mask.shape
    seen = mask[-1].nonzero()
    if seen.numel() == 0:  # a chunk of padding alone, or something else
        return None if bool(mask.any()) else Span(0, 0, 0, 0)
    first, last = int(seen[0]), int(seen[-1]) + 1
    # The last query stands at the last place of the keys, unless the cache has empty places
    # behind it, or the sequence is padded on the right.
    for end in dict.fromkeys((keys, last)):
        offset = end - queries  # of the first query among the keys
        if offset < 0:
            continue
        place = torch.arange(keys, device=mask.device)
        real = (place >= first) & (place < last)
        causal = place <= torch.arange(queries, device=mask.device)[:, None] + offset
        if torch.equal(mask, causal & real):
            return Span(max(0, first - offset), last - offset, first, last)
    return None


def _refusal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    more: dict[str, Any],
) -> str | None:
    """Why psa cannot compute a long causal call, whatever its mask says."""
    if query.dtype not in _DTYPES or query.device.type not in ("cpu", "cuda"):
        return f"{query.dtype} on {query.device.type}"
    if key.shape != value.shape or key.shape[3] != query.shape[3]:
        return f"keys of shape {list(key.shape)} and values of shape {list(value.shape)}"
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad):
        return "a gradient is needed, and psa computes none"
    if dropout:
        return "dropout"
    for name in ("softcap", "s_aux", "position_bias"):
        if more.get(name) is not None:
            return f"{name}, which psa does not have"
    return None
