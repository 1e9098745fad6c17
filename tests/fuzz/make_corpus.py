#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the binary fuzz targets: corpus/{safetensors,npy}_fuzz/*.

Each seed is a small valid file or one step away from one. Run it after a change here; the seeds are
committed, so that a build needs no Python.
"""

import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"


def safetensors(header, data=b"", pad=0):
    if not isinstance(header, bytes):
        header = json.dumps(header, separators=(",", ":")).encode()
    text = header + b" " * pad
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def npy(descr, shape, data=b"", major=1, order="False"):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if major == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([major, 0]) + length + text + data


SAFETENSORS_SEEDS = {
    "no_tensors": safetensors({}),
    "padded": safetensors({}, pad=6),
    "metadata": safetensors({"__metadata__": {"grid": "16,32,32", "\u00e4\n": ""}}),
    "scalar": safetensors({"x": tensor("F32", [], 0, 4)}, b"\0\0\x80\x3f"),
    "qkv": safetensors(
        {
            "q": tensor("BF16", [1, 1, 2, 2], 0, 8),
            "k": tensor("F16", [1, 1, 2, 2], 8, 16),
            "v": tensor("F32", [1, 1, 1, 2], 16, 24),
        },
        bytes(range(24)),
    ),
    "unordered": safetensors(
        {"b": tensor("I64", [1], 2, 10), "a": tensor("U8", [2], 0, 2)}, bytes(10)
    ),
    "packed": safetensors(
        {"f4": tensor("F4", [2, 1], 0, 1), "f6": tensor("F6_E2M3", [4], 1, 4)}, bytes(4)
    ),
    "empty_tensor": safetensors({"x": tensor("F64", [0, 3], 0, 0)}),
    "overlap": safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, bytes(3)),
    "overflow": safetensors({"a": tensor("F32", [2**62, 2**62], 0, 2**63 - 1)}),
    "duplicate": safetensors(b'{"a":{},"a":{}}'),
    "deep": safetensors(b'{"a":{"shape":' + b"[" * 64),
    "not_utf8": safetensors(b'{"\xff":{}}'),
    "truncated": safetensors({"x": tensor("F32", [2], 0, 8)}, bytes(8))[:-3],
}

NPY_SEEDS = {
    "f4_matrix": npy("'<f4'", "(2, 2)", bytes(16)),
    "f2_vector": npy("'<f2'", "(3,)", bytes(6)),
    "i8_scalar": npy("'<i8'", "()", bytes(8)),
    "u1_tail_comma": npy("'|u1'", "(1, 4,)", bytes(4)),
    "words": npy("'<u2'", "(2,)", bytes(4)),
    "void_words": npy("'|V2'", "(2,)", bytes(4)),
    "version_2": npy('"<f4"', "(1,)", bytes(4), major=2),
    "version_3": npy("'<f4'", "(0,)", major=3),
    "fortran": npy("'<f4'", "(2, 2)", bytes(16), order="True"),
    "big_endian": npy("'>f4'", "(1,)", bytes(4)),
    "structured": npy("[('a', '<f4')]", "(1,)", bytes(4)),
    "overflow": npy("'<f4'", f"({2**62}, {2**62})"),
    "truncated": npy("'<f4'", "(2, 2)", bytes(15)),
}


def main():
    for target, seeds in (("safetensors_fuzz", SAFETENSORS_SEEDS), ("npy_fuzz", NPY_SEEDS)):
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
