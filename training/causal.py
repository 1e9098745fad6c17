#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains a small causal model over video tokens within a time limit and writes its folder.

usage: training/causal.py --out DIR [--seconds 540] (see training/README.md)

It reads as a video LLM does: the caption's words, then the patches of a clip frame by frame and row
by row, with grouped query heads and one rotary embedding over time, height and width (as Qwen2.5-VL
has it). Each token predicts the next patch; clips are of both rendered worlds. Letters: B clips, N
tokens, L text positions, D channels, H query heads, G key heads, E channels of a head.
"""
import command  # first: its clock is that of the whole program

import argparse
import pathlib

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.nn.attention import sdpa_kernel

import export
import grammar
from flows import FlowsWorld
from model import ATTENTION_PRIORITY, RmsNorm, rope_angles, rope_channels, rope_tables, rotate
from model import usable_attention
from trainer import Trainer, random_frames
from world import FRAMES, ShapesWorld

WEIGHTS = "model.safetensors"
CONFIG = {
    "architecture": "causal video patches",
    "frames": FRAMES,
    "pixels": 64,  # of a side
    "patch": 2,  # pixels of a side
    "text_tokens": grammar.TEXT_LENGTH,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "rms_norm_eps": 1e-6,
    # Positions end at 32: a base of 10,000 would spend most channels on angles that hardly turn.
    "rope_theta": 100.0,
}
TINY_CONFIG = CONFIG | {"pixels": 16, "num_hidden_layers": 2, "intermediate_size": 128}
TINY = {"rows": 32, "log_every": 10}
FULL = {"rows": 64, "log_every": 50}
HELD_OUT_SEED = 4001
HELD_OUT_CLIPS = 16


class Block(nn.Module):
    """One layer: attention and a gated feed-forward network, each on the normed input."""

    def __init__(self, config):
        super().__init__()
        channels, inner = config["hidden_size"], config["intermediate_size"]
        self.head_dim = config["head_dim"]
        queries = config["num_attention_heads"] * self.head_dim
        keys = config["num_key_value_heads"] * self.head_dim
        eps = config["rms_norm_eps"]
        self.input_layernorm = RmsNorm(channels, eps)
        self.q_proj = nn.Linear(channels, queries, bias=False)
        self.k_proj = nn.Linear(channels, keys, bias=False)
        self.v_proj = nn.Linear(channels, keys, bias=False)
        self.o_proj = nn.Linear(queries, channels, bias=False)
        self.q_norm, self.k_norm = RmsNorm(self.head_dim, eps), RmsNorm(self.head_dim, eps)
        self.post_attention_layernorm = RmsNorm(channels, eps)
        self.gate_proj = nn.Linear(channels, inner, bias=False)
        self.up_proj = nn.Linear(channels, inner, bias=False)
        self.down_proj = nn.Linear(inner, channels, bias=False)

    def project(self, x, rope):
        """q [B, H, N, E], k and v [B, G, N, E] of x [B, N, D]."""
        normed = self.input_layernorm(x).to(x.dtype)
        q, k, v = (
            linear(normed).unflatten(-1, (-1, self.head_dim))
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (rotate(y, rope).to(v.dtype) for y in (self.q_norm(q), self.k_norm(k)))
        return tuple(y.transpose(1, 2) for y in (q, k, v))

    def mix(self, x, attended):
        """The block's output from the attention's result [B, H, N, E]."""
        x = x + self.o_proj(attended.transpose(1, 2).flatten(2))
        normed = self.post_attention_layernorm(x).to(x.dtype)
        return x + self.down_proj(functional.silu(self.gate_proj(normed)) * self.up_proj(normed))


class CausalModel(nn.Module):
    def __init__(self, config, words):
        super().__init__()
        self.config = config
        channels = config["hidden_size"]
        values = 3 * config["patch"] ** 2
        self.embed_words = nn.Embedding(words, channels)
        self.embed_patches = nn.Linear(values, channels)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"]))
        self.norm = RmsNorm(channels, config["rms_norm_eps"])
        self.head = nn.Linear(channels, values)
        self.attention_backends = ATTENTION_PRIORITY

    @property
    def grid(self):
        """Tokens of a whole clip: frames, height, width."""
        side = self.config["pixels"] // self.config["patch"]
        return self.config["frames"], side, side

    def forward(self, ids, patches, frames, observe=None):
        """The next patch predicted at every token, [B, L + N, values].

        ids [B, L]; patches [B, N, values] of the frames [F] numbered so; observe(layer, q, k, v)
        sees the inputs of attention, q [B, H, L + N, E], k and v [B, G, L + N, E].
        """
        # A product with one-hot rows: the gradient of a lookup waits for the device.
        words = ids[..., None] == torch.arange(self.embed_words.num_embeddings, device=ids.device)
        text = words.float() @ self.embed_words.weight
        video = self.embed_patches(patches)
        x = torch.cat([text.to(video.dtype), video], 1)
        rope = self.rope(frames)
        for layer, block in enumerate(self.blocks):
            q, k, v = block.project(x, rope)
            if observe is not None:
                observe(layer, q, k, v)
            x = block.mix(x, self.attention(q, k, v))
        return self.head(self.norm(x).to(x.dtype))

    def rope(self, frames):
        """cos, sin [1, L + N, 1, E/2]: text counts up to -1 on all three axes, video from 0 on."""
        text_positions = torch.arange(-self.config["text_tokens"], 0, device=frames.device)
        channels = rope_channels(self.config["head_dim"])
        theta = self.config["rope_theta"]
        angles = torch.cat([rope_angles(text_positions, count, theta) for count in channels], -1)
        text = angles.cos().float(), angles.sin().float()
        video = rope_tables(frames, *self.grid[1:], self.config["head_dim"], theta)
        return tuple(
            torch.cat([of_text, of_video.flatten(0, 1)[:, 0]])[None, :, None]
            for of_text, of_video in zip(text, video)
        )

    def attention(self, q, k, v):
        # Every group of query heads gets its own copy of a key head: no kernel has to know groups.
        copies = q.shape[1] // k.shape[1]
        k, v = (y[:, :, None].expand(-1, -1, copies, -1, -1).flatten(1, 2) for y in (k, v))
        with sdpa_kernel(self.attention_backends, set_priority=True):
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


@torch.no_grad()
def initialise(model):
    """Normal weights of variance 1/inputs; branches start small, blocks near the identity."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.embed_words.weight, std=0.5)
    nn.init.zeros_(model.head.weight)
    for block in model.blocks:
        block.o_proj.weight.mul_(0.1)
        block.down_proj.weight.mul_(0.1)


