# SPDX-License-Identifier: Apache-2.0
"""psa tune on captures of a tiny model: what it writes can be run, and what it says about bad
input."""

import json
import os
import unittest

import harness
import tiny_model
from harness import PsaTest

PROMPTS = ["a red circle moves left", "a blue circle moves left"]
BLOCKS = ["--block", "16x16", "--pooled", "8"]
MEANS = ["--order", "gilbert", "--importance", "pooled_lse", "--rest", "mean", "--levels", "1",
         "--weigh-values=false"]  # which would cost a part of the density


class TuneTest(PsaTest):
    def setUp(self):
        super().setUp()
        tiny_model.write_model(self.folder / "model")
        (self.folder / "captures").mkdir()
        for i, prompt in enumerate(PROMPTS):
            self.succeed("generate", "--model", "model", "--prompt", prompt, "--seed", i, "--rule",
                         "dense", "-o", f"captures/v{i}.gif", "--capture", "layers=0,1,steps=0,2")

    def tune(self, *args, target="density=.3", **options):
        return self.psa("tune", "--qkv", "captures", "--target", target, "-o", "tuned.yaml",
                        *BLOCKS, *args, **options)

    def tuned(self, *args, **options):
        process = self.tune(*args, "--json", **options)
        self.assertEqual(process.returncode, 0, process.stderr)
        return json.loads(process.stdout)

    def assert_refused(self, process, code, *parts):
        self.assertEqual(process.returncode, code, process.stderr)
        self.assertRegex(process.stderr, r"(?m)^psa: error: ")
        for part in parts:
            self.assertIn(part, process.stderr)
        self.assertEqual(process.stdout, "")
        self.assertFalse((self.folder / "tuned.yaml").exists())


