# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays and torch tensors behind one interface: what a call asks of its tensors.

Neither package is imported here: whoever passes an array has imported its package already.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from . import _ffi


class Placement(NamedTuple):
    """Where and what the tensors of a call are; all of a call have the same."""

    dtype: int  # number in _ffi.DTYPES
    device_type: int  # number in _ffi.DEVICES
    device_index: int

    def __str__(self) -> str:
        device = _ffi.DEVICES[self.device_type]
        place = f"{device}:{self.device_index}" if self.device_type else device
        return f"{_ffi.DTYPES[self.dtype]} on {place}"


class Arrays(Protocol):
    """What a call asks of the package that its tensors are from. `name` is for messages."""

    kind: str

    def placement(self, name: str, array: Any) -> Placement:
        """TypeError for an element type or a device that psa does not compute with."""

    def strides(self, name: str, array: Any) -> tuple[int, ...]:
        """In elements."""

    def pointer(self, array: Any) -> int: ...

    def is_contiguous(self, array: Any) -> bool: ...

    def word(self, array: Any) -> str:
        """Element type as text: "float32", "uint8", ..."""

    def is_writable(self, array: Any) -> bool: ...

    def empty_like(self, array: Any) -> Any:
        """Same shape, type and place, and the same order of axes in memory."""

    def empty(self, like: Any, shape: Sequence[int], word: str) -> Any:
        """Contiguous, where `like` is, with element type "float32" or "uint8"."""

    def lengths(self, like: Any, given: Any) -> Any:
        """Contiguous int32 numbers where `like` is; those too large for int32 stay too large."""

    def workspace(self, like: Any, size: int) -> tuple[Any, int]:
        """Owner and address of `size` bytes that the work queued next may use."""

    def stream(self, like: Any) -> int | None:
        """cudaStream_t that work on `like` belongs to; None on the CPU."""

    def is_capturing(self, like: Any) -> bool:
        """Whether the stream of `like` is being captured in a CUDA graph."""

    def check_inference(self, name: str, array: Any) -> None:
        """Raises if a gradient for `array` would be needed: psa computes none."""


_host = threading.local()
_ALIGNMENT = 64  # of a workspace in host memory (psa.h)


