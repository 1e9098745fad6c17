# SPDX-License-Identifier: Apache-2.0
"""Errors of trials on captures, measured once: what was measured is kept in the lab's folder.

The error of a head is the relative L2 distance of its output from that of psa's own dense attention
over the same tensors: |out - dense| / |dense|, norms over tokens and channels.
"""
from __future__ import annotations

import hashlib
import json
import pathlib
import statistics
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import psa
from psa import _ffi
from psa._arrays import arrays_of

from .captures import Capture
from .methods import Choice, Trial, window_levels

_HALVINGS = 14  # of a knob
# Shares of the wanted density that a calibration may be off: of what depends on the data, which is
# off by more on other captures, and of what does not.
_NEAR = {True: 5e-3, False: 3e-4}


@dataclass(frozen=True)
class Measurement:
    density: float
    """Computed columns over all visible ones (S-21)."""
    selection_cost: float
    """In the same unit (S-21); it is not inside the density."""
    errors: tuple[float, ...]
    """Of each query head."""


def library_hash() -> str:
    """Of the libpsa.so that computes: another library measures again."""
    content = pathlib.Path(_ffi.library()._name).read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


class Host:
    """Arrays of NumPy, which psa's CPU backend computes on."""

    name = "cpu"

    def place(self, array: np.ndarray) -> Any:
        return array

    def fetch(self, array: Any) -> np.ndarray:
        return array


class Cuda(Host):
    """Tensors of torch on the first GPU, which psa's CUDA backend computes on."""

    name = "cuda"

    def __init__(self) -> None:
        import torch  # not needed without a GPU

        self._torch = torch

    def place(self, array: np.ndarray) -> Any:
        if array.dtype != ml_dtypes.bfloat16:
            return self._torch.from_numpy(array).cuda()
        return self._torch.from_numpy(array.view(np.int16)).view(self._torch.bfloat16).cuda()

    def fetch(self, array: Any) -> np.ndarray:
        if array.dtype != self._torch.bfloat16:
            return array.cpu().numpy()
        return array.cpu().view(self._torch.int16).numpy().view(ml_dtypes.bfloat16)


BACKENDS = {kind.name: kind for kind in (Host, Cuda)}


class Lab:
    """Measures trials on captures of one model, with what it has measured in `folder`."""

    def __init__(self, folder: pathlib.Path, is_causal: bool, backend: str = Host.name) -> None:
        self._folder = folder / f"measured_{backend}_{library_hash()}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._is_causal = is_causal
        self._backend: Host = BACKENDS[backend]()
        self._loaded: dict[pathlib.Path, list[Any]] = {}
        self._known: dict[pathlib.Path, dict[str, Measurement]] = {}
        self._densities: dict[tuple[pathlib.Path, str], float] = {}

    def measure(self, capture: Capture, trials: list[Trial]) -> list[Measurement]:
        """Of each trial on one capture."""
        known = self._measured(capture)
        missing = {trial.key(): trial for trial in trials if trial.key() not in known}
        if missing:
            qkv = self._tensors(capture)
            dense = self._dense(capture, qkv)
            with open(self._path(capture, ".jsonl"), "a", encoding="utf-8") as log:
                for key, trial in missing.items():
                    known[key] = self._run(capture, qkv, dense, trial)
                    print(json.dumps([key, vars(known[key])]), file=log, flush=True)
        return [known[trial.key()] for trial in trials]

    def calibrate(self, choice: Choice, captures: list[Capture], density: float,
                  from_below: bool) -> Trial:
        """The trial of `choice` whose mean density over `captures` is `density`, or as near as
        blocks allow: from below, or from above."""
        if choice.most is None:
            return choice.at(0)
        low, high = 0.0, choice.most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            trial = choice.at(middle)
            found = self._mean_density(trial, captures)
            if abs(found - density) < _NEAR[trial.needs_data()] * density:
                return trial
            low, high = (middle, high) if found < density else (low, middle)
        return choice.at(low if from_below else high)

    def release(self) -> None:
        """Forgets the tensors in memory."""
        self._loaded.clear()

    def _mean_density(self, trial: Trial, captures: list[Capture]) -> float:
        if not trial.needs_data():
            captures = captures[:1]
        return statistics.fmean(self._density(trial, capture) for capture in captures)

    def _density(self, trial: Trial, capture: Capture) -> float:
        place = capture.path, trial.key()
        if place not in self._densities:
            q, k, v = self._tensors(capture)
            if trial.needs_data():
                plan = self._plan(capture, trial.config)
                levels = plan.select_levels(q, k, v)
            else:  # any importance will do, and this one costs nothing
                config = psa.Config.from_mapping(
                    {"importance": "user_scores", "weigh_values": False}, trial.config)
                plan = self._plan(capture, config)
                scores = self._backend.place(
                    np.ones((*capture.shape_q[:2], *plan.blocks), np.float32))
                levels = plan.select_levels(q, k, scores=scores)
            self._densities[place] = plan.density(levels)
        return self._densities[place]

    def _run(
        self, capture: Capture, qkv: list[Any], dense: np.ndarray, trial: Trial
    ) -> Measurement:
        plan = self._plan(capture, trial.config)
        levels = None
        if trial.window:
            one = window_levels(capture.grid, trial.config.tile, trial.window)
            levels = self._backend.place(np.ascontiguousarray(
                np.broadcast_to(one, (*capture.shape_q[:2], *one.shape))))
        result = arrays_of("q", qkv[0]).empty_like(qkv[0])
        stats = plan.measure(*qkv, levels=levels, out=result)
        out = self._backend.fetch(result)
        difference = out.astype(np.float32) - dense
        errors = (np.linalg.norm(difference.reshape(*out.shape[:2], -1), axis=-1)
                  / np.linalg.norm(dense.reshape(*out.shape[:2], -1), axis=-1))
        return Measurement(round(stats.density, 5), round(stats.selection_cost, 5),
                           tuple(round(float(error), 5) for error in errors[0]))

    def _dense(self, capture: Capture, qkv: list[Any]) -> np.ndarray:
        """Output of dense attention [1,Hq,L,D], in float32."""
        path = self._path(capture, "_dense.npy")
        if not path.exists():
            config = psa.Config(rule="dense", causal=self._is_causal)
            out = self._backend.fetch(self._plan(capture, config).forward(*qkv))
            np.save(path, out.view(np.uint8))  # NumPy's files have no bf16
        return np.load(path).view(capture.numpy_dtype).astype(np.float32)

    def _plan(self, capture: Capture, config: psa.Config) -> psa.Plan:
        return psa.Plan(capture.shape_q, capture.shape_kv, config, dtype=capture.dtype,
                        device=self._backend.name, grid=capture.grid,
                        text_tokens=capture.text_tokens)

    def _tensors(self, capture: Capture) -> list[Any]:
        if capture.path not in self._loaded:
            self._loaded[capture.path] = [self._backend.place(t) for t in capture.tensors()]
        return self._loaded[capture.path]

    def _path(self, capture: Capture, end: str) -> pathlib.Path:
        return self._folder / f"{capture.path.parent.name}_{capture.path.stem}{end}"

    def _measured(self, capture: Capture) -> dict[str, Measurement]:
        if capture.path not in self._known:
            path = self._path(capture, ".jsonl")
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            self._known[capture.path] = {
                key: Measurement(**values) for key, values in map(json.loads, lines)}
        return self._known[capture.path]