class Presets(TuneTest):
    def test_finds_less_error_at_the_density(self):
        found = self.tuned()
        self.assertEqual((found["tuned"], found["held_out"]), (4, 4))
        self.assertEqual([(h["layer"], h["head"]) for h in found["heads"]],
                         [(layer, head) for layer in (0, 1) for head in (0, 1)])
        self.assertLess(found["after"]["error"], found["before"]["error"])
        self.assertLess(found["after"]["density"], 0.33)
        self.assertEqual([s["step"] for s in found["steps"]], [0, 2])
        best = found["candidates"][0]
        self.assertTrue(all(best["error"] <= c["error"] for c in found["candidates"]
                            if c["captures"] == best["captures"]))
        self.assertGreater(len(found["candidates"]), 50)
        # Selection is paid for with density.
        for candidate in found["candidates"]:
            self.assertLessEqual(candidate["density"] + candidate["selection_cost"],
                                 best["density"] + best["selection_cost"] + 1e-9)

    def test_finds_less_density_for_the_error(self):
        loose = self.tuned(*MEANS, target="error=.01")
        tight = self.tuned(*MEANS, target="error=.005")
        self.assertLess(loose["after"]["density"], tight["after"]["density"])
        self.assertLess(loose["predicted_error"], 0.0101)
        self.assertLess(tight["predicted_error"], 0.0051)
        self.assertGreater(loose["predicted_error"], 0.0051)

    def test_keeps_what_is_given(self):
        found = self.tuned("--order", "tile3d", "--rest", "skip", "--importance", "sampled_max",
                           "--levels", "3")
        self.assertEqual([c["candidate"] for c in found["candidates"]],
                         ["tile3d sampled_max skip 16x16 3 levels"])
        text = (self.folder / "tuned.yaml").read_text()
        for line in ("order: tile3d", "rest: skip", "levels: 3", "pooled: 8", "block: 16x16"):
            self.assertIn(line + "\n", text)

    def test_tries_the_rest_with_and_without_a_cutoff_unless_one_is_given(self):
        for flags, tried in (((), {"", "2"}), (("--causal",), {"", "2", "4"}),
                             (("--rest-cutoff", "4"), {"4"}), (("--rest-cutoff", "0"), {""})):
            order = "none" if "--causal" in flags else "gilbert"
            found = self.tuned("--order", order, *MEANS[2:], *flags)
            texts = {c["candidate"].partition(", cutoff ")[2] for c in found["candidates"]}
            self.assertEqual(texts, tried)
            written = "rest_cutoff" in (self.folder / "tuned.yaml").read_text()
            self.assertEqual(written, "cutoff" in found["chosen"])

    def test_tries_weighed_values_where_the_rest_is_read_unless_told(self):
        for flags, tried in (((), {False, True}), (("--weigh-values",), {True}),
                             (("--weigh-values=false",), {False}), (("--rest", "skip"), {False})):
            rest = () if "--rest" in flags else ("--rest", "mean")
            found = self.tuned("--order", "gilbert", "--levels", "1", *rest, *flags)
            texts = [c["candidate"] for c in found["candidates"]]
            self.assertEqual({"values weighed" in text for text in texts}, tried)
            written = "weigh_values: true" in (self.folder / "tuned.yaml").read_text()
            self.assertEqual(written, "values weighed" in found["chosen"])

    def test_tries_a_budget_for_a_head_where_the_rest_is_linear_and_values_are_weighed(self):
        linear = ("--rest", "linear")
        for flags, tried in ((linear, {False, True}),
                             ((*linear, "--weigh-values", "--budget-scope", "head"), {True}),
                             ((*linear, "--weigh-values", "--budget-scope", "row"), {False}),
                             ((*linear, "--weigh-values=false"), {False}),
                             ((*linear, "--causal"), {False}),
                             (("--rest", "mean"), {False})):
            found = self.tuned("--order", "none", "--importance", "pooled_lse", "--levels", "1",
                               *flags)
            texts = [c["candidate"] for c in found["candidates"]]
            self.assertEqual({"shared budget" in text for text in texts}, tried)
            self.assertTrue(all("values weighed" in t for t in texts if "shared budget" in t))
            written = "budget_scope: head" in (self.folder / "tuned.yaml").read_text()
            self.assertEqual(written, "shared budget" in found["chosen"])

    def test_equal_captures_give_equal_files(self):
        self.tuned("--threads", "1")
        first = (self.folder / "tuned.yaml").read_text()
        self.tuned("--threads", "3")
        second = (self.folder / "tuned.yaml").read_text()
        self.assertEqual(first.replace("--threads 1", "--threads 3"), second)

    def test_the_file_is_read_by_the_other_commands(self):
        found = self.tuned()
        densities = {layer: [h["density"] for h in found["heads"] if h["layer"] == layer]
                     for layer in (0, 1)}
        for layer in (0, 1):
            rows = self.json_of("compare", f"captures/v0_layer{layer}_step2.safetensors",
                                "--config", "tuned.yaml", "--methods", "psa", "--per-head",
                                "--repeats", "1")
            got = [row["density"] for row in rows if row["head"] != "all"]
            for a, b in zip(got, densities[layer]):
                self.assertAlmostEqual(a, b, delta=0.07)  # a block of 16
        self.succeed("run", "captures/v0_layer1_step2.safetensors", "--config", "tuned.yaml",
                     "-o", "out.safetensors")
        made = self.json_of("generate", "--model", "model", "--prompt", PROMPTS[0], "--config",
                            "tuned.yaml", "-o", "v.gif")
        mean = sum(sum(d) for d in densities.values()) / 4
        self.assertAlmostEqual(made["psa"]["density"], mean, delta=0.04)

    def test_one_capture_says_that_nothing_was_held_out(self):
        process = self.psa("tune", "--qkv", "captures/v0_layer0_step0.safetensors", "--target",
                           "density=.3", "-o", "tuned.yaml", *BLOCKS, "--order", "gilbert")
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertIn("none held out: the errors below are of the captures that were tuned on",
                      process.stdout)
        self.assertIn("captures that were tuned on", (self.folder / "tuned.yaml").read_text())

    def test_captures_of_one_prompt_hold_out_a_step(self):
        files = [f"captures/v0_layer{layer}_step{step}.safetensors"
                 for layer in (0, 1) for step in (0, 2)]
        found = self.json_of("tune", "--qkv", *files, "--target", "density=.3", "-o", "tuned.yaml",
                             *BLOCKS, "--order", "gilbert")
        self.assertEqual((found["tuned"], found["held_out"]), (2, 2))

    def test_tensors_without_a_layer_get_one_configuration(self):
        found = self.json_of("tune", "--qkv", "qkv.safetensors", "--target", "density=.4", "-o",
                             "tuned.yaml", *BLOCKS, "--rest", "mean")
        self.assertEqual([h["layer"] for h in found["heads"]], [None, None])
        text = (self.folder / "tuned.yaml").read_text()
        self.assertIn("\nhead_density: [", text)
        self.assertNotIn("layers", text)
        self.succeed("run", "qkv.safetensors", "--config", "tuned.yaml", "-o", "out.npy")

    def test_report_is_one_page_with_pictures(self):
        process = self.tune("--order", "gilbert", "--report", "out")
        self.assertEqual(process.returncode, 0, process.stderr)
        page = (self.folder / "out" / "report.html").read_text()
        self.assertIn("report     out/report.html", process.stdout)
        self.assertGreaterEqual(page.count("<svg"), 3)  # the map and a chart for each layer
        self.assertIn("Layer 1, head 1: density", page)
        self.assertNotIn("<script", page)
        self.assertNotIn("http", page)


