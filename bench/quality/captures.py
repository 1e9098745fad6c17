# SPDX-License-Identifier: Apache-2.0
"""The captured q, k and v that methods are judged on: made by fixed prompts and seeds, and read.

A model has two sets. What a method can choose is chosen on "tuning"; what is reported comes from
"test", which is of other prompts and other noise.
"""
from __future__ import annotations

import json
import math
import pathlib
import subprocess
from dataclasses import dataclass

import ml_dtypes
import numpy as np

TUNING, TEST = "tuning", "test"
SPLITS = (TUNING, TEST)
_DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


@dataclass(frozen=True)
class Run:
    """One dense sampling run that is captured."""

    split: str
    seed: int
    prompt: str


@dataclass(frozen=True)
class Model:
    """What is captured of a model. The files are FOLDER/SPLIT/*_layerL_stepS.safetensors."""

    name: str
    title: str
    weights: str = ""
    """Folder for `psa generate`; empty: `made_by` writes the captures."""
    made_by: str = ""
    layers: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    runs: tuple[Run, ...] = ()
    causal: bool = False

    @property
    def aim_density(self) -> float:
        """The density that is looked at closely."""
        return 0.25 if self.causal else 0.15


@dataclass(frozen=True)
class Capture:
    """q [1,Hq,L,D], k and v [1,Hkv,L,D] of one layer in one step, in a file."""

    path: pathlib.Path
    layer: int
    step: int
    prompt: str
    grid: tuple[int, int, int] | None
    text_tokens: int
    dtype: str
    """"bf16", "f16" or "f32"."""
    shape_q: tuple[int, ...]
    shape_kv: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype:
        return np.dtype(_DTYPES[self.dtype.upper()])

    def tensors(self) -> list[np.ndarray]:
        """q, k and v."""
        return [read_tensor(self.path, name) for name in "qkv"]


def read_tensor(path: pathlib.Path, name: str) -> np.ndarray:
    """A tensor of a safetensors file."""
    header, start = _header(path)
    entry = header[name]
    begin, end = entry["data_offsets"]
    data = np.fromfile(path, np.uint8, end - begin, offset=start + begin)
    return data.view(np.dtype(_DTYPES[entry["dtype"]])).reshape(entry["shape"])


def _header(path: pathlib.Path) -> tuple[dict, int]:
    """The JSON header of a safetensors file, and where its data begin."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)), 8 + size


def read_capture(path: pathlib.Path) -> Capture:
    header, _ = _header(path)
    facts = header.get("__metadata__", {})
    grid = tuple(int(n) for n in facts["grid"].split(",")) if "grid" in facts else None
    return Capture(path=path, layer=int(facts["layer"]), step=int(facts["step"]),
                   prompt=facts["prompt"], grid=grid, text_tokens=int(facts.get("text", 0)),
                   dtype=header["q"]["dtype"].lower(), shape_q=tuple(header["q"]["shape"]),
                   shape_kv=tuple(header["k"]["shape"]))


def find(folder: pathlib.Path, split: str) -> list[Capture]:
    """The captures of a set by layer, step and prompt."""
    paths = (folder / split).glob("*_layer*_step*.safetensors")
    return sorted((read_capture(path) for path in paths),
                  key=lambda c: (c.layer, c.step, c.prompt))


def spread(captures: list[Capture], count: int) -> list[Capture]:
    """`count` of them that lie all over the list: by the fractions of multiples of the golden
    ratio, as psa tune takes its own."""
    golden = (math.sqrt(5) - 1) / 2
    places = sorted(range(len(captures)), key=lambda i: i * golden % 1)
    return [captures[i] for i in places[:count]]


def make(model: Model, folder: pathlib.Path, psa: str, backend: str) -> None:
    """Writes those captures of a model that are not there yet."""
    for run in model.runs:
        out = folder / run.split / f"seed{run.seed}.safetensors"
        if out.exists():  # written last
            continue
        out.parent.mkdir(parents=True, exist_ok=True)
        where = ",".join(["layers=" + ",".join(map(str, model.layers)),
                          "steps=" + ",".join(map(str, model.steps))])
        subprocess.run([psa, "generate", "--backend", backend, "--model", model.weights,
                        "--prompt", run.prompt, "--seed", str(run.seed), "--preset", "balanced",
                        "--rule", "dense", "--warmup-steps", "0", "--dense-layers", "none",
                        "--capture", where, "-o", str(out)], check=True)


def make_synthetic(folder: pathlib.Path) -> None:
    """Two tiny captures for smoke tests: tokens of a video attend to those near them."""
    grid, heads, channels = (4, 16, 16), 2, 32
    place = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    for seed, split in enumerate(SPLITS):
        random = np.random.default_rng(seed)
        waves = random.normal(size=(heads, 3, channels // 2)) * 0.35
        angles = np.einsum("ta,hac->htc", place, waves)
        near = np.concatenate([np.cos(angles), np.sin(angles)], -1) * 2
        noise = random.normal(size=(3, heads, len(place), channels)) * 0.3
        arrays = [(near + part)[None].astype(np.float32) for part in noise]
        _write(folder / split / "synthetic_layer0_step0.safetensors", arrays,
               {"grid": ",".join(map(str, grid)), "layer": "0", "step": "0", "prompt": split})


def _write(path: pathlib.Path, arrays: list[np.ndarray], metadata: dict[str, str]) -> None:
    header: dict = {"__metadata__": metadata}
    begin = 0
    for name, array in zip("qkv", arrays):
        header[name] = {"dtype": "F32", "shape": array.shape,
                        "data_offsets": [begin, begin + array.nbytes]}
        begin += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            file.write(array.tobytes())
