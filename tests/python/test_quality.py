# SPDX-License-Identifier: Apache-2.0
"""The quality lab (bench/quality) on captures of a second's work."""

import json
import math
import pathlib

import numpy as np
import psa
import pytest

from bench.quality import captures, measure, methods, report, study, videos
from bench.quality.__main__ import run_quick

MODEL = captures.Model("quick", "made-up captures")
EFFORT = study.Effort(densities=(0.25,), search=1, calibration=1)


@pytest.fixture
def folder(tmp_path):
    captures.make_synthetic(tmp_path)
    return tmp_path


def test_quick_run_reports_every_method(tmp_path, capsys):
    run_quick(tmp_path)
    result = json.loads((tmp_path / "quality_quick.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in result["rows"]} == {m.name for m in methods.BIDIRECTIONAL}
    assert all(0 < row["error"] <= row["worst"] < 1 for row in result["rows"])
    assert "| binary top-k |" in capsys.readouterr().out


def test_psa_meets_a_density_from_below_and_others_from_above(folder):
    for row in study.Study(MODEL, folder, EFFORT).run(None)["rows"]:
        if row["method"] in ("psa, four levels", "psa, one level, linear"):
            assert row["density"] <= 0.25 + 1e-4
        elif row["method"] in ("binary top-k", "binary + block mean", "published quota"):
            assert row["density"] >= 0.25 - 1e-4


def test_settings_do_not_depend_on_test_captures(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    captures.make_synthetic(other)
    path = next((other / captures.TEST).iterdir())
    content = bytearray(path.read_bytes())
    content[-40000:] = bytes(40000)
    path.write_bytes(content)
    results = [study.Study(MODEL, each, EFFORT).run(None) for each in (folder, other)]
    assert results[0]["searched"] == results[1]["searched"]
    assert results[0]["rows"] != results[1]["rows"]


def test_a_prompt_in_both_sets_is_refused(folder):
    test = next((folder / captures.TEST).iterdir())
    test.write_bytes(next((folder / captures.TUNING).iterdir()).read_bytes())
    with pytest.raises(ValueError, match="'tuning' is in tuning and in test"):
        study.Study(MODEL, folder, EFFORT)


def test_the_error_is_relative_to_dense_attention(folder):
    capture = captures.find(folder, captures.TEST)[0]
    trial = methods.Trial(psa.Config(density=0.2, order="gilbert"))
    found = measure.Lab(folder, is_causal=False).measure(capture, [trial])[0]
    q, k, v = capture.tensors()
    dense = psa.attention(q, k, v, preset="dense")
    out = psa.attention(q, k, v, config=trial.config, grid=capture.grid)
    for head, error in enumerate(found.errors):
        wanted = np.linalg.norm(out[0, head] - dense[0, head]) / np.linalg.norm(dense[0, head])
        assert error == pytest.approx(wanted, abs=1e-5)


def test_causal_rows_read_equal_counts_and_meet_a_density(folder):
    capture = captures.find(folder, captures.TUNING)[0]
    lab = measure.Lab(folder, is_causal=True)
    choice = next(methods.CAUSAL_BINARY.choices(0.8, capture.grid))
    trial = lab.calibrate(choice, [capture], 0.8, from_below=False)
    plan = psa.Plan(capture.shape_q, capture.shape_kv, trial.config, dtype=capture.dtype)
    levels = plan.select_levels(*capture.tensors()[:2])
    rows = (levels == 1).sum(-1)  # [1, heads, query blocks]
    count = rows.max(-1, keepdims=True)
    assert (count > 2).all()  # more than the sink and the diagonal
    missing = np.minimum(np.arange(1, rows.shape[-1] + 1), count) - rows
    assert ((missing == 0) | (missing == 1)).all()  # rows round with fractions of their own
    assert 0.8 <= plan.density(levels) < 0.9


def test_windows_have_one_size_and_hold_their_tile():
    levels = methods.window_levels((8, 16, 32), (2, 8, 8), (3, 1, 2))
    assert levels.shape == (32, 32)
    assert (levels.sum(axis=1) == 6).all()
    assert (np.diag(levels) == 1).all()
    # Tile (frame 0, row 0, column 0) sees frames 0..2, row 0, columns 0 and 1 of 4 x 2 x 4 tiles.
    assert np.flatnonzero(levels[0]).tolist() == [0, 1, 8, 9, 16, 17]


def test_equal_videos_are_alike():
    video = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 16)).astype(float)
    assert videos.psnr_db(video, video) == math.inf
    assert videos.ssim(video, video) == pytest.approx(1)
    assert videos.psnr_db(video, video + 1) == pytest.approx(20 * math.log10(255))


def test_text_around_the_markers_stays():
    text = "before\n<!-- a -->\nold\n<!-- /a -->\nafter\n"
    assert report.replace(text, "a", ["| x |"]) == (
        "before\n<!-- a -->\n\n| x |\n\n<!-- /a -->\nafter\n")
    with pytest.raises(ValueError, match="no markers <!-- b -->"):
        report.replace(text, "b", [])


def test_the_page_has_markers_for_all_parts():
    page = pathlib.Path(report.PAGE).read_text(encoding="utf-8")
    for name in (*report.MODELS, "videos", "aims"):
        report.replace(page, name, [])
