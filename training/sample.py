# SPDX-License-Identifier: Apache-2.0
"""Euler sampling of the flow with classifier-free guidance."""
import dataclasses

import torch

import world as world_module
from grammar import encode
from trainer import shifted


@dataclasses.dataclass(frozen=True)
class Sampler:
    guidance: float  # 1: the caption's velocity alone, one forward pass per step
    steps: int
    shift: float

    @property
    def forwards(self):
        """Forward passes per clip."""
        return self.steps * (1 if self.guidance == 1 else 2)

    def levels(self):
        """Noise levels from 1 to 0, one more than steps."""
        uniform = torch.arange(self.steps, -1, -1, dtype=torch.float64) / self.steps
        return shifted(uniform, self.shift).tolist()

    @torch.no_grad()
    def run(self, model, text_table, ids, noise, observe=None):
        """Clips [B, 3, F, H, W] for ids [B, L] from noise of their shape.

        observe(step, layer, q, k, v) sees the inputs of self-attention; with guidance the clips
        with captions come first in them, then those without.
        """
        video, levels = noise, self.levels()
        text = text_table(ids)
        if self.guidance != 1:
            text = torch.cat([text, text_table(torch.zeros_like(ids))])
        copies = len(text) // len(video)
        for step, (level, following) in enumerate(zip(levels, levels[1:])):
            timestep = torch.full((len(text),), 1000 * level, device=video.device)
            watch = None if observe is None else lambda *seen, at=step: observe(at, *seen)
            on_gpu = video.device.type == "cuda"
            with torch.autocast(video.device.type, torch.bfloat16, enabled=on_gpu):
                velocity = model(video.repeat(copies, 1, 1, 1, 1), timestep, text, observe=watch)
            velocity = velocity.float()
            if copies == 2:
                captioned, bare = velocity.chunk(2)
                velocity = bare + self.guidance * (captioned - bare)
            video = video + (following - level) * velocity
        return video


def noise_of(index, world):
    """Noise [1, 3, F, H, W] of the evaluation's clip number `index`."""
    generator = torch.Generator(device=world.device).manual_seed(index)
    shape = (1, 3, world_module.FRAMES, world.height, world.width)
    return torch.randn(shape, generator=generator, device=world.device)


def caption_ids(captions, world):
    """[B, L] ids of captions."""
    ids = [encode(world.vocab, world.grammar.text(caption)) for caption in captions]
    return torch.tensor(ids, device=world.device)
