# SPDX-License-Identifier: Apache-2.0
"""psa.Config, the presets, the published settings, and configuration files."""

import dataclasses
import pickle

import psa
import pytest
from psa import _ffi


def test_defaults_are_the_librarys():
    c = _ffi.initial(_ffi.Config, "psa_config_init")
    assert psa.Config._from_c(c) == psa.Config()


ALL = psa.Config(
    rule="threshold",
    budget=(0.1, 0.2, 0.3, 0.4, 0.5),
    head_density=(0.1, 0.25),
    budget_scope="head",
    rest="linear",
    rest_cutoff=1.5,
    block=(64, 32),
    min_full=2,
    sink=3,
    similarity=(0.5, 0.25, -1),
    share_group_map=True,
    compat="official",
    importance="sampled_mass",
    samples_q=5,
    samples_kv=6,
    stride=4,
    pooled=8,
    seed=2**64 - 1,
    weigh_values=True,
    text_keys="sparse",
    text_queries="sparse",
    order="tile3d",
    tile=(3, 4, 5),
    clusters=(7, 8),
    iterations=9,
    causal=True,
    scale=0.125,
)


def test_every_setting_reaches_the_library_and_comes_back():
    for one in dataclasses.fields(ALL):
        assert getattr(ALL, one.name) != one.default, one.name
    assert psa.Config._from_c(ALL._to_c()) == ALL


def test_text_is_canonical():
    assert str(psa.Config()) == ""
    assert psa.Config.from_text("") == psa.Config()
    assert psa.Config.from_text(str(ALL)) == ALL
    text = "rule=threshold,0.4,0.5 rest=skip block=128x64 order=gilbert causal=true"
    assert str(psa.Config.from_text(text)) == text


def test_values_may_be_the_command_lines_text():
    from_text = psa.Config.from_text(
        "preset=balanced rule=quota,.1,.2 block=64x32 tile=3,8,8 causal similarity=none levels=3"
    )
    assert from_text == psa.Config(
        budget=(0.1, 0.2, 0.2), rest="linear", rest_cutoff=2, block=(64, 32), tile=(3, 8, 8),
        causal=True, order="gilbert", weigh_values=True, budget_scope="head",
    )


