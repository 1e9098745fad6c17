# SPDX-License-Identifier: Apache-2.0
"""docs/quality.md from the results files: tables between markers, and figures.

The text around the tables is written by hand; what stands between `<!-- NAME -->` and
`<!-- /NAME -->` is replaced.
"""
from __future__ import annotations

import json
import pathlib
import re

from . import figures
from .models import MODELS
from .study import BY_HEAD

PAGE = pathlib.Path("docs/quality.md")
ONE_DENSITY = "psa, one level, linear"


def write_page(results: pathlib.Path) -> None:
    """Every table and figure for which there are results."""
    found = {name: read(results / f"quality_{name}.json") for name in (*MODELS, "videos")}
    studies = {name: found[name] for name in MODELS if found[name]}
    text = PAGE.read_text(encoding="utf-8")
    for name, study in studies.items():
        text = replace(text, name, study_lines(study))
    if found["videos"]:
        text = replace(text, "videos", video_table(found["videos"]))
    text = replace(text, "aims", aims_table(found))
    PAGE.write_text(text, encoding="utf-8")
    figures.draw(studies, PAGE.parent)


def read(path: pathlib.Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def replace(text: str, name: str, lines: list[str]) -> str:
    """`text` with `lines` between the markers of `name`."""
    block = "\n".join([f"<!-- {name} -->", "", *lines, "", f"<!-- /{name} -->"])
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{PAGE} has no markers <!-- {name} --> and <!-- /{name} -->")
    return pattern.sub(lambda _: block, text)


def number(value: float, digits: int = 3) -> str:
    """Without the zero before the point: .074"""
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def study_lines(study: dict) -> list[str]:
    grid = "x".join(map(str, study["grid"])) if study["grid"] else "none"
    density = number(MODELS[study["model"]].aim_density, 2)
    machine = study["machine"]
    processor = machine.get("gpu", machine["cpu"])
    return [
        f"q {study['shape_q']}, k and v {study['shape_kv']}, grid {grid}. "
        f"{study['tuning_captures']} captures to tune on and {study['test_captures']} to test on, "
        f"{study['heads']} heads in all of the latter; {processor}, {machine['isa']}, "
        f"commit {study['commit']}.",
        "", *density_table(study),
        "", f"The same at {density}, with the settings that each method has "
        "chosen on the tuning captures:",
        "", *settings_table(study),
        "", f"What they were chosen from: mean error at {density} on "
        f"{study['search_captures']} tuning captures, blocks of 128x128, one level with a cutoff "
        "of 2 (the best of each method was then tried with 128x64, one level also with other "
        "cutoffs).",
        "", *search_table(study)]


def densities(study: dict) -> list[float]:
    return sorted({row["wanted"] for row in study["rows"]})


def density_table(study: dict) -> list[str]:
    """A row per method, a column per density: mean error, worst head, density that it is."""
    wanted = densities(study)
    lines = ["| method | " + " | ".join(f"at {number(d, 2)}" for d in wanted) + " |",
             "|---" * (len(wanted) + 1) + "|"]
    for name in dict.fromkeys(row["method"] for row in study["rows"]):
        cells = []
        for density in wanted:
            row = find(study, name, density)
            cells.append("-" if row is None else f"{number(row['error'])}, "
                         f"{number(row['worst'], 2)} ({number(row['density'])})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, "", "Mean error over all heads, error of the worst head, and in brackets the "
            "density on the test captures."]


def settings_table(study: dict) -> list[str]:
    lines = ["| method | what it reads | settings | density | selection | error | worst head |",
             "|---" * 7 + "|"]
    rows = [row for row in study["rows"] if row["wanted"] == MODELS[study["model"]].aim_density]
    for row in rows:
        lines.append(f"| {row['method']} | {row['note']} | {row['choice']} | "
                     f"{number(row['density'])} | {number(row['selection_cost'])} | "
                     f"{number(row['error'], 4)} | {number(row['worst'])} |")
    return lines


def search_table(study: dict) -> list[str]:
    """A row per order and estimator, a column per method."""
    errors: dict[tuple[str, str], dict[str, float]] = {}
    for row in study["searched"]:
        order, *parts = row["choice"].split(", ")
        if row["wanted"] == MODELS[study["model"]].aim_density and "128x128" in parts:
            cells = errors.setdefault((order, parts[0]), {})
            cells.setdefault(row["method"], row["error"])  # the first: others are of the best alone
    names = list(dict.fromkeys(name for cells in errors.values() for name in cells))
    lines = ["| order | estimator | " + " | ".join(names) + " |",
             "|---" * (len(names) + 2) + "|"]
    for (order, estimator), cells in errors.items():
        values = [number(cells[name]) if name in cells else "-" for name in names]
        lines.append(f"| {order} | {estimator} | " + " | ".join(values) + " |")
    return lines


def find(study: dict | None, method: str, density: float) -> dict | None:
    if study is None:
        return None
    rows = [row for row in study["rows"]
            if row["method"] == method and row["wanted"] == density]
    return rows[0] if rows else None


def psa_row(study: dict, density: float) -> dict:
    """What psa is judged by: budgets by head where they were tuned, else one density."""
    return find(study, BY_HEAD, density) or find(study, ONE_DENSITY, density)


def aims_table(found: dict) -> list[str]:
    lines = ["| aim | where | limit | measured | by | met |", "|---" * 6 + "|"]
    for name, study in found.items():
        if study is None:
            continue
        if name == "videos":
            lines += video_aims(study)
        elif MODELS[name].causal:
            lines += [ratio_aim(study, 0.25, "published understanding", 0.25, 0.6)]
            lines += [binary_aim(study, density) for density in densities(study)]
        else:
            lines += [ratio_aim(study, 0.15, "published quota", 0.15, 0.5),
                      ratio_aim(study, 0.10, "published quota", 0.15, 0.65)]
            lines += [binary_aim(study, density) for density in densities(study)]
    return lines


def ratio_aim(study: dict, density: float, other: str, other_density: float,
              limit: float) -> str:
    row, against = psa_row(study, density), find(study, other, other_density)
    ratio = row["error"] / against["error"]
    return (f"| mean error at {number(density, 2)} over that of {other} at "
            f"{number(other_density, 2)} | {study['model']} | at most {number(limit, 2)} | "
            f"{number(ratio, 2)} | {row['method']} | {met(ratio <= limit)} |")


def binary_aim(study: dict, density: float) -> str:
    """How much worse than binary top-k the worst head of psa is."""
    row = psa_row(study, density)
    binary = heads_of(find(study, "binary top-k", density))
    worse = [mine - theirs for mine, theirs in zip(heads_of(row), binary)]
    count = sum(excess > 0.005 for excess in worse)
    return (f"| worse than binary top-k at {number(density, 2)}, on any head | {study['model']} | "
            f"at most .005 | {max(worse):+.3f} ({count} of {len(worse)} heads above) | "
            f"{row['method']} | {met(count == 0)} |")


def heads_of(row: dict) -> list[float]:
    return [error for capture in row["errors"] for error in capture]


def met(is_met: bool) -> str:
    return "yes" if is_met else "**no**"


def video_table(videos: dict) -> list[str]:
    lines = ["| case | density | PSNR, mean | PSNR, worst | SSIM, mean |", "|---" * 5 + "|"]
    for row in videos["rows"]:
        lines.append(f"| {row['case']} | {number(row['density'])} | {mean(row['psnr_db']):.1f} | "
                     f"{min(row['psnr_db']):.1f} | {number(mean(row['ssim']))} |")
    return lines


def video_aims(videos: dict) -> list[str]:
    """Of videos made without a dense step."""
    psnr = {row["case"]: mean(row["psnr_db"]) for row in videos["rows"]}
    published = {end: max(value for case, value in psnr.items()
                          if case.startswith("published") and case.endswith(".25") == end)
                 for end in (False, True)}
    at_15, at_10 = psnr[BY_HEAD], psnr[BY_HEAD + ", .10"]
    where = "videos of " + videos["model"]

    def line(aim: str, limit: str, value: float, is_met: bool) -> str:
        return f"| {aim} | {where} | {limit} | {value:.1f} dB | {BY_HEAD} | {met(is_met)} |"

    return [
        line("PSNR at .15", "35 dB or more", at_15, at_15 >= 35),
        line("PSNR at .15 over the published quota's at .15", "4 dB or more",
             at_15 - published[False], at_15 - published[False] >= 4),
        line("PSNR at .10 over the published quota's at .25", "0 dB or more",
             at_10 - published[True], at_10 >= published[True])]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
