# SPDX-License-Identifier: Apache-2.0
"""Figures of a trained model: what the detector sees in its clips, losses, recorded attention."""
import dataclasses
import time

import torch
from torch.nn import functional

import export
import pictures
import world as world_module
from sample import caption_ids, noise_of

CLIPS_AT_ONCE = 8
REAL_CLIPS = 200
SHEET_ROWS = 12
LOSS_LEVELS = (0.98, 0.95, 0.9, 0.7, 0.5, 0.3, 0.1)


def as_pictures(video):
    """Clips [B, 3, F, H, W] in -1..1 as a NumPy array [B, F, H, W, 3] in 0..1."""
    return ((video.float().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 4, 1).cpu().numpy()


def all_frames(device):
    return torch.arange(world_module.FRAMES, device=device)


def real_clips(world, captions, seed):
    """Rendered clips of the captions."""
    choice = [world.grammar.indices(caption) for caption in captions]
    generator = torch.Generator(device=world.device).manual_seed(seed)
    choice = torch.tensor(choice, device=world.device)
    scenes = world.draw(len(captions), choice, generator)
    return world.render(scenes, all_frames(world.device))


def main_figure(detector):
    """Name of the figure that ranks samplers."""
    return "_".join(detector.RANKED_BY)


def figures(detector, findings, captions):
    """Share of clips whose finding matches the caption, by attribute and for the main ones."""
    pairs = list(zip(findings, captions))

    def share(*names):
        right = [all(getattr(f, n) == caption[n] for n in names) for f, caption in pairs]
        return round(sum(right) / len(right), 4)

    result = {name: share(name) for name in captions[0]}
    result[main_figure(detector)] = share(*detector.RANKED_BY)
    for name, field in detector.AVERAGES.items():
        result[name] = round(sum(float(getattr(f, field)) for f in findings) / len(findings), 4)
    return result


def detector_ceiling(world, detector):
    """Figures of the detector on rendered clips: no model can be seen to do better."""
    captions = world.grammar.fixed_captions(REAL_CLIPS, seed=7)
    findings = []
    for first in range(0, REAL_CLIPS, CLIPS_AT_ONCE):
        some = captions[first : first + CLIPS_AT_ONCE]
        clips = as_pictures(real_clips(world, some, seed=7 + first))
        findings += [detector.inspect(clip) for clip in clips]
    return figures(detector, findings, captions)


def sample_all(model, text_table, world, sampler, captions):
    """Clips of all captions [n, 3, F, H, W], clip i from noise number i."""
    clips = []
    for first in range(0, len(captions), CLIPS_AT_ONCE):
        some = captions[first : first + CLIPS_AT_ONCE]
        numbers = range(first, first + len(some))
        noise = torch.cat([noise_of(i, world) for i in numbers])
        ids = caption_ids(some, world)
        clips.append(sampler.run(model, text_table, ids, noise))
    return torch.cat(clips)


def evaluate_samplers(model, text_table, world, detector, samplers, captions, seconds_left):
    """Figures of each sampler that there is time for, and the clips of the best one.

    Best: most clips with all of the detector's main attributes right, then fewest forward passes;
    None if there was time for no sampler.
    """
    results, best, per_forward = [], None, 0.0
    for sampler in samplers:
        expected = 1.3 * per_forward * sampler.forwards
        if expected > seconds_left():
            print(f"no time for {sampler}: needs {expected:.0f} s or more", flush=True)
            continue
        start = time.monotonic()
        clips = as_pictures(sample_all(model, text_table, world, sampler, captions))
        seconds = time.monotonic() - start
        per_forward = max(per_forward, seconds / sampler.forwards)
        findings = [detector.inspect(clip) for clip in clips]
        result = {
            "sampler": dataclasses.asdict(sampler),
            "seconds": round(seconds, 1),
            "figures": figures(detector, findings, captions),
            "clips": [
                {"caption": world.grammar.text(caption), "found": dataclasses.asdict(finding)}
                for caption, finding in zip(captions, findings)
            ],
        }
        results.append(result)
        print(sampler, result["seconds"], "s", result["figures"], flush=True)
        score = (result["figures"][main_figure(detector)], -sampler.forwards)
        if best is None or score > best[0]:
            best = (score, sampler, clips)
    return results, *(best[1:] if best else (None, None))


@torch.no_grad()
def loss_by_level(model, text_table, world, clips=8, batches=4):
    """{noise level: mean squared error of the velocity} on whole clips with captions."""
    totals = dict.fromkeys(LOSS_LEVELS, 0.0)
    generator = torch.Generator(device=world.device).manual_seed(77)
    on_gpu = world.device.type == "cuda"
    for _ in range(batches):
        scenes = world.draw(clips, generator=generator)
        video = world.render(scenes, all_frames(world.device))
        text = text_table(world.token_ids(scenes))
        noise = torch.randn(video.shape, generator=generator, device=world.device)
        for level in LOSS_LEVELS:
            timestep = torch.full((clips,), 1000 * level, device=world.device)
            with torch.autocast(world.device.type, torch.bfloat16, enabled=on_gpu):
                velocity = model((1 - level) * video + level * noise, timestep, text)
            totals[level] += functional.mse_loss(velocity.float(), noise - video).item() / batches
    return {str(level): round(total, 5) for level, total in totals.items()}


def record_attention(folder, model, text_table, world, sampler, caption, wanted):
    """Writes q, k, v of the (layer, step) pairs `wanted` while sampling clip 0 of `caption`."""
    seen = {}

    def observe(step, layer, q, k, v):
        if (layer, step) in wanted:
            seen[layer, step] = [x[: world_module.FRAMES].clone() for x in (q, k, v)]

    ids = caption_ids([caption], world)
    noise = noise_of(0, world)
    sampler.run(model, text_table, ids, noise, observe)
    files = []
    for (layer, step), tensors in seen.items():
        level = sampler.levels()[step]
        metadata = {
            "layer": str(layer),
            "step": str(step),
            "steps": str(sampler.steps),
            "sigma": f"{level:.6f}",
            "timestep": f"{1000 * level:.3f}",
            "guidance": f"{sampler.guidance:g}",
            "prompt": world.grammar.text(caption),
        }
        grid = (world_module.FRAMES, world.height // model.patch, world.width // model.patch)
        files.append(export.write_attention(folder, *tensors, grid, metadata))
    return files


def write_contact_sheet(path, clips, world, captions):
    """The first SHEET_ROWS sampled clips, each above a rendered one of the same caption."""
    real = as_pictures(real_clips(world, captions[:SHEET_ROWS], seed=11))
    pictures.write_png(path, pictures.contact_sheet(clips[:SHEET_ROWS], real))
