# SPDX-License-Identifier: Apache-2.0
"""Times psa beside PyTorch's CPU scaled_dot_product_attention, in one process and on as many threads.

For each shape and dtype, interleaved: PyTorch dense, psa dense (every block at level 1) and psa at
--density. Prints one line per row and, with --json FILE, writes all rows with machine and command.

  python bench/python/dense_vs_torch.py --library build/release/src/libpsa.so --json out.json
Needs torch.
"""
import argparse
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "python"))
import psa  # noqa: E402
from provenance import command, commit  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SHAPES = ((16384, 64), (8192, 128))
HEADS = 4


def milliseconds(call):
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def psa_call(q, k, v, out, density, threads):
    plan = psa.Plan(q.shape, k.shape, {"density": density}, dtype=q.dtype, num_threads=threads)
    return functools.partial(plan.forward, q, k, v, out=out)


def run_case(name, length, head_dim, args):
    dtype = DTYPES[name]
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, length, head_dim).to(dtype) for _ in range(3))
    out = torch.empty_like(q)
    calls = {
        "torch": lambda: F.scaled_dot_product_attention(q, k, v),
        "psa_dense": psa_call(q, k, v, out, 1.0, args.threads),
        "psa": psa_call(q, k, v, out, args.density, args.threads),
    }
    reference = calls["torch"]()
    calls["psa_dense"]()
    error = ((out.float() - reference.float()).norm() / reference.float().norm()).item()
    samples = {what: [] for what in calls}
    for _ in range(args.repeats):  # interleaved, so that a slow spell of the machine hits all alike
        for what, call in calls.items():
            samples[what].append(milliseconds(call))
    median = {what: statistics.median(times) for what, times in samples.items()}
    flops = 4.0 * HEADS * length * length * head_dim
    row = {"dtype": name, "shape": [1, HEADS, length, head_dim], "torch_ms": median["torch"],
           "psa_dense_ms": median["psa_dense"], "psa_ms": median["psa"], "density": args.density,
           "dense_over_torch": median["torch"] / median["psa_dense"],
           "psa_over_psa_dense": median["psa_dense"] / median["psa"],
           "psa_dense_gflops": flops / median["psa_dense"] / 1e6,
           "torch_gflops": flops / median["torch"] / 1e6, "rel_l2_to_torch": error}
    print(f"{name:5} L={length:6} D={head_dim:4}  torch {row['torch_ms']:8.1f} ms"
          f"  psa dense {row['psa_dense_ms']:8.1f} ms ({row['dense_over_torch']:.2f}x)"
          f"  psa {args.density:g} {row['psa_ms']:8.1f} ms ({row['psa_over_psa_dense']:.2f}x dense)"
          f"  error {error:.1e}", flush=True)
    return row


def processor():
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        return next(line.split(":")[1].strip()
                    for line in text.splitlines() if "Model name" in line)
    except (OSError, StopIteration, subprocess.CalledProcessError):
        return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="path of libpsa.so")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--density", type=float, default=0.15)
    parser.add_argument("--json", help="write the rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["PSA_LIBRARY"] = args.library
    rows = [run_case(name, length, head_dim, args)
            for length, head_dim in SHAPES for name in DTYPES]
    if args.json:
        report = {"processor": processor(), "threads": args.threads, "torch": torch.__version__,
                  "commit": commit(), "command": command(), "rows": rows}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
