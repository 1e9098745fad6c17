# SPDX-License-Identifier: Apache-2.0
"""Measures how well psa and other sparse attention of the same density keep attention's output.

  python3 -m bench.quality           # all parts, then docs/quality.md
  python3 -m bench.quality shapes    # one part
  python3 -m bench.quality --report  # docs/quality.md from the results that are there
  python3 -m bench.quality --quick   # a smoke test on made-up captures

Run it from the root of the checkout with PYTHONPATH=python, as scripts/quality does; with
--backend cuda PSA_LIBRARY and --psa name a build with CUDA. Captures and what was measured are kept
in build/quality: a run that was stopped goes on where it was.
"""
import argparse
import json
import pathlib
import re
import sys

from . import captures, measure, provenance, report, videos
from .models import MODELS
from .study import Effort, Study

FOLDER = pathlib.Path("build/quality")
RESULTS = pathlib.Path("bench/results")


def run_model(name: str, psa: str, backend: str) -> None:
    model = MODELS[name]
    folder = FOLDER / name
    captures.make(model, folder, psa, backend)
    if not model.runs and not captures.find(folder, captures.TEST):
        print(f"quality: {name} is left out: {folder} has no captures; {model.made_by}",
              file=sys.stderr)
        return
    result = Study(model, folder, Effort(), backend).run(psa)
    write(RESULTS / f"quality_{name}.json", {**provenance.facts(psa, backend), **result})


def run_videos(psa: str, backend: str) -> None:
    rows = videos.run(psa, FOLDER / "videos", backend)
    write(RESULTS / "quality_videos.json",
          {**provenance.facts(psa, backend), "model": videos.MODEL, "prompts": videos.PROMPTS,
           "rows": rows})


def run_quick(folder: pathlib.Path) -> None:
    """All methods on two tiny captures: everything but models, `psa tune` and figures."""
    captures.make_synthetic(folder)
    model = captures.Model("quick", "made-up captures")
    effort = Effort(densities=(0.15, 0.25), search=1, calibration=1)
    result = Study(model, folder, effort).run(None)
    write(folder / "quality_quick.json", result)
    print("\n".join(report.density_table(result)))


def write(path: pathlib.Path, result: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=None, separators=(",", ":"))
    # A line for each row, so that changes can be read.
    text = re.sub(r'\{"(method|case)"', r'\n {"\1"', text)
    path.write_text(text + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parts = (*MODELS, "videos")
    parser = argparse.ArgumentParser(prog="bench.quality", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; left out: all")
    add("--psa", default="build/release/bin/psa", help="the psa program; default: %(default)s")
    add("--backend", default="cpu", choices=measure.BACKENDS,
        help="where: cpu (default), or cuda, the first GPU: needs torch and a psa built with CUDA")
    add("--report", action="store_true", help="only write docs/quality.md from the results")
    add("--quick", action="store_true", help="only a smoke test on made-up captures")
    args = parser.parse_args(arguments)
    unknown = [part for part in args.parts if part not in parts]
    if unknown:
        parser.error(f"PART is {unknown[0]!r}; allowed: {', '.join(parts)}")
    if args.quick:
        return run_quick(FOLDER / "quick")
    for part in () if args.report else args.parts or parts:
        if part == "videos":
            run_videos(args.psa, args.backend)
        else:
            run_model(part, args.psa, args.backend)
    report.write_page(RESULTS)


if __name__ == "__main__":
    sys.exit(main())
