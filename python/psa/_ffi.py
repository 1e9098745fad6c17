# SPDX-License-Identifier: Apache-2.0
"""include/psa/psa.h through ctypes: its structs, its functions, and where libpsa.so is found.

The library is loaded at the first use, not by `import psa`. tests/python/test_layout.py compares
every struct here with the C header.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_void_p
from typing import Any

from .errors import PsaError, UnsupportedError

ABI_VERSION = 1  # of the psa.h that the structs below are taken from

# Words of the enumerations of psa.h, each at its number.
DTYPES = ("f32", "f16", "bf16")
DEVICES = ("cpu", "cuda")
TEXT_SIDES = ("front", "back")
RULES = ("quota", "threshold")
SCOPES = ("row", "head")
RESTS = ("skip", "mean", "linear")
IMPORTANCES = ("sampled_max", "sampled_mass", "antidiagonal", "pooled_lse", "user_scores")
ORDERS = ("none", "gilbert", "tile3d", "kmeans", "hybrid")
COMPATS = ("none", "official")
MAX_LEVELS = 5

_INVALID_ARGUMENT, _UNSUPPORTED, _OUT_OF_MEMORY, _IO = 1, 2, 3, 4
_Fields = list[tuple[str, Any]]


def _fields(kind: Any, names: str) -> _Fields:
    return [(name, kind) for name in names.split()]


class Tensor(ctypes.Structure):
    """psa_tensor"""

    _fields_ = [
        ("data", c_void_p),
        *_fields(c_int32, "dtype device_type device_index reserved"),
        ("shape", c_int64 * 4),
        ("stride", c_int64 * 4),
    ]


class Problem(ctypes.Structure):
    """psa_problem"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        *_fields(c_int32, "dtype_q dtype_kv dtype_out"),
        *_fields(c_int64, "batch heads_q heads_kv len_q len_kv head_dim"),
        *_fields(c_int64, "grid_frames grid_height grid_width text_tokens"),
        *_fields(c_int32, "text_side device_type device_index reserved"),
    ]


class Config(ctypes.Structure):
    """psa_config"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        *_fields(c_int32, "block_q block_kv rule num_levels"),
        ("budget", c_float * MAX_LEVELS),
        *_fields(c_int32, "rest min_full_blocks importance samples_q samples_kv"),
        *_fields(c_int32, "antidiagonal_stride pooled_tokens"),
        ("seed", ctypes.c_uint64),
        ("use_similarity_cap", c_int32),
        ("min_cosine", c_float * (MAX_LEVELS - 1)),
        *_fields(c_int32, "text_keys_full text_queries_full sink_blocks share_group_map reorder"),
        ("tile", c_int32 * 3),
        *_fields(c_int32, "clusters_q clusters_kv kmeans_iterations causal"),
        ("softmax_scale", c_float),
        ("compat", c_int32),
        ("head_density", POINTER(c_float)),
        ("num_head_densities", c_int64),
        ("rest_cutoff", c_float),
        *_fields(c_int32, "weigh_values budget_scope reserved"),
    ]


class Preset(ctypes.Structure):
    """psa_preset"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("warmup_steps", c_int32),
        *_fields(c_char_p, "name description"),
        *_fields(c_int32, "divisor_width divisor_height divisor_frames text_tokens"),
        ("config", Config),
    ]


class PlanOptions(ctypes.Structure):
    """psa_plan_options"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("num_threads", c_int32),
        *_fields(c_char_p, "backend isa"),
        *_fields(c_void_p, "parallel_for parallel_context"),
    ]


class Io(ctypes.Structure):
    """psa_io"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("reserved", c_int32),
        *_fields(Tensor, "q k v out"),
        *_fields(c_void_p, "lse kv_lengths scores levels levels_out"),
    ]


