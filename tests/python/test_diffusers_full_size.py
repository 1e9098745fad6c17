# SPDX-License-Identifier: Apache-2.0
"""bench/python/full_size.py with its tiny models, and the page made of its results."""

import json
import sys

import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
sys.path.insert(0, str(ROOT / "bench" / "python"))

import full_size  # noqa: E402
import full_size_table  # noqa: E402

import psa  # noqa: E402

CASES = ["wan-1.3b-480p", "wan-14b-720p", "cogvideox-5b", "qwen2.5-vl-7b-32k"]


def run(monkeypatch, tmp_path, *cases):
    options = ["--tiny", "--repeats", "1", "--cases", ",".join(cases), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["full_size.py", *options])
    return full_size.main()


def report(tmp_path, case):
    return json.loads((tmp_path / f"full_size_{case}.json").read_text(encoding="utf-8"))


def test_every_case_and_its_table(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, *CASES) == 0
    reports = [report(tmp_path, case) for case in CASES]
    for one in reports:
        dense, *variants = one["variants"]
        assert not one["failed"]
        assert (dense["variant"], dense["density"], dense["relative_l2"]) == ("dense", 1, 0)
        # Self-attention alone is timed, once for each layer.
        assert {row["attention_calls"] for row in one["variants"]} == {one["layers"]}
        for row in variants:
            assert 0 < row["attention_ms"]
            assert 0 < row["density"] < 0.5
            assert 0 < row["relative_l2"] < 0.1
    page = tmp_path / "page.md"
    page.write_text(f"a\n{full_size_table.BEGIN}\nold\n{full_size_table.END}\nb\n")
    files = [str(tmp_path / f"full_size_{case}.json") for case in CASES]
    monkeypatch.setattr(sys, "argv", ["full_size_table.py", *files, "--page", str(page)])
    full_size_table.main()
    text = page.read_text()
    assert text.startswith("a\n") and text.endswith("\nb\n") and "old" not in text
    assert all(f"| {case}" in text for case in CASES)
    rows = sum(len(one["variants"]) for one in reports)
    assert sum(line.startswith("|") for line in text.splitlines()) == 2 + rows


def test_what_fails_leaves_the_rest(monkeypatch, tmp_path, capsys):
    def fail(tiny, device):
        raise MemoryError("of the test")

    monkeypatch.setitem(full_size.CASES, "wan-1.3b-720p", fail)
    assert run(monkeypatch, tmp_path, "wan-1.3b-720p", "wan-1.3b-480p") == 1
    assert len(report(tmp_path, "wan-1.3b-480p")["variants"]) == 4
    assert not (tmp_path / "full_size_wan-1.3b-720p.json").exists()
    assert "MemoryError: of the test" in capsys.readouterr().err


def test_a_variant_that_is_refused(monkeypatch, tmp_path, capsys):
    from psa.adapters import diffusers as adapter

    def refuse(*args, **options):
        if options["config"].order == "gilbert":
            raise psa.UnsupportedError("no such kernel")
        return psa.attention(*args, **options)

    monkeypatch.setattr(adapter, "attention", refuse)
    assert run(monkeypatch, tmp_path, "cogvideox-5b") == 0
    one = report(tmp_path, "cogvideox-5b")
    assert [row["variant"] for row in one["variants"]] == ["dense", "psa cogvideox-5b"]
    assert [failed["variant"] for failed in one["failed"]] == [
        "psa balanced",
        "psa balanced, error_rows=16",
    ]
    assert "no such kernel" in one["failed"][0]["error"]
    assert "no such kernel" in full_size_table.table([one])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--cases", "wan-2b"], "'wan-2b'; allowed: wan-1.3b-480p"),
        (["--repeats", "0"], "--repeats is 0"),
    ],
)
def test_bad_options(options, text, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["full_size.py", *options])
    with pytest.raises(SystemExit):
        full_size.main()
    assert text in capsys.readouterr().err
