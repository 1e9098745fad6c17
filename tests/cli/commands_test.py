# SPDX-License-Identifier: Apache-2.0
"""What the commands do: results that agree with each other, JSON that scripts can read."""

import json
import math
import re
import struct
import unittest
import zlib

import harness
from harness import SHAPE, SMALL, PsaTest


def dense_attention(q, k, v, shape, causal=False):
    """Plain attention of [B,H,L,D] lists, in double precision."""
    b, h, l, d = shape
    out = []
    for head in range(b * h):
        base = head * l * d
        rows = lambda x: [x[base + t * d : base + (t + 1) * d] for t in range(l)]
        keys, values = rows(k), rows(v)
        for t, row in enumerate(rows(q)):
            visible = t + 1 if causal else l
            logits = [sum(x * y for x, y in zip(row, keys[j])) / math.sqrt(d) for j in range(visible)]
            top = max(logits)
            weights = [math.exp(s - top) for s in logits]
            total = sum(weights)
            out += [sum(w * values[j][c] for j, w in enumerate(weights)) / total for c in range(d)]
    return out


def relative_error(got, want):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(got, want)) / sum(b * b for b in want))


class Run(PsaTest):
    def out_of(self, *args, name="out.safetensors"):
        self.succeed("run", *args, "-o", name)
        return harness.read_safetensors(self.folder / name)

    def values(self, name):
        return harness.f32_values(self.contents[name])

    def test_dense_rule_is_attention(self):
        for flags in ([], ["--causal"]):
            tensors, _ = self.out_of("qkv.safetensors", "--rule", "dense", *flags)
            dtype, shape, content = tensors["out"]
            self.assertEqual((dtype, shape), ("F32", SHAPE))
            want = dense_attention(
                self.values("q"), self.values("k"), self.values("v"), SHAPE, bool(flags)
            )
            self.assertLess(relative_error(harness.f32_values(content), want), 1e-5)

    def test_npy_and_safetensors_agree(self):
        tensors, _ = self.out_of("qkv.safetensors", *SMALL)
        self.succeed("run", "q.npy", "k.npy", "v.npy", "-o", "out.npy", *SMALL)
        header, content = harness.read_npy(self.folder / "out.npy")
        self.assertIn("(1, 2, 96, 16)", header)
        self.assertEqual(content, tensors["out"][2])

    def test_axis_orders_agree(self):
        tensors, _ = self.out_of("qkv.safetensors", *SMALL)
        b, h, l, d = SHAPE
        swapped = {
            name: ("F32", (b, l, h, d), harness.to_blhd(content, SHAPE))
            for name, content in self.contents.items()
        }
        harness.write_safetensors(self.folder / "blhd.safetensors", swapped)
        other, metadata = self.out_of("blhd.safetensors", "--layout", "blhd", *SMALL)
        self.assertEqual(other["out"][1], (b, l, h, d))
        self.assertEqual(other["out"][2], harness.to_blhd(tensors["out"][2], SHAPE))
        self.assertEqual(metadata["layout"], "blhd")

    def test_number_of_threads_changes_no_bit(self):
        one, _ = self.out_of("qkv.safetensors", "--threads", "1", *SMALL)
        three, _ = self.out_of("qkv.safetensors", "--threads", "3", *SMALL)
        self.assertEqual(one, three)

    def test_given_levels_repeat_the_call(self):
        flags = [*SMALL, "--order", "gilbert"]
        first, metadata = self.out_of("qkv.safetensors", "--levels-out", "levels.npy", *flags)
        second, _ = self.out_of("qkv.safetensors", "--levels-in", "levels.npy", *flags)
        self.assertEqual(first["out"], second["out"])
        header, levels = harness.read_npy(self.folder / "levels.npy")
        self.assertIn("'|u1'", header)
        self.assertEqual(len(levels), 1 * 2 * 6 * 6)
        self.assertLessEqual(set(levels), {1, 2, 3, 6})
        self.assertEqual(metadata["levels"], "selected")

    def test_one_file_holds_all_outputs(self):
        tensors, metadata = self.out_of(
            "qkv.safetensors", "--lse", "out.safetensors", "--levels-out", "out.safetensors", *SMALL
        )
        self.assertEqual(set(tensors), {"out", "lse", "levels"})
        self.assertEqual(tensors["lse"][:2], ("F32", (1, 2, 96)))
        self.assertEqual(tensors["levels"][:2], ("U8", (1, 2, 6, 6)))
        self.assertIn("block=16x16", metadata["problem"])
        self.assertIn("grid=2x6x8", metadata["problem"])

    def test_types_convert_on_load_and_on_store(self):
        tensors, metadata = self.out_of(
            "qkv.safetensors", "--dtype", "bf16", "--out-dtype", "f32", *SMALL
        )
        self.assertEqual(tensors["out"][0], "F32")
        self.assertIn(":bf16/bf16/f32", metadata["problem"])
        tensors, _ = self.out_of("qkv.safetensors", "--dtype", "f16", *SMALL)
        self.assertEqual(tensors["out"][0], "F16")

    def test_key_lengths_cut_keys(self):
        cut, _ = self.out_of("qkv.safetensors", "--rule", "dense", "--kv-lengths", "1")
        # One key: every query returns its value.
        v = self.values("v")
        d = SHAPE[3]
        want = [v[h * 96 * d + c] for h in range(2) for _ in range(96) for c in range(d)]
        self.assertLess(relative_error(harness.f32_values(cut["out"][2]), want), 1e-6)

    def test_flags_override_the_preset_and_the_file(self):
        document = self.json_of(
            "run", "qkv.safetensors", "-o", "out.npy", "--preset", "balanced", "--block", "32x16"
        )
        self.assertIn("order=gilbert", document["problem"])
        self.assertIn("block=32x16", document["problem"])
        (self.folder / "own.yaml").write_text("rest: skip\nblock: 16x16\nlevels: 2\n")
        document = self.json_of(
            "run", "qkv.safetensors", "-o", "out.npy", "--config", "own.yaml", "--rest", "mean"
        )
        self.assertNotIn("rest=", document["problem"])
        self.assertIn("block=16x16", document["problem"])

    def test_flag_overrides_metadata(self):
        document = self.json_of(
            "run", "qkv.safetensors", "-o", "out.npy", *SMALL, "--grid", "1,8,12"
        )
        self.assertIn("grid=1x8x12", document["problem"])

    def test_progress_goes_to_stderr_and_json_is_alone(self):
        process = self.succeed("run", "qkv.safetensors", "-o", "out.npy", *SMALL)
        self.assertIn("run [1/3] load", process.stderr)
        self.assertNotIn("[1/3]", process.stdout)
        process = self.succeed("run", "qkv.safetensors", "-o", "out.npy", "--json", *SMALL)
        self.assertEqual(process.stderr, "")
        self.assertGreater(json.loads(process.stdout)["density"], 0)


