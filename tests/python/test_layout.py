# SPDX-License-Identifier: Apache-2.0
"""psa._ffi against include/psa/psa.h: what a C compiler says of structs and enumerators."""

import ctypes
import re
import shutil
import subprocess

import pytest

from conftest import ROOT
from psa import _ffi

STRUCTS = {
    "psa_tensor": _ffi.Tensor,
    "psa_problem": _ffi.Problem,
    "psa_config": _ffi.Config,
    "psa_preset": _ffi.Preset,
    "psa_plan_options": _ffi.PlanOptions,
    "psa_io": _ffi.Io,
    "psa_stats": _ffi.Stats,
    "psa_backend_info": _ffi.BackendInfo,
}
ENUMERATORS = {
    **{f"PSA_{word.upper()}": i for i, word in enumerate(_ffi.DTYPES)},
    **{f"PSA_{word.upper()}": i for i, word in enumerate(_ffi.DEVICES)},
    **{f"PSA_TEXT_{word.upper()}": i for i, word in enumerate(_ffi.TEXT_SIDES)},
    **{f"PSA_RULE_{word.upper()}": i for i, word in enumerate(_ffi.RULES)},
    **{f"PSA_SCOPE_{word.upper()}": i for i, word in enumerate(_ffi.SCOPES)},
    **{f"PSA_REST_{word.upper()}": i for i, word in enumerate(_ffi.RESTS)},
    **{f"PSA_{word.upper()}": i for i, word in enumerate(_ffi.IMPORTANCES)},
    **{f"PSA_REORDER_{word.upper()}": i for i, word in enumerate(_ffi.ORDERS)},
    **{f"PSA_COMPAT_{word.upper()}": i for i, word in enumerate(_ffi.COMPATS)},
    "PSA_MAX_LEVELS": _ffi.MAX_LEVELS,
    "PSA_INVALID_ARGUMENT": 1,
    "PSA_UNSUPPORTED": 2,
    "PSA_OUT_OF_MEMORY": 3,
    "PSA_IO": 4,
}


@pytest.fixture(scope="module")
def from_c(tmp_path_factory):
    """What a C program prints: sizeof, offsetof and sizeof of each field, enumerators."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    lines = []
    for name, struct in STRUCTS.items():
        lines.append(f'printf("{name} %zu 0\\n", sizeof({name}));')
        for field, _ in struct._fields_:
            lines.append(
                f'printf("{name}.{field} %zu %zu\\n", sizeof((({name}*)0)->{field}), '
                f"offsetof({name}, {field}));"
            )
    lines += [f'printf("{name} %d 0\\n", {name});' for name in ENUMERATORS]
    folder = tmp_path_factory.mktemp("layout")
    source = folder / "layout.c"
    body = "\n".join(lines)
    source.write_text(
        f"#include <psa/psa.h>\n#include <stdio.h>\nint main(void) {{\n{body}\nreturn 0;\n}}\n"
    )
    program = folder / "layout"
    subprocess.run([compiler, f"-I{ROOT / 'include'}", source, "-o", program], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in printed.splitlines())
    return {name: (int(size), int(offset)) for name, size, offset in rows}


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_has_the_layout_of_the_header(name, from_c):
    struct = STRUCTS[name]
    assert ctypes.sizeof(struct) == from_c[name][0]
    for field, _ in struct._fields_:
        descriptor = getattr(struct, field)
        assert (descriptor.size, descriptor.offset) == from_c[f"{name}.{field}"], field


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_has_the_fields_of_the_header(name):
    header = (ROOT / "include/psa/psa.h").read_text(encoding="utf-8")
    body = re.search(rf"typedef struct {name} {{(.*?)}} {name};", header, re.DOTALL)[1]
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    declared = []
    for declaration in filter(str.strip, body.split(";")):
        names = re.sub(r"\[\w+\]", "", declaration).replace("*", " ").split(",")
        declared += [names[0].split()[-1], *(other.strip() for other in names[1:])]
    assert [field for field, _ in STRUCTS[name]._fields_] == declared


@pytest.mark.parametrize("name", ENUMERATORS)
def test_enumerator_has_the_value_of_the_header(name, from_c):
    assert ENUMERATORS[name] == from_c[name][0]


@pytest.mark.parametrize(
    ("struct", "initializer"),
    [
        (_ffi.Problem, "psa_problem_init"),
        (_ffi.Config, "psa_config_init"),
        (_ffi.PlanOptions, "psa_plan_options_init"),
        (_ffi.Io, "psa_io_init"),
        (_ffi.Stats, "psa_stats_init"),
    ],
)
def test_library_initializes_structs_of_this_size(struct, initializer):
    assert _ffi.initial(struct, initializer).struct_size == ctypes.sizeof(struct)
