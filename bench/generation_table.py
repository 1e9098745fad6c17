# SPDX-License-Identifier: Apache-2.0
"""How close generated videos come to those of dense attention, for ways to run a bundled model.

Makes each video of PROMPTS with dense attention, then from the same noise with every case, and
prints a Markdown table of PSNR (dB, mean and worst prompt); --json FILE keeps every run with machine
and command. The choices in models/shapes/psa.json come from it.

  python3 bench/generation_table.py --psa build/release/bin/psa --json bench/results/generation.json
  python3 bench/generation_table.py --psa build/release/bin/psa --cases 'by head' ...   # these alone
"""
import argparse
import array
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

from selection_table import write_results

MODEL = "models/shapes"
# (seed, prompt); none of them is shown in the demo.
PROMPTS = (
    (11, "a large yellow circle moves right on a navy background"),
    (12, "a small green triangle moves down on a gray background"),
)
ONE_LEVEL = ["--budget", ".1434"]  # with a mean per unread block: density .15


def case(order, warmup, *more, dense_layers="none"):
    return ["--preset", "balanced", "--order", order, "--warmup-steps", str(warmup),
            "--dense-layers", dense_layers, *(more or ONE_LEVEL)]


def by_head(percent, warmup):
    return ["--config", f"{MODEL}/tuned_{percent}.yaml", "--warmup-steps", str(warmup)]


LINEAR = ["--rest", "linear"]
CASES = {
    "published quota": case("none", 0, "--budget", ".10,.15,.15,.35", "--rest", "skip"),
    "block-sparse": case("gilbert", 0, "--budget", ".15", "--rest", "skip"),
    "four levels, rest mean": case("gilbert", 0, "--density", ".15"),
    "one level, rest mean": case("gilbert", 0),
    "four levels, rest linear": case("gilbert", 0, "--density", ".15", *LINEAR),
    "one level, rest linear": case("gilbert", 0, *ONE_LEVEL, *LINEAR),
    "the same, no order": case("none", 0, *ONE_LEVEL, *LINEAR),
    "the same, tile3d": case("tile3d", 0, *ONE_LEVEL, *LINEAR),
    "the same, density .10": case("gilbert", 0, "--budget", ".0929", *LINEAR),
    "the same, density .25": case("gilbert", 0, "--budget", ".2441", *LINEAR),
    "the same, 2 dense steps": case("gilbert", 2, *ONE_LEVEL, *LINEAR),
    "the same, 4 dense steps": case("gilbert", 4, *ONE_LEVEL, *LINEAR),
    "the same, 4 dense steps and layer 7":
        case("gilbert", 4, *ONE_LEVEL, *LINEAR, dense_layers="7"),
    "by head, density .15": by_head(15, 0),
    "by head, density .15, 2 dense steps": by_head(15, 2),
    "by head, density .10": by_head(10, 0),
    "by head, density .10, 2 dense steps": by_head(10, 2),
}


def read_latents(path):
    """The one f32 tensor of a safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    values = array.array("f")
    values.frombytes(content[start:])
    return values


def to_bytes(values):
    """Pixels -1..1 as psa writes them into a video."""
    return [int((min(max(value, -1), 1) + 1) * 127.5 + 0.5) for value in values]


def psnr(reference, video):
    error = statistics.fmean((a - b) ** 2 for a, b in zip(reference, video))
    return 10 * math.log10(255**2 / error) if error else math.inf


def generate(args, folder, seed, prompt, flags):
    path = folder / "video.safetensors"
    command = [args.psa, "generate", "--model", MODEL, "--prompt", prompt, "--seed", str(seed),
               "--frames", "16", "--height", "64", "--width", "64", "--steps", str(args.steps),
               "--guidance", "1", "--json", "-o", str(path), *flags]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(made.stdout)["psa"], to_bytes(read_latents(path))


def measure(args, folder):
    rows = []
    for seed, prompt in PROMPTS:
        dense, reference = generate(args, folder, seed, prompt,
                                    ["--preset", "balanced", "--rule", "dense"])
        for name, flags in chosen(args).items():
            made, video = generate(args, folder, seed, prompt, flags)
            row = {"case": name, "flags": flags, "seed": seed, "prompt": prompt,
                   "psnr_db": psnr(reference, video), "density": made["density"],
                   "total_ms": made["total_ms"], "dense_total_ms": dense["total_ms"]}
            print(f"{seed}  {name:40} {row['psnr_db']:6.2f} dB", file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def chosen(args):
    return {name: flags for name, flags in CASES.items() if args.cases in name}


def print_table(args, rows):
    print("| case | density | PSNR, mean | PSNR, worst |")
    print("|---|---|---|---|")
    for name in chosen(args):
        some = [row for row in rows if row["case"] == name]
        values = [row["psnr_db"] for row in some]
        density = statistics.fmean(row["density"] for row in some)
        print(f"| {name} | {density:.3f} | {statistics.fmean(values):.1f} | {min(values):.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--psa", required=True, help="the psa program")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cases", default="", help="only those whose name contains this")
    parser.add_argument("--json", help="write the rows to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, pathlib.Path(folder))
    print_table(args, rows)
    if args.json:
        write_results(args, {"model": MODEL, "steps": args.steps}, rows)


if __name__ == "__main__":
    main()
