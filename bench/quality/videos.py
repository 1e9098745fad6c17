# SPDX-License-Identifier: Apache-2.0
"""How close generated videos come to those of dense attention from the same noise.

Each case is a way to run the bundled model; each of its videos is made once and kept in the lab's
folder.
"""
from __future__ import annotations

import json
import math
import pathlib
import statistics
import subprocess
import sys

import numpy as np

from .captures import read_tensor

MODEL = "models/shapes"
# (seed, prompt); nothing was tuned on them, and the demo shows neither.
PROMPTS = (
    (11, "a large yellow circle moves right on a navy background"),
    (12, "a small green triangle moves down on a gray background"),
)
AS_PUBLISHED = ("--weigh-values=false", "--budget-scope", "row", "--rest", "skip")
PUBLISHED = (*AS_PUBLISHED, "--levels", "4", "--importance", "sampled_max", "--budget")
PUBLISHED_15 = (*PUBLISHED, ".10,.15,.15,.35")
PUBLISHED_25 = (*PUBLISHED, ".1667,.25,.25,.5833")
FOUR_LEVELS = ("--levels", "4", "--rest", "mean", "--density", ".15")
# With a mean per unread block: density .15.
ONE_LEVEL = ("--levels", "1", "--rest", "linear", "--budget", ".1434")
NO_DENSE_STEPS = ("--warmup-steps", "0", "--dense-layers", "none")


def _case(order: str, *more: str) -> list[str]:
    return ["--preset", "balanced", "--order", order, *NO_DENSE_STEPS, *more]


def _by_head(percent: int) -> list[str]:
    return ["--config", f"{MODEL}/tuned_{percent}.yaml", *NO_DENSE_STEPS]


DENSE = "dense"
CASES = {
    DENSE: _case("none", "--rule", "dense"),
    "published quota, no order": _case("none", *PUBLISHED_15),
    "published quota, Gilbert": _case("gilbert", *PUBLISHED_15),
    "published quota, no order, .25": _case("none", *PUBLISHED_25),
    "published quota, Gilbert, .25": _case("gilbert", *PUBLISHED_25),
    "binary top-k, no order": _case("none", *AS_PUBLISHED, "--levels", "1", "--budget", ".15"),
    "psa, four levels": _case("gilbert", *FOUR_LEVELS),
    "psa, one level, linear": _case("gilbert", *ONE_LEVEL),
    "psa, one level, linear, budget by row": _case("gilbert", *ONE_LEVEL, "--budget-scope", "row"),
    "psa, by head": _by_head(15),
    "psa, by head, .10": _by_head(10),
}


def run(psa: str, folder: pathlib.Path, backend: str) -> list[dict]:
    """A row for each case: density, PSNR and SSIM of each prompt's video."""

    def make(case: str) -> list[tuple[float, pathlib.Path]]:
        return [_make(psa, folder, backend, case, prompt) for prompt in PROMPTS]

    references = [pixels(path) for _, path in make(DENSE)]
    rows = []
    for case in CASES:
        if case == DENSE:
            continue
        videos = make(case)
        made = [pixels(path) for _, path in videos]
        rows.append({
            "case": case, "flags": CASES[case],
            "density": round(statistics.fmean(density for density, _ in videos), 4),
            "psnr_db": [round(psnr_db(a, b), 3) for a, b in zip(references, made)],
            "ssim": [round(ssim(a, b), 4) for a, b in zip(references, made)]})
    return rows


def _make(psa: str, folder: pathlib.Path, backend: str, case: str,
          prompt: tuple[int, str]) -> tuple[float, pathlib.Path]:
    """Density and latents of one video."""
    seed, text = prompt
    name = "".join(c if c.isalnum() else "_" for c in case)
    path = folder / f"{backend}_{name}_{seed}.safetensors"
    facts = path.with_suffix(".json")
    if not facts.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"quality: video {seed}, {case}", file=sys.stderr, flush=True)
        command = [psa, "generate", "--backend", backend, "--model", MODEL, "--prompt", text,
                   "--seed", str(seed), *CASES[case], "--json", "-o", str(path)]
        made = subprocess.run(command, capture_output=True, text=True, check=True)
        facts.write_text(made.stdout, encoding="utf-8")
    return json.loads(facts.read_text(encoding="utf-8"))["psa"]["density"], path


def pixels(path: pathlib.Path) -> np.ndarray:
    """[3, frames, height, width], 0..255, of latents that are pixels -1..1."""
    latents = read_tensor(path, "latents").astype(np.float64)
    return np.floor((np.clip(latents, -1, 1) + 1) * 127.5 + 0.5)


def psnr_db(reference: np.ndarray, video: np.ndarray) -> float:
    error = float(np.mean((reference - video) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(reference: np.ndarray, video: np.ndarray) -> float:
    """Mean over frames of the structural similarity of luma, as psa generate prints it: Wang et
    al. 2004, Gaussian windows of 11 pixels that lie inside the picture."""
    weights = np.exp(-((np.arange(11) - 5) / 1.5) ** 2 / 2)
    weights /= weights.sum()

    def blurred(plane: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            plane = np.lib.stride_tricks.sliding_window_view(plane, 11, axis) @ weights
        return plane

    a, b = (np.tensordot([0.299, 0.587, 0.114], x, 1) for x in (reference, video))
    mean_a, mean_b = blurred(a), blurred(b)
    variances = blurred(a * a) - mean_a**2 + blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * mean_a * mean_b + c1) * (2 * covariance + c2)
                         / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))))
