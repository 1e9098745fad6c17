# SPDX-License-Identifier: Apache-2.0
"""Runs psa from outside: input files, processes, tensor files. Standard library only."""

import argparse
import array
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
PSA = None  # set by main()

# The small call that most tests use: [1, 2, 96, 16] with 96 = 2*6*8 tokens, f32.
SHAPE = (1, 2, 96, 16)
SMALL = ["--block", "16x16", "--levels", "3"]


def write_safetensors(path, tensors, metadata=None):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    """-> (name -> (dtype, shape, bytes), metadata)."""
    content = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        data = content[8 + length + begin : 8 + length + end]
        tensors[name] = (entry["dtype"], tuple(entry["shape"]), data)
    return tensors, metadata


def write_npy(path, descr, shape, content):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    pathlib.Path(path).write_bytes(head + content)


def read_npy(path):
    """-> (header text, bytes)."""
    content = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<H", content[8:10])
    return content[10 : 10 + length].decode(), content[10 + length :]


def normal_values(count, seed):
    source = random.Random(seed)
    return [source.gauss(0, 1) for _ in range(count)]


def f32_bytes(values):
    return array.array("f", values).tobytes()


def f32_values(content):
    return array.array("f", content).tolist()


def size_of(shape):
    count = 1
    for axis in shape:
        count *= axis
    return count


def to_blhd(content, shape):
    """f32 [B,H,L,D] -> the same elements as [B,L,H,D]."""
    b, h, l, d = shape
    values = f32_values(content)
    out = []
    for i in range(b):
        for t in range(l):
            for j in range(h):
                first = ((i * h + j) * l + t) * d
                out += values[first : first + d]
    return f32_bytes(out)


def write_inputs(folder, shape=SHAPE, kv_shape=None, metadata=None):
    """qkv.safetensors, q.npy, k.npy, v.npy and their contents."""
    folder = pathlib.Path(folder)
    contents = {}
    for seed, name in enumerate("qkv"):
        tensor_shape = shape if name == "q" else (kv_shape or shape)
        content = f32_bytes(normal_values(size_of(tensor_shape), seed))
        contents[name] = ("F32", tensor_shape, content)
        write_npy(folder / f"{name}.npy", "<f4", tensor_shape, content)
    write_safetensors(folder / "qkv.safetensors", contents, metadata)
    return {name: content for name, (_, _, content) in contents.items()}


def run_psa(args, folder, **options):
    """Runs psa in `folder` and returns the finished process, with text outputs."""
    environment = dict(options.pop("env", os.environ), LC_ALL="C.UTF-8")
    return subprocess.run(
        [PSA, *[str(a) for a in args]],
        cwd=folder,
        env=environment,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        timeout=120,
        **options,
    )


class PsaTest(unittest.TestCase):
    """A test in a scratch directory with the small inputs."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="psa_cli_")
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.folder.chmod(0o755)
        self.contents = write_inputs(self.folder, metadata={"grid": "2,6,8"})

    def psa(self, *args, **options):
        return run_psa(args, self.folder, **options)

    def succeed(self, *args, **options):
        process = self.psa(*args, **options)
        self.assertEqual(process.returncode, 0, process.stderr)
        return process

    def json_of(self, *args):
        return json.loads(self.succeed(*args, "--json").stdout)


def main(more_arguments=None):
    global PSA
    parser = argparse.ArgumentParser()
    parser.add_argument("--psa", required=True, help="the program under test")
    if more_arguments:
        more_arguments(parser)
    options, rest = parser.parse_known_args()
    PSA = str(pathlib.Path(options.psa).resolve())
    # Test modules import this file by name, while it may also run as __main__.
    sys.modules["harness"].PSA = PSA
    return options, rest


def run_tests():
    _, rest = main()
    unittest.main(module="__main__", argv=[sys.argv[0], *rest])
