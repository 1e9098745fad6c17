# SPDX-License-Identifier: Apache-2.0
"""Captions of the rendered worlds.

Every word has a fixed position, because the text path has no layer that mixes words. Needs nothing
but the standard library, so that scripts without torch can make the same captions.
"""
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

# Of three-colour palettes: a texture runs from the first over the second to the third.
PALETTE_RGB = {
    "ember": ((0.10, 0.02, 0.03), (0.80, 0.20, 0.05), (1.00, 0.85, 0.35)),
    "ocean": ((0.01, 0.06, 0.22), (0.05, 0.45, 0.65), (0.80, 0.97, 0.95)),
    "forest": ((0.03, 0.10, 0.04), (0.15, 0.50, 0.15), (0.80, 0.88, 0.30)),
    "candy": ((0.35, 0.05, 0.45), (0.95, 0.35, 0.65), (1.00, 0.92, 0.95)),
    "ash": ((0.04, 0.04, 0.05), (0.42, 0.42, 0.44), (0.92, 0.92, 0.90)),
    "dusk": ((0.08, 0.05, 0.30), (0.55, 0.30, 0.60), (1.00, 0.65, 0.30)),
}


class Grammar:
    """All captions of a pattern such as `a size shape`, whose words are attributes or themselves.

    attributes: {name: values}; the values of one are phrases of equally many words. A caption is
    {attribute: value}.
    """

    def __init__(self, pattern, attributes):
        self.pattern = pattern
        self.attributes = attributes

    def text(self, caption):
        return " ".join(caption.get(word, word) for word in self.pattern.split())

    def indices(self, caption):
        """Position of each attribute's value in its list, in the order of `attributes`."""
        return [values.index(caption[name]) for name, values in self.attributes.items()]

    def words(self):
        """Every word once, those of the pattern first."""
        literal = [word for word in self.pattern.split() if word not in self.attributes]
        phrases = [value for values in self.attributes.values() for value in values]
        return list(dict.fromkeys(word for phrase in literal + phrases for word in phrase.split()))

    def fixed_captions(self, count=50, seed=2029):
        """Captions of an evaluation: each value of an attribute occurs equally often, within 1."""
        shuffled = random.Random(seed)
        columns = []
        for values in self.attributes.values():
            column = [values[index % len(values)] for index in range(count)]
            shuffled.shuffle(column)
            columns.append(column)
        return [dict(zip(self.attributes, row)) for row in zip(*columns)]


SHAPES = Grammar(
    "a size colour shape motion on a tone background",
    {
        "size": ("small", "large"),
        "colour": tuple(COLOUR_RGB),
        "shape": ("circle", "square", "triangle"),
        "motion": tuple(MOTION_DIRECTION),
        "tone": tuple(TONE_RGB),
    },
)
FLOWS = Grammar(
    "a scale palette texture flow pace",
    {
        "scale": ("fine", "medium", "coarse"),
        "palette": tuple(PALETTE_RGB),
        "flow": (
            "drifts left",
            "drifts right",
            "drifts up",
            "drifts down",
            "swirls clockwise",
            "swirls anticlockwise",
            "zooms in",
            "zooms out",
        ),
        "pace": ("slowly", "quickly"),
    },
)


def vocabulary(*grammars):
    """{word: id} of all their words; the padding has id 0."""
    words = dict.fromkeys(word for grammar in grammars for word in grammar.words())
    return {word: index for index, word in enumerate((PAD, *words))}


def encode(vocab, text):
    """TEXT_LENGTH ids: lower case, split on spaces, unknown words dropped, cut or padded with 0."""
    ids = [vocab[word] for word in text.lower().split() if word in vocab][:TEXT_LENGTH]
    return ids + [0] * (TEXT_LENGTH - len(ids))
