# SPDX-License-Identifier: Apache-2.0
"""psa generate on a tiny model: files, JSON, equal bits, and what it says about bad input."""

import resource
import struct
import unittest

import harness
import tiny_model
from harness import PsaTest

PROMPT = ["--prompt", "a red circle moves left"]
GRID_TOKENS = 4 * 8 * 8


class GenerateTest(PsaTest):
    def setUp(self):
        super().setUp()
        tiny_model.write_model(self.folder / "model")

    def generate(self, *args, **options):
        return self.psa("generate", "--model", "model", *args, **options)

    def made(self, *args):
        process = self.generate(*PROMPT, *args)
        self.assertEqual(process.returncode, 0, process.stderr)
        return process

    def assert_refused(self, process, code, *parts):
        self.assertEqual(process.returncode, code, process.stderr)
        self.assertRegex(process.stderr, r"(?m)^psa: error: ")
        for part in parts:
            self.assertIn(part, process.stderr)


class Videos(GenerateTest):
    def test_gif_has_the_size_of_the_video(self):
        process = self.made("-o", "v.gif", "--enlarge", "2")
        content = (self.folder / "v.gif").read_bytes()
        self.assertEqual(content[:6], b"GIF89a")
        self.assertEqual(struct.unpack("<HH", content[6:10]), (32, 32))
        self.assertIn("wrote      v.gif", process.stdout)
        self.assertIn("step 3 of 3", process.stderr)

    def test_equal_seeds_give_equal_bytes_on_any_number_of_threads(self):
        self.made("-o", "a.gif", "--seed", "5", "--threads", "1")
        self.made("-o", "b.gif", "--seed", "5", "--threads", "3")
        self.made("-o", "c.gif", "--seed", "6")
        a, b, c = ((self.folder / f"{name}.gif").read_bytes() for name in "abc")
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)

    def test_pictures_and_latents(self):
        self.made("-o", "p_%02d.png")
        self.assertTrue((self.folder / "p_03.png").read_bytes().startswith(b"\x89PNG"))
        self.made("-o", "latents.safetensors")
        tensors, _ = harness.read_safetensors(self.folder / "latents.safetensors")
        self.assertEqual(tensors["latents"][:2], ("F32", (3, 4, 16, 16)))

    def test_json_says_what_each_step_did(self):
        document = self.json_of("generate", "--model", "model", *PROMPT, "-o", "v.gif", "--steps",
                                "4", "--warmup-steps", "1", "--compare", "dense")
        self.assertEqual(document["grid"], [4, 8, 8])
        steps = document["psa"]["steps"]
        self.assertEqual([s["warmup"] for s in steps], [True, False, False, False])
        self.assertEqual(steps[0]["layer_density"], [1.0, 1.0])
        self.assertLess(steps[3]["density"], 0.9)
        self.assertEqual(document["dense"]["density"], 1.0)
        self.assertGreater(document["quality"]["psnr_db"], 5)
        self.assertEqual(document["psa"]["files"], ["v.gif"])
        self.assertEqual(document["dense"]["files"], ["v_dense.gif", "v_compare.gif"])
        for name in ("v.gif", "v_dense.gif", "v_compare.gif"):
            self.assertTrue((self.folder / name).exists(), name)

    def test_layers_can_be_dense(self):
        document = self.json_of("generate", "--model", "model", *PROMPT, "-o", "v.gif",
                                "--dense-layers", "1")
        self.assertEqual(document["dense_layers"], [1])
        for step in document["psa"]["steps"]:
            self.assertLess(step["layer_density"][0], 0.9)
            self.assertEqual(step["layer_density"][1], 1.0)
        process = self.made("-o", "v.gif", "--dense-layers", "0,1", "--warmup-steps", "1")
        self.assertIn("1 first steps and layers 0, 1 with dense attention", process.stdout)

    def test_dense_video_stands_beside_one_called_psa(self):
        document = self.json_of("generate", "--model", "model", *PROMPT, "-o", "psa.gif",
                                "--compare", "dense")
        self.assertEqual(document["dense"]["files"], ["dense.gif", "compare.gif"])

    def test_dense_video_over_the_limit_is_left_out(self):
        process = self.made("-o", "v.gif", "--compare", "dense", "--dense-limit", "0",
                            "--report", "out")
        self.assertIn("skipped    the dense video", process.stdout)
        self.assertFalse((self.folder / "v_dense.gif").exists())
        self.assertIn("was left out", (self.folder / "out" / "report.html").read_text())
        document = self.json_of("generate", "--model", "model", *PROMPT, "-o", "v.gif",
                                "--compare", "dense", "--dense-limit", "900")
        self.assertIn("dense", document)

    def test_dense_attention_is_equal_to_dense(self):
        document = self.json_of("generate", "--model", "model", *PROMPT, "-o", "v.gif", "--rule",
                                "dense", "--order", "none", "--compare", "dense")
        self.assertIsNone(document["quality"]["psnr_db"])  # infinite
        self.assertEqual((self.folder / "v.gif").read_bytes(),
                         (self.folder / "v_dense.gif").read_bytes())

    def test_captured_tensors_can_be_compared(self):
        self.made("-o", "v.gif", "--capture", "layers=0,1,steps=2")
        for layer in (0, 1):
            name = f"v_layer{layer}_step2.safetensors"
            tensors, metadata = harness.read_safetensors(self.folder / name)
            shape = (1, tiny_model.HEADS, GRID_TOKENS, tiny_model.HEAD_DIM)
            self.assertEqual(tensors["q"][1], shape)
            self.assertEqual(metadata["grid"], "4,8,8")
            self.json_of("compare", name, "--block", "16x16", "--repeats", "1")

    def test_report_is_one_page_with_the_videos(self):
        self.made("-o", "v.gif", "--compare", "dense", "--report", "out")
        page = (self.folder / "out" / "report.html").read_text()
        self.assertEqual(page.count("data:image/gif;base64,"), 2)
        self.assertIn("a red circle moves left", page)
        self.assertNotIn("<script", page)
        self.assertNotIn("http", page)

        self.assertNotIn("Inside the model", page)  # nothing was captured

    def test_report_shows_what_was_captured(self):
        document = self.json_of("generate", "--model", "model", *PROMPT, "-o", "v.gif", "--compare",
                                "dense", "--steps", "3", "--warmup-steps", "1", "--capture",
                                "layers=1,steps=0,2", "--report", "out")
        self.assertEqual([(c["file"], c["layer"], c["step"]) for c in document["captures"]],
                         [("v_layer1_step0.safetensors", 1, 0), ("v_layer1_step2.safetensors", 1, 2)])
        methods = [row["method"] for row in document["captures"][1]["comparison"]
                   if row["part"] == "comparison"]
        self.assertEqual(methods, ["dense", "psa", "binary", "binary-unordered", "binary+mean",
                                   "official-split"])
        page = (self.folder / "out" / "report.html").read_text()
        self.assertEqual(page.count("<h1"), 3)
        self.assertEqual(page.count("<html"), 1)
        videos, first, second = page.split('<h1 class="part">')
        self.assertIn("PSNR", videos)
        self.assertIn("Density by layer and step", videos)
        self.assertTrue(first.startswith("Inside the model: layer 1 in step 0<"))
        self.assertIn("The run itself used dense attention here", first)
        self.assertTrue(second.startswith("Inside the model: layer 1 in step 2<"))
        self.assertNotIn("The run itself used dense attention here", second)
        for heading in ("Methods", "Error against density", "What each head reads",
                        "Where the error is", "Head by head"):
            self.assertIn(f"<h2>{heading}</h2>", first)
            self.assertIn(f"<h2>{heading}</h2>", second)
        self.assertEqual(page.count("<h2>How this was made</h2>"), 1)
        self.assertNotIn("<script", page)
        self.assertNotIn("http", page)

    def test_captures_are_compared_as_psa_compare_does(self):
        document = self.json_of("generate", "--model", "model", *PROMPT, "-o", "v.gif", "--rest",
                                "skip", "--capture", "layers=0,steps=1", "--report", "out")
        [capture] = document["captures"]
        flags = []
        for setting in document["attention"].split():
            name, value = setting.split("=", 1)
            flags += ["--" + name.replace("_", "-"), value]
        rows = self.json_of("compare", capture["file"], *flags, "--methods",
                            "dense,psa,binary,binary-unordered,binary+mean,official-split",
                            "--curve")
        self.assertEqual(len(capture["comparison"]), len(rows))
        for inside, outside in zip(capture["comparison"], rows):
            for key in ("part", "method", "density", "rel_l2"):
                self.assertEqual(inside[key], outside[key])

    def test_captures_without_a_report_are_only_written(self):
        document = self.json_of("generate", "--model", "model", *PROMPT, "-o", "v.gif", "--capture",
                                "layers=0,steps=1")
        self.assertEqual(document["captures"],
                         [{"file": "v_layer0_step1.safetensors", "layer": 0, "step": 1}])

    def test_any_attention_can_be_compared(self):
        for flags in (["--rule", "dense"], ["--rule", "threshold,.5,.7,.8,.9"], ["--rest", "linear"],
                      ["--budget", ".3", "--order", "kmeans", "--clusters", "4x4"],
                      ["--compat", "official", "--rest", "skip", "--block", "128x128"]):
            process = self.made("-o", "v.gif", *flags, "--capture", "layers=0,steps=1", "--report",
                                "out")
            self.assertIn("Self-attention of layer 0 in step 1", process.stdout)
            self.assertIn("official-split", process.stdout)

    def test_words_are_listed(self):
        process = self.generate("--list-words")
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertEqual(process.stdout, "words: a red blue circle moves left\n")


