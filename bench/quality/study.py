# SPDX-License-Identifier: Apache-2.0
"""What is done with a model's captures: settings chosen on tuning captures, errors on test ones."""
from __future__ import annotations

import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psa

from . import captures, methods
from .captures import TEST, TUNING, Model
from .measure import Lab, Measurement
from .methods import Choice, Method, Trial

BY_HEAD = "psa, by head"
BY_HEAD_NOTE = "one level, linear; a density for each head from `psa tune` on the tuning captures"


@dataclass(frozen=True)
class Effort:
    """How many captures each part takes."""

    densities: tuple[float, ...] = (0.05, 0.10, 0.15, 0.25)
    search: int = 4
    """Tuning captures on which settings are chosen."""
    calibration: int = 12
    """Tuning captures over which the mean density is met."""


class Study:
    """All methods on the captures of one model."""

    def __init__(self, model: Model, folder: pathlib.Path, effort: Effort,
                 backend: str = "cpu") -> None:
        self.model = model
        self.effort = effort
        self.tuning = captures.find(folder, TUNING)
        self.test = captures.find(folder, TEST)
        if not self.tuning or not self.test:
            raise FileNotFoundError(f"{folder} has no captures in {TUNING} or in {TEST}")
        both = {c.prompt for c in self.tuning} & {c.prompt for c in self.test}
        if both:
            raise ValueError(f"the prompt {both.pop()!r} is in {TUNING} and in {TEST}")
        self._folder = folder
        self._backend = backend
        self._lab = Lab(folder, model.causal, backend)
        self._methods = methods.CAUSAL if model.causal else methods.BIDIRECTIONAL

    def run(self, psa_program: str | None) -> dict:
        """Everything measured, as it goes into the results file."""
        chosen: list[tuple[Method, float, str, list[Trial]]] = []
        searched: list[dict] = []
        for density in self.effort.densities:
            for method in self._methods:
                self._say(f"{method.name} at {density:g}")
                rows = self._search(method, density)
                if not rows:
                    continue
                searched += [{**row, "method": method.name, "wanted": density,
                              "choice": row["choice"].text} for row in rows if len(rows) > 1]
                best = min(rows, key=lambda row: row["error"])["choice"]
                trial = self._calibrated(method, best, density, self.effort.calibration)
                chosen.append((method, density, best.text, [trial] * len(self.test)))
            if psa_program:
                chosen.append(self._by_head(psa_program, density, searched))
        self._lab.release()
        measured = self._test([trials for *_, trials in chosen])
        rows = [self._row(method, density, text, found)
                for (method, density, text, _), found in zip(chosen, measured)]
        return {"model": self.model.name, "title": self.model.title,
                "heads": len(self.test) * self.test[0].shape_q[1],
                "shape_q": self.test[0].shape_q, "shape_kv": self.test[0].shape_kv,
                "grid": self.test[0].grid, "text_tokens": self.test[0].text_tokens,
                "tuning_captures": len(self.tuning), "test_captures": len(self.test),
                "search_captures": min(self.effort.search, len(self.tuning)),
                "tuning_prompts": sorted({c.prompt for c in self.tuning}),
                "test_prompts": sorted({c.prompt for c in self.test}),
                "rows": rows, "searched": searched}

    def _search(self, method: Method, density: float) -> list[dict]:
        """The error of each choice on some tuning captures: first of all, then of those which
        differ from the best one in their blocks and cutoffs alone."""
        choices = list(method.choices(density, self.tuning[0].grid))
        if len(choices) <= 1 and not any(choice.others for choice in choices):
            return [{"choice": choice, "error": 0.0} for choice in choices]
        rows = self._judge(method, choices, density)
        best = min(rows, key=lambda row: row["error"])["choice"]
        return rows + self._judge(method, best.others, density)

    def _judge(self, method: Method, choices: Sequence[Choice], density: float) -> list[dict]:
        some = captures.spread(self.tuning, self.effort.search)
        trials = [self._calibrated(method, choice, density, self.effort.search)
                  for choice in choices]
        found = list(zip(*(self._lab.measure(capture, trials) for capture in some)))
        return [{"choice": choice, "density": round(_mean(m.density for m in each), 5),
                 "error": round(_mean(error for m in each for error in m.errors), 5)}
                for choice, each in zip(choices, found)]

    def _calibrated(self, method: Method, choice: Choice, density: float, count: int) -> Trial:
        some = captures.spread(self.tuning, count)
        # Where blocks do not allow the density itself, psa reads less than it and others more.
        trial = self._lab.calibrate(choice, some, density, from_below=method.is_psa)
        if not method.pays_selection:
            return trial
        cost = self._lab.measure(some[0], [trial])[0].selection_cost
        return self._lab.calibrate(choice, some, density - cost, from_below=True)

    def _by_head(self, psa_program: str, density: float,
                 searched: list[dict]) -> tuple[Method, float, str, list[Trial]]:
        """Densities of `psa tune`, with the settings that were best for one density."""
        linear = [row for row in searched
                  if row["method"] == "psa, one level, linear" and row["wanted"] == density]
        best = min(linear, key=lambda row: row["error"])["choice"]
        order, estimator, block, *_ = best.split(", ")
        path = self._folder / f"by_head_{density * 100:02.0f}.yaml"
        if not path.exists():
            files = [str(c.path) for c in self.tuning]
            causal = ["--causal", "--sink", "1"] if self.model.causal else []
            subprocess.run([psa_program, "tune", "--qkv", *files, "--backend", self._backend,
                            "--target", f"density={density:g}", "--order", order, "--importance",
                            estimator, "--block", block, "--levels", "1", "--rest", "linear",
                            *causal, "-o", str(path)], check=True, stdout=sys.stderr)
        layers = psa.preset_from_yaml(path).layers
        trials = [Trial(layers[c.layer]) for c in self.test]
        method = Method(BY_HEAD, BY_HEAD_NOTE, lambda *_: iter(()), is_psa=True)
        text = methods.settings_text(order, estimator, block, trials[0].config.rest_cutoff)
        return method, density, text, trials

    def _test(self, trials: list[list[Trial]]) -> list[list[Measurement]]:
        """Of each row of trials, on all test captures."""
        columns = []
        for index, capture in enumerate(self.test):
            self._say(f"test capture {index + 1} of {len(self.test)}")
            columns.append(self._lab.measure(capture, [row[index] for row in trials]))
            self._lab.release()
        return [list(row) for row in zip(*columns)]

    def _row(self, method: Method, density: float, text: str,
             found: list[Measurement]) -> dict:
        return {"method": method.name, "note": method.note, "is_psa": method.is_psa,
                "wanted": density, "choice": text,
                "density": round(_mean(m.density for m in found), 5),
                "selection_cost": round(_mean(m.selection_cost for m in found), 5),
                "error": round(_mean(e for m in found for e in m.errors), 5),
                "worst": max(e for m in found for e in m.errors),
                "errors": [m.errors for m in found]}

    def _say(self, what: str) -> None:
        print(f"quality: {self.model.name}: {what}", file=sys.stderr, flush=True)


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