def host_workspace(size: int) -> tuple[Any, int]:
    """A buffer of this thread that grows with the largest call and is used again: fresh memory
    would cost a page fault for each 4 KiB in every call."""
    buffer = getattr(_host, "buffer", None)
    if buffer is None or len(buffer) < size + _ALIGNMENT:
        _host.buffer = None  # frees the smaller one first
        _host.buffer = buffer = (ctypes.c_char * (size + _ALIGNMENT))()
    address = ctypes.addressof(buffer)
    return buffer, -(-address // _ALIGNMENT) * _ALIGNMENT


class NumpyArrays:
    kind = "numpy.ndarray"
    _dtypes = {"float32": 0, "float16": 1, "bfloat16": 2}  # bfloat16: that of ml_dtypes

    def placement(self, name: str, array: Any) -> Placement:
        if array.dtype.name not in self._dtypes or not array.dtype.isnative:
            raise TypeError(
                f"{name} is {array.dtype}; allowed: float32, float16 and ml_dtypes' bfloat16"
            )
        return Placement(self._dtypes[array.dtype.name], 0, 0)

    def strides(self, name: str, array: Any) -> tuple[int, ...]:
        size = array.itemsize
        if not array.flags.aligned or any(stride % size for stride in array.strides):
            raise ValueError(f"{name} is not aligned: its strides are {array.strides} bytes")
        return tuple(stride // size for stride in array.strides)

    def pointer(self, array: Any) -> int:
        return int(array.ctypes.data)

    def is_contiguous(self, array: Any) -> bool:
        return bool(array.flags.c_contiguous)

    def word(self, array: Any) -> str:
        return str(array.dtype)

    def is_writable(self, array: Any) -> bool:
        return bool(array.flags.writeable)

    def empty_like(self, array: Any) -> Any:
        import numpy

        return numpy.empty_like(array, subok=False)

    def empty(self, like: Any, shape: Sequence[int], word: str) -> Any:
        import numpy

        return numpy.empty(shape, word)

    def lengths(self, like: Any, given: Any) -> Any:
        import numpy

        numbers = numpy.asarray(given)
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"kv_lengths is {numbers.dtype}; it must be whole numbers")
        return numpy.ascontiguousarray(numpy.clip(numbers, -1, 2**31 - 1), "int32")

    def workspace(self, like: Any, size: int) -> tuple[Any, int]:
        return host_workspace(size)

    def stream(self, like: Any) -> int | None:
        return None

    def is_capturing(self, like: Any) -> bool:
        return False

    def check_inference(self, name: str, array: Any) -> None:
        pass


class TorchTensors:
    kind = "torch.Tensor"
    _dtypes = {"torch.float32": 0, "torch.float16": 1, "torch.bfloat16": 2}

    def placement(self, name: str, array: Any) -> Placement:
        word, device = str(array.dtype), array.device
        if word not in self._dtypes:
            raise TypeError(f"{name} is {word}; allowed: {', '.join(self._dtypes)}")
        if device.type not in _ffi.DEVICES or str(array.layout) != "torch.strided":
            raise TypeError(
                f"{name} is a {array.layout} tensor on {device}; allowed: strided tensors on "
                f"{', '.join(_ffi.DEVICES)}"
            )
        return Placement(self._dtypes[word], _ffi.DEVICES.index(device.type), device.index or 0)

    def strides(self, name: str, array: Any) -> tuple[int, ...]:
        return tuple(array.stride())

    def pointer(self, array: Any) -> int:
        return int(array.data_ptr())

    def is_contiguous(self, array: Any) -> bool:
        return bool(array.is_contiguous())

    def word(self, array: Any) -> str:
        return str(array.dtype).removeprefix("torch.")

    def is_writable(self, array: Any) -> bool:
        return True

    def empty_like(self, array: Any) -> Any:
        import torch

        return torch.empty_like(array)

    def empty(self, like: Any, shape: Sequence[int], word: str) -> Any:
        return like.new_empty(shape, dtype=_torch_dtype(word))

    def lengths(self, like: Any, given: Any) -> Any:
        import torch

        numbers = torch.as_tensor(
            given, device=None if isinstance(given, torch.Tensor) else like.device
        )
        if numbers.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"kv_lengths is {numbers.dtype}; allowed: torch.int32, torch.int64")
        if numbers.dtype == torch.int64:
            numbers = numbers.clamp(-1, 2**31 - 1).to(torch.int32)
        return numbers.contiguous()

    def workspace(self, like: Any, size: int) -> tuple[Any, int]:
        if not like.is_cuda:
            return host_workspace(size)
        # The caching allocator gives memory to the current stream, aligned to 512 bytes, and takes
        # it back as soon as the tensor dies: later work of the stream comes after ours.
        buffer = self.empty(like, (max(size, 1),), "uint8")
        return buffer, int(buffer.data_ptr())

    def stream(self, like: Any) -> int | None:
        if not like.is_cuda:
            return None
        import torch

        return int(torch.cuda.current_stream(like.device).cuda_stream)

    def is_capturing(self, like: Any) -> bool:
        if not like.is_cuda:
            return False
        import torch

        return bool(torch.cuda.is_current_stream_capturing())

    def check_inference(self, name: str, array: Any) -> None:
        import torch

        if array.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError(
                f"{name} requires a gradient; psa is for inference and computes none: call it "
                "under torch.no_grad() or torch.inference_mode(), or detach() the tensors"
            )


def _torch_dtype(word: str) -> Any:
    import torch

    return getattr(torch, word)


_NUMPY, _TORCH = NumpyArrays(), TorchTensors()


def arrays_of(name: str, array: Any) -> Arrays:
    """The interface to the package of `array`. Raises TypeError if it is neither of the two."""
    if type(array).__module__.startswith("torch"):  # what torch.compile can follow
        import torch

        if isinstance(array, torch.Tensor):
            return _TORCH
    for kind in type(array).__mro__:  # subclasses of other packages, too
        if (kind.__module__, kind.__name__) == ("torch", "Tensor"):
            return _TORCH
        if (kind.__module__, kind.__name__) == ("numpy", "ndarray"):
            return _NUMPY
    raise TypeError(
        f"{name} is a {type(array).__module__}.{type(array).__qualname__}; allowed: numpy.ndarray, "
        "torch.Tensor"
    )
