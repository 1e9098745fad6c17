# SPDX-License-Identifier: Apache-2.0
"""Prints the rows of a results file of whole_call.py as the Markdown table of the README.

  python bench/cuda/table.py bench/results/whole_call_h100.json
"""
import json
import sys

HEAD = ("shape and rule", "density", "cuDNN dense", "FlexAttention", "published PSA", "psa",
        "over dense", "aim", "attention / cuDNN", "error")


def shape_of(row):
    batch, heads, length, head_dim = row["shape"]
    shared = "" if row["heads_kv"] == heads else f"/{row['heads_kv']}"
    batches = "" if batch == 1 else f"B{batch} "
    return f"{batches}H{heads}{shared} L{length:,} D{head_dim}"


def cells(row):
    times = row["times"]
    milliseconds = [f"{times[name]['ms']:.2f} ms" if name in times else "-"
                    for name in ("cudnn", "flex", "published", "psa")]
    # Normal inputs have no structure to find: their error says nothing.
    error = f"{row['rel_l2']:.3f}" if row["data"] != "normal" else "-"
    return (f"{row['name']}, {shape_of(row)}", f"{row['density']:.3f}", *milliseconds,
            f"**{row['speedup']:.2f}x**", f"{row['target']}x" if row["target"] else "-",
            f"{row['attention_tflops']:.0f} / {row['dense_tflops']:.0f} TFLOP/s", error)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        report = json.load(file)
    for line in (HEAD, ("---",) * len(HEAD), *map(cells, report["rows"])):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