class Stats(ctypes.Structure):
    """psa_stats"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("reserved", c_int32),
        *_fields(c_double, "density selection_cost"),
        ("blocks", c_int64 * 7),
        *_fields(c_double, "reorder_ms pyramid_ms importance_ms levels_ms attention_ms"),
    ]


class BackendInfo(ctypes.Structure):
    """psa_backend_info"""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("available", c_int32),
        *_fields(c_char_p, "name isa reason"),
    ]


# Functions that this package calls: result type, then argument types.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "psa_last_error": (c_char_p,),
    "psa_version": (c_char_p,),
    "psa_abi_version": (c_int32,),
    "psa_problem_init": (None, POINTER(Problem)),
    "psa_config_init": (None, POINTER(Config)),
    "psa_config_set_density": (c_int32, POINTER(Config), c_double),
    "psa_preset_count": (c_int32,),
    "psa_preset_at": (c_int32, c_int32, POINTER(Preset)),
    "psa_plan_options_init": (None, POINTER(PlanOptions)),
    "psa_plan_create": (
        c_int32,
        POINTER(Problem),
        POINTER(Config),
        POINTER(PlanOptions),
        POINTER(c_void_p),
    ),
    "psa_plan_destroy": (None, c_void_p),
    "psa_plan_workspace_size": (c_int32, c_void_p, POINTER(c_size_t)),
    "psa_plan_blocks": (c_int32, c_void_p, POINTER(c_int64), POINTER(c_int64)),
    "psa_plan_describe": (c_int32, c_void_p, c_char_p, c_size_t, POINTER(c_size_t)),
    "psa_io_init": (None, POINTER(Io)),
    "psa_stats_init": (None, POINTER(Stats)),
    "psa_forward": (
        c_int32,
        c_void_p,
        POINTER(Io),
        c_void_p,
        c_size_t,
        c_void_p,
        POINTER(Stats),
    ),
    "psa_select_levels": (
        c_int32,
        c_void_p,
        POINTER(Io),
        c_void_p,
        c_void_p,
        c_size_t,
        c_void_p,
    ),
    "psa_measure_levels": (
        c_int32,
        c_void_p,
        c_void_p,
        c_void_p,
        c_void_p,
        POINTER(Stats),
    ),
    "psa_backend_count": (c_int32,),
    "psa_backend_at": (c_int32, c_int32, POINTER(BackendInfo)),
}


_PRESETS = ("release", "dev", "cuda-release", "cuda")  # whose library an ordinary process can load


def library_path() -> str:
    """Path of the libpsa.so that psa uses.

    Looked for in this order: the file that the environment variable PSA_LIBRARY names, the one
    inside the installed package, and, where the package runs from a checkout, the one built last
    under build/.

    Raises:
        PsaError: there is none, or PSA_LIBRARY names no file.
    """
    named = os.environ.get("PSA_LIBRARY")
    if named:
        if not os.path.isfile(named):
            raise PsaError(f"PSA_LIBRARY is {named!r}, which is no file; it must name libpsa.so")
        return os.path.abspath(named)
    package = pathlib.Path(__file__).resolve().parent
    installed = package / "lib" / "libpsa.so"
    if installed.is_file():
        return str(installed)
    checkout = package.parent.parent
    trees = (checkout / "build" / preset / "src" / "libpsa.so" for preset in _PRESETS)
    built = [file for file in trees if file.is_file()]
    if built:
        return str(max(built, key=lambda file: file.stat().st_mtime))
    raise PsaError(
        f"libpsa.so is neither in {installed.parent} nor under {checkout / 'build'}; install psa "
        "with pip, build it with scripts/build release, or name the file in PSA_LIBRARY"
    )


@functools.cache
def library() -> ctypes.CDLL:
    """libpsa.so with the types of its functions set.

    Raises:
        PsaError: it is not found, cannot be loaded, or has another ABI than this package.
    """
    path = library_path()
    try:
        lib = ctypes.CDLL(path)
    except OSError as error:
        raise PsaError(f"{path} cannot be loaded: {error}") from error
    try:
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise PsaError(f"{path} is no libpsa.so that this package can use: {error}") from error
    if lib.psa_abi_version() != ABI_VERSION:
        raise PsaError(
            f"{path} has ABI {lib.psa_abi_version()}; this package is written for ABI {ABI_VERSION}"
        )
    return lib


def check(status: int) -> None:
    """Raises the exception that belongs to `status`, with the text of psa_last_error()."""
    if status == 0:
        return
    text = library().psa_last_error().decode(errors="replace")
    if status == _INVALID_ARGUMENT:
        raise ValueError(text)
    if status == _UNSUPPORTED:
        raise UnsupportedError(text)
    if status == _OUT_OF_MEMORY:
        raise MemoryError(text)
    if status == _IO:
        raise OSError(text)
    raise PsaError(text)


def initial(struct: type[Any], initializer: str) -> Any:
    """A `struct` as psa_..._init leaves it."""
    value = struct()
    getattr(library(), initializer)(byref(value))
    return value


def version() -> str:
    """Version of the library, "major.minor.patch"."""
    return str(library().psa_version().decode())
