# SPDX-License-Identifier: Apache-2.0
"""The scripts of examples/python run as their README shows."""

import runpy
import sys

import pytest
from conftest import ROOT

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

FOLDER = ROOT / "examples" / "python"
SCRIPTS = ["wan", "wan22", "cogvideox", "hunyuan_video", "ltx_video", "qwen_vl"]


def test_every_script_is_listed():
    helpers = {"compare", "shapes", "tiny_models"}  # shapes: test_diffusers_shapes.py
    assert {path.stem for path in FOLDER.glob("*.py")} == helpers | set(SCRIPTS)
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.py)" in readme for name in helpers | set(SCRIPTS))


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_with_random_weights(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--random-weights"])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert "psa" in capsys.readouterr().out
