# SPDX-License-Identifier: Apache-2.0
"""The world of flows: a texture that fills the frame and drifts, swirls or zooms.

The texture is a sum of random plane waves whose lengths lie in one band, mapped to a palette of
three colours. A flow moves the point of the texture at every pixel; it is a group in time, so that
the texture of a later frame is that of any earlier one, moved on.
"""
import dataclasses
import math

import torch

from grammar import FLOWS, PALETTE_RGB
from world import FRAMES, World

WAVES = 32
# Pixels, shortest and longest.
WAVELENGTH = {"fine": (6.0, 8.0), "medium": (11.0, 14.5), "coarse": (20.0, 27.0)}
# Shares of the pace's rates: right, down, clockwise, in.
DIRECTION = {
    "drifts left": (-1.0, 0.0, 0.0, 0.0),
    "drifts right": (1.0, 0.0, 0.0, 0.0),
    "drifts up": (0.0, -1.0, 0.0, 0.0),
    "drifts down": (0.0, 1.0, 0.0, 0.0),
    "swirls clockwise": (0.0, 0.0, 1.0, 0.0),
    "swirls anticlockwise": (0.0, 0.0, -1.0, 0.0),
    "zooms in": (0.0, 0.0, 0.0, 1.0),
    "zooms out": (0.0, 0.0, 0.0, -1.0),
}
# Per frame: pixels (both axes), radians in the middle, logarithm of the enlargement.
RATES = {"slowly": (0.50, 0.50, 0.040, 0.016), "quickly": (1.25, 1.25, 0.100, 0.040)}
RATE_SPREAD = 0.1  # of a clip's rate about its pace's
SWIRL_RADIUS = 24.0  # pixels; the turning falls off with the distance like a Gaussian of this width


def source_positions(motion, dx, dy, time):
    """Where the texture at dx, dy (pixels from the middle) was `time` frames ago.

    motion [..., 4] as DIRECTION · RATES; its leading axes, dx, dy and time broadcast.
    """
    right, down, turn, enlarge = motion.unbind(-1)
    shrink = torch.exp(-enlarge * time)
    dx, dy = dx * shrink, dy * shrink
    angle = -turn * time * torch.exp(-(dx * dx + dy * dy) / (2 * SWIRL_RADIUS**2))
    cos, sin = angle.cos(), angle.sin()
    return dx * cos - dy * sin - right * time, dx * sin + dy * cos - down * time


def palette_colours(palette, value):
    """RGB [..., 3] of values 0..1 [...] in a palette [..., 3 colours, 3]; they broadcast."""
    first, second, third = palette.unbind(-2)
    lower, upper = (2 * value).clamp(max=1)[..., None], (2 * value - 1).clamp(min=0)[..., None]
    return first + (second - first) * lower + (third - second) * upper


@dataclasses.dataclass
class Scenes:
    """B clips: `choice` [B, 4] (index per attribute of the grammar), motion, waves."""

    choice: torch.Tensor
    motion: torch.Tensor  # [B, 4]
    frequency: torch.Tensor  # [B, WAVES, 2] radians per pixel, x and y
    phase: torch.Tensor  # [B, WAVES]


class FlowsWorld(World):
    name = "flows"

    def __init__(self, device, height=48, width=80, vocab=None):
        super().__init__(FLOWS, device, height, width, vocab)
        attributes = FLOWS.attributes
        self._wavelengths = self._table(WAVELENGTH, attributes["scale"]).log()
        self._palettes = self._table(PALETTE_RGB, attributes["palette"])
        self._directions = self._table(DIRECTION, attributes["flow"])
        self._rates = self._table(RATES, attributes["pace"])
        self._dy = (torch.arange(height, device=device) + 0.5 - height / 2)[:, None]
        self._dx = torch.arange(width, device=device) + 0.5 - width / 2

    def draw(self, count, choice=None, generator=None):
        if choice is None:
            choice = self._choose(count, generator)
        scale, _, flow, pace = choice.unbind(1)
        varied = 1 + RATE_SPREAD * (2 * self._uniform(generator, count, 1) - 1)
        motion = self._directions[flow] * self._rates[pace] * varied
        low, high = self._wavelengths[scale][..., None].unbind(1)  # [B, 1]
        length = torch.exp(low + (high - low) * self._uniform(generator, count, WAVES))
        heading, phase = 2 * math.pi * self._uniform(generator, 2, count, WAVES)
        frequency = torch.stack([heading.cos(), heading.sin()], -1) / length[..., None]
        return Scenes(choice, motion, 2 * math.pi * frequency, phase)

    def render(self, scenes, frames):
        # From the middle of the clip, so that a zoom goes equally far either way.
        time = (frames - (FRAMES - 1) / 2)[:, None, None]
        motion = scenes.motion[:, None, None, None]  # [B, 1, 1, 1, 4]
        x, y = source_positions(motion, self._dx, self._dy, time)  # [B, F, H, W]
        # Not as a matrix product, which could round to TF32 what are up to 100 radians.
        along_x, along_y = scenes.frequency[..., None, None, None].unbind(2)  # [B, WAVES, 1, 1, 1]
        phase = scenes.phase[..., None, None, None]
        waves = torch.cos(along_x * x[:, None] + along_y * y[:, None] + phase)
        texture = waves.sum(1) / math.sqrt(WAVES / 2)  # of variance 1, nearly Gaussian
        value = (1 + torch.erf(texture / math.sqrt(2))) / 2  # nearly uniform in 0..1
        palette = self._palettes[scenes.choice[:, 1]][:, None, None, None]
        return (palette_colours(palette, value) * 2 - 1).permute(0, 4, 1, 2, 3)
