#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes goldens/wan_single_f32/sampling.safetensors: whole sampling runs by diffusers.

The checkpoint and text of make_goldens.py, another text as the unconditional one, noise of psa's
generator (src/engine/sampler/noise.hpp) for SEED, classifier-free guidance, all in float32, by
FlowMatchEulerDiscreteScheduler and UniPCMultistepScheduler: unconditional [tokens, text_dim], euler
and unipc [C,F,H,W]. Needs torch, diffusers and safetensors; the committed file came from torch 2.15
and diffusers 0.42.1 on the CPU.
"""
import math
import pathlib

import numpy
import torch
from diffusers import (FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler,
                       WanTransformer3DModel)
from safetensors.torch import load_file, save_file

SEED, STEPS, GUIDANCE, SHIFT = 7, 6, 3.0, 5.0
FOLDER = pathlib.Path(__file__).parent / "goldens" / "wan_single_f32"
MASK = 0xFFFFFFFF


def philox(counter, key):
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & MASK,
                   (a >> 32) ^ counter[3] ^ key[1], a & MASK]
        key = [(key[0] + 0x9E3779B9) & MASK, (key[1] + 0xBB67AE85) & MASK]
    return counter


def normal(seed, count):
    values = []
    for pair in range((count + 1) // 2):
        w = philox([pair & MASK, pair >> 32, 0, 0], [seed & MASK, seed >> 32])
        a, b = (w[1] << 32 | w[0]) >> 11, (w[3] << 32 | w[2]) >> 11
        radius = math.sqrt(-2 * math.log((a + 1) / 2**53))
        angle = 2 * math.pi * b / 2**53
        values += [radius * math.cos(angle), radius * math.sin(angle)]
    return torch.tensor(values[:count], dtype=torch.float32)


def sample(model, scheduler, noise, text, unconditional):
    x = noise[None].clone()
    for t in scheduler.timesteps:
        timestep = t[None].float()
        positive = model(x, timestep, text[None], return_dict=False)[0]
        negative = model(x, timestep, unconditional[None], return_dict=False)[0]
        velocity = negative + GUIDANCE * (positive - negative)
        x = scheduler.step(velocity, t, x, return_dict=False)[0]
    return x[0]


def main():
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(FOLDER)).eval()
    model.load_state_dict(load_file(FOLDER / "diffusion_pytorch_model.safetensors"))
    golden = load_file(FOLDER / "golden.safetensors")
    shape, text = golden["latent"].shape, golden["text"]
    unconditional = torch.randn_like(text)
    noise = normal(SEED, golden["latent"].numel()).reshape(shape)
    euler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    euler.set_timesteps(sigmas=numpy.linspace(1.0, 1.0 / STEPS, STEPS))
    unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
                                    flow_shift=SHIFT)
    unipc.set_timesteps(STEPS)
    with torch.no_grad():
        result = {"unconditional": unconditional,
                  "euler": sample(model, euler, noise, text, unconditional),
                  "unipc": sample(model, unipc, noise, text, unconditional)}
    save_file({k: v.contiguous() for k, v in result.items()}, FOLDER / "sampling.safetensors")
    print({k: v.norm().item() for k, v in result.items()})


main()
