# SPDX-License-Identifier: Apache-2.0
"""Times a forward call of models at their published sizes with random weights, dense and with psa.

A case is one call of a diffusers transformer, which is a denoising step of one branch of guidance,
or the prefill of a transformers decoder. Dense is PyTorch's scaled_dot_product_attention on its
cuDNN backend, where that takes the calls. All variants of a case run in one process, in turns. Each
case is written to OUT/full_size_CASE.json as soon as it is done, and one that fails leaves the
others alone; full_size_table.py makes docs/bench/full_size.md of the files.

  python bench/python/full_size.py --out bench/results           # all cases, on a GPU
  python bench/python/full_size.py --cases wan-1.3b-480p,qwen2.5-vl-7b-32k --repeats 5
  python bench/python/full_size.py --tiny --out /tmp             # tiny models, on the CPU

Random weights make attention diffuse, so errors are not those of trained models, nor are the
densities of presets with thresholds; times at a given density are.
Needs torch, diffusers, transformers and libpsa.so, which docs/python.md says how to build.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import json
import pathlib
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "python"))
import psa  # noqa: E402
from provenance import command, commit  # noqa: E402

SEED = 0


@dataclass
class Variant:
    """A way to compute the attention of a case."""

    name: str
    enabled: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    density: Callable[[], float] = lambda: 1.0  # of the last calls; called inside `enabled`
    ms: list[float] = field(default_factory=list)
    peak_bytes: int = 0


@dataclass
class Case:
    model: Any
    call: Callable[[], torch.Tensor]
    """What is timed."""
    facts: dict[str, Any]
    variants: list[Variant]


# ---- the models ----------------------------------------------------------------------------------


def wan(
    layers: int, heads: int, ffn: int, height: int, width: int, run: int
) -> Callable[..., Case]:
    """Wan2.1 with 81 frames of height x width pixels; `run` of its `layers` are made."""

    def make(tiny: bool, device: str) -> Case:
        from diffusers import WanTransformer3DModel

        latent = [16, 21, height // 8, width // 8]
        settings: dict[str, Any] = dict(num_attention_heads=heads, ffn_dim=ffn, num_layers=run)
        if tiny:
            latent = [16, 4, 16, 24]
            settings = dict(
                num_attention_heads=2, attention_head_dim=32, ffn_dim=64, num_layers=2, text_dim=32
            )
        model = _made(lambda: WanTransformer3DModel(**settings), device)
        inputs = dict(
            hidden_states=_noise(model, 1, *latent),
            timestep=torch.tensor([500.0], device=device),
            encoder_hidden_states=_noise(model, 1, 512, model.config.text_dim),
            return_dict=False,
        )
        grid = [latent[1], latent[2] // 2, latent[3] // 2]
        # Of the published presets only this one has a fixed density.
        other = "wan2.1-1.3b-topk" if heads == 12 else "speed"
        return _diffusers_case(model, inputs, other, layers, grid, 0, tiny)

    return make


def cogvideox() -> Callable[..., Case]:
    """CogVideoX-5B with 49 frames of 480 x 720 pixels and 226 text tokens."""

    def make(tiny: bool, device: str) -> Case:
        from diffusers import CogVideoXTransformer3DModel
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        frames, height, width, text, layers = 13, 60, 90, 226, 42
        settings: dict[str, Any] = dict(
            num_attention_heads=48, num_layers=layers, time_embed_dim=512, text_embed_dim=4096
        )
        if tiny:
            frames, height, width, text = 4, 16, 24, 16
            settings = dict(
                num_attention_heads=2, attention_head_dim=32, num_layers=2, text_embed_dim=32
            )
        model = _made(
            lambda: CogVideoXTransformer3DModel(
                **settings, max_text_seq_length=text, use_rotary_positional_embeddings=True
            ),
            device,
        )
        height, width = height // 2, width // 2  # in tokens
        inputs = dict(
            hidden_states=_noise(model, 1, frames, 16, 2 * height, 2 * width),
            encoder_hidden_states=_noise(model, 1, text, model.config.text_embed_dim),
            timestep=torch.tensor([500], device=device),
            image_rotary_emb=get_3d_rotary_pos_embed(
                model.config.attention_head_dim,
                crops_coords=((0, 0), (height, width)),
                grid_size=(height, width),
                temporal_size=frames,
                device=torch.device(device),
            ),
            return_dict=False,
        )
        grid = [frames, height, width]
        return _diffusers_case(model, inputs, "cogvideox-5b", layers, grid, text, tiny)

    return make


def _diffusers_case(
    model: Any,
    inputs: dict[str, Any],
    other: str,
    layers: int,
    grid: list[int],
    text: int,
    tiny: bool,
) -> Case:
    frames, height, width = grid
    facts = {
        "model": type(model).__name__,
        "layers": model.config.num_layers,
        "layers_of_the_model": model.config.num_layers if tiny else layers,
        "heads": model.config.num_attention_heads,
        "head_dim": model.config.attention_head_dim,
        "grid": grid,
        "text_tokens": text,
        "tokens": frames * height * width + text,
    }
    options: dict[str, Any] = dict(warmup=0, strict=True)
    if tiny:
        options.update(min_tokens=0, block="32x32")

    def variant(name: str, preset: str, error_rows: int) -> Variant:
        return Variant(
            name,
            lambda: psa.enabled(model, preset, error_rows=error_rows, **options),
            lambda: psa.summary(model).density,
        )

    return Case(
        model,
        lambda: model(**inputs)[0],
        facts,
        [
            Variant("dense"),
            variant("psa balanced", "balanced", 0),
            variant(f"psa {other}", other, 0),
            variant("psa balanced, error_rows=16", "balanced", 16),
        ],
    )


def qwen(tokens: int) -> Callable[..., Case]:
    """The text decoder of Qwen2.5-VL-7B, which reads a prompt of so many tokens."""

    def make(tiny: bool, device: str) -> Case:
        import transformers
        from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

        settings: dict[str, Any] = dict(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            vocab_size=152064,
            max_position_embeddings=128000,
        )
        length, section = tokens, [16, 24, 24]
        if tiny:
            settings.update(
                hidden_size=128,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=151,
            )
            length, section = 300, [4, 6, 6]
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
        is_old = transformers.__version__.startswith("4.")
        settings["rope_scaling" if is_old else "rope_parameters"] = rope
        config = Qwen2_5_VLTextConfig(**settings, use_sliding_window=False)
        model = _made(lambda: Qwen2_5_VLTextModel(config), device)
        random = torch.Generator().manual_seed(SEED)
        ids = torch.randint(config.vocab_size, (1, length), generator=random).to(device)
        options = dict(min_tokens=2, block="32x32") if tiny else {}

        @contextlib.contextmanager
        def enabled(settings: dict[str, Any]) -> Iterator[None]:
            name = psa.transformers.register("prefill", strict=True, **options, **settings)
            model.set_attn_implementation(name)
            try:
                yield
            finally:
                model.set_attn_implementation("sdpa")

        def call() -> Any:
            # With its cache, as a prefill fills it. The head of the last token would cost nothing.
            return model(ids).last_hidden_state

        def variant(name: str, **settings: Any) -> Variant:
            return Variant(name, lambda: enabled(settings), lambda: _prefill_density(call))

        model.set_attn_implementation("sdpa")
        facts = {
            "model": type(model).__name__,
            "layers": config.num_hidden_layers,
            "layers_of_the_model": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "head_dim": config.hidden_size // config.num_attention_heads,
            "tokens": length,
        }
        return Case(
            model,
            call,
            facts,
            [
                Variant("dense"),
                variant("psa prefill"),
                variant("psa prefill density=0.1", density=0.1),
            ],
        )

    return make


def _prefill_density(call: Callable[[], Any]) -> float:
    """Mean density of the layers in one more call."""
    from psa.adapters import transformers as adapter

    found = []
    own = adapter.attention

    def observed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> Any:
        out, levels = own(q, k, v, return_levels=True, **options)
        # Nothing is computed with this plan, so its dtype does not matter.
        plan = psa.Plan(q.shape, k.shape, options["config"], device="cpu")
        found.append(plan.density(levels.cpu()))
        return out

    adapter.attention = observed
    try:
        call()
    finally:
        adapter.attention = own
    return statistics.fmean(found)


def _made(make: Callable[[], Any], device: str) -> Any:
    """A model with the random weights of its modules' initialization, made on the device."""
    torch.manual_seed(SEED)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            return make().eval()
    finally:
        torch.set_default_dtype(before)