class Layers(TuneTest):
    def setUp(self):
        super().setUp()
        (self.folder / "layers.yaml").write_text(
            "block: 16x16\nlevels: 1\ndensity: .2\n"
            "layers:\n  0: {density: .4}\n  1: {density: .6}\n")

    def density(self, file, *args):
        rows = self.json_of("compare", file, "--config", "layers.yaml", "--methods", "psa",
                            "--repeats", "1", *args)
        return rows[0]["density"]

    def test_layer_of_the_metadata_or_of_the_flag(self):
        one = "captures/v0_layer1_step0.safetensors"
        self.assertAlmostEqual(self.density(one), 0.6, delta=0.05)
        self.assertAlmostEqual(self.density(one, "--layer", "0"), 0.4, delta=0.05)
        # What stands outside of layers.
        self.assertAlmostEqual(self.density(one, "--layer", "7"), 0.2, delta=0.05)
        self.assertAlmostEqual(self.density("qkv.safetensors"), 0.2, delta=0.1)

    def test_bad_layers(self):
        one = "captures/v0_layer1_step0.safetensors"
        self.assert_refused(self.psa("run", one, "-o", "o.npy", "--layer", "1"), 2, "--layer",
                            "--config")
        self.assert_refused(self.psa("run", one, "-o", "o.npy", "--config", "layers.yaml",
                                     "--layer", "x"), 2, "--layer is 'x'")
        tensors, metadata = harness.read_safetensors(self.folder / one)
        harness.write_safetensors(self.folder / "odd.safetensors", tensors,
                                  dict(metadata, layer="first"))
        self.assert_refused(self.psa("run", "odd.safetensors", "-o", "o.npy", "--config",
                                     "layers.yaml"), 2, "metadata layer", "'first'")

    def test_layers_that_the_model_does_not_have(self):
        (self.folder / "many.yaml").write_text("block: 16x16\nlayers: {5: {rest: skip}}\n")
        self.assert_refused(self.psa("generate", "--model", "model", "--prompt", PROMPTS[0], "-o",
                                     "v.gif", "--config", "many.yaml"), 2, "5", "0 to 1")

    def test_the_file_that_a_model_recommends(self):
        defaults = {"size": [4, 16, 16], "steps": 2, "config": "own.yaml"}
        tiny_model.write_model(self.folder / "tuned", defaults=defaults)
        arguments = ["generate", "--model", "tuned", "--prompt", PROMPTS[0], "-o", "v.gif"]
        self.assert_refused(self.psa(*arguments), 1, "tuned/own.yaml")
        text = (self.folder / "layers.yaml").read_text()
        (self.folder / "tuned" / "own.yaml").write_text(text)
        self.assertAlmostEqual(self.json_of(*arguments)["psa"]["density"], 0.5, delta=0.05)
        other = self.json_of(*arguments, "--preset", "balanced", "--block", "16x16")
        self.assertLess(other["psa"]["density"], 0.25)
        every = self.json_of(*arguments, "--density", "0.2")  # a flag holds for all layers
        self.assertAlmostEqual(every["psa"]["density"], 0.2, delta=0.05)

    def test_warm_up_of_the_file(self):
        (self.folder / "warm.yaml").write_text("block: 16x16\nwarmup_steps: 2\n")
        arguments = ["generate", "--model", "model", "--prompt", PROMPTS[0], "-o", "v.gif",
                     "--config", "warm.yaml"]
        self.assertEqual(self.json_of(*arguments)["warmup_steps"], 2)
        self.assertEqual(self.json_of(*arguments, "--warmup-steps", "1")["warmup_steps"], 1)
        self.assert_refused(self.psa(*arguments, "--steps", "1"), 2, "warm.yaml: warmup_steps")


