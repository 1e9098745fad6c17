# SPDX-License-Identifier: Apache-2.0
"""psa.plot: what its pictures show, and what it refuses. Of summaries: test_diffusers_parts.py."""

import sys

import numpy as np
import pytest

import psa

pytest.importorskip("matplotlib")


def pictures(figure):
    """Pixels of each picture of a figure, by its title."""
    return {
        axes.get_title(): np.asarray(axes.images[0].get_array())
        for axes in figure.axes
        if axes.images
    }


def a_map(heads=3):
    levels = np.arange(7, dtype=np.uint8).reshape(1, 1, 1, 7)
    return np.tile(levels, (2, heads, 2, 1))


def test_every_head_of_a_batch_element():
    levels = a_map()
    levels[1, 2] = 6
    shown = pictures(psa.plot(levels, batch=1))
    assert list(shown) == ["head 0", "head 1", "head 2"]
    assert shown["head 0"].shape == (2, 7)
    # Codes 0..6 by how much is read: skip, mean, 1/16, 1/8, 1/4, 1/2, full.
    assert shown["head 0"][0].tolist() == [0, 6, 5, 4, 3, 2, 1]
    assert (shown["head 2"] == 1).all()
    assert list(pictures(psa.plot(levels, heads=1))) == ["head 1"]
    assert list(pictures(psa.plot(levels, heads=(2, 0)))) == ["head 2", "head 0"]


def test_a_map_of_a_call(tmp_path, qkv):
    levels = psa.attention(*qkv, config={"block": (64, 64)}, return_levels=True)[1]
    path = tmp_path / "levels.png"
    psa.plot(levels).savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert len(pictures(psa.plot(levels))) == qkv[0].shape[1]


@pytest.mark.parametrize(
    ("what", "options", "error", "text"),
    [
        (a_map()[0], {}, ValueError, r"uint8 of shape \[3, 2, 7\]; a level map is"),
        (a_map().astype(int), {}, ValueError, "int64 of shape"),
        (np.zeros((1, 1, 0, 3), np.uint8), {}, ValueError, "a level map is"),
        (a_map() + np.uint8(1), {}, ValueError, "level code 7; allowed: 0..6"),
        (a_map(), dict(heads=3), ValueError, "heads is 3; allowed: 0..2"),
        (a_map(), dict(heads=(0, -1)), ValueError, "heads is -1; allowed: 0..2"),
        (a_map(), dict(heads=()), ValueError, "heads is empty"),
        (a_map(), dict(heads=True), TypeError, "heads is True"),
        (a_map(), dict(heads=("a",)), TypeError, "heads is 'a'"),
        (a_map(), dict(batch=2), ValueError, "batch is 2; allowed: 0..1"),
        ("levels.npy", {}, TypeError, "what is a str; allowed: a level map"),
    ],
)
def test_what_is_refused(what, options, error, text):
    with pytest.raises(error, match=text):
        psa.plot(what, **options)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib.*psa\[plot\]"):
        psa.plot(a_map())
