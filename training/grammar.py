# SPDX-License-Identifier: Apache-2.0
"""Captions of the rendered world: `a SIZE COLOUR SHAPE VERB ADV on a TONE background`.

Every word has a fixed position, because the text path has no layer that mixes words. Needs nothing
but the standard library, so that scripts without torch can make the same captions.
"""
import dataclasses
import itertools
import random

TEXT_LENGTH = 32  # token positions per caption; the rest is padding
PAD = "<pad>"

# sRGB in 0..1, colours far from each other and from every tone.
COLOUR_RGB = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.20, 0.85, 0.25),
    "blue": (0.15, 0.35, 0.98),
    "yellow": (0.98, 0.88, 0.12),
    "purple": (0.68, 0.20, 0.85),
    "white": (0.97, 0.97, 0.97),
}
TONE_RGB = {
    "dark": (0.07, 0.07, 0.09),
    "gray": (0.45, 0.45, 0.45),
    "navy": (0.08, 0.12, 0.36),
    "teal": (0.05, 0.38, 0.38),
}
# Direction, x to the right, y down.
MOTION_DIRECTION = {
    "moves left": (-1.0, 0.0),
    "moves right": (1.0, 0.0),
    "moves up": (0.0, -1.0),
    "moves down": (0.0, 1.0),
    "stays still": (0.0, 0.0),
}

SIZES = ("small", "large")
COLOURS = tuple(COLOUR_RGB)
SHAPES = ("circle", "square", "triangle")
MOTIONS = tuple(MOTION_DIRECTION)
TONES = tuple(TONE_RGB)
ATTRIBUTES = {
    "size": SIZES,
    "colour": COLOURS,
    "shape": SHAPES,
    "motion": MOTIONS,
    "tone": TONES,
}


@dataclasses.dataclass(frozen=True)
class Caption:
    """What a clip shows, one word or phrase per attribute."""

    size: str
    colour: str
    shape: str
    motion: str
    tone: str

    def text(self):
        return f"a {self.size} {self.colour} {self.shape} {self.motion} on a {self.tone} background"

    def indices(self):
        """Position of each attribute's value in its list, in the order of ATTRIBUTES."""
        return [values.index(getattr(self, name)) for name, values in ATTRIBUTES.items()]


def vocabulary():
    """{word: id}; the padding has id 0."""
    phrases = itertools.chain(("a on background",), *ATTRIBUTES.values())
    words = dict.fromkeys(word for phrase in phrases for word in phrase.split())
    return {word: index for index, word in enumerate((PAD, *words))}


def encode(vocab, text):
    """TEXT_LENGTH ids: lower case, split on spaces, unknown words dropped, cut or padded with 0."""
    ids = [vocab[word] for word in text.lower().split() if word in vocab][:TEXT_LENGTH]
    return ids + [0] * (TEXT_LENGTH - len(ids))


def fixed_captions(count=50, seed=2029):
    """Captions of an evaluation: each value of an attribute occurs equally often, within 1.

    The 50 of the default seed are all different.
    """
    shuffled = random.Random(seed)
    columns = []
    for values in ATTRIBUTES.values():
        column = [values[index % len(values)] for index in range(count)]
        shuffled.shuffle(column)
        columns.append(column)
    return [Caption(*row) for row in zip(*columns)]
