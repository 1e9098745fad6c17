# SPDX-License-Identifier: Apache-2.0
"""What rendered worlds have in common, and one: a flat shape, still or at constant speed.

Everything is drawn in batches on the device, without a wait for the device, so that a training step
can be recorded as one CUDA graph. Lengths are in pixels, time in frames, positions from the top
left corner; B clips, F frames, H x W pixels.
"""
import dataclasses
import math

import torch

from grammar import COLOUR_RGB, MOTION_DIRECTION, SHAPES, TEXT_LENGTH, TONE_RGB, vocabulary

FRAMES = 16

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


class World:
    """Clips of a grammar's captions in FRAMES frames of height x width pixels, on one device.

    A world draws scenes, which have at least `choice` [B, attributes]: the index of each
    attribute's value. vocab: word ids, those of the grammar alone if None.
    """

    def __init__(self, grammar, device, height, width, vocab=None):
        self.grammar, self.device = grammar, device
        self.height, self.width = height, width
        self.vocab = vocab or vocabulary(grammar)
        values = grammar.attributes.values()
        self._counts = torch.tensor([len(names) for names in values], device=device)
        self._word_ids, self._word_attribute = self._word_tables()

    def draw(self, count, choice=None, generator=None):
        """`count` random scenes, or scenes of the given choice [count, attributes]."""
        raise NotImplementedError

    def render(self, scenes, frames):
        """Video [B, 3, F, H, W] in -1..1 at the frame numbers `frames` [F]."""
        raise NotImplementedError

    def token_ids(self, scenes):
        """Caption ids [B, TEXT_LENGTH], padded with 0."""
        value = scenes.choice[:, self._word_attribute]  # [B, words]
        ids = torch.gather(self._word_ids.expand(len(value), -1, -1), 2, value[..., None])[..., 0]
        return torch.nn.functional.pad(ids, (0, TEXT_LENGTH - ids.shape[1]))

    def _uniform(self, generator, *shape):
        return torch.rand(*shape, device=self.device, generator=generator)

    def _choose(self, count, generator):
        return (self._uniform(generator, count, len(self._counts)) * self._counts).long()

    def _table(self, values, names):
        return torch.tensor([values[name] for name in names], device=self.device)

    def _word_tables(self):
        """Of each caption position: the id per attribute value [words, values], the attribute.

        A position that no attribute fills has the same id for every value of the first attribute.
        """
        attributes = self.grammar.attributes
        most = max(len(values) for values in attributes.values())
        ids, owners = [], []
        for word in self.grammar.pattern.split():
            values = attributes.get(word, (word,) * most)
            for words in zip(*(value.split() for value in values)):
                row = [self.vocab[each] for each in words]
                ids.append(row + [0] * (most - len(row)))
                owners.append(list(attributes).index(word) if word in attributes else 0)
        return (torch.tensor(table, device=self.device) for table in (ids, owners))


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


class ShapesWorld(World):
    """Of square frames."""

    name = "shapes"

    def __init__(self, device, pixels=64, vocab=None):
        super().__init__(SHAPES, device, pixels, pixels, vocab)
        attributes = SHAPES.attributes
        self._colours = self._table(COLOUR_RGB, attributes["colour"])
        self._tones = self._table(TONE_RGB, attributes["tone"])
        self._radii = self._table(SIZE_RADIUS, attributes["size"]) * pixels
        self._directions = self._table(MOTION_DIRECTION, attributes["motion"])
        self._reach = self._table(REACH, attributes["shape"])
        self._axis = torch.arange(pixels, device=device) + 0.5

    def draw(self, count, choice=None, generator=None):
        if choice is None:
            choice = self._choose(count, generator)
        size, _, shape, motion, _ = choice.unbind(1)
        low, high = self._radii[size].unbind(1)
        radius = low + (high - low) * self._uniform(generator, count)
        direction = self._directions[motion]
        travel = TRAVEL[0] + (TRAVEL[1] - TRAVEL[0]) * self._uniform(generator, count, 1)
        travel = self.width * travel
        shift = direction * travel  # [B, 2] over the whole clip
        side, up, down = (self._reach[shape] * radius[:, None]).unbind(1)
        # The centre of frame 0 may lie where the whole path keeps the shape in the frame.
        first = torch.stack([side, up], 1) + MARGIN - shift.clamp(max=0)
        last = self.width - MARGIN - torch.stack([side, down], 1) - shift.clamp(min=0)
        start = first + (last - first) * self._uniform(generator, count, 2)
        return Scenes(choice, radius, start, shift / (FRAMES - 1))

    def render(self, scenes, frames):
        _, colour, shape, _, tone = scenes.choice.unbind(1)
        centre = scenes.start[:, None] + scenes.velocity[:, None] * frames[:, None]  # [B, F, 2]
        dx = self._axis[None, None, None, :] - centre[..., 0, None, None]
        dy = self._axis[None, None, :, None] - centre[..., 1, None, None]
        distances = shape_distances(dx, dy, scenes.radius[:, None, None, None])
        distances = torch.stack(torch.broadcast_tensors(*distances), 1)  # [B, 3, F, H, W]
        chosen = shape[:, None, None, None, None].expand(-1, 1, *distances.shape[2:])
        # One pixel of linear ramp across the edge: what a box filter of a straight edge gives.
        cover = (0.5 - distances.gather(1, chosen)).clamp(0, 1)
        back = self._tones[tone][:, :, None, None, None]
        front = self._colours[colour][:, :, None, None, None]
        return (back + cover * (front - back)) * 2 - 1
