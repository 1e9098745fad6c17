#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes goldens/: two tiny Wan checkpoints with random weights, and what diffusers makes of them.

Each folder is a checkpoint as diffusers lays it out (config.json and weights), with golden.safetensors
beside it: latent [C,F,H,W], text [tokens, text_dim], timestep [1], out [C,F,H,W], all F32, computed by
WanTransformer3DModel in float32 with the values that the files hold. Needs torch, diffusers and
safetensors; the committed files came from torch 2.15 and diffusers 0.42.1 on the CPU.

usage: make_goldens.py [FOLDER]    (default: goldens/ beside this file)
"""
import json
import pathlib
import sys

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

WEIGHTS = "diffusion_pytorch_model"

# Between them: both kinds of patch axes, of norm2, of file layout and of weight type; more than one
# tile of 128 rows with a ragged last one; head sizes whose three rotary parts differ.
CASES = {
    "wan_single_f32": {
        "config": {
            "patch_size": [1, 2, 2],
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 12,
            "freq_dim": 32,
            "ffn_dim": 56,
            "num_layers": 2,
            "cross_attn_norm": True,
            "eps": 1e-6,
            "rope_max_seq_len": 32,
        },
        "size": (3, 8, 10),
        "text_tokens": 7,
        "timestep": 937.5,
        "dtype": torch.float32,
        "shards": 1,
    },
    "wan_sharded_bf16": {
        "config": {
            "patch_size": [2, 1, 3],
            "num_attention_heads": 2,
            "attention_head_dim": 24,
            "in_channels": 3,
            "out_channels": 5,
            "text_dim": 20,
            "freq_dim": 24,
            "ffn_dim": 40,
            "num_layers": 3,
            "cross_attn_norm": False,
            "eps": 1e-5,
            "rope_max_seq_len": 8,
        },
        "size": (10, 6, 21),
        "text_tokens": 150,
        "timestep": 12.25,
        "dtype": torch.bfloat16,
        "shards": 2,
    },
}


def randomise(model, dtype):
    """Weights of a size that every part of the model shows in its output, rounded to `dtype`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if "norm" in name and name.endswith("weight"):
                value = 1 + 0.3 * noise
            elif name.endswith("bias"):
                value = 0.2 * noise
            elif name.endswith("scale_shift_table"):
                value = 0.5 * noise
            else:
                value = noise / parameter[0].numel() ** 0.5
            parameter.copy_(value.to(dtype))


def save_weights(folder, weights, shards):
    """One file, or several and their index."""
    if shards == 1:
        save_file(weights, folder / f"{WEIGHTS}.safetensors")
        return
    names = sorted(weights)
    weight_map = {}
    for shard in range(shards):
        file_name = f"{WEIGHTS}-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard::shards]
        save_file({name: weights[name] for name in part}, folder / file_name)
        weight_map.update({name: file_name for name in part})
    size = sum(w.numel() * w.element_size() for w in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    text = json.dumps(index, indent=2) + "\n"
    (folder / f"{WEIGHTS}.safetensors.index.json").write_text(text, encoding="utf-8")


def make_case(folder, case):
    """A checkpoint and its golden values."""
    folder.mkdir(parents=True, exist_ok=True)
    model = WanTransformer3DModel(**case["config"]).eval()
    randomise(model, case["dtype"])
    weights = {k: v.to(case["dtype"]).contiguous() for k, v in model.state_dict().items()}
    save_weights(folder, weights, case["shards"])
    model.save_config(folder)
    config = folder / "config.json"
    config.write_text(config.read_text(encoding="utf-8").rstrip() + "\n", encoding="utf-8")

    latent = torch.randn(1, case["config"]["in_channels"], *case["size"])
    text = torch.randn(1, case["text_tokens"], case["config"]["text_dim"])
    timestep = torch.tensor([case["timestep"]])
    with torch.no_grad():
        out = model(latent, timestep, text, return_dict=False)[0]
    golden = {"latent": latent[0], "text": text[0], "timestep": timestep, "out": out[0]}
    save_file({k: v.contiguous() for k, v in golden.items()}, folder / "golden.safetensors")


def main(arguments):
    root = pathlib.Path(arguments[0]) if arguments else pathlib.Path(__file__).parent / "goldens"
    torch.set_num_threads(1)
    for seed, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        make_case(root / name, case)
        print(root / name)


main(sys.argv[1:])
