# SPDX-License-Identifier: Apache-2.0
"""psa in the self-attention of diffusers' video transformers: enable, disable, enabled, summary.

A forward pre-hook of the transformer reads the token grid and the timestep of a call. A processor
in place of each self-attention layer's own one decides what the layer does and calls the own one,
taking over the attention call in it: through the dispatcher's backend "psa" where the processor
uses the dispatcher, else through torch's function mode. Dense layers run exactly what they ran
before.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from .._attention import attention
from ..config import Config
from ..errors import UnsupportedError
from . import families, policy, report
from .fallback import Notices
from .steps import Step, StepClock
from .takeover import register_backend, taken_over

_LOGGER = logging.getLogger("psa.diffusers")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MAX_BRANCHES = 4  # of guidance, whose level maps are kept for later steps


# ---- what users call -----------------------------------------------------------------------------


def enable(
    target: Any,
    preset: Any = "auto",
    *,
    warmup: int | float | None = None,
    dense_layers: Iterable[int] = (),
    min_tokens: int = 2048,
    reuse_steps: int = 1,
    schedule: policy.Schedule | None = None,
    error_rows: int = 16,
    num_steps: int | None = None,
    num_threads: int = 0,
    strict: bool = False,
    **overrides: Any,
) -> Any:
    """Puts psa into the self-attention of a diffusers pipeline, until `disable`.

    Args:
        target: a pipeline with a `transformer` (and maybe a `transformer_2`) of a class that
            docs/diffusers.md lists, or such a transformer. Enabling again replaces the options.
        preset: a name of `psa.presets()`, the path of a YAML file, settings as text
            ("order=gilbert density=.2"), a Config or a Preset; "auto": "balanced".
        warmup: dense steps at the start: a count, or as a float the fraction 0..1 of the steps,
            rounded up. Left out: the preset's, and a tenth for presets that name none.
        dense_layers: self-attention layers that are always dense, from 0; negative ones count from
            the end: (0, -1) are the first and the last.
        min_tokens: shorter sequences stay dense.
        reuse_steps: a level map serves so many steps; 1: selected anew in every step.
        schedule: called as schedule(layer, step, steps) where none of the above says dense;
            returns the configuration (or the name of a preset) to use, or None for dense.
        error_rows: query rows of each call that are also computed dense, for `summary`; 0: none.
        num_steps: of a run; needed for a fraction where `target` is a transformer alone.
        num_threads: as in `psa.attention`.
        strict: raise UnsupportedError where a layer would stay dense for an unexpected reason.
        overrides: settings of Config that differ from the preset's, such as density=.2.

    Returns:
        target.

    Raises:
        UnsupportedError: a model that psa does not know.
        ValueError, TypeError: an option out of its range or of another type.
    """
    models = transformers_of(target)
    for model in models.values():
        families.family_of(model)
    choice = policy.resolve(preset, overrides, "balanced")
    pipeline = None if isinstance(target, nn.Module) else target
    notices = Notices(_LOGGER, strict)
    if warmup is None:
        warmup = choice.warmup
        if warmup and num_steps is None and not hasattr(pipeline, "scheduler"):
            notices.say("warmup", "no warm-up: the number of steps is not known; give num_steps")
    elif isinstance(warmup, float) and num_steps is None and not hasattr(pipeline, "scheduler"):
        raise ValueError(
            f"warmup is the fraction {warmup} of a number of steps that is not known; give "
            "num_steps, or warmup as a count"
        )
    session = _Session(
        clock=StepClock(pipeline, None if num_steps is None else _count("num_steps", num_steps, 1)),
        notices=notices,
        error_rows=_count("error_rows", error_rows, 0),
        num_threads=num_threads,
    )
    adapters: list[_ModelAdapter] = []
    for name, model in models.items():
        layers = families.self_attention(model)
        if choice.layers and max(choice.layers) >= len(layers):
            raise ValueError(
                f"the preset has settings for layer {max(choice.layers)}; the model has "
                f"{len(layers)} self-attention layers, from 0"
            )
        plan = policy.Policy(
            config=choice.config,
            layers=choice.layers,
            warmup=_warmup(warmup),
            dense_layers=policy.layer_numbers(dense_layers, len(layers)),
            min_tokens=_count("min_tokens", min_tokens, 0),
            reuse_steps=_count("reuse_steps", reuse_steps, 1),
            schedule=schedule,
        )
        prefix = f"{name}." if len(models) > 1 else ""
        adapters.append(_ModelAdapter(model, layers, plan, session, prefix))
    register_backend()
    disable(target)
    for adapter in adapters:
        adapter.attach()
    return target


def disable(target: Any) -> Any:
    """Takes psa out of a pipeline or transformer; nothing to do where it is not in.

    Returns target. What it computes then is, bit by bit, what it computed before `enable`;
    `summary` still tells of the last run.
    """
    for model in transformers_of(target).values():
        if model in _ADAPTERS:
            _ADAPTERS[model].detach()
    return target


@contextmanager
def enabled(target: Any, preset: Any = "auto", **options: Any) -> Iterator[Any]:
    """`with psa.enabled(pipe): ...` enables psa for the block; what was before is after."""
    before = [_ADAPTERS[model] for model in transformers_of(target).values() if model in _ADAPTERS]
    before = [adapter for adapter in before if adapter.is_attached]
    enable(target, preset, **options)
    try:
        yield target
    finally:
        disable(target)
        for adapter in before:
            adapter.attach()


def summary(target: Any) -> report.Summary:
    """Density, time and error of each layer in each step of the last run; `print` it.

    On CUDA it waits for the device. Raises ValueError if psa was never enabled for target.
    """
    for model in transformers_of(target).values():
        if model in _ADAPTERS:
            return _ADAPTERS[model].session.summary()
    raise ValueError("psa was not enabled for this pipeline; psa.enable(pipe) comes first")


def transformers_of(target: Any) -> dict[str, nn.Module]:
    """The transformers of a pipeline by attribute name, or the one that `target` is."""
    if isinstance(target, nn.Module):
        found: dict[str, nn.Module | None] = {"transformer": target}
    else:
        found = {name: getattr(target, name, None) for name in ("transformer", "transformer_2")}
    models = {name: model for name, model in found.items() if model is not None}
    if not models:
        raise UnsupportedError(f"{type(target).__name__} has no transformer; psa needs one")
    # torch.compile(model) wraps the model that hooks and processors belong to.
    return {name: getattr(model, "_orig_mod", model) for name, model in models.items()}


# ---- a pipeline, its transformers, their layers --------------------------------------------------


class _Session:
    """What the transformers of a pipeline share."""

    def __init__(
        self, clock: StepClock, notices: Notices, error_rows: int, num_threads: int
    ) -> None:
        self.clock = clock
        self.notices = notices
        self.error_rows = error_rows
        self.num_threads = num_threads
        self.recorder = report.Recorder()

    def summary(self) -> report.Summary:
        return report.Summary(self.recorder.rows(), self.notices.texts)


class _ModelAdapter:
    """psa in one transformer, which holds this as long as it lives; never the other way round."""

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[tuple[str, nn.Module]],
        plan: policy.Policy,
        session: _Session,
        prefix: str,
    ) -> None:
        self.session = session
        self.policy = plan
        self.layout: families.TokenLayout | None = None
        self.device = torch.device("cpu")
        self.key_lengths = _KeyLengths()
        self.is_attached = False
        self._model = weakref.ref(model)
        self._family = families.family_of(model)
        self._signature = inspect.signature(type(model).forward)
        self._layers = [
            _Layer(self, number, prefix + name, module)
            for number, (name, module) in enumerate(layers)
        ]
        self._hook: Any = None

    def attach(self) -> None:
        model = self._model()
        assert model is not None  # the caller has it
        self._hook = model.register_forward_pre_hook(self._observe, with_kwargs=True)
        for layer in self._layers:
            layer.attach()
        self.is_attached = True
        _ADAPTERS[model] = self

    def detach(self) -> None:
        if self.is_attached:
            self._hook.remove()
            for layer in self._layers:
                layer.detach()
            self.is_attached = False

    def _observe(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a forward call of the transformer: its grid and its step."""
        try:
            given = self._signature.bind(model, *args, **kwargs).arguments
        except TypeError:
            return  # forward says itself what is wrong
        self.layout = self._family.layout(model, given)
        self.device = given["hidden_states"].device
        run = self.session.clock.step.run
        step = self.session.clock.observe(_largest(given["timestep"]))
        if step.run != run:
            self.session.recorder.clear()
        for layer in self._layers:
            layer.begin(step)