def patches_of(video, patch):
    """[B, F·T, 3·patch²] of a video [B, 3, F, H, W], frame by frame, row by row."""
    clips, channels, count, height, width = video.shape
    cells = video.reshape(clips, channels, count, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 3, 5, 1, 4, 6).reshape(clips, -1, channels * patch * patch)


def make_worlds(config, device, vocab):
    """Both worlds in frames of the model's size, with one vocabulary."""
    pixels = config["pixels"]
    return (
        ShapesWorld(device, pixels, vocab=vocab),
        FlowsWorld(device, pixels, pixels, vocab=vocab),
    )


class NextPatch:
    """The mean square error of the next patch, on clips half of which are of either world."""

    def __init__(self, model, worlds):
        self.model, self.worlds = model, worlds

    def batch(self, clips, frames):
        return self.render(clips, random_frames(frames, self.worlds[0].device))

    def render(self, clips, numbers, generator=None):
        """Tensors of a step: clips with the frames numbered so."""
        ids, videos = [], []
        for world in self.worlds:
            scenes = world.draw(clips // len(self.worlds), generator=generator)
            ids.append(world.token_ids(scenes))
            videos.append(world.render(scenes, numbers))
        patches = patches_of(torch.cat(videos), self.model.config["patch"])
        return {"ids": torch.cat(ids), "patches": patches, "frames": numbers}

    def errors(self, batch):
        """Of each video token but the first, and of the first from the last word: [B, N]."""
        predicted = self.model(batch["ids"], batch["patches"], batch["frames"])
        text_tokens = batch["ids"].shape[1]
        return (predicted[:, text_tokens - 1 : -1].float() - batch["patches"]).square().mean(-1)

    def loss(self, batch):
        return self.errors(batch).mean()


def write_weights(folder, values):
    tensors = {name: value.detach().bfloat16().cpu().contiguous() for name, value in values.items()}
    export.write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})


