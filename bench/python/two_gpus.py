# SPDX-License-Identifier: Apache-2.0
"""Times a denoising step on one GPU and spread over two by diffusers' Ulysses attention.

Each of two processes makes the same model of full_size.py and times it alone, dense and with psa.
Then diffusers spreads it over both, and the same calls are timed together. The outputs of both
ways are compared. Writes OUT/two_gpus_CASE.json.

  python bench/python/two_gpus.py --out bench/results           # on two GPUs
  python bench/python/two_gpus.py --tiny --out /tmp             # tiny models, on the CPU

Needs torch with NCCL, diffusers and libpsa.so, which docs/python.md says how to build.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pathlib
import statistics
import tempfile
from typing import Any

import full_size
import torch
from full_size import CASES, Case, Clock, psa
from provenance import command, commit
from torch import distributed
from torch.nn.attention import sdpa_kernel

PROCESSES = 2
SPREAD = ("wan-1.3b-480p", "wan-1.3b-720p", "wan-14b-720p")
VARIANTS = ("dense", "psa balanced")


def mean_of_processes(value: float, device: str) -> float:
    """Each process knows the density of its own heads; all have equally many."""
    total = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return float(total) / PROCESSES


def measure(case: Case, device: str, repeats: int) -> dict[str, dict[str, Any]]:
    """Times and outputs of each variant of `case`, in turns; all processes begin a call at once."""
    clock = Clock(device)
    variants = [variant for variant in case.variants if variant.name in VARIANTS]
    found: dict[str, dict[str, Any]] = {}
    for turn in range(1 + repeats):  # the first one warms up
        for variant in variants:
            with variant.enabled():
                distributed.barrier()
                if device == "cuda":
                    torch.cuda.synchronize()
                begin = clock.now()
                out = case.call()
                ms = clock.ms(begin, clock.now())
                if turn == 0:
                    found[variant.name] = {
                        "out": out.float(),
                        "density": mean_of_processes(variant.density(), device),
                        "times": [],
                    }
                else:
                    found[variant.name]["times"].append(ms)
    return found


def compare(alone: dict[str, Any], together: dict[str, Any]) -> dict[str, Any]:
    """A variant's row of the report."""
    difference = (together["out"] - alone["out"]).norm() / alone["out"].norm()
    times = [statistics.median(found["times"]) for found in (alone, together)]
    return {
        "one_gpu_ms": times[0],
        "two_gpus_ms": times[1],
        "speedup": times[0] / times[1],
        "density": [alone["density"], together["density"]],
        "relative_l2_of_difference": float(difference),
        "has_equal_bits": bool(torch.equal(alone["out"], together["out"])),
    }


def run(name: str, device: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measures a case in this process and the other one."""
    from diffusers import ContextParallelConfig

    case = CASES[name](args.tiny, device)
    backend = full_size.dense_backend(case, device)
    with sdpa_kernel(backend):
        alone = measure(case, device, args.repeats)
        case.model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=PROCESSES))
        together = measure(case, device, args.repeats)
    return {
        "case": name,
        "weights": "tiny, random" if args.tiny else "random",
        "device": f"{PROCESSES} x {torch.cuda.get_device_name() if device == 'cuda' else 'cpu'}",
        "versions": {
            package: importlib.metadata.version(package) for package in ("torch", "diffusers")
        },
        "psa": psa.__version__,
        "commit": args.commit or commit(),
        "command": command(),
        "repeats": args.repeats,
        **case.facts,
        "dense_backend": backend.name,
        "variants": {
            variant: compare(alone[variant], together[variant]) for variant in together
        },
    }


def process(rank: int, meeting_point: str, args: argparse.Namespace) -> None:
    """All cases; the first process writes the files."""
    device = "cpu" if args.tiny else "cuda"
    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and here it is 0
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{meeting_point}",
        rank=rank,
        world_size=PROCESSES,
    )
    try:
        for name in args.cases.split(","):
            with torch.inference_mode():
                report = run(name, device, args)
            if rank == 0:
                path = pathlib.Path(args.out) / f"two_gpus_{name}.json"
                path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
                print(json.dumps(report["variants"], indent=1), path, flush=True)
    finally:
        distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="wan-1.3b-720p", help="some of them, with commas")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each variant")
    parser.add_argument("--out", default="bench/results", help="folder of the result files")
    parser.add_argument("--commit", help="of the tree, where git is missing")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    args = parser.parse_args()
    for name in args.cases.split(","):
        if name not in SPREAD:
            parser.error(f"--cases has {name!r}; allowed: {', '.join(SPREAD)}")
    if args.repeats < 1:
        parser.error(f"--repeats is {args.repeats}; allowed: 1 and more")
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(process, (f"{folder}/meeting", args), nprocs=PROCESSES)


if __name__ == "__main__":
    main()
