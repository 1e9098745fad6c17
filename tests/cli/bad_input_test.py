# SPDX-License-Identifier: Apache-2.0
"""Every line of bad_input.txt is refused with its exit code and message, without a trace."""

import shlex
import struct
import unittest

import harness
from harness import HERE, PsaTest


def cases():
    for line in (HERE / "bad_input.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        # The expression may hold '|' itself, so the arguments begin at the last " | ".
        code, rest = line.split(" | ", 1)
        pattern, _, args = rest.rpartition(" | ")
        if not pattern:
            pattern, args = rest.rstrip(" |"), ""
        yield int(code), pattern, shlex.split(args)


def raw_safetensors(path, header, data=b"", length=None):
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def write_bad_tensors(folder):
    def triple(name, shapes, dtype="F32"):
        tensors = {}
        for role, shape in zip("qkv", shapes):
            tensors[role] = (dtype, shape, b"\0" * (4 * harness.size_of(shape)))
        harness.write_safetensors(folder / name, tensors)

    good = (1, 2, 96, 16)
    triple("rank3.safetensors", [(2, 96, 16)] * 3)
    triple("lengths.safetensors", [good, good, (1, 2, 97, 16)])
    triple("heads.safetensors", [(1, 3, 96, 16), good, good])
    triple("empty.safetensors", [(1, 2, 0, 16)] * 3)
    triple("integers.safetensors", [good] * 3, dtype="I32")

    content = (folder / "qkv.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(content[:-1])
    (folder / "tiny.safetensors").write_bytes(b"\x01\x02")
    raw_safetensors(folder / "long.safetensors", b"{}", length=2**63)
    entry = b'"%s":{"dtype":"U8","shape":[4],"data_offsets":[%d,%d]}'
    raw_safetensors(folder / "past_end.safetensors", b"{" + entry % (b"a", 0, 9) + b"}", b"1234")
    overlap = b"{" + entry % (b"a", 0, 4) + b"," + entry % (b"b", 2, 6) + b"}"
    raw_safetensors(folder / "overlap.safetensors", overlap, b"123456")
    huge = b'{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,16]}}'
    raw_safetensors(folder / "huge.safetensors", huge, b"\0" * 16)
    raw_safetensors(folder / "deep.safetensors", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    (folder / "folder.safetensors").mkdir()
    (folder / "garbage.npy").write_bytes(b"no numpy array at all")
    harness.write_npy(folder / "short.npy", "<f4", (1, 2, 3, 4), b"\0" * 95)
    harness.write_npy(folder / "small_levels.npy", "|u1", (1, 2, 2, 2), b"\x01" * 8)
    harness.write_npy(folder / "bad_levels.npy", "|u1", (1, 2, 6, 6), b"\x09" * 72)


def write_bad_configurations(folder):
    for name, text in {
        "own.yaml": "rest: skip\n",
        "unknown.yaml": "rest: skip\nbudgte: [.1]\n",
        "value.yaml": "block: 5x5\n",
        "broken.yaml": "a: [1, 2\n",
        "aliases.yaml": "a: &x [1]\nb: [*x, *x]\n",
        "deep.yaml": "[" * 10_000,
        "notes.txt": "no tensor\n",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")


class BadInput(PsaTest):
    def test_every_line(self):
        write_bad_tensors(self.folder)
        write_bad_configurations(self.folder)
        before = sorted(p.name for p in self.folder.iterdir())
        count = 0
        for code, pattern, args in cases():
            count += 1
            with self.subTest(args=" ".join(args)):
                process = self.psa(*args)
                self.assertEqual(process.returncode, code, process.stderr)
                errors = [l for l in process.stderr.splitlines() if l.startswith("psa: error: ")]
                self.assertEqual(len(errors), 1, process.stderr)
                self.assertRegex(errors[0], pattern)
                self.assertEqual(process.stdout, "")
                after = sorted(p.name for p in self.folder.iterdir())
                self.assertEqual(after, before, "a refused command leaves no file")
        self.assertGreater(count, 70)


if __name__ == "__main__":
    harness.run_tests()
