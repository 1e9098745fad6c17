# SPDX-License-Identifier: Apache-2.0
"""Writes the results of full_size.py as tables into a page, between its two marks.

python bench/python/full_size_table.py bench/results/full_size_*.json --page docs/bench/full_size.md
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Iterable
from typing import Any

BEGIN, END = "<!-- full_size_table.py writes from here -->", "<!-- to here -->"
COLUMNS = (
    "case",
    "tokens",
    "attention",
    "density",
    "call, ms",
    "its attention, ms",
    "peak memory, GiB",
    "rel L2 error",
)


def table(reports: Iterable[dict[str, Any]]) -> str:
    """A row for each variant of each case; below it whatever was refused."""
    reports = sorted(
        reports, key=lambda report: (report["model"], report["tokens"] * report["heads"])
    )
    lines = [_row(COLUMNS), "|---" * len(COLUMNS) + "|"]
    notes = []
    for report in reports:
        dense = report["variants"][0]
        lines += [_row(_cells(report, row, dense)) for row in report["variants"]]
        notes += [
            f"{_label(report)}, {failed['variant']}: refused, {failed['error']}"
            for failed in report["failed"]
        ]
    return "\n".join([*lines, "", _origin(reports), *(f"\n{note}" for note in notes)])


def _cells(report: dict[str, Any], row: dict[str, Any], dense: dict[str, Any]) -> list[str]:
    is_dense = row is dense
    name = f"dense, {_BACKENDS[report['dense_backend']]}" if is_dense else row["variant"]

    def time(key: str) -> str:
        times = f"{row[key]:.1f}"
        return times if is_dense else f"{times} ({dense[key] / row[key]:.2f}x)"

    return [
        _label(report) if is_dense else "",
        str(report["tokens"]) if is_dense else "",
        name,
        f"{row['density']:.3f}",
        time("step_ms"),
        time("attention_ms"),
        f"{row['peak_bytes'] / 2**30:.1f}",
        "" if is_dense else f"{row['relative_l2']:.4f}",
    ]


_BACKENDS = {"CUDNN_ATTENTION": "cuDNN", "FLASH_ATTENTION": "PyTorch flash", "MATH": "PyTorch math"}


def _label(report: dict[str, Any]) -> str:
    part = report["layers"], report["layers_of_the_model"]
    return (
        report["case"] if part[0] == part[1] else f"{report['case']}, {part[0]} of {part[1]} layers"
    )


def _origin(reports: list[dict[str, Any]]) -> str:
    def of(*keys: str) -> str:
        found = []
        for report in reports:
            value: Any = report
            for key in keys:
                value = value[key]
            found.append(str(value))
        return ", ".join(dict.fromkeys(found))

    versions = ", ".join(f"{name} {of('versions', name)}" for name in reports[0]["versions"])
    return (
        f"{of('device')}, {of('dtype')}, weights: {of('weights')}; {versions}; psa at commit "
        f"{of('commit')}; medians of {of('repeats')} calls in turns."
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write(page: pathlib.Path, text: str) -> None:
    """Puts text between the marks of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=pathlib.Path, help="files of full_size.py")
    parser.add_argument("--page", type=pathlib.Path, required=True)
    args = parser.parse_args()
    write(args.page, table(json.loads(path.read_text(encoding="utf-8")) for path in args.results))


if __name__ == "__main__":
    main()
