#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints sampler_golden.hpp: schedules and samples of diffusers' schedulers, and normal noise.

Needs diffusers, torch and NumPy (made with 0.42.1, 2.15.0 and 2.4.6, on the CPU).
usage: make_sampler_golden.py | clang-format-14 --style=file >sampler_golden.hpp
"""
import math

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

ELEMENTS = 4
UNIPC = dict(prediction_type="flow_prediction", use_flow_sigmas=True)

# name, scheduler, number of steps, initialiser of the SchedulerConfig
CASES = [
    ("euler", FlowMatchEulerDiscreteScheduler(shift=5.0), 6,
     ".kind = SamplerKind::kEuler, .shift = 5"),
    ("euler, shift 1", FlowMatchEulerDiscreteScheduler(shift=1.0), 3,
     ".kind = SamplerKind::kEuler, .shift = 1"),
    ("unipc", UniPCMultistepScheduler(flow_shift=5.0, **UNIPC), 8,
     ".kind = SamplerKind::kUniPc, .shift = 5"),
    ("unipc, many steps", UniPCMultistepScheduler(flow_shift=3.0, **UNIPC), 20,
     ".kind = SamplerKind::kUniPc, .shift = 3"),
    ("unipc, order 1", UniPCMultistepScheduler(flow_shift=5.0, solver_order=1, **UNIPC), 4,
     ".kind = SamplerKind::kUniPc, .shift = 5, .solver_order = 1"),
    ("unipc, not corrected", UniPCMultistepScheduler(flow_shift=5.0, disable_corrector=[0, 2],
                                                     **UNIPC), 5,
     ".kind = SamplerKind::kUniPc, .shift = 5, .disable_corrector = {0, 2}"),
    ("unipc, whole timesteps", UniPCMultistepScheduler(flow_shift=1.0, **UNIPC), 9,
     ".kind = SamplerKind::kUniPc, .shift = 1"),
    ("unipc, one step", UniPCMultistepScheduler(flow_shift=5.0, **UNIPC), 1,
     ".kind = SamplerKind::kUniPc, .shift = 5"),
]


def numbers(values):
    """C++ float literals with all their bits."""
    texts = (f"{float(np.float32(value)):.9g}" for value in np.asarray(values).flatten())
    return ", ".join(text + ("F" if "." in text or "e" in text else ".0F") for text in texts)


def print_case(name, scheduler, steps, config):
    """One entry of kSamplerGolden."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    else:
        scheduler.set_timesteps(steps)
    random = np.random.default_rng(steps)
    sample = torch.from_numpy(random.standard_normal((1, ELEMENTS, 1), dtype=np.float32))
    velocities = random.standard_normal((steps, 1, ELEMENTS, 1), dtype=np.float32)
    samples = [sample]
    for step, timestep in enumerate(scheduler.timesteps):
        velocity = torch.from_numpy(velocities[step])
        samples.append(scheduler.step(velocity, timestep, samples[-1]).prev_sample)
    print(f'{{"{name}", {{{config}}},')
    for values in (scheduler.timesteps, scheduler.sigmas, velocities, torch.stack(samples)):
        print(f"{{{numbers(values)}}},")
    print("},")


def philox(counter, key):
    """Four 32-bit words of Philox4x32-10."""
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [b >> 32 ^ counter[1] ^ key[0], b & 0xFFFFFFFF,
                   a >> 32 ^ counter[3] ^ key[1], a & 0xFFFFFFFF]
        key = [key[0] + 0x9E3779B9 & 0xFFFFFFFF, key[1] + 0xBB67AE85 & 0xFFFFFFFF]
    return counter


def normal_pair(seed, pair):
    """Elements 2 pair and 2 pair + 1 of the noise of `seed`, with the C library's functions."""
    w = philox([pair & 0xFFFFFFFF, pair >> 32, 0, 0], [seed & 0xFFFFFFFF, seed >> 32])
    radius = math.sqrt(-2 * math.log(((w[1] << 32 | w[0]) // 2048 + 1) * 2.0**-53))
    angle = 2 * math.pi * ((w[3] << 32 | w[2]) // 2048) * 2.0**-53
    return radius * math.cos(angle), radius * math.sin(angle)


def main():
    print("// SPDX-License-Identifier: Apache-2.0")
    print("// Made by make_sampler_golden.py.")
    print("#pragma once\n\n#include <array>\n#include <cstdint>\n#include <vector>\n")
    print('#include "engine/sampler/scheduler_config.hpp"\n\nnamespace psa::engine {\n')
    print("struct SamplerGolden {\nconst char* name;\nSchedulerConfig config;\n"
          "std::vector<float> timesteps;  // [steps]\nstd::vector<float> sigmas;  // [steps + 1]\n"
          f"std::vector<float> velocities;  // [steps, {ELEMENTS}]\n"
          f"std::vector<float> samples;  // [steps + 1, {ELEMENTS}]\n}};\n")
    print("inline const std::vector<SamplerGolden> kSamplerGolden{")
    for case in CASES:
        print_case(*case)
    print("};\n")
    for name, seed in (("kNoiseOfSeed0", 0), ("kNoiseOfLargeSeed", 0xDEADBEEF12345678)):
        values = [value for pair in range(12) for value in normal_pair(seed, pair)]
        print(f"inline constexpr std::array<float, 24> {name}{{{numbers(values)}}};")
    print("\n}  // namespace psa::engine")


main()
