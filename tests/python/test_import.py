# SPDX-License-Identifier: Apache-2.0
"""What `import psa` costs and says, and where the library is looked for."""

import os
import pathlib
import subprocess
import sys

import psa
import pytest
from psa import _ffi

PACKAGE = pathlib.Path(psa.__file__).resolve().parent


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
    )


def test_import_is_quick_quiet_and_loads_nothing_else(tmp_path):
    code = (
        "import sys, time; start = time.process_time(); import psa; "
        "taken = time.process_time() - start; "
        "heavy = {'numpy', 'torch', 'yaml'} & set(sys.modules); "
        "sys.exit(f'{taken:.3f} s, {heavy}' if taken > .150 or heavy else 0)"
    )
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    python("-c", "import psa", **compiled)  # compiles, as pip does when it installs
    runs = [python("-c", code, **compiled) for _ in range(5)]  # others may be in the way
    best = min(runs, key=lambda run: run.returncode)
    assert (best.returncode, best.stdout, best.stderr) == (0, "", "")


def test_version_is_the_librarys():
    assert psa.__version__ == _ffi.version()
    assert len(psa.__version__.split(".")) == 3


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        psa.nonsense


def test_library_that_is_named_but_missing():
    run = python("-c", "import psa; psa.presets()", PSA_LIBRARY="missing.so")
    assert "psa.errors.PsaError: PSA_LIBRARY is 'missing.so', which is no file" in run.stderr


def test_library_that_is_no_library(tmp_path):
    (tmp_path / "libpsa.so").write_text("text")
    run = python("-c", "import psa; psa.presets()", PSA_LIBRARY=str(tmp_path / "libpsa.so"))
    assert "cannot be loaded" in run.stderr and "PsaError" in run.stderr


def test_library_of_something_else():
    import ctypes.util

    name = ctypes.util.find_library("m") or pytest.skip("no libm")
    path = next(pathlib.Path("/lib").rglob(name), None) or pytest.skip("no libm")
    run = python("-c", "import psa; psa.presets()", PSA_LIBRARY=str(path))
    assert "is no libpsa.so that this package can use" in run.stderr


def test_package_without_a_library(tmp_path):
    import shutil

    shutil.copytree(PACKAGE, tmp_path / "python/psa", ignore=shutil.ignore_patterns("lib"))
    run = python(
        "-c",
        "import psa; psa.presets()",
        PSA_LIBRARY="",
        PYTHONPATH=str(tmp_path / "python"),
    )
    assert "PsaError: libpsa.so is neither in" in run.stderr


def test_doctor_names_library_and_kernels():
    run = python("-m", "psa", "doctor")
    assert run.returncode == 0, run.stdout + run.stderr
    for text in (psa.library_path(), "numpy", "torch", "used", "on cpu", "nothing is wrong"):
        assert text in run.stdout


def test_doctor_says_what_is_wrong():
    run = python("-m", "psa", "doctor", PSA_LIBRARY="missing.so")
    assert run.returncode == 1
    assert "wrong         PSA_LIBRARY is 'missing.so'" in run.stdout


def test_unknown_command_is_refused():
    assert python("-m", "psa", "doktor").returncode == 2
