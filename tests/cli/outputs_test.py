# SPDX-License-Identifier: Apache-2.0
"""Output files under adverse conditions: a failed run leaves what was there, and says why."""

import os
import resource
import signal
import subprocess
import unittest

import harness
from harness import SMALL, PsaTest

OLD = b"what was here before"


def limit_file_size(limit_bytes):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return limit


class Outputs(PsaTest):
    def assert_failed(self, process, code, pattern):
        self.assertEqual(process.returncode, code, process.stderr)
        self.assertRegex(process.stderr, r"(?m)^psa: error: ")
        self.assertRegex(process.stderr, pattern)

    def assert_survived(self, name="out.safetensors"):
        self.assertEqual((self.folder / name).read_bytes(), OLD)
        self.assertEqual([p.name for p in self.folder.iterdir() if ".tmp-" in p.name], [])

    def test_full_disk(self):
        (self.folder / "out.npy").symlink_to("/dev/full")
        process = self.psa("run", "qkv.safetensors", "-o", "out.npy", *SMALL)
        self.assert_failed(process, 1, "No space left on device")

    def test_file_size_limit_keeps_the_old_file(self):
        for command, name in [
            (["run", "qkv.safetensors", *SMALL], "out.safetensors"),
            (["run", "qkv.safetensors", *SMALL], "out.npy"),
            (["mask", "qkv.safetensors", *SMALL], "out.png"),
        ]:
            (self.folder / name).write_bytes(OLD)
            process = self.psa(*command, "-o", name, preexec_fn=limit_file_size(64))
            self.assert_failed(process, 1, "File too large")
            self.assert_survived(name)

    def test_bad_input_keeps_the_old_file(self):
        (self.folder / "out.safetensors").write_bytes(OLD)
        (self.folder / "bad.safetensors").write_bytes(b"\xff" * 64)
        for args, code in [
            (["bad.safetensors"], 1),
            (["missing.safetensors"], 1),
            (["qkv.safetensors", "--budget", ".5,.4"], 2),
            (["qkv.safetensors", "--grid", "5,5,5"], 2),
        ]:
            process = self.psa("run", *args, "-o", "out.safetensors")
            self.assert_failed(process, code, "error")
            self.assert_survived()

    def test_success_replaces_the_old_file_whole(self):
        (self.folder / "out.safetensors").write_bytes(OLD * 100_000)
        self.succeed("run", "qkv.safetensors", "-o", "out.safetensors", *SMALL)
        tensors, _ = harness.read_safetensors(self.folder / "out.safetensors")
        self.assertEqual(set(tensors), {"out"})

    def test_unwritable_place_fails_before_the_work(self):
        for path in ["missing/out.npy", "/sys/out.npy", "/proc/out.npy"]:
            process = self.psa("run", "qkv.safetensors", "-o", path, *SMALL)
            self.assert_failed(process, 1, "out.npy")
            self.assertNotIn("attention", process.stderr)
        (self.folder / "folder.npy").mkdir()
        process = self.psa("run", "qkv.safetensors", "-o", "folder.npy", *SMALL)
        self.assert_failed(process, 1, "folder.npy")

    @unittest.skipUnless(os.geteuid() == 0, "needs to give up privileges")
    def test_read_only_file_survives(self):
        out = self.folder / "out.npy"
        out.write_bytes(OLD)
        out.chmod(0o444)
        self.folder.chmod(0o777)

        def become_nobody():
            os.setgid(65534)
            os.setuid(65534)

        try:
            process = self.psa("run", "qkv.safetensors", "-o", "out.npy", *SMALL,
                               preexec_fn=become_nobody)
        except PermissionError:
            self.skipTest("the program under test lies where other users cannot run it")
        self.assert_failed(process, 1, "Permission denied")
        self.assert_survived("out.npy")

    @unittest.skipIf(os.geteuid() == 0, "root may write everything")
    def test_read_only_file_survives_without_privileges(self):
        out = self.folder / "out.npy"
        out.write_bytes(OLD)
        out.chmod(0o444)
        process = self.psa("run", "qkv.safetensors", "-o", "out.npy", *SMALL)
        self.assert_failed(process, 1, "Permission denied")
        self.assert_survived("out.npy")

    def test_output_over_an_input_is_safe(self):
        before = (self.folder / "qkv.safetensors").read_bytes()
        self.succeed("run", "qkv.safetensors", "-o", "a.safetensors", *SMALL)
        (self.folder / "copy.safetensors").write_bytes(before)
        self.succeed("run", "copy.safetensors", "-o", "copy.safetensors", *SMALL)
        self.assertEqual(
            harness.read_safetensors(self.folder / "a.safetensors")[0],
            harness.read_safetensors(self.folder / "copy.safetensors")[0],
        )


class Stdout(PsaTest):
    def test_full_stdout_is_an_error(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            process = self.psa("doctor", stdout=full)
        self.assertEqual(process.returncode, 1)
        self.assertIn("cannot write to stdout", process.stderr)

    def test_reader_that_leaves_is_none(self):
        read_end, write_end = os.pipe()
        os.close(read_end)
        with os.fdopen(write_end, "w") as pipe:
            process = self.psa("inspect", "qkv.safetensors", "--json", stdout=pipe)
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertEqual(process.stderr, "")

    def test_signal_dispositions_do_not_matter(self):
        # Some parents ignore SIGPIPE, some do not.
        reset = lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        command = f"'{harness.PSA}' inspect qkv.safetensors | true"
        process = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=self.folder,
                                 preexec_fn=reset, stderr=subprocess.PIPE, check=False)
        self.assertEqual(process.returncode, 0, process.stderr)


if __name__ == "__main__":
    harness.run_tests()
