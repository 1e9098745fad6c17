# SPDX-License-Identifier: Apache-2.0
"""Error of psa at one density for token orders, estimators and what becomes of unread blocks.

Runs `psa compare` on recorded q, k, v (relative L2 error against dense over all heads) and prints a
Markdown table; --json FILE keeps every row with machine and command.

  python3 bench/selection_table.py --psa build/release/bin/psa --json bench/results/selection.json
"""
import argparse
import itertools
import json
import subprocess
import sys

INPUT = "models/shapes/qkv_layer4_step15.safetensors"
ORDERS = ("none", "gilbert", "tile3d")
ESTIMATORS = ("pooled_lse", "sampled_mass", "sampled_max")
BLOCKS = ("128x128", "128x64")
RESTS = ("mean", "skip")


def compare(psa, density, order, estimator, block, rest):
    command = [psa, "compare", INPUT, "--methods", "dense,psa,binary", "--repeats", "1", "--json",
               "--order", order, "--importance", estimator, "--block", block, "--rest", rest,
               "--density", str(density)]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found = {r["method"]: r for r in rows if r["head"] == "all"}
    return {"order": order, "estimator": estimator, "block": block, "rest": rest,
            "density": found["psa"]["density"], "rel_l2": found["psa"]["rel_l2"],
            "binary_rel_l2": found["binary"]["rel_l2"], "ms": found["psa"]["ms"],
            "dense_ms": found["psa"]["dense_ms"], "selection_ms": found["psa"]["selection_ms"]}


def machine(psa):
    """Where this runs, in the words of `psa doctor`."""
    facts = json.loads(subprocess.run([psa, "doctor", "--json"], capture_output=True, text=True,
                                      check=True).stdout)
    used = next(b for b in facts["backends"] if b["state"] == "used")
    return {"cpu": facts["machine"]["cpu"], "threads": facts["machine"]["usable_processors"],
            "backend": used["name"], "isa": used["isa"]}


def commit():
    """The commit of the tree, with a mark where tracked files differ from it."""
    found = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude", "*"],
                           capture_output=True, text=True, check=False)
    return found.stdout.strip()


def write_results(args, facts, rows):
    """Rows with what they were made from and on, to args.json."""
    report = {"machine": machine(args.psa), "commit": commit(), **facts,
              "command": " ".join(["python3"] + sys.argv), "rows": rows}
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


def print_table(rows):
    columns = list(itertools.product(BLOCKS, RESTS))
    print("| order | estimator | " + " | ".join(f"{b}, {r}" for b, r in columns) + " |")
    print("|---" * (2 + len(columns)) + "|")
    errors = {(r["order"], r["estimator"], r["block"], r["rest"]): r["rel_l2"] for r in rows}
    for order, estimator in itertools.product(ORDERS, ESTIMATORS):
        cells = [f"{errors[order, estimator, b, r]:.3f}" for b, r in columns]
        print(f"| {order} | {estimator} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--psa", required=True, help="the psa program")
    parser.add_argument("--density", type=float, default=0.15)
    parser.add_argument("--json", help="write the rows to this file")
    args = parser.parse_args()
    rows = []
    for case in itertools.product(ORDERS, ESTIMATORS, BLOCKS, RESTS):
        print(" ".join(case), file=sys.stderr, flush=True)
        rows.append(compare(args.psa, args.density, *case))
    print_table(rows)
    if args.json:
        write_results(args, {"input": INPUT, "density": args.density}, rows)


if __name__ == "__main__":
    main()
