# SPDX-License-Identifier: Apache-2.0
"""`python -m psa doctor`: what psa finds here, what it would use of it, and what is wrong."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterator

from . import _ffi
from .errors import PsaError
from .plan import Plan

_PACKAGES = ("numpy", "torch", "diffusers", "transformers", "PyYAML")
_OLDEST_TORCH = (2, 4)


def report() -> tuple[str, list[str]]:
    """The report, and what is wrong: empty if nothing is."""
    problems: list[str] = []
    lines = [f"python        {platform.python_version()} on {platform.platform()}"]
    lines += [f"{name:13} {_version_of(name) or 'not installed'}" for name in _PACKAGES]
    lines += _driver()
    try:
        lines[:0] = [
            f"psa           {_ffi.version()} (ABI {_ffi.ABI_VERSION})",
            f"library       {_ffi.library_path()}",
        ]
        entries = list(_backends())
        lines += [
            "",
            *(f"{name:10} {isa:12} {state:10} {why}" for name, isa, state, why in entries),
        ]
        built_for_cuda = not all(
            "built without CUDA" in why for name, _, _, why in entries if name == "cuda"
        )
        lines += ["", *_kernels(built_for_cuda, problems)]
    except (PsaError, OSError) as error:
        problems.append(str(error))
    if not (_version_of("numpy") or _version_of("torch")):
        problems.append("neither NumPy nor torch is installed; psa computes on their arrays")
    problems += _old_torch()
    lines += ["", *(f"wrong         {problem}" for problem in problems)]
    if not problems:
        lines.append("nothing is wrong")
    return "\n".join(lines), problems


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> Iterator[str]:
    """A line for each GPU that NVIDIA's driver sees."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total,driver_version"]
    try:
        run = subprocess.run(
            [*query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        yield "gpu           none: nvidia-smi is missing or fails"
        return
    for index, line in enumerate(run.stdout.strip().splitlines()):
        name, capability, memory, driver = (part.strip() for part in line.split(","))
        yield f"gpu {index:<9} {name}, compute capability {capability}, {memory}, driver {driver}"


def _backends() -> Iterator[tuple[str, str, str, str]]:
    """Name, ISA, state and reason of every backend, best first."""
    lib = _ffi.library()
    taken = {"reference"}  # only when it is asked for by name
    for index in range(lib.psa_backend_count()):
        info = _ffi.BackendInfo()
        info.struct_size = ctypes.sizeof(info)
        _ffi.check(lib.psa_backend_at(index, ctypes.byref(info)))
        name, isa, why = (text.decode() for text in (info.name, info.isa, info.reason))
        state = "available" if info.available else "not here"
        if info.available and name not in taken:
            taken.add(name)
            state = "used"
        yield name, isa, state, why


def _kernels(built_for_cuda: bool, problems: list[str]) -> Iterator[str]:
    """What would compute a call on the CPU and on each device that torch sees."""
    yield f"on cpu        {_backend_of('cpu', 'f32')}"
    if not _version_of("torch"):
        return
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(devices):
        if not built_for_cuda:
            problems.append(
                "torch sees a GPU, and this libpsa.so was built without CUDA: tensors on it are "
                "refused. Install psa where nvcc is found"
            )
            return
        try:
            yield f"on cuda:{index:<5} {_backend_of(f'cuda:{index}', 'bf16')}"
        except (NotImplementedError, ValueError, PsaError) as error:
            problems.append(f"cuda:{index}: {error}")


def _backend_of(device: str, dtype: str) -> str:
    text = Plan((1, 1, 128, 128), dtype=dtype, device=device).describe()
    return next(line for line in text.splitlines() if line.startswith("backend"))[11:]


def _old_torch() -> Iterator[str]:
    version = _version_of("torch")
    if version is None:
        return
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < _OLDEST_TORCH:
        yield f"torch is {version}; psa needs {'.'.join(map(str, _OLDEST_TORCH))} or newer"