def _noise(model: torch.nn.Module, *shape: int) -> torch.Tensor:
    weight = next(model.parameters())
    random = torch.Generator(weight.device).manual_seed(SEED)
    return torch.randn(shape, generator=random, device=weight.device).to(weight.dtype)


CASES = {
    "wan-1.3b-480p": wan(30, 12, 8960, 480, 832, run=30),
    "cogvideox-5b": cogvideox(),
    "qwen2.5-vl-7b-32k": qwen(32768),
    "wan-1.3b-720p": wan(30, 12, 8960, 720, 1280, run=30),
    "wan-14b-720p": wan(40, 40, 13824, 720, 1280, run=10),
    "qwen2.5-vl-7b-64k": qwen(65536),
}


# ---- the measurement -----------------------------------------------------------------------------


class Clock:
    """Milliseconds between two points of what is queued on a device."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device == "cuda"

    def now(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def ms(self, begin: Any, end: Any) -> float:
        if not self._is_cuda:
            return (end - begin) * 1e3
        end.synchronize()
        return float(begin.elapsed_time(end))


class AttentionTimer(TorchFunctionMode):
    """Times the self-attention calls inside: those of PyTorch with as many queries as keys, and
    those of psa."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._spans: list[tuple[Any, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._is_timed(func, args, kwargs):
            return func(*args, **kwargs)
        begin = self._clock.now()
        result = func(*args, **kwargs)
        self._spans.append((begin, self._clock.now()))
        return result

    @staticmethod
    def _is_timed(func: Any, args: Any, kwargs: Any) -> bool:
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, key, *_ = (*args, *(kwargs[name] for name in ("query", "key") if name in kwargs))
            return bool(query.shape[2] == key.shape[2])
        return func in (torch.ops.psa.attention, torch.ops.psa.attention_out)

    @property
    def calls(self) -> int:
        return len(self._spans)

    @property
    def ms(self) -> float:
        return sum(self._clock.ms(*span) for span in self._spans)


