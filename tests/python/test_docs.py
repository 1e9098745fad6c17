# SPDX-License-Identifier: Apache-2.0
"""The Python code of README.md and docs/python.md runs as it stands, from the top down."""

import pytest

from conftest import code_blocks

PAGES = ["README.md", "docs/python.md"]


@pytest.mark.parametrize("page", PAGES)
def test_code_without_torch_runs(page, capsys):
    blocks = code_blocks(page, "python")
    assert blocks
    names = {}
    for block in blocks:
        if "torch" in block:
            break  # test_torch.py runs all
        exec(compile(block, f"<{page}>", "exec"), names)
    assert names["out"].shape == names["q"].shape
