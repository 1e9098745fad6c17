# SPDX-License-Identifier: Apache-2.0
"""Times whole calls of psa on a GPU beside dense attention of cuDNN, in one process.

For each row: cuDNN dense, FlexAttention on random 128x128 blocks of psa's density, the published
PSA code where it computes the row (with --peer), and psa. The calls of a row take turns, with L2
flushed before each; figures are medians of CUDA event times. Inputs are normal, structured (near
tokens of the grid attend to each other), or recorded (two heads of models/shapes, repeated so that
they fill a GPU). The last two carry their relative L2 error against dense.

  python bench/cuda/whole_call.py --library build/cuda-release/src/libpsa.so --json out.json
  --peer DIR: a folder with psa_triton/ and PSA_casual/ of the published repository.
Needs torch with CUDA and safetensors, and triton for the peers.
"""
import argparse
import functools
import json
import math
import os
import pathlib
import statistics
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench/python"), str(ROOT / "python")]
import psa  # noqa: E402
from provenance import command, commit  # noqa: E402

WAN720 = {"grid": (21, 45, 80), "heads": 12, "head_dim": 128}
WAN480 = {"grid": (21, 30, 52), "heads": 12, "head_dim": 128}
WAN22 = {"grid": (31, 22, 40), "heads": 24, "head_dim": 128}
COG = {"grid": (13, 30, 45), "heads": 48, "head_dim": 64, "text": 226}
SHAPES = {"grid": (16, 32, 32), "batch": 12, "heads": 2, "head_dim": 64}
QWEN = {"grid": (32, 32, 32), "heads": 28, "heads_kv": 4, "head_dim": 128, "causal": True}


def quota(*budget, **more):
    return {"rule": "quota", "budget": budget, "rest": "skip", **more}


def threshold(*budget, **more):
    return {"rule": "threshold", "budget": budget, "rest": "skip", **more}


def linear(density, **more):
    """As the presets of psa read."""
    scope = "row" if more.get("causal") else "head"
    return {"density": density, "levels": 1, "rest": "linear", "rest_cutoff": 2,
            "weigh_values": True, "budget_scope": scope, **more}


HOST_CYCLES = 1_000_000  # of the device, about 0.6 ms: longer than any call here takes to queue

# name, shape, data, config of psa, times that the whole call shall be faster than cuDNN dense
ROWS = (
    ("wan-720p quota", WAN720, "normal", quota(.10, .15, .15, .35), 5.0),
    ("wan-720p quota, blocks of 64", WAN720, "normal",
     quota(.10, .15, .15, .35, block=(128, 64)), 5.0),
    ("wan-720p threshold", WAN720, "structured",
     threshold(.4, .5, .6, .8, importance="sampled_max", samples_q=16, samples_kv=16), 8.0),
    ("wan-720p sampled, blocks of 32", WAN720, "normal",
     quota(.05, .10, .15, .25, block=(128, 32), importance="sampled_max"), None),
    ("wan-480p quota", WAN480, "normal", quota(.05, .10, .15, .25), 6.2),
    ("wan-480p sampled, blocks of 32", WAN480, "normal",
     quota(.05, .10, .15, .25, block=(128, 32), importance="sampled_max"), None),
    ("wan2.2-5b quota", WAN22, "normal", quota(.10, .15, .15, .35), 4.6),
    ("cogvideox-5b quota", COG, "normal", quota(.05, .15, .25, .50), 4.0),
    ("qwen2.5-vl-7b causal", QWEN, "normal",
     quota(.21, .26, .26, .36, importance="antidiagonal", stride=16, causal=True), 3.0),
    ("qwen2.5-vl-7b linear .25", QWEN, "structured",
     linear(.25, sink=1, causal=True), None),
    ("wan-720p means .10", WAN720, "structured", {"density": .10}, 6.0),
    ("wan-720p means .10, gilbert", WAN720, "structured",
     {"density": .10, "order": "gilbert"}, None),
    ("wan-720p means .15, gilbert", WAN720, "structured",
     {"density": .15, "order": "gilbert"}, None),
    ("wan-720p linear .10, gilbert", WAN720, "structured",
     linear(.10, order="gilbert"), None),
    ("wan-480p linear .10, gilbert", WAN480, "structured",
     linear(.10, order="gilbert"), None),
    ("shapes quota", SHAPES, "recorded", quota(.10, .15, .15, .35), None),
    ("shapes linear .15, gilbert", SHAPES, "recorded",
     linear(.15, order="gilbert"), None),
)