class Models(TuneTest):
    def tune_model(self, *args, target="density=.3", **options):
        return self.psa("tune", "--model", "model", "--target", target, "-o", "tuned.yaml",
                        *BLOCKS, *args, **options)

    def prompts(self):
        return [word for prompt in PROMPTS for word in ("--prompt", prompt)]

    def test_finds_what_it_finds_on_captures_of_dense_runs(self):
        # The seeds, prompts and steps of setUp().
        found = self.found_on_model("--warmup-steps", "0")
        text = (self.folder / "tuned.yaml").read_text()
        expected = self.tuned(*MEANS)
        for key in ("tuned", "held_out", "chosen", "heads", "predicted_error"):
            self.assertEqual(found[key], expected[key], key)
        lines = lambda yaml: [line for line in yaml.splitlines() if not line.startswith("#")]
        self.assertEqual([line for line in lines(text) if line != "warmup_steps: 0"],
                         lines((self.folder / "tuned.yaml").read_text()))
        self.assertIn("warmup_steps: 0\n", text)

    def found_on_model(self, *args, **options):
        process = self.tune_model(*self.prompts(), *MEANS, *args, "--json", **options)
        self.assertEqual(process.returncode, 0, process.stderr)
        return json.loads(process.stdout)

    def test_warm_up_takes_its_part_of_the_density(self):
        found = self.found_on_model("--steps", "8", target="density=.4")
        videos = found["videos"]
        tuned_on = [t for t in videos["trials"] if not t["held_out"]]
        # Four dense steps of eight are more than .4 in all.
        self.assertEqual([t["warmup_steps"] for t in tuned_on], [0, 1, 2])
        for trial in tuned_on:
            warm = trial["warmup_steps"] / 8
            self.assertAlmostEqual(warm + (1 - warm) * trial["density"], trial["total_density"])
            self.assertAlmostEqual(trial["total_density"], 0.4, delta=0.001)
        best = max(tuned_on, key=lambda t: t["psnr_db"])
        [judged] = [t for t in videos["trials"] if t["held_out"]]
        for key in ("warmup_steps", "total_density"):
            self.assertEqual(judged[key], best[key])
            self.assertEqual(videos[key], best[key])
        self.assertEqual(videos["psnr_db"], judged["psnr_db"])
        self.assertEqual({t["prompt"] for t in tuned_on}, {PROMPTS[1]})
        self.assertEqual(judged["prompt"], PROMPTS[0])
        self.assertIn(f"\nwarmup_steps: {best['warmup_steps']}\n",
                      (self.folder / "tuned.yaml").read_text())

    def test_videos_are_those_of_psa_generate(self):
        found = self.found_on_model("--warmup-steps", "1", target="density=.5")
        [trial] = found["videos"]["trials"]
        self.assertEqual((trial["warmup_steps"], trial["held_out"]), (1, True))
        self.assertAlmostEqual(trial["density"], 0.25, delta=0.001)
        # The seed of the first prompt, which is held out.
        made = self.json_of("generate", "--model", "model", "--prompt", trial["prompt"], "--config",
                            "tuned.yaml", "--compare", "dense", "-o", "v.gif")
        self.assertEqual(made["warmup_steps"], 1)
        self.assertAlmostEqual(made["quality"]["psnr_db"], trial["psnr_db"], places=6)

    def test_report_shows_the_videos_beside_dense_ones(self):
        process = self.tune_model(*self.prompts(), *MEANS, "--report", "out")
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertIn("0 of 3 steps dense: PSNR", process.stdout)
        page = (self.folder / "out" / "report.html").read_text()
        videos = page.split("<h2>Whole videos</h2>")[1].split("<h2>")[0]
        self.assertIn(PROMPTS[0] + " (held out)", videos)
        self.assertEqual(videos.count("data:image/png;base64,"), 1)
        self.assertNotIn("http", page)

    def test_least_density_of_a_psnr(self):
        loose = self.found_on_model("--steps", "4", target="psnr=20")
        tight = self.found_on_model("--steps", "4", target="psnr=60")
        self.assertLess(loose["videos"]["total_density"], tight["videos"]["total_density"])
        for found, psnr in ((loose, 20), (tight, 60)):
            videos = found["videos"]
            self.assertGreaterEqual(videos["psnr_db"], psnr)
            judged = {t["total_density"]: t["psnr_db"] for t in videos["trials"] if t["held_out"]}
            self.assertEqual(judged[videos["total_density"]], videos["psnr_db"])
            for density, reached in judged.items():
                if density < videos["total_density"]:
                    self.assertLess(reached, psnr)

    def test_psnr_that_no_video_has(self):
        process = self.tune_model(*self.prompts(), *MEANS, target="psnr=99")
        self.assert_refused(process, 2, "--target is 'psnr=99.0'", "dB at densities up to 0.55")

    def test_latents_have_no_psnr(self):
        tiny_model.write_latent_model(self.folder / "latent")
        arguments = ["tune", "--model", "latent", "-o", "tuned.yaml", *BLOCKS, *MEANS,
                     *self.prompts()]
        self.assert_refused(self.psa(*arguments, "--target", "psnr=30"), 2, "--target psnr",
                            "latents")
        self.assert_refused(self.psa(*arguments, "--target", "density=.3", "--warmup-steps", "1"),
                            2, "--warmup-steps", "latents")
        self.assertIsNone(self.json_of(*arguments, "--target", "density=.3")["videos"])
        self.assertNotIn("warmup_steps", (self.folder / "tuned.yaml").read_text())

    def test_captures_are_kept_on_request_only(self):
        scratch = self.folder / "tmp"
        scratch.mkdir()
        environment = dict(os.environ, TMPDIR=str(scratch))
        self.assertEqual(self.tune_model(*self.prompts(), "--order", "gilbert",
                                         env=environment).returncode, 0)
        self.assertEqual(list(scratch.iterdir()), [])
        process = self.tune_model(*self.prompts(), "--order", "gilbert", "--keep-captures",
                                  "kept/here", "--dense-layers", "0")
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertEqual(sorted(p.name for p in (self.folder / "kept/here").iterdir()),
                         [f"prompt{i}_layer1_step{step}.safetensors" for i in (0, 1)
                          for step in (0, 2)])
        self.assertIn("dense video 2 of 2, step 3 of 3", process.stderr)

    def test_prompts_of_a_file_and_of_the_model(self):
        (self.folder / "list.txt").write_text("# both\n\n  " + "\r\n".join(PROMPTS) + "\n")
        listed = self.tune_model("--prompts", "list.txt", "--order", "gilbert", "--json")
        (self.folder / "list.txt").rename(self.folder / "model" / "prompts.txt")
        own = self.tune_model("--order", "gilbert", "--json")
        for process in (listed, own):
            self.assertEqual(process.returncode, 0, process.stderr)
            self.assertEqual(json.loads(process.stdout)["held_out"], 4)

    def test_bad_input_before_the_model_runs(self):
        (self.folder / "empty.txt").write_text("# none\n")
        prompts = self.prompts()
        for args, code, *parts in (
                ([], 2, "--prompt TEXT", "prompts.txt"),
                (["--prompts", "empty.txt"], 2, "--prompts is 'empty.txt'"),
                (["--prompts", "missing.txt"], 1, "missing.txt"),
                (["--prompt", PROMPTS[0], "--prompt", PROMPTS[0]], 2, "twice"),
                (["--prompt", "a rad circle"], 2, "rad"),
                ([*prompts, "--prompts", "empty.txt"], 2, "--prompts"),
                ([*prompts, "--qkv", "captures"], 2, "--qkv"),
                ([*prompts, "--names", "a,b,c"], 2, "--names"),
                ([*prompts, "--grid", "4,8,8"], 2, "setting grid", "--model"),
                ([*prompts, "--noise-seed", "-1"], 2, "--noise-seed"),
                ([*prompts, "--dense-layers", "0,1"], 2, "--dense-layers"),
                ([*prompts, "--warmup-steps", "1"], 2, "--warmup-steps is '1'", "density"),
                ([*prompts, "--warmup-steps", "4"], 2, "--warmup-steps is '4'"),
                ([*prompts, "--backend", "reference"], 2, "--backend"),
                ([*prompts, "--keep-captures", "model/config.json"], 1, "model/config.json")):
            process = self.tune_model(*args)
            self.assert_refused(process, code, *parts)
            self.assertNotIn("dense video", process.stderr)
        process = self.tune_model(*prompts, target="density=.01")
        self.assert_refused(process, 2, "--target", "density is 0.01")
        self.assertNotIn("dense video", process.stderr)
        process = self.psa("tune", "--target", "density=.3", "-o", "tuned.yaml")
        self.assert_refused(process, 2, "--model DIR or --qkv PATH")
        self.assert_refused(self.psa("tune", "--qkv", "captures", "--prompt", "a", "--target",
                                     "density=.3", "-o", "tuned.yaml"), 2, "--prompt", "--model")