_ADAPTERS: weakref.WeakKeyDictionary[nn.Module, _ModelAdapter] = weakref.WeakKeyDictionary()


class _LevelMap(NamedTuple):
    """Selected in one step, for that and for later ones."""

    step: Step
    fits: tuple[object, ...]  # what a call must have in common with that of the map
    levels: torch.Tensor
    density: torch.Tensor


class _Layer:
    """psa in one self-attention layer."""

    def __init__(self, adapter: _ModelAdapter, number: int, name: str, module: nn.Module) -> None:
        self.adapter = adapter
        self.number = number
        self.name = name
        self.maps: dict[int, _LevelMap] = {}  # by branch of guidance
        self._module = module
        self._processor: _Processor | None = None

    def attach(self) -> None:
        self._processor = _Processor(_processor_of(self._module), self)
        _set_processor(self._module, self._processor)

    def detach(self) -> None:
        if self._processor is not None and _processor_of(self._module) is self._processor:
            _set_processor(self._module, self._processor.own)
        self.maps.clear()

    def begin(self, step: Step) -> None:
        """Before a forward call of the transformer."""
        self.maps = {b: kept for b, kept in self.maps.items() if kept.step.run == step.run}
        if _processor_of(self._module) is not self._processor:
            self.adapter.session.notices.dense(
                self.name, "its processor was replaced after psa.enable; call psa.enable again"
            )

    def run(self, own: Any, forward: Callable[[], Any]) -> Any:
        """`forward` of the own processor, with psa in it where the policy says so."""
        if not self.adapter.is_attached:  # somebody kept the processor beyond psa.disable
            return forward()
        session = self.adapter.session
        config = self._config()
        cell = session.recorder.cell(session.clock.step.index, self.name)
        with cell.timed(self.adapter.device):
            if config is None:
                return forward()
            call = _Call(self, config, cell, getattr(own, "_attention_backend", None))
            with taken_over(own, call):
                result = forward()
        if not call.was_reached:
            session.notices.dense(
                self.name, f"{type(own).__name__} calls no attention function that psa can replace"
            )
        return result

    def _config(self) -> Config | None:
        """None: dense."""
        adapter = self.adapter
        config = adapter.policy.config_at(self.number, adapter.session.clock.step)
        if config is None:
            return None
        if adapter.layout is None:
            adapter.session.notices.dense(self.name, "the call does not tell the video's grid")
            return None
        if adapter.layout.tokens < adapter.policy.min_tokens:
            adapter.session.notices.say(
                "min_tokens",
                f"dense attention: {adapter.layout.tokens} tokens, less than "
                f"min_tokens={adapter.policy.min_tokens}",
            )
            return None
        return config


