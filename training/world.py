# SPDX-License-Identifier: Apache-2.0
"""The rendered world: one flat shape on a plain background, still or at constant speed.

Everything is drawn in batches on the device from signed distances, without a wait for the device,
so that a training step can be recorded as one CUDA graph. Lengths are in pixels, time in frames,
positions from the top left corner; B clips, F frames, P = pixels of a side.
"""
import dataclasses
import math

import torch

import grammar

FRAMES = 16
PIXELS = 64

# Radius as a share of the frame's side, lowest and highest.
SIZE_RADIUS = {"small": (0.110, 0.125), "large": (0.180, 0.200)}
# Travel over the whole clip as a share of the frame's side. Below 0.4 a direction could be
# mistaken, above 0.48 the largest shape would leave no room for different paths.
TRAVEL = (0.40, 0.48)
# A square of half side 0.88 r and a triangle of circumradius 1.25 r look as large as a circle of
# radius r (areas 3.14, 3.10 and 2.03 r²).
SQUARE_HALF_SIDE = 0.88
TRIANGLE_RADIUS = 1.25
# How far each shape reaches left and right, up, and down from its centre, in radii.
REACH = {
    "circle": (1.0, 1.0, 1.0),
    "square": (SQUARE_HALF_SIDE, SQUARE_HALF_SIDE, SQUARE_HALF_SIDE),
    "triangle": (TRIANGLE_RADIUS * math.sqrt(3) / 2, TRIANGLE_RADIUS, TRIANGLE_RADIUS / 2),
}
# Pixels between a shape and the frame's edge: the antialiased tip of a triangle reaches 1 further.
MARGIN = 1.5


def shape_distances(dx, dy, radius):
    """Signed distances (negative inside) to circle, square, triangle; arguments broadcast."""
    circle = torch.sqrt(dx * dx + dy * dy + 1e-12) - radius
    square = torch.maximum(dx.abs(), dy.abs()) - SQUARE_HALF_SIDE * radius
    sides = torch.maximum(dy, math.sqrt(3) / 2 * dx.abs() - dy / 2)
    triangle = sides - TRIANGLE_RADIUS / 2 * radius
    return circle, square, triangle


@dataclasses.dataclass
class Scenes:
    """B clips: `choice` [B, 5] (index per attribute of the grammar), the rest in pixels."""

    choice: torch.Tensor
    radius: torch.Tensor  # [B]
    start: torch.Tensor  # [B, 2] centre in frame 0, x and y
    velocity: torch.Tensor  # [B, 2] per frame


class World:
    """Draws scenes and renders them on one device."""

    def __init__(self, device, pixels=PIXELS):
        self.device = device
        self.pixels = pixels
        self.vocab = grammar.vocabulary()
        self._colours = self._table(grammar.COLOUR_RGB, grammar.COLOURS)
        self._tones = self._table(grammar.TONE_RGB, grammar.TONES)
        self._radii = self._table(SIZE_RADIUS, grammar.SIZES) * pixels
        self._directions = self._table(grammar.MOTION_DIRECTION, grammar.MOTIONS)
        self._reach = self._table(REACH, grammar.SHAPES)
        self._axis = torch.arange(pixels, device=device) + 0.5
        self._counts = torch.tensor([len(v) for v in grammar.ATTRIBUTES.values()], device=device)
        self._word_ids, self._word_attribute = self._word_tables()

    def _table(self, values, names):
        return torch.tensor([values[name] for name in names], device=self.device)

    def _word_tables(self):
        """Of each caption position: the id per attribute value [10, 6], the attribute [10].

        A position that no attribute fills has the same id for every value of the first attribute.
        """
        names = list(grammar.ATTRIBUTES)
        most = max(len(values) for values in grammar.ATTRIBUTES.values())
        ids, attributes = [], []
        for slot in "a size colour shape motion:0 motion:1 on a tone background".split():
            name, _, part = slot.partition(":")
            values = grammar.ATTRIBUTES.get(name, (name,) * most)
            words = [self.vocab[value.split()[int(part or 0)]] for value in values]
            ids.append(words + [0] * (most - len(words)))
            attributes.append(names.index(name) if name in names else 0)
        return (torch.tensor(table, device=self.device) for table in (ids, attributes))

    def draw(self, count, choice=None, generator=None):
        """`count` random scenes, or scenes of the given choice [count, 5]."""

        def uniform(*shape):
            return torch.rand(*shape, device=self.device, generator=generator)

        if choice is None:
            choice = (uniform(count, len(self._counts)) * self._counts).long()
        size, _, shape, motion, _ = choice.unbind(1)
        low, high = self._radii[size].unbind(1)
        radius = low + (high - low) * uniform(count)
        direction = self._directions[motion]
        travel = self.pixels * (TRAVEL[0] + (TRAVEL[1] - TRAVEL[0]) * uniform(count, 1))
        shift = direction * travel  # [B, 2] over the whole clip
        side, up, down = (self._reach[shape] * radius[:, None]).unbind(1)
        # The centre of frame 0 may lie where the whole path keeps the shape in the frame.
        first = torch.stack([side, up], 1) + MARGIN - shift.clamp(max=0)
        last = self.pixels - MARGIN - torch.stack([side, down], 1) - shift.clamp(min=0)
        start = first + (last - first) * uniform(count, 2)
        return Scenes(choice, radius, start, shift / (FRAMES - 1))

    def render(self, scenes, frames):
        """Video [B, 3, F, P, P] in -1..1 at the frame numbers `frames` [F]."""
        _, colour, shape, _, tone = scenes.choice.unbind(1)
        centre = scenes.start[:, None] + scenes.velocity[:, None] * frames[:, None]  # [B, F, 2]
        dx = self._axis[None, None, None, :] - centre[..., 0, None, None]
        dy = self._axis[None, None, :, None] - centre[..., 1, None, None]
        distances = shape_distances(dx, dy, scenes.radius[:, None, None, None])
        distances = torch.stack(torch.broadcast_tensors(*distances), 1)  # [B, 3, F, P, P]
        chosen = shape[:, None, None, None, None].expand(-1, 1, *distances.shape[2:])
        # One pixel of linear ramp across the edge: what a box filter of a straight edge gives.
        cover = (0.5 - distances.gather(1, chosen)).clamp(0, 1)
        back = self._tones[tone][:, :, None, None, None]
        front = self._colours[colour][:, :, None, None, None]
        return (back + cover * (front - back)) * 2 - 1

    def token_ids(self, scenes):
        """Caption ids [B, TEXT_LENGTH], padded with 0."""
        value = scenes.choice[:, self._word_attribute]  # [B, 10]
        ids = torch.gather(self._word_ids.expand(len(value), -1, -1), 2, value[..., None])[..., 0]
        return torch.nn.functional.pad(ids, (0, grammar.TEXT_LENGTH - ids.shape[1]))
