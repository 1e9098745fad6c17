# SPDX-License-Identifier: Apache-2.0
"""Ways into the attention call of a processor of diffusers: the backend "psa" of its dispatcher,
and torch's function mode for processors that call scaled_dot_product_attention themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..errors import UnsupportedError
from .fallback import Notices

_BACKEND = "psa"


class Call(Protocol):
    """What the attention call of a processor becomes."""

    dense_backend: Any
    """Of the processor: the dispatcher's backend for dense attention, None for its usual one."""

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
        other: str | None,
        dense: Callable[[], Any],
    ) -> Any:
        """Attention of [B,H,L,D] tensors; `dense()` where it must stay dense, for one if there is
        an `other` reason for it."""

    def shard_refusal(self) -> str | None:
        """Why attention must stay dense where a process has some of the heads, and the tokens of
        all processes one after the other."""


_ACTIVE: ContextVar[Call | None] = ContextVar("psa_active_call", default=None)


@contextmanager
def taken_over(own: Any, call: Call) -> Iterator[None]:
    """Inside, the attention call of the processor `own` is the given one."""
    backend = register_backend() if hasattr(own, "_attention_backend") else None
    if backend is None:
        with _SdpaMode(call):
            yield
        return
    # The class may have the attribute instead of the processor itself.
    had, before = "_attention_backend" in vars(own), own._attention_backend
    own._attention_backend = backend
    token = _ACTIVE.set(call)
    try:
        yield
    finally:
        _ACTIVE.reset(token)
        if had:
            own._attention_backend = before
        else:
            del own._attention_backend


class _SdpaMode(TorchFunctionMode):
    """Gives the calls of scaled_dot_product_attention to psa."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        def dense() -> Any:
            return functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=attn_mask,
                dropout_p=dropout_p,
                is_causal=is_causal,
                scale=scale,
                enable_gqa=enable_gqa,
            )

        other = _other_refusal(dropout_p, is_causal)
        return self._call.attend(query, key, value, attn_mask, scale, other, dense)


def _other_refusal(dropout: float, is_causal: bool) -> str | None:
    if dropout:
        return "dropout"
    return "causal attention of a video transformer" if is_causal else None


def register_backend() -> Any:
    """diffusers' attention backend "psa", put into its dispatcher by the first call.

    Returns the member of AttentionBackendName; None where there is no dispatcher (before diffusers
    0.35) or none that we know. Outside of layers that `enable` has taken over the backend is dense
    attention. Raises UnsupportedError if somebody else's backend has the name.
    """
    try:
        from diffusers.models.attention_dispatch import (
            AttentionBackendName as names,
            _AttentionBackendRegistry as registry,
        )
    except ImportError:
        return None
    if _BACKEND in names._value2member_map_:
        member = names(_BACKEND)
        if registry._backends.get(member) is not _dispatched:
            raise UnsupportedError('diffusers has another attention backend named "psa"')
        return member
    # The enumeration is closed, and diffusers offers no other way in: its registry and
    # set_attention_backend accept members only.
    member = str.__new__(names, _BACKEND)
    member._name_ = _BACKEND.upper()
    member._value_ = _BACKEND
    registry.register(member)(_dispatched)
    names._member_map_[member._name_] = member
    names._value2member_map_[_BACKEND] = member
    names._member_names_.append(member._name_)
    return member


_OUTSIDE = Notices(logging.getLogger("psa.diffusers"))


def _dispatched(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    _parallel_config: Any = None,
) -> Any:
    """The dispatcher's backend: [B,L,H,D] tensors."""
    from diffusers.models import attention_dispatch as dispatch

    call = _ACTIVE.get()
    backend = None if call is None else call.dense_backend
    if call is None or backend == _BACKEND:
        backend = dispatch.AttentionBackendName.NATIVE

    def dense(q: Any, k: Any, v: Any, mask: Any, parallel_config: Any) -> Any:
        parallel = {} if parallel_config is None else {"parallel_config": parallel_config}
        return dispatch.dispatch_attention_fn(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
            backend=backend,
            **parallel,
        )

    if call is None:
        _OUTSIDE.say("outside", "backend psa outside of psa.enable(pipe): dense attention")
        return dense(query, key, value, attn_mask, _parallel_config)

    def attend(q: Any, k: Any, v: Any, mask: Any, other: Any = None, parallel: Any = None) -> Any:
        def heads_first() -> Any:
            return dense(q, k, v, mask, parallel).transpose(1, 2)

        qh, kh, vh = (x.transpose(1, 2) for x in (q, k, v))
        return call.attend(qh, kh, vh, mask, scale, other, heads_first).transpose(1, 2)

    other = _other_refusal(dropout_p, is_causal)
    if _parallel_config is not None:
        other = other or _parallel_refusal(_parallel_config, query, key) or call.shard_refusal()
    if _parallel_config is None or other is not None:
        return attend(query, key, value, attn_mask, other, _parallel_config)

    def attend_gathered(
        context: Any, q: Any, k: Any, v: Any, mask: Any, *arguments: Any, **options: Any
    ) -> Any:
        """What diffusers calls between its exchanges: all tokens, some of the heads."""
        del context, arguments, options  # settings of this call, and what a backward pass needs
        return attend(q, k, v, mask)

    return dispatch._templated_context_parallel_attention(
        query,
        key,
        value,
        attn_mask,
        dropout_p,
        is_causal,
        scale,
        enable_gqa,
        False,
        forward_op=attend_gathered,
        backward_op=None,
        _parallel_config=_parallel_config,
    )


def _parallel_refusal(config: Any, query: torch.Tensor, key: torch.Tensor) -> str | None:
    """Why psa cannot take part in context parallelism."""
    from diffusers.models import attention_dispatch as dispatch

    if config.context_parallel_config.ring_degree > 1:
        return "ring attention, which never has all keys of a query at once"
    if not hasattr(dispatch, "_templated_context_parallel_attention"):
        return "context parallelism of a version of diffusers that psa does not know"
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad):
        return "a gradient is needed, and psa computes none"
    return None
