# SPDX-License-Identifier: Apache-2.0
"""What the examples share: a pipeline run with dense attention and with psa."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch

import psa

# Random weights make short sequences, which psa would leave dense.
TINY = dict(min_tokens=0, block="32x32")


def main(
    description: str,
    model: str,
    pipeline: str,
    tiny_pipeline: Callable[[], Any],
    tiny_arguments: Callable[[], dict[str, Any]],
    **settings: Any,
) -> None:
    """An example: `model` in the diffusers class `pipeline` on a GPU, called with `settings`, or,
    with --random-weights, a tiny pipeline on the CPU."""
    chosen = _options(model, description.splitlines()[0])
    if chosen.random_weights:
        compare(tiny_pipeline(), tiny_arguments, chosen.preset, **TINY)
        return
    import diffusers

    pipe = getattr(diffusers, pipeline).from_pretrained(chosen.model, torch_dtype=torch.bfloat16)
    pipe.enable_model_cpu_offload()
    compare(
        pipe,
        lambda: dict(
            prompt=chosen.prompt, generator=torch.manual_seed(0), output_type="np", **settings
        ),
        chosen.preset,
    )


def _options(default_model: str, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--model", default=default_model, help="of the Hugging Face hub, or a folder"
    )
    parser.add_argument("--random-weights", action="store_true", help="a tiny one, on the CPU")
    parser.add_argument("--preset", default="auto", help='such as "balanced", or a YAML file')
    parser.add_argument("--prompt", default="A red panda climbs a tree in the rain")
    return parser.parse_args()


def compare(pipe: Any, arguments: Callable[[], dict[str, Any]], preset: str, **more: Any) -> None:
    """Prints the seconds of both runs, their likeness and the summary of psa."""
    dense, dense_s = _timed(pipe, arguments)
    with psa.enabled(pipe, preset, **more):
        sparse, psa_s = _timed(pipe, arguments)
    print(f"dense {dense_s:.1f} s, psa {psa_s:.1f} s, {_psnr(sparse, dense):.1f} dB alike")
    print(psa.summary(pipe))


def _timed(pipe: Any, arguments: Callable[[], dict[str, Any]]) -> tuple[torch.Tensor, float]:
    pipe.set_progress_bar_config(disable=True)
    start = time.perf_counter()
    frames = pipe(**arguments()).frames
    return torch.as_tensor(frames), time.perf_counter() - start


def _psnr(given: torch.Tensor, wanted: torch.Tensor) -> float:
    given, wanted = given.double(), wanted.double()
    error = float(((given - wanted) ** 2).mean())
    span = float(wanted.max() - wanted.min())
    return math.inf if error == 0 else 10 * math.log10(span**2 / error)