def test_dense_rule_and_levels():
    assert psa.Config(rule="dense").budget == (1.0,)
    assert psa.Config(budget=[0.5, 0.6], levels=1).budget == (0.5,)
    assert psa.Config(budget=[0.5], levels=3).budget == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("density", [0.05, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("rest", ["mean", "skip"])
def test_density_sets_the_budget(density, rest):
    config = psa.Config(density=density, rest=rest)
    factors = (1, 2, 4, 8)
    shares = [b - a for a, b in zip((0, *config.budget), config.budget)]
    read = sum(share / factor for share, factor in zip(shares, factors))
    read += (1 - config.budget[-1]) / 128 if rest == "mean" else 0
    assert read == pytest.approx(density, rel=1e-4)


def test_one_budget_for_all_heads_drops_densities_per_head():
    tuned = psa.Config(head_density=(0.1, 0.2))
    assert dataclasses.replace(tuned, density=0.1).head_density is None
    assert psa.Config.from_text("head_density=.1,.2") == tuned
    assert psa.Config.from_text("head_density=none") == psa.Config()


def test_configurations_are_values():
    config = psa.Config(budget=[0.25, 0.5])
    assert config == psa.Config(budget=(0.25, 0.5)) and len({config, psa.Config()}) == 2
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, density=1).budget[0] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rest = "skip"


WRONG = {
    "rest": ({"rest": "means"}, ValueError, "rest is 'means'; allowed: skip, mean, linear"),
    "scope": ({"budget_scope": "block"}, ValueError, "budget_scope is 'block'; allowed: row, head"),
    "rest_type": ({"rest": 1}, TypeError, "rest is 1, a int; it must be a str"),
    "int": ({"sink": 1.5}, TypeError, "sink is 1.5, a float; it must be an int"),
    "int_text": ({"sink": "one"}, ValueError, "sink is 'one'; allowed: whole numbers"),
    "negative": ({"sink": -1}, ValueError, "sink is -1; allowed: 0.."),
    "wrap": ({"seed": 2**64}, ValueError, "seed is 18446744073709551616"),
    "bool": ({"causal": 1}, TypeError, "causal is 1, a int; it must be a bool"),
    "switch": ({"causal": "maybe"}, ValueError, "causal is 'maybe'; allowed: true"),
    "number": ({"scale": "wide"}, ValueError, "scale is 'wide'; allowed: numbers"),
    "number_type": ({"scale": [1]}, TypeError, r"scale is \[1\], a list; it must be a number"),
    "float32": ({"scale": 1e300}, ValueError, "scale is 1e[+]300"),
    "shares": ({"budget": []}, ValueError, r"budget is \[\]; allowed: 1..5 numbers"),
    "share_type": ({"budget": [None]}, TypeError, "a number of budget is None"),
    "list": ({"budget": 0.5}, TypeError, "budget is 0.5; it must be a list of numbers"),
    "sizes": ({"block": (64,)}, ValueError, "block is .*2 whole numbers, QxKV"),
    "similarity": ({"similarity": [0.1] * 5}, ValueError, "similarity is .*1..4 numbers, or none"),
    "levels": ({"levels": 6}, ValueError, "levels is 6; allowed: 1..5"),
    "density": ({"density": 0.0}, ValueError, "density is 0"),
    "density_rule": ({"rule": "threshold", "density": 0.1}, ValueError, "density needs rule"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_setting(name):
    settings, kind, text = WRONG[name]
    with pytest.raises(kind, match=text):
        psa.Config(**settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("densty=.1", "'densty' is not known; did you mean 'density'?"),
        ("causal causal", "'causal' is given twice"),
        ("grid=1x2x3", "'grid' belongs to the call"),
        ("preset=fastest", "preset is 'fastest'; allowed: balanced"),
    ],
)
def test_wrong_text(text, message):
    with pytest.raises(ValueError, match=message.replace("?", "[?]")):
        psa.Config.from_text(text)


# ---- presets ------------------------------------------------------------------------------------


def test_presets():
    assert psa.presets()[0] == "balanced" and "wan2.1-14b" in psa.presets()
    wan = psa.preset("wan2.1-14b")
    assert (wan.warmup_steps, wan.divisors) == (15, (4, 16, 16))
    assert wan.config == psa.Config.from_preset("wan2.1-14b")
    assert wan.config.rule == "threshold" and wan.config.order == "gilbert"
    for name in psa.presets():
        config = psa.preset(name).config
        assert psa.Config.from_text(str(config)) == config
        assert psa.Config._from_c(config._to_c()) == config


# ---- published settings -------------------------------------------------------------------------

RATIOS = {1: (0, 0.4), 2: (0.4, 0.5), 4: (0.5, 0.6), 8: (0.6, 0.8), 0: (0.8, 1)}


def test_published_settings_are_the_presets():
    balanced = psa.PSAConfig(
        block_n=128, mask_ratios=RATIOS, mask_mode="thresholdbound", rearrange_method="Gilbert"
    )
    assert balanced.to_config() == psa.Config.from_preset("wan2.1-14b")
    capped = psa.PSAConfig(
        use_sim_mask=True, sim_2x_threshold=0.7, sim_4x_threshold=0.65, sim_8x_threshold=0.6
    )
    assert capped.to_config().similarity == (0.7, 0.65, 0.6)


def test_published_defaults():
    config = psa.PSAConfig().to_config()
    assert config == psa.Config(
        block=(128, 64), budget=(0.1, 0.15, 0.15, 0.35), rest="skip", importance="sampled_max"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mask_mode": "top"}, "mask_mode is 'top'; allowed: topk, thresholdbound, energybound"),
        ({"rearrange_method": "Hilbert"}, "rearrange_method is 'Hilbert'; allowed: Gilbert"),
        ({"attn_impl": "other"}, "attn_impl is 'other'"),
        ({"mask_ratios": {3: (0, 1)}}, "mask_ratios has the key 3; allowed: 1, 2, 4, 8, 0"),
        ({"mask_ratios": {1: (0, 0.2), 2: (0.3, 1)}}, "mask_ratios\\[2\\] begins at 0.3"),
        ({"mask_ratios": {1: (0, 1.5)}}, "mask_ratios\\[1\\] ends at 1.5; allowed: 0..1"),
        ({"mask_ratios": {1: (0,)}}, "mask_ratios\\[1\\] is \\(0,\\)"),
    ],
)
def test_wrong_published_setting(settings, text):
    with pytest.raises(ValueError, match=text):
        psa.PSAConfig(**settings).to_config()
