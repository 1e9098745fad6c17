# SPDX-License-Identifier: Apache-2.0
"""YAML files: our own form and that of the published attention_config.yaml."""

import dataclasses

import psa
import pytest

pytest.importorskip("yaml")

PUBLISHED = """
Wan2.1_1.3b:
  default_attention: psa_balanced
  video_scale: {width_divisor: 16, height_divisor: 16, depth_divisor: 4}
  text_length: 0
  attention_configs:
    baseline: {type: dense, description: "all of it"}
    psa_balanced:
      type: psa
      use_rearrange: True
      use_sim_mask: true
      block_size: {m: 128, n: 128, tile_n: 32}
      mask_ratios:
        1: [0.00, 0.50]
        2: [0.50, 0.60]
        4: [0.60, 0.70]
        8: [0.70, 0.80]
        0: [0.80, 1.00]
      mask_mode: thresholdbound
      attn_impl: old_mask_type
      tile_size: [2, 8, 8]
      warmup_steps: 15
      rearrange_method: Gilbert
      verbose: true
      sim_thresholds: {x2: 0.7, x4: 0.65, x8: 0.6}
CogVideo_5b:
  default_attention: psa_4steps
  text_length: 226
  attention_configs:
    psa_4steps:
      use_rearrange: false
      use_sim_mask: false
      block_size: {m: 128, n: 128}
      mask_ratios: {1: [0, .05], 2: [.05, .15], 4: [.15, .25], 8: [.25, .5], 0: [.5, 1]}
      mask_mode: topk
"""


@pytest.fixture
def read(tmp_path):
    def from_text(text, **choice):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return psa.preset_from_yaml(path, **choice)

    return from_text


def test_own_form(read, tmp_path):
    text = "preset: cogvideox-5b\nbudget: [.08, .12]\nblock: 128x64\nwarmup_steps: 3\ngrid: 4x6x8\n"
    preset = read(text)
    assert preset.config.budget == (0.08, 0.12) and preset.config.block == (128, 64)
    assert preset.config.rest == "skip"
    assert (preset.warmup_steps, preset.grid, preset.text_tokens) == (3, (4, 6, 8), 226)
    assert psa.Config.from_yaml(tmp_path / "config.yaml") == preset.config


def test_layers_have_settings_over_those_of_the_file(read):
    preset = read(
        "density: .2\nrest: skip\nlayers:\n  0: {head_density: [.1, .3]}\n  2-3: {budget: [.5]}\n"
    )
    base = psa.Config(density=0.2, rest="skip")
    assert preset.config == base
    assert preset.layers == {
        0: dataclasses.replace(base, head_density=(0.1, 0.3)),
        2: dataclasses.replace(base, budget=(0.5,)),
        3: dataclasses.replace(base, budget=(0.5,)),
    }


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({"model": "Wan2.1_1.3b"}, "wan2.1-1.3b"),
        ({"model": "Wan2.1_1.3b", "attention": "baseline"}, "dense"),
        ({"model": "CogVideo_5b"}, "cogvideox-5b-4steps"),
    ],
)
def test_published_form_gives_the_presets(read, choice, name):
    preset, known = read(PUBLISHED, **choice), psa.preset(name)
    assert preset.config == known.config
    if name != "dense":
        assert preset.warmup_steps == known.warmup_steps
        assert preset.text_tokens == known.text_tokens


WRONG = {
    "key": ("rule: quota\nbudgte: [.1]\n", "key 'budgte' is not known in the file; .*'budget'"),
    "value": ("block: 64", "block is 64; it must be a list of numbers"),
    "twice": ("rest: skip\nrest: mean\n", "key 'rest' is given twice(?s:.*)line 2"),
    "anchor": ("budget: &a [.1]\n", "anchors and aliases are not read"),
    "list": ("- a\n", "expected lines of the form key: value"),
    "yaml": ("a: [1", "line 1"),
    "documents": ("rest: skip\n---\nrest: mean\n", "single document"),
    "nesting": ("a: " + "[" * 3000, "config.yaml: "),
    "large": ("#" * 300_000, "more than 262144 bytes"),
    "warmup": ("warmup_steps: -1", "warmup_steps is -1; allowed: whole numbers from 0"),
    "layer": ("layers: {a: {rest: skip}}", "a key of layers is 'a'; allowed: a number, or first-"),
    "layer_key": ("layers: {0: {preset: speed}}", "key 'preset' is not known in layer 0"),
    "layer_twice": ("layers: {0-2: {}, 2: {}}", "layer 2 is given twice"),
    "grid": ("grid: 3x4", "grid is '3x4'; it must be F,H,W"),
    "several": (PUBLISHED, "the file has several models; choose one with model=: Wan2.1_1.3b, Cog"),
    "model_key": (
        PUBLISHED.replace("text_length: 226", "text_len: 226"),
        "'text_len' .*'text_length'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_file(read, name):
    text, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        read(text)


def test_wrong_choice(read):
    with pytest.raises(ValueError, match="model is 'Wan'; allowed: Wan2.1_1.3b, CogVideo_5b"):
        read(PUBLISHED, model="Wan")
    with pytest.raises(ValueError, match="attention is 'topk'; allowed: baseline, psa_balanced"):
        read(PUBLISHED, model="Wan2.1_1.3b", attention="topk")
    with pytest.raises(ValueError, match="no models to choose from"):
        read("rest: skip", model="Wan")


def test_missing_file():
    with pytest.raises(FileNotFoundError):
        psa.Config.from_yaml("missing.yaml")