def normal_inputs(shape, length):
    heads_kv = shape.get("heads_kv", shape["heads"])
    return tuple(torch.randn(1, h, length, shape["head_dim"], device="cuda", dtype=torch.bfloat16)
                 for h in (shape["heads"], heads_kv, heads_kv))


def structured_inputs(shape, length):
    """Random Fourier features of the token's place in the grid, so that attention falls off with the
    distance; another length scale (2 to 32 tokens) for each head of k and v."""
    heads, head_dim = shape["heads"], shape["head_dim"]
    heads_kv = shape.get("heads_kv", heads)
    generator = torch.Generator(device="cuda").manual_seed(0)
    axes = [torch.arange(n, device="cuda") for n in shape["grid"]]
    frame, row, column = torch.meshgrid(*axes, indexing="ij")
    place = torch.stack([2.0 * frame, 1.0 * row, 1.0 * column], -1).reshape(-1, 3)
    q, k, v = (torch.empty(1, h, length, head_dim, device="cuda", dtype=torch.bfloat16)
               for h in (heads, heads_kv, heads_kv))
    noise = lambda: torch.randn(length, head_dim, device="cuda", generator=generator)  # noqa: E731
    for h in range(heads_kv):
        scale = 2.0 * 2 ** (4 * h / max(1, heads_kv - 1))
        waves = torch.randn(3, head_dim, device="cuda", generator=generator) / scale
        phase = torch.rand(head_dim, device="cuda", generator=generator) * 2 * math.pi
        feature = math.sqrt(2) * torch.cos(place @ waves + phase)
        strength = math.sqrt(12 * math.sqrt(head_dim) / head_dim)  # largest logits about 12
        for sharing in range(h * heads // heads_kv, (h + 1) * heads // heads_kv):
            q[0, sharing] = strength * feature + 0.5 * noise()
        k[0, h] = strength * feature + 0.5 * noise()
        slow = torch.randn(3, head_dim, device="cuda", generator=generator) / (2 * scale)
        v[0, h] = math.sqrt(2) * torch.cos(place @ slow + phase) + 0.3 * noise()
    return q, k, v


def recorded_inputs(shape, length):
    file = load_file(ROOT / "models/shapes/qkv_layer4_step15.safetensors", device="cuda")
    assert file["q"].shape == (1, shape["heads"], length, shape["head_dim"])
    return tuple(file[name].repeat(shape["batch"], 1, 1, 1) for name in "qkv")


INPUTS = {"normal": normal_inputs, "structured": structured_inputs, "recorded": recorded_inputs}


def dense_call(q, k, v, causal):
    def call():
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal,
                                                  enable_gqa=q.shape[1] != k.shape[1])
    return call


def flex_call(q, k, v, density):
    from torch.nn.attention.flex_attention import BlockMask, flex_attention
    length = q.shape[2] // 128 * 128
    q, k, v = (t[:, :, :length] for t in (q, k, v))
    blocks = length // 128
    count = max(1, round(blocks * density))
    order = torch.rand(1, q.shape[1], blocks, blocks, device="cuda").argsort(-1)[..., :count]
    full = torch.zeros(1, q.shape[1], blocks, blocks, device="cuda", dtype=torch.int32)
    full[..., :count] = order.sort(-1).values.to(torch.int32)
    number = torch.full((1, q.shape[1], blocks), count, device="cuda", dtype=torch.int32)
    mask = BlockMask.from_kv_blocks(torch.zeros_like(number), torch.zeros_like(full), number, full,
                                    BLOCK_SIZE=(128, 128), seq_lengths=(length, length),
                                    compute_q_blocks=False)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=mask)


def published_call(q, k, v, config):
    """The published Triton code with the same rule; None where it does not compute the row."""
    if "budget" not in config:
        return None
    if config.get("causal"):
        from PSA_casual.kernels.psa_kernel_causal import sparse_attention_factory
        from PSA_casual.PyramidAdaptiveBlockSparseAttn import (AttentionConfig,
                                                               adaptive_block_sparse_attn)
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        settings, kernel = AttentionConfig(text_length=0), sparse_attention_factory(causal=True)
        return lambda: adaptive_block_sparse_attn(q, k, v, settings, kernel)[0]
    from psa_triton.attention import PSAAttention, PSAConfig
    cuts = (0.0, *config["budget"])
    ratios = {factor: (cuts[i], cuts[i + 1]) for i, factor in enumerate((1, 2, 4, 8))}
    ratios[0] = (cuts[-1], 1.0)
    mode = "topk" if config["rule"] == "quota" else "thresholdbound"
    block_n = config.get("block", (128, 128))[1]
    attention = PSAAttention(PSAConfig(block_n=block_n, mask_mode=mode, mask_ratios=ratios))
    return lambda: attention(q, k, v)


