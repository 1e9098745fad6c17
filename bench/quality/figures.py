# SPDX-License-Identifier: Apache-2.0
"""The figures of docs/quality.md, as SVG. Equal results give equal files."""
from __future__ import annotations

import io
import pathlib

from .models import MODELS

# Method: its name in a figure, colour, dashes. Others are in the tables only.
SHOWN = {
    "binary top-k": ("binary, top-k", "#9aa0a6", "--"),
    "binary mass": ("binary, mass", "#9aa0a6", ":"),
    "3-D window": ("3-D window", "#c9b27c", "-."),
    "binary + block mean": ("binary + block mean", "#5f6b7a", "-"),
    "published quota": ("published quota", "#d1495b", "-"),
    "published threshold": ("published threshold", "#d1495b", ":"),
    "published understanding": ("published understanding", "#d1495b", "-"),
    "psa, four levels": ("psa, four levels", "#7fb3d5", "-"),
    "psa, one level, linear": ("psa, one level, linear", "#1f6fb4", "-"),
    "psa, by head": ("psa, by head", "#0b3d66", "-"),
}


def draw(studies: dict[str, dict], folder: pathlib.Path) -> None:
    """quality.svg: mean error against density; quality_heads.svg: errors of all heads."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "psa", "svg.fonttype": "none", "font.size": 9,
                                "font.family": "sans-serif", "axes.spines.top": False,
                                "axes.spines.right": False})
    for name, title, panel in (("quality", "mean relative L2 error over heads", _errors),
                               ("quality_heads", "relative L2 error of each head", _heads)):
        _figure(studies, title, panel, folder / f"{name}.svg")


def _figure(studies: dict[str, dict], title: str, panel, path: pathlib.Path) -> None:
    from matplotlib import pyplot, ticker
    figure, axes = pyplot.subplots(1, len(studies), squeeze=False, sharey=True,
                                   figsize=(1.6 + 3.4 * len(studies), 3.4))
    lines: dict = {}
    for place, study in zip(axes[0], studies.values()):
        place.set_title(study["title"], fontsize=9)
        place.set_yscale("log")
        place.yaxis.set_major_locator(ticker.LogLocator(10, (1, 2, 5)))
        place.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        place.yaxis.set_minor_formatter(ticker.NullFormatter())
        place.grid(True, which="major", color="#e6e6e6", linewidth=0.6)
        panel(place, study)
        lines |= {line.get_label(): line for line in place.get_lines()}
    axes[0][0].set_ylabel(title)
    figure.legend(lines.values(), lines.keys(), loc="center right", frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1 - 1.7 / figure.get_size_inches()[0], 1))
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)
    lines = content.getvalue().splitlines()
    path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


def _rows(study: dict):
    for method, style in SHOWN.items():
        rows = sorted((row for row in study["rows"] if row["method"] == method),
                      key=lambda row: row["wanted"])
        if rows:
            yield rows, style


def _errors(place, study: dict) -> None:
    for rows, (label, colour, dashes) in _rows(study):
        place.plot([row["density"] for row in rows], [row["error"] for row in rows], dashes,
                   color=colour, label=label, marker="o", markersize=3, linewidth=1.4)
    place.set_xlabel("density")
    place.set_xticks((0.05, 0.1, 0.15, 0.25))
    place.set_xlim(0.03, 0.27)


def _heads(place, study: dict) -> None:
    """Each method's errors in rising order."""
    density = MODELS[study["model"]].aim_density
    for rows, (label, colour, dashes) in _rows(study):
        at = [row for row in rows if row["wanted"] == density]
        if at:
            errors = sorted(error for capture in at[0]["errors"] for error in capture)
            place.plot(range(1, len(errors) + 1), errors, dashes, color=colour, label=label,
                       linewidth=1.4)
    place.set_xlabel(f"heads by their error, density {density:g}")