class BadInput(GenerateTest):
    def test_prompt_with_unknown_words(self):
        process = self.generate("--prompt", "a rad circel", "-o", "v.gif")
        self.assert_refused(process, 2, "rad", "'red'", "circel", "'circle'")

    def test_values_out_of_range(self):
        for flag, value in [("--steps", "0"), ("--steps", "-3"), ("--frames", "0"),
                            ("--seed", "-1"), ("--warmup-steps", "4"), ("--guidance", "nan"),
                            ("--fps", "0"), ("--compare", "sparse"), ("--compute", "f64"),
                            ("--capture", "layers=2,steps=0"), ("--capture", "layers=0"),
                            ("--backend", "tpu"), ("--dense-limit", "9"), ("--dense-layers", "1,x"),
                            ("--dense-layers", "-1")]:
            process = self.generate(*PROMPT, "-o", "v.gif", flag, value)
            self.assert_refused(process, 2, flag)
            self.assertFalse((self.folder / "v.gif").exists())

    def test_layers_that_the_model_does_not_have(self):
        self.assert_refused(self.generate(*PROMPT, "-o", "v.gif", "--dense-layers", "2"), 2,
                            "dense layer", "0 to 1")

    def test_sizes_that_the_model_cannot_make(self):
        self.assert_refused(self.generate(*PROMPT, "-o", "v.gif", "--height", "15"), 2, "height",
                            "15")
        self.assert_refused(self.generate(*PROMPT, "-o", "v.gif", "--width", "200"), 2, "width")

    def test_outputs_that_cannot_be_written(self):
        self.assert_refused(self.generate(*PROMPT, "-o", "v.avi"), 2, "v.avi", ".gif")
        self.assert_refused(self.generate(*PROMPT, "-o", "no/v.gif"), 1, "no/v.gif")
        self.assert_refused(self.generate(*PROMPT), 2, "--out")

    def test_full_disk_leaves_nothing(self):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        self.assert_refused(self.generate(*PROMPT, "-o", "v.gif", preexec_fn=limit), 1, "v.gif")
        self.assertEqual([p.name for p in self.folder.iterdir() if p.name.startswith("v.gif")], [])

    def test_checkpoints_that_are_not_whole(self):
        shapes = tiny_model.weight_shapes()
        del shapes["blocks.1.attn1.to_k.weight"]
        tiny_model.write_model(self.folder / "missing", shapes)
        process = self.psa("generate", "--model", "missing", *PROMPT, "-o", "v.gif")
        self.assert_refused(process, 1, "blocks.1.attn1.to_k.weight")
        shapes = tiny_model.weight_shapes()
        shapes["proj_out.bias"] = (13,)
        tiny_model.write_model(self.folder / "wrong", shapes)
        process = self.psa("generate", "--model", "wrong", *PROMPT, "-o", "v.gif")
        self.assert_refused(process, 1, "proj_out.bias", "[13]", "[12]")
        self.assert_refused(self.psa("generate", "--model", "nowhere", *PROMPT, "-o", "v.gif"), 1,
                            "nowhere")

    def test_model_without_defaults_asks_for_the_size(self):
        tiny_model.write_model(self.folder / "bare", defaults={})
        process = self.psa("generate", "--model", "bare", *PROMPT, "-o", "v.gif")
        self.assert_refused(process, 2, "--frames", "psa.json")

    def test_defaults_that_make_no_sense(self):
        for defaults, part in [({"size": [4, 16]}, "size"), ({"stepz": 2}, "stepz"),
                               ({"size": [4, 16, 16], "steps": -1}, "--steps"),
                               ({"size": [4, 16, 16], "attention": "rulez=1"}, "rulez")]:
            name = "d" + part.strip("-")
            tiny_model.write_model(self.folder / name, defaults=defaults)
            process = self.psa("generate", "--model", name, *PROMPT, "-o", "v.gif")
            self.assertIn(process.returncode, (1, 2))
            self.assertIn(part, process.stderr)

    def test_latent_models_need_a_vae(self):
        tiny_model.write_latent_model(self.folder / "latent")
        process = self.psa("generate", "--model", "latent", *PROMPT, "-o", "v.gif")
        self.assert_refused(process, 2, "VAE", ".safetensors")
        process = self.psa("generate", "--model", "latent", *PROMPT, "-o", "l.safetensors")
        self.assertEqual(process.returncode, 0, process.stderr)


if __name__ == "__main__":
    harness.run_tests()