class Inspect(PsaTest):
    def test_json_has_tensors_and_selection(self):
        document = self.json_of("inspect", "qkv.safetensors", *SMALL)
        tensors = {t["name"]: t for t in document["files"][0]["tensors"]}
        self.assertEqual(set(tensors), {"q", "k", "v"})
        values = harness.f32_values(self.contents["q"])
        self.assertAlmostEqual(tensors["q"]["min"], min(values), places=6)
        self.assertAlmostEqual(tensors["q"]["max"], max(values), places=6)
        selection = document["selection"]
        self.assertEqual(len(selection["heads"]), 2)
        for head in selection["heads"]:
            self.assertEqual(len(head["density_by_query_block"]), 6)
            self.assertEqual(sum(head["blocks"].values()), 36)
        mean = sum(h["density"] for h in selection["heads"]) / 2
        self.assertAlmostEqual(mean, selection["density"], places=9)

    def test_density_of_a_head_weighs_rows_by_what_they_see(self):
        selection = self.json_of("inspect", "qkv.safetensors", "--causal", *SMALL)["selection"]
        for head in selection["heads"]:
            rows = head["density_by_query_block"]
            visible = [i + 1 for i in range(6)]
            weighed = sum(r * n for r, n in zip(rows, visible)) / sum(visible)
            self.assertAlmostEqual(head["density"], weighed, places=9)
            self.assertNotAlmostEqual(head["density"], sum(rows) / 6, places=2)

    def test_counts_nan_and_inf(self):
        values = harness.f32_values(self.contents["q"])
        values[3] = math.nan
        values[7] = -math.inf
        harness.write_safetensors(
            self.folder / "bad.safetensors",
            {"x": ("F32", (len(values),), harness.f32_bytes(values))},
        )
        tensor = self.json_of("inspect", "bad.safetensors")["files"][0]["tensors"][0]
        self.assertEqual((tensor["nan"], tensor["inf"]), (1, 1))

    def test_no_selection_unless_asked_for(self):
        self.assertNotIn("selection", self.json_of("inspect", "qkv.safetensors"))
        self.assertIn("selection", self.json_of("inspect", "qkv.safetensors", "--select"))

    def test_hostile_names_cannot_drive_the_terminal(self):
        harness.write_safetensors(
            self.folder / "names.safetensors",
            {"a\n\x1b[2Jb": ("F32", (1,), b"\0\0\0\0")},
            {"k\x1b": "v\r\n"},
        )
        process = self.succeed("inspect", "names.safetensors")
        self.assertNotIn("\x1b", process.stdout)
        self.assertNotIn("\r", process.stdout)


