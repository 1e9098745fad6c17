# SPDX-License-Identifier: Apache-2.0
"""A video of the bundled model (models/shapes) in diffusers, with psa in its attention.

    python examples/python/shapes.py --prompt "a large red circle moves left on a navy background"
    python examples/python/shapes.py --dense        # the same without psa, several times slower

A trained model without any download; minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any

import torch

import psa

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models" / "shapes"
# Pipelines take sizes in pixels and divide them by their VAE's factors. This model has no VAE: it
# makes pixels, whose sizes must come out of the division.
VAE_SIDE, VAE_FRAMES = 8, 4


def load(folder: pathlib.Path = MODEL) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

    class Scheduler(FlowMatchEulerDiscreteScheduler):
        """Steps even in noise before the shift, as `psa generate` has them. Left alone, diffusers
        derives their end from a value that was shifted before."""

        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            sigmas = [1 - i / num_inference_steps for i in range(num_inference_steps)]
            super().set_timesteps(sigmas=sigmas, device=device)

    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=Scheduler.from_pretrained(folder),
        transformer=WanTransformer3DModel.from_pretrained(folder),
    )


def encode(prompt: str, folder: pathlib.Path = MODEL) -> torch.Tensor:
    """[1,32,64]: the sum of the embeddings of each word and of its place, padded with word 0."""
    from safetensors.torch import load_file

    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    tables = load_file(folder / "text_encoder.safetensors")
    places = tables["position_embedding.weight"]
    unknown = [word for word in prompt.lower().split() if word not in words]
    if unknown:
        raise SystemExit(f"words that the model does not know: {', '.join(unknown)}")
    ids = [words[word] for word in prompt.lower().split()][: len(places)]
    ids += [0] * (len(places) - len(ids))
    return (tables["token_embedding.weight"][ids] + places)[None]


def enable(pipe: Any, folder: pathlib.Path = MODEL, **options: Any) -> Any:
    """psa as psa.json says is best for the model."""
    best = json.loads((folder / "psa.json").read_text(encoding="utf-8"))
    return psa.enable(pipe, folder / best["config"], **{"warmup": best["warmup_steps"], **options})


def generate(
    pipe: Any, prompt: str, steps: int, frames: int = 16, latents: torch.Tensor | None = None
) -> torch.Tensor:
    """[3,F,64,64] in -1..1."""
    side = 64
    return pipe(
        prompt_embeds=encode(prompt),
        guidance_scale=1.0,
        height=side * VAE_SIDE,
        width=side * VAE_SIDE,
        num_frames=(frames - 1) * VAE_FRAMES + 1,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        latents=latents,
        output_type="latent",
    ).frames[0]


def write_gif(video: torch.Tensor, path: pathlib.Path) -> None:
    from PIL import Image

    pixels = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    frames = [
        Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((256, 256), Image.Resampling.NEAREST)
        for frame in pixels.unbind(1)
    ]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=125, loop=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a large red circle moves left on a navy background")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dense", action="store_true", help="without psa")
    parser.add_argument("-o", "--out", type=pathlib.Path, default=pathlib.Path("shapes.gif"))
    arguments = parser.parse_args()

    pipe = load()
    if not arguments.dense:
        enable(pipe)
    start = time.perf_counter()
    video = generate(pipe, arguments.prompt, arguments.steps)
    print(f"{arguments.out}: {time.perf_counter() - start:.1f} s")
    if not arguments.dense:
        print(psa.summary(pipe))
    write_gif(video, arguments.out)


if __name__ == "__main__":
    main()