def load(folder, device):
    """The model of a folder, in f32, and its vocabulary; ValueError for another kind of model."""
    folder = pathlib.Path(folder)
    config, vocab = (export.read_json(folder / name) for name in ("config.json", "vocab.json"))
    if config.get("architecture") != CONFIG["architecture"]:
        raise ValueError(f"{folder / 'config.json'} is not of a model of training/causal.py")
    model = CausalModel(config, len(vocab))
    values = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
    model.load_state_dict(values, strict=True)
    return model.to(device).eval(), vocab


@torch.no_grad()
def held_out_errors(model, worlds, device):
    """Mean square errors on whole clips that training has not seen, by world.

    `from_previous_frame`: of the patch at the same place one frame before, for comparison; like
    `later_frames` it leaves out the first frame.
    """
    generator = torch.Generator(device=device).manual_seed(HELD_OUT_SEED)
    numbers = torch.arange(FRAMES, device=device)
    result = {}
    for world in worlds:
        objective = NextPatch(model, [world])
        totals = torch.zeros(3, device=device)
        for _ in range(HELD_OUT_CLIPS):
            batch = objective.render(1, numbers, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                errors = objective.errors(batch).unflatten(1, (FRAMES, -1))
            frames = batch["patches"].unflatten(1, (FRAMES, -1))
            still = (frames[:, 1:] - frames[:, :-1]).square().mean()
            totals += torch.stack([errors[:, 0].mean(), errors[:, 1:].mean(), still])
        names = ("first_frame", "later_frames", "from_previous_frame")
        means = (totals / HELD_OUT_CLIPS).tolist()
        result[world.name] = {name: round(mean, 6) for name, mean in zip(names, means)}
    return result


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    phases = [(1, 0.1), (4, 0.25), (8, 0.25), (16, 0.4)]
    command.add_arguments(parser.add_argument, seconds=540, reserve=30, phases=phases)
    options = parser.parse_args()
    rows = (TINY if options.tiny else FULL)["rows"]
    command.check_arguments(parser, options, rows, least_clips=2)
    return options


def main():
    options = arguments()
    device, record = command.prepare(options)
    config, amounts = (TINY_CONFIG, TINY) if options.tiny else (CONFIG, FULL)
    vocab = grammar.vocabulary(grammar.SHAPES, grammar.FLOWS)
    worlds = make_worlds(config, device, vocab)
    model = CausalModel(config, len(vocab))
    initialise(model)
    model.to(device)
    _, height, width = model.grid
    lengths = [
        config["text_tokens"] + frames * height * width
        for frames in (*(frames for frames, _ in options.phases), FRAMES)
    ]
    model.attention_backends = backends = usable_attention(
        device, lengths, config["num_attention_heads"], config["head_dim"], is_causal=True
    )
    export.write_json(options.out / "config.json", config)
    export.write_json(options.out / "vocab.json", vocab)
    settings = command.settings_of(options, amounts["rows"], amounts["log_every"])
    trainer = Trainer(NextPatch(model, worlds), model.named_parameters(), device, settings)
    record["training"] = command.train(
        options, trainer, lambda values: write_weights(options.out, values)
    )
    export.write_json(options.out / "results.json", record)
    del trainer, model
    model, _ = load(options.out, device)
    model.attention_backends = backends
    record["held_out_errors"] = held_out_errors(model, worlds, device)
    command.close_record(record)
    export.write_json(options.out / "results.json", record)
    print(f"done after {record['seconds']} s, {record['held_out_errors']}", flush=True)


if __name__ == "__main__":
    main()