class Mask(PsaTest):
    def png_size(self, name):
        content = (self.folder / name).read_bytes()
        self.assertEqual(content[:8], b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", content[16:24])
        offset, data = 8, b""
        while offset < len(content):
            (length,) = struct.unpack(">I", content[offset : offset + 4])
            if content[offset + 4 : offset + 8] == b"IDAT":
                data += content[offset + 8 : offset + 8 + length]
            offset += 12 + length
        self.assertEqual(len(zlib.decompress(data)), height * (1 + 3 * width))
        return width, height

    def test_sheet_of_all_heads_is_larger_than_one_head(self):
        self.succeed("mask", "qkv.safetensors", "-o", "all.png", *SMALL)
        self.succeed("mask", "qkv.safetensors", "-o", "one.png", "--head", "1", *SMALL)
        self.assertGreater(self.png_size("all.png")[0], self.png_size("one.png")[0])

    def test_a_stored_level_map_gives_the_same_picture(self):
        self.succeed("mask", "qkv.safetensors", "-o", "a.png", *SMALL)
        self.succeed("run", "qkv.safetensors", "-o", "out.safetensors", "--levels-out",
                     "out.safetensors", *SMALL)
        self.succeed("mask", "out.safetensors", "-o", "b.png")
        self.assertEqual((self.folder / "a.png").read_bytes(), (self.folder / "b.png").read_bytes())

    def test_zoom_sets_the_size(self):
        self.succeed("mask", "qkv.safetensors", "-o", "z.png", "--head", "0", "--zoom", "40", *SMALL)
        self.assertGreaterEqual(self.png_size("z.png")[0], 6 * 40)


class Bench(PsaTest):
    KEYS = {
        "problem", "isa", "threads", "ms", "ms_p10", "ms_p90", "dense_ms", "speedup", "density",
        "gflops", "selection_ms", "workspace_bytes",
    }

    def test_json_has_the_promised_keys(self):
        rows = self.json_of("bench", "h2q256d32:f32", "block=32x32", "h1q128d16", "--repeats", "2")
        self.assertEqual(len(rows), 2)
        for row in rows:
            self.assertLessEqual(self.KEYS, set(row))
            self.assertGreater(row["ms"], 0)
            self.assertAlmostEqual(row["speedup"], row["dense_ms"] / row["ms"], places=9)
            self.assertGreater(row["gflops"], 0)
            self.assertEqual(row["samples"], 2)
        self.assertIn("block=32x32", rows[0]["problem"])

    def test_dense_can_be_left_out(self):
        (row,) = self.json_of("bench", "h1q128d16 rest=skip", "--no-dense", "--repeats", "1")
        self.assertIsNone(row["dense_ms"])
        self.assertIsNone(row["speedup"])

    def test_operations_follow_the_density(self):
        (row,) = self.json_of("bench", "h2q256d32 rule=dense causal block=64x64", "--repeats", "1")
        # Blocks above the diagonal are not counted: 4 * (1+2+3+4)/16 of the square.
        columns = 2 * 256 * 256 * 10 / 16
        operations = 4 * 32 * columns
        self.assertAlmostEqual(row["density"], 1)
        self.assertAlmostEqual(row["gflops"] * row["ms"] * 1e6 / operations, 1, places=6)

    def test_structured_data_and_isa_are_reported(self):
        (row,) = self.json_of(
            "bench", "h1q128d16", "--structured", "--repeats", "1", "--backend", "reference"
        )
        self.assertEqual((row["data"], row["backend"], row["isa"]), ("structured", "reference", ""))


class Doctor(PsaTest):
    def test_says_which_backend_is_used_and_why_others_are_not(self):
        document = self.json_of("doctor")
        used = [b["name"] for b in document["backends"] if b["state"] == "used"]
        self.assertEqual(len(used), len(set(used)), "one for each kind of memory")
        self.assertLessEqual(set(used), {"cpu", "cuda"})
        self.assertIn("reference", [b["name"] for b in document["backends"]])
        for backend in document["backends"]:
            self.assertTrue(backend["reason"])
        self.assertGreaterEqual(document["machine"]["usable_processors"], 1)
        self.assertIn("balanced", document["presets"])

    def test_reference_is_never_the_automatic_choice(self):
        for backend in self.json_of("doctor")["backends"]:
            if backend["name"] == "reference":
                self.assertEqual(backend["state"], "available")


class Help(PsaTest):
    COMMANDS = ["doctor", "plan", "run", "compare", "inspect", "mask", "bench"]

    def test_every_command_has_help_that_names_its_options(self):
        overview = self.succeed("--help").stdout
        for command in self.COMMANDS:
            self.assertIn(command, overview)
            text = self.succeed(command, "--help").stdout
            self.assertIn("--json" if command != "mask" else "--out", text)

    def test_lines_are_not_endless(self):
        for command in self.COMMANDS:
            for line in self.succeed(command, "--help").stdout.splitlines():
                self.assertLessEqual(len(line), 140, line)

    def test_the_documentation_names_every_option(self):
        text = (harness.HERE.parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
        for command in self.COMMANDS:
            for option in re.findall(r"--[a-z-]+", self.succeed(command, "--help").stdout):
                setting = option[2:].replace("-", "_")
                known = f"`{setting}`" in text or option in text or option == "--help"
                self.assertTrue(known, f"{option} of psa {command} is not in docs/cli.md")

    def test_version(self):
        self.assertRegex(self.succeed("--version").stdout, r"^psa \d+\.\d+\.\d+\n$")


class Config(PsaTest):
    YAML = """
M1:
  default_attention: b
  text_length: 0
  attention_configs:
    a: {type: dense}
    b:
      use_sim_mask: false
      block_size: {m: 128, n: 32}
      mask_ratios: {1: [0, .5], 2: [.5, .6], 4: [.6, .7], 8: [.7, .8], 0: [.8, 1]}
      mask_mode: thresholdbound
M2:
  default_attention: a
  attention_configs:
    a: {type: dense}
"""

    def problem_of(self, *flags):
        (self.folder / "published.yaml").write_text(self.YAML)
        return self.json_of("plan", "qkv.safetensors", "--config", "published.yaml", *flags)

    def test_published_file_is_read(self):
        document = self.problem_of("--model", "M1")
        self.assertIn("rule=threshold,0.5,0.6,0.7,0.8", document["problem"])
        self.assertIn("order=gilbert", document["problem"])
        self.assertEqual(document["configuration"], "published.yaml: M1/b")
        self.assertIn("rule=quota,1", self.problem_of("--model", "M1", "--attention", "a")["problem"])


if __name__ == "__main__":
    harness.run_tests()
