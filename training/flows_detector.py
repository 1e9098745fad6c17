# SPDX-License-Identifier: Apache-2.0
"""Says what a clip of flows shows, by classical means: knows nothing of the model.

Palette: the one whose line of colours is nearest to the pixels. Its values 0..1 are then the
texture. Scale: from the mean square of the texture's slope. Flow and pace: the one of the world's
motions that best predicts frames from earlier ones, if it explains most of what changes.
"""
import dataclasses
import itertools
import math

import torch
from torch.nn import functional

import flows
import grammar

PALETTE_STEPS = 33
MOST_PALETTE_DISTANCE = 0.12  # mean distance in RGB 0..1 of a pixel from its palette
# Pixels of the wavelength that the slope tells: up to 7.1 in rendered fine clips, 11.0 to 12.5 in
# medium ones, 17.5 or more in coarse ones.
SCALE_LIMITS = (8.8, 14.8)
FRAMES_APART = 3
LEAST_EXPLAINED = 0.5  # share of the mean square change between frames


@dataclasses.dataclass
class Finding:
    """What was seen; None where nothing fits."""

    scale: str | None = None
    palette: str | None = None
    flow: str | None = None
    pace: str | None = None
    explained: float = 0.0


RANKED_BY = ("palette", "flow", "pace")  # attributes that all must be right in a good clip
AVERAGES = {"mean_explained": "explained"}  # further figures: fields of Finding


def nearest_palette(video):
    """Name, mean distance [RGB] and values 0..1 [F, H, W] of the palette nearest to a clip."""
    steps = torch.linspace(0, 1, PALETTE_STEPS)
    best = None
    for name, colours in grammar.PALETTE_RGB.items():
        line = flows.palette_colours(torch.tensor(colours), steps)  # [PALETTE_STEPS, 3]
        distance, step = torch.cdist(video.reshape(-1, 3), line).min(1)
        mean = distance.mean().item()
        if best is None or mean < best[1]:
            best = name, mean, steps[step].reshape(video.shape[:3])
    return best


def wavelength(values):
    """Pixels, of one wave whose slope had the same mean square, relative to its variance."""
    slope = (values.diff(dim=1) ** 2).mean() + (values.diff(dim=2) ** 2).mean()
    return 2 * math.pi * math.sqrt(values.var() / (slope + 1e-9))


def predicted(values, motion):
    """Frames of the texture [F, H, W] moved on by FRAMES_APART frames, and where that is known."""
    _, height, width = values.shape
    dy = (torch.arange(height) + 0.5 - height / 2)[:, None]
    dx = torch.arange(width) + 0.5 - width / 2
    x, y = flows.source_positions(torch.tensor(motion), dx, dy, FRAMES_APART)
    place = torch.stack(torch.broadcast_tensors(x / (width / 2), y / (height / 2)), -1)
    known = (place.abs() < 1).all(-1)
    moved = functional.grid_sample(values[:, None], place.expand(len(values), -1, -1, -1),
                                   padding_mode="border", align_corners=False)
    return moved[:, 0], known


def best_flow(values):
    """(flow, pace) that explains most of the changes, and the share that it explains."""
    earlier, later = values[:-FRAMES_APART], values[FRAMES_APART:]
    best = None, -math.inf
    for flow, pace in itertools.product(flows.DIRECTION, flows.RATES):
        motion = [d * r for d, r in zip(flows.DIRECTION[flow], flows.RATES[pace])]
        moved, known = predicted(earlier, motion)
        change = (later - earlier)[:, known].square().mean() + 1e-9
        explained = 1 - ((later - moved)[:, known].square().mean() / change).item()
        if explained > best[1]:
            best = (flow, pace), explained
    return best


def inspect(video):
    """Finding of a clip [F, H, W, 3] with values in 0..1."""
    finding = Finding()
    palette, distance, values = nearest_palette(torch.as_tensor(video))
    if distance <= MOST_PALETTE_DISTANCE:
        finding.palette = palette
    length = wavelength(values)
    finding.scale = grammar.FLOWS.attributes["scale"][sum(length > limit for limit in SCALE_LIMITS)]
    found, finding.explained = best_flow(values)
    if finding.explained >= LEAST_EXPLAINED:
        finding.flow, finding.pace = found
    return finding
