#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes q, k and v of the causal video model on rendered clips, for psa compare and psa tune.

Clips come from fixed seeds, those of tuning apart from those of testing; both worlds in turn. Files
DIR/tuning/CLIP_layerL_step0.safetensors and DIR/test/...: q [1, Hq, N, D], k and v [1, Hkv, N, D]
in bf16 after rotary embedding, and the metadata that `psa generate --capture` writes (there is no
sampler, so the step is 0). The caption's tokens stand first, so psa needs --causal and the --text
that is printed. Needs torch, NumPy and safetensors; about 25 MB per clip and layer.

  python3 bench/quality/capture_causal.py --model models/causal --out out/causal --layers 1 4
  psa compare out/causal/test/shapes_2000_layer1_step0.safetensors --causal --text 32 --density .3
"""
import argparse
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "training"))

import causal  # noqa: E402
import export  # noqa: E402

FIRST_SEED = {"tuning": 1000, "test": 2000}
MOST_CLIPS = 1000  # of a split, so that no seed is in both


def whole(least, most):
    """Reads a whole number from least to most."""

    def read(text):
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"'{text}': allowed are {least} to {most}")
        return int(text)

    return read


def caption_of(world, scenes):
    """Text of the one clip of `scenes`."""
    values = zip(world.grammar.attributes.items(), scenes.choice[0].tolist())
    return world.grammar.text({name: names[index] for (name, names), index in values})


@torch.no_grad()
def capture(model, world, seed, layers, folder):
    """Writes one file per layer of the clip of `seed`."""
    generator = torch.Generator(device=world.device).manual_seed(seed)
    scenes = world.draw(1, generator=generator)
    frames = torch.arange(model.grid[0], device=world.device)
    patches = causal.patches_of(world.render(scenes, frames), model.config["patch"])
    metadata = {
        "grid": ",".join(map(str, model.grid)),
        "step": "0",
        "prompt": caption_of(world, scenes),
        "text": str(model.config["text_tokens"]),
    }

    def observe(layer, *tensors):
        if layer in layers:
            path = folder / f"{world.name}_{seed}_layer{layer}_step0.safetensors"
            named = {n: x.bfloat16().cpu().contiguous() for n, x in zip("qkv", tensors)}
            export.write_tensors(path, named, metadata | {"layer": str(layer)})

    model(world.token_ids(scenes), patches, frames, observe)
    print(f"{folder / world.name}_{seed}: {metadata['prompt']}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", type=pathlib.Path, default="models/causal", help="what training/causal.py wrote")
    add("--out", type=pathlib.Path, required=True, help="folder for tuning/ and test/")
    add("--clips", type=whole(1, MOST_CLIPS), nargs=2, metavar=("TUNING", "TEST"), default=(8, 2),
        help="of each split; default: 8 2")
    add("--layers", type=whole(0, 1000), nargs="+", help="from 0; default: all")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    try:
        model, vocab = causal.load(options.model, options.device)
    except (OSError, ValueError) as error:
        parser.error(f"--model: {error}")
    count = len(model.blocks)
    layers = range(count) if options.layers is None else sorted(set(options.layers))
    if layers[-1] >= count:
        parser.error(f"--layers: {layers[-1]}; the model has layers 0 to {count - 1}")
    worlds = causal.make_worlds(model.config, torch.device(options.device), vocab)
    for (split, first), clips in zip(FIRST_SEED.items(), options.clips):
        folder = options.out / split
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(clips):
            capture(model, worlds[index % len(worlds)], first + index, layers, folder)
    print(f"for psa: --causal --text {model.config['text_tokens']}")


if __name__ == "__main__":
    main()