class _Call:
    """The attention call of a layer's own processor, in a forward call in which psa is wanted."""

    def __init__(
        self, layer: _Layer, config: Config, cell: report.Cell, dense_backend: Any
    ) -> None:
        self.dense_backend = dense_backend
        self.was_reached = False
        self._layer = layer
        self._config = config
        self._cell = cell

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
        """Attention of [B,H,L,D] tensors, or `dense()` where psa cannot compute it or an `other`
        reason is given."""
        self.was_reached = True
        reason = other or self._refusal(q, k)
        lengths = None
        if reason is None and mask is not None:
            lengths = self._layer.adapter.key_lengths.of(mask, q.shape[0], k.shape[2])
            if lengths is None:
                reason = f"a mask of shape {list(mask.shape)} that is not a count of valid keys"
        if reason is None:
            try:
                return self._psa(q, k, v, scale, lengths)
            except UnsupportedError as error:
                reason = str(error)
        self._layer.adapter.session.notices.dense(self._layer.name, reason)
        return dense()

    def shard_refusal(self) -> str | None:
        layout = self._layer.adapter.layout
        assert layout is not None
        if layout.text_tokens:
            return "context parallelism of a sequence with text tokens"
        if self._config.head_density is not None:
            return "context parallelism with a density for each head"
        return None

    def _refusal(self, q: torch.Tensor, k: torch.Tensor) -> str | None:
        layout = self._layer.adapter.layout
        assert layout is not None
        if not q.shape[2] == k.shape[2] == layout.tokens:
            grid = " x ".join(str(size) for size in layout.grid)
            return (
                f"{q.shape[2]} queries and {k.shape[2]} keys, but the grid of {grid} and "
                f"{layout.text_tokens} text tokens make {layout.tokens}"
            )
        if q.dtype not in _DTYPES or q.device.type not in ("cpu", "cuda"):
            return f"{q.dtype} on {q.device.type}"
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
            return "a gradient is needed, and psa computes none"
        return None

    def _psa(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float | None,
        lengths: tuple[int, ...] | None,
    ) -> Any:
        session, policy_ = self._layer.adapter.session, self._layer.adapter.policy
        layout, step = self._layer.adapter.layout, session.clock.step
        assert layout is not None
        fits = (self._config, tuple(q.shape), layout, lengths)
        kept = self._layer.maps.get(step.branch)
        if kept is not None and (
            kept.fits != fits or step.index - kept.step.index >= policy_.reuse_steps
        ):
            kept = None
        out, levels = attention(
            q,
            k,
            v,
            config=self._config,
            grid=layout.grid,
            text_tokens=layout.text_tokens,
            text_side=layout.text_side,
            scale=scale,
            kv_lengths=None if lengths is None else report.lengths_on(q.device, lengths),
            levels=None if kept is None else kept.levels,
            return_levels=True,
            num_threads=session.num_threads,
        )
        if kept is None:
            kept = _LevelMap(
                step, fits, levels, report.map_density(levels, self._config, lengths, q)
            )
            if policy_.reuse_steps > 1 and step.branch < _MAX_BRANCHES:
                self._layer.maps[step.branch] = kept
        self._cell.add(kept.density)
        if session.error_rows:
            self._cell.errors.append(
                report.rows_error(q, k, v, out, session.error_rows, lengths, scale)
            )
        return out