class BadInput(TuneTest):
    def test_targets(self):
        for target in ("density", "density=", "density=0", "density=1", "density=x", "error=-1",
                       "psnr=30", "error=nan"):
            self.assert_refused(self.tune(target=target), 2, "--target")
        self.assert_refused(self.tune(target="density=.01"), 2, "--target", "density is 0.01")

    def test_settings_that_it_finds_itself(self):
        for flag, value in (("--rule", "dense"), ("--budget", ".1"), ("--density", ".1"),
                            ("--compat", "official"), ("--head-density", ".1,.2")):
            name = flag.removeprefix("--").replace("-", "_")
            self.assert_refused(self.tune(flag, value), 2, f"setting {name}")

    def test_configurations_that_nothing_can_be_held_against(self):
        self.assert_refused(self.tune("--causal", "--budget-scope", "head"), 2,
                            "budget_scope is head")

    def test_captures(self):
        (self.folder / "empty").mkdir()
        tensors, metadata = harness.read_safetensors(
            self.folder / "captures/v0_layer0_step0.safetensors")
        (self.folder / "notes.txt").write_text("no tensors")
        harness.write_safetensors(self.folder / "odd.safetensors", tensors,
                                  dict(metadata, step="late"))
        nans = {n: (t, shape, b"\xff" * len(data)) for n, (t, shape, data) in tensors.items()}
        harness.write_safetensors(self.folder / "nans.safetensors", nans, metadata)
        for paths, code, *parts in (
                (["empty"], 2, "--qkv is 'empty'", "no .safetensors"),
                (["missing"], 2, "'missing'"),
                (["missing.safetensors"], 1, "missing.safetensors"),
                (["notes.txt"], 2, "notes.txt"),
                (["odd.safetensors"], 2, "metadata step", "'late'"),
                (["nans.safetensors"], 2, "head 0", "nans.safetensors", "no finite error"),
                (["captures", "qkv.safetensors"], 2, "qkv.safetensors' has no metadata layer")):
            process = self.psa("tune", "--qkv", *paths, "--target", "density=.3", "-o",
                               "tuned.yaml", *BLOCKS)
            self.assert_refused(process, code, *parts)
        harness.write_inputs(self.folder, metadata={"grid": "2,6,8", "layer": "0"})
        process = self.psa("tune", "--qkv", "captures", "qkv.safetensors", "--target", "density=.3",
                           "-o", "tuned.yaml", *BLOCKS)
        self.assert_refused(process, 2, "must be like the first")

    def test_outputs(self):
        process = self.psa("tune", "--qkv", "captures", "--target", "density=.3", "-o",
                           "no/tuned.yaml")
        self.assert_refused(process, 1, "no/tuned.yaml")


if __name__ == "__main__":
    harness.run_tests()