def measure(case: Case, device: str, repeats: int) -> dict[str, Any]:
    """The rows of a case's variants, and which backend computed dense attention."""
    clock = Clock(device)
    backend = dense_backend(case, device)
    failed: list[dict[str, Any]] = []
    with sdpa_kernel(backend):
        variants = []
        for variant in case.variants:  # the first call of each warms up
            try:
                _step(case, variant, clock)
                variants.append(variant)
            except Exception as error:  # the others may still be right
                traceback.print_exc()
                failed.append({"variant": variant.name, "error": str(error)})
        for variant in variants:
            variant.ms.clear()
            variant.peak_bytes = 0
        for _ in range(repeats):  # in turns, so that a slow spell of the machine hits all alike
            for variant in variants:
                _step(case, variant, clock)
        rows = []
        reference = None
        for variant in variants:
            with variant.enabled():
                with AttentionTimer(clock) as timer:
                    out = case.call().float()
                density = variant.density()
            reference = out if reference is None else reference
            rows.append(
                {
                    "variant": variant.name,
                    "step_ms": statistics.median(variant.ms),
                    "step_ms_min": min(variant.ms),
                    "step_ms_max": max(variant.ms),
                    "attention_ms": timer.ms,
                    "attention_calls": timer.calls,
                    "peak_bytes": variant.peak_bytes,
                    "density": density,
                    "relative_l2": float((out - reference).norm() / reference.norm()),
                }
            )
            print(_line(rows[-1], rows[0]), flush=True)
    return {"dense_backend": backend.name, "variants": rows, "failed": failed}


def _step(case: Case, variant: Variant, clock: Clock) -> None:
    """One call, its time and its peak of memory."""
    with variant.enabled():
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        begin = clock.now()
        case.call()
        variant.ms.append(clock.ms(begin, clock.now()))
        if torch.cuda.is_available():
            variant.peak_bytes = max(variant.peak_bytes, torch.cuda.max_memory_allocated())


def dense_backend(case: Case, device: str) -> SDPBackend:
    """The first one that computes the case's attention."""
    wanted = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    for backend in wanted if device == "cuda" else [SDPBackend.FLASH_ATTENTION]:
        try:
            with sdpa_kernel(backend):
                case.call()
            return backend
        except RuntimeError as error:
            print(f"{backend.name} refuses: {error}", file=sys.stderr)
    return SDPBackend.MATH


def _line(row: dict[str, Any], dense: dict[str, Any]) -> str:
    return (
        f"  {row['variant']:28} step {row['step_ms']:8.1f} ms"
        f" ({dense['step_ms'] / row['step_ms']:.2f}x)"
        f"  attention {row['attention_ms']:8.1f} ms"
        f" ({dense['attention_ms'] / row['attention_ms']:.2f}x)"
        f"  {row['peak_bytes'] / 2**30:5.1f} GiB  density {row['density']:.3f}"
        f"  error {row['relative_l2']:.4f}"
    )


# ---- the program ---------------------------------------------------------------------------------


def run(name: str, args: argparse.Namespace) -> None:
    """Measures a case and writes its file."""
    device = "cpu" if args.tiny else "cuda"
    print(name, flush=True)
    start = time.perf_counter()
    case = CASES[name](args.tiny, device)
    report = {
        "case": name,
        "weights": "tiny, random" if args.tiny else "random",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "dtype": "float32" if args.tiny else "bfloat16",
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("torch", "diffusers", "transformers")
        },
        "psa": psa.__version__,
        "commit": args.commit or commit(),
        "command": command(),
        "repeats": args.repeats,
        **case.facts,
        **measure(case, device, args.repeats),
    }
    path = pathlib.Path(args.out) / f"full_size_{name}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"  {time.perf_counter() - start:.0f} s, {path}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES), help="some of them, with commas")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each variant")
    parser.add_argument("--out", default="bench/results", help="folder of the result files")
    parser.add_argument("--commit", help="of the tree, where git is missing")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    args = parser.parse_args()
    names = args.cases.split(",")
    for name in names:
        if name not in CASES:
            parser.error(f"--cases has {name!r}; allowed: {', '.join(CASES)}")
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; allowed: 1 and more")
    failures = 0
    with torch.inference_mode():
        for name in names:
            try:
                run(name, args)
            except Exception:  # the cases after it may still be right
                traceback.print_exc()
                failures += 1
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