class _Processor:
    """Stands for a self-attention layer's own processor; other attributes are those of that one."""

    own: Any
    _layer: _Layer

    def __init__(self, own: Any, layer: _Layer) -> None:
        # diffusers reads the names of the arguments that a processor takes off its __call__.
        vars(self).update(own=own, _layer=layer, __call__=own.__call__)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._layer.run(self.own, lambda: self.own(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        if name == "own":  # being copied or unpickled: not there yet
            raise AttributeError(name)
        return getattr(self.own, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.own, name, value)  # set_attention_backend, enable_parallelism


class _KeyLengths:
    """Numbers of valid keys that a mask says, kept for the mask seen last: the layers of a model
    share one, and reading it waits for the device."""

    def __init__(self) -> None:
        self._mask: Callable[[], torch.Tensor | None] = lambda: None
        self._lengths: tuple[int, ...] | None = None

    def of(self, mask: torch.Tensor, batch: int, keys: int) -> tuple[int, ...] | None:
        """Of each batch element; None if the mask says anything else."""
        if mask is not self._mask():
            self._mask, self._lengths = weakref.ref(mask), _key_lengths(mask, batch, keys)
        return self._lengths


def _key_lengths(mask: torch.Tensor, batch: int, keys: int) -> tuple[int, ...] | None:
    if mask.ndim == 2 and tuple(mask.shape) == (batch, keys):
        mask = mask[:, None, None]
    if mask.dtype != torch.bool or mask.ndim != 4 or mask.shape[1:3] != (1, 1):
        return None
    valid = mask[:, 0, 0].expand(batch, keys)
    lengths = valid.sum(dim=1)
    if not torch.equal(valid, torch.arange(keys, device=mask.device) < lengths[:, None]):
        return None
    return tuple(int(length) for length in lengths)


# ---- small things --------------------------------------------------------------------------------


def _processor_of(module: nn.Module) -> Any:
    return module.processor


def _set_processor(module: nn.Module, processor: object) -> None:
    # One that is a module is kept among the module's children, and no other type may replace it.
    module._modules.pop("processor", None)
    module.processor = processor  # type: ignore[assignment]


def _largest(timestep: Any) -> float:
    """Image-to-video gives tokens of known frames the timestep 0."""
    return float(timestep.max()) if isinstance(timestep, torch.Tensor) else float(timestep)


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; it must be an int")
    if value < least:
        raise ValueError(f"{name} is {value}; allowed: {least} and more")
    return value


def _warmup(value: Any) -> int | float:
    if isinstance(value, float):
        if not 0 <= value <= 1:
            raise ValueError(f"warmup is {value}; allowed: a fraction 0..1, or a count as an int")
        return value
    return _count("warmup", value, 0)