def take_turns(calls, repeats):
    """Median and 10th and 90th percentile of each call's milliseconds on the device. Before each it
    is kept busy while the host queues the call, so that no launch is timed."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    samples = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            flush.zero_()
            torch.cuda._sleep(HOST_CYCLES)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            if turn > 0:  # the first turn compiles and warms up
                samples[name].append(start.elapsed_time(end))
    result = {}
    for name, times in samples.items():
        times.sort()
        last = len(times) - 1
        result[name] = {"ms": statistics.median(times), "ms_p10": times[round(.1 * last)],
                        "ms_p90": times[round(.9 * last)]}
    return result


def time_stages(plan, q, k, v, out, repeats):
    """What a call did, and the medians of its stages' milliseconds, queued as in take_turns()."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    samples = []
    for _ in range(repeats):
        flush.zero_()
        torch.cuda._sleep(HOST_CYCLES)
        samples.append(plan.measure(q, k, v, out=out))
    names = ("pyramid_ms", "importance_ms", "levels_ms", "attention_ms")
    return samples[0], {n: statistics.median(getattr(s, n) for s in samples) for n in names}


def run_row(row, args):
    name, shape, data, config, target = row
    torch.manual_seed(0)
    text = shape.get("text", 0)
    length = math.prod(shape["grid"]) + text
    causal = bool(shape.get("causal"))
    q, k, v = INPUTS[data](shape, length)
    out = torch.empty_like(q)
    plan = psa.Plan(q.shape, k.shape, config, dtype=q.dtype, device=q.device,
                    grid=shape.get("grid"), text_tokens=text)
    ours = functools.partial(plan.forward, q, k, v, out=out)
    ours()
    stats, stages = time_stages(plan, q, k, v, out, args.repeats)
    calls = {"cudnn": dense_call(q, k, v, causal)}
    if not causal:
        calls["flex"] = flex_call(q, k, v, stats.density)
    if args.peer:
        published = published_call(q, k, v, config)
        if published is not None:
            calls["published"] = published
    calls["psa"] = ours
    with torch.no_grad():
        reference = calls["cudnn"]().float()
        times = take_turns(calls, args.repeats)
    error = ((out.float() - reference).norm() / reference.norm()).item()
    flops = 4.0 * q.numel() * length * (0.5 if causal else 1.0)
    dense_ms = times["cudnn"]["ms"]
    kv_bytes = 2 * k.numel() * k.element_size()
    result = {"name": name, "shape": [*q.shape], "heads_kv": k.shape[1], "data": data,
              "config": config, "density": stats.density, "rel_l2": error, "times": times,
              "speedup": dense_ms / times["psa"]["ms"], "target": target,
              "rule_bound": (stats.density / 0.9 + 0.03) * dense_ms,
              "dense_tflops": flops / dense_ms / 1e9,
              "attention_tflops": flops * stats.density / stages["attention_ms"] / 1e9, **stages,
              "workspace_over_kv": plan.workspace_bytes / kv_bytes}
    others = "  ".join(f"{other} {t['ms']:.2f}" for other, t in times.items())
    aim = f" (aim {target})" if target else ""
    print(f"{name:32} density {stats.density:.4f}  {others} ms  {result['speedup']:.2f}x{aim}  stages "
          f"{' '.join(f'{ms:.3f}' for ms in stages.values())} ms, {result['attention_tflops']:.0f}/"
          f"{result['dense_tflops']:.0f} TFLOP/s  error {error:.3f}", flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="path of libpsa.so, built with CUDA")
    parser.add_argument("--peer", help="folder with the published psa_triton/ and PSA_casual/")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--commit", default="", help="of the library, if not that of this folder")
    parser.add_argument("--json", help="write the rows to this file")
    args = parser.parse_args()
    if args.peer:
        sys.path.insert(0, args.peer)
    os.environ["PSA_LIBRARY"] = args.library
    rows = []
    for row in ROWS:
        if args.rows in row[0]:
            rows.append(run_row(row, args))
            torch.cuda.empty_cache()
    if args.json:
        report = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
                  "commit": args.commit or commit(), "command": command(),
                  "rows": rows}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
