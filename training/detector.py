# SPDX-License-Identifier: Apache-2.0
"""Says what a clip of shapes shows, by classical means: needs NumPy, knows nothing of the model.

Background: median of the frame's rim. Foreground: pixels on the line from the background's colour
to the object's, past its middle; its largest connected blob is the object. Colour and tone: nearest
of the palette. Shape: the ideal circle, square or triangle of the blob's area and centre that
overlaps it best, if it overlaps well. Motion: a straight line through the centres.
"""
import dataclasses
import math

import numpy as np

import grammar

# A circle and a square of the same area and centre overlap with IoU 0.83 (a triangle with either
# less): a blob below 0.85 is as good as nothing in particular.
LEAST_SHAPE_IOU = 0.85
LEAST_CONTRAST = 0.12  # distance in RGB 0..1 from the background that counts as an object
LARGE_AREA = 0.057  # of the frame; small shapes have at most 0.049, large ones at least 0.065
STILL_TRAVEL = 0.10  # of the frame's side, at most
MOVING_TRAVEL = 0.25  # of the frame's side, at least
# A steady clip: one blob with nine tenths of the foreground, of almost the same area throughout.
LEAST_BLOB_SHARE = 0.9
MOST_AREA_VARIATION = 0.15  # standard deviation / mean
LEAST_FRAMES = 0.75  # of all frames must show the object


@dataclasses.dataclass
class Finding:
    """What was seen; None where nothing fits."""

    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    size: str | None = None
    tone: str | None = None
    steady: bool = False
    shape_iou: float = 0.0


RANKED_BY = ("colour", "shape", "motion")  # attributes that all must be right in a good clip
AVERAGES = {"steady": "steady", "mean_shape_iou": "shape_iou"}  # further figures: fields of Finding


def neighbours(field):
    """`field` [F, H, W] moved by one pixel in the four directions, zero from outside."""
    padded = np.pad(field, ((0, 0), (1, 1), (1, 1)))
    return padded[:, 2:, 1:-1], padded[:, :-2, 1:-1], padded[:, 1:-1, 2:], padded[:, 1:-1, :-2]


def largest_blobs(mask):
    """The largest 4-connected blob of each frame, as a mask [F, H, W]."""
    labels = np.where(mask, np.arange(1, mask[0].size + 1).reshape(mask[0].shape), 0)
    while True:
        spread = np.where(mask, np.maximum.reduce([labels, *neighbours(labels)]), 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    blobs = np.zeros_like(mask)
    for frame, blob in zip(labels, blobs):
        sizes = np.bincount(frame.ravel())
        sizes[0] = 0
        if sizes.any():
            blob[:] = frame == sizes.argmax()
    return blobs


def nearest(palette, colour):
    """Name of the palette's nearest colour."""
    return min(palette, key=lambda name: np.linalg.norm(np.array(palette[name]) - colour))


def object_cover(video, background):
    """Share of each pixel [F, H, W] that the object covers, and its colour (None: no object)."""
    distance = np.linalg.norm(video - background, axis=-1)
    if not (distance > LEAST_CONTRAST).any():
        return np.zeros(distance.shape), None
    # The object's inside is far from the background; antialiased edges are nearer.
    inside = distance > max(LEAST_CONTRAST, 0.8 * np.quantile(distance, 0.98))
    colour = np.median(video[inside], axis=0)
    line = colour - background
    return np.clip((video - background) @ line / (line @ line), 0, 1), colour


def ideal_covers(shape, centre, area):
    """{name: cover [H, W]} of ideal shapes of the given centre (x, y) and area in pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    dx, dy = x - centre[0], y - centre[1]
    triangle_radius = math.sqrt(4 * area / (3 * math.sqrt(3)))
    sides = np.maximum(dy, math.sqrt(3) / 2 * np.abs(dx) - dy / 2)
    distances = {
        "circle": np.hypot(dx, dy) - math.sqrt(area / math.pi),
        "square": np.maximum(np.abs(dx), np.abs(dy)) - math.sqrt(area) / 2,
        "triangle": sides - triangle_radius / 2,
    }
    return {name: np.clip(0.5 - distance, 0, 1) for name, distance in distances.items()}


def shape_ious(covers, areas, centres):
    """{shape: mean IoU over frames} of blob covers [F, H, W]."""
    totals = dict.fromkeys(grammar.SHAPES.attributes["shape"], 0.0)
    for cover, area, centre in zip(covers, areas, centres):
        for name, ideal in ideal_covers(cover.shape, centre, area).items():
            totals[name] += np.minimum(cover, ideal).sum() / np.maximum(cover, ideal).sum()
    return {name: total / len(covers) for name, total in totals.items()}


def motion_of(frames, centres, count, side):
    """The motion that a straight line through centres [N, 2] (pixels) at frame numbers fits."""
    travel = np.polyfit(frames, centres, 1)[0] * (count - 1) / side  # [2] of the frame's side
    along = np.abs(travel).argmax()
    if abs(travel[along]) <= STILL_TRAVEL:
        return "stays still"
    if abs(travel[along]) < MOVING_TRAVEL or abs(travel[1 - along]) > abs(travel[along]) / 2:
        return None
    direction = [0.0, 0.0]
    direction[along] = float(np.sign(travel[along]))
    return next(name for name, d in grammar.MOTION_DIRECTION.items() if list(d) == direction)


def inspect(video):
    """Finding of a clip [F, H, W, 3] with values in 0..1."""
    count, height, width, _ = video.shape
    rim = np.concatenate([video[:, 0], video[:, -1], video[:, :, 0], video[:, :, -1]], 1)
    background = np.median(rim.reshape(-1, 3), axis=0)
    finding = Finding(tone=nearest(grammar.TONE_RGB, background))
    cover, colour = object_cover(video, background)
    if colour is None:
        return finding
    blobs = largest_blobs(cover > 0.5)
    grown = np.logical_or.reduce([blobs, *neighbours(blobs)])  # with its antialiased edge
    covers = np.where(grown, cover, 0)
    areas = covers.sum((1, 2))
    seen = np.flatnonzero(blobs.any((1, 2)))
    if len(seen) < LEAST_FRAMES * count:
        return finding

    y, x = np.mgrid[:height, :width] + 0.5
    centres = np.stack([(covers * axis).sum((1, 2))[seen] / areas[seen] for axis in (x, y)], 1)
    ious = shape_ious(covers[seen], areas[seen], centres)
    best = max(ious, key=ious.get)
    share = blobs.sum((1, 2)) / np.maximum((cover > 0.5).sum((1, 2)), 1)
    full = video[blobs & (cover > 0.9)]
    colour = np.median(full, axis=0) if len(full) else colour
    finding.colour = nearest(grammar.COLOUR_RGB, colour)
    finding.shape = best if ious[best] >= LEAST_SHAPE_IOU else None
    finding.shape_iou = float(ious[best])
    finding.motion = motion_of(seen, centres, count, width)
    finding.size = "large" if areas[seen].mean() / (height * width) > LARGE_AREA else "small"
    finding.steady = bool(
        len(seen) == count
        and share.min() >= LEAST_BLOB_SHARE
        and areas.std() <= MOST_AREA_VARIATION * areas.mean()
    )
    return finding
