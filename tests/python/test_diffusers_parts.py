# SPDX-License-Identifier: Apache-2.0
"""Counting of steps and measuring of level maps, without diffusers."""

import dataclasses
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import psa  # noqa: E402
from psa.adapters.policy import Policy, resolve  # noqa: E402
from psa.adapters.report import Row, Summary, map_density, rows_error  # noqa: E402
from psa.adapters.steps import Step, StepClock  # noqa: E402


class Pipeline:
    def __init__(self, timesteps, **more):
        self.scheduler = types.SimpleNamespace(timesteps=torch.tensor(timesteps), **more)


def indices(clock, timesteps):
    return [clock.observe(timestep).index for timestep in timesteps]


def test_steps_are_those_of_the_schedule():
    pipe = Pipeline([900.0, 600.0, 300.0])
    clock = StepClock(pipe, None)
    seen = [clock.observe(t) for t in (900.0, 900.0, 600.0, 600.0, 300.0, 300.0)]
    assert [(s.index, s.branch, s.total, s.run) for s in seen] == [
        (index, branch, 3, 0) for index in range(3) for branch in range(2)
    ]


def test_a_new_schedule_begins_a_run_also_after_a_cancelled_one():
    pipe = Pipeline([900.0, 600.0])
    clock = StepClock(pipe, None)
    clock.observe(900.0)
    pipe.scheduler.timesteps = torch.tensor([900.0, 500.0, 100.0])
    step = clock.observe(900.0)
    assert (step.index, step.branch, step.total, step.run) == (0, 0, 3, 1)


def test_a_run_that_begins_inside_the_schedule():
    assert indices(StepClock(Pipeline([900.0, 600.0, 300.0]), None), [600.0, 300.0]) == [1, 2]


def test_timesteps_that_bf16_makes_equal():
    timesteps = [999.0, 998.5, 998.0, 500.0]
    rounded = torch.tensor(timesteps, dtype=torch.bfloat16).tolist()
    assert len(set(rounded)) < len(timesteps)
    pipe = Pipeline(timesteps, step_index=None)
    clock = StepClock(pipe, None)
    seen = []
    for index, timestep in enumerate(rounded):
        pipe.scheduler.step_index = index or None  # schedulers count from their first step() on
        seen.append(clock.observe(timestep).index)
    assert seen == [0, 1, 2, 3]


def test_without_a_schedule_a_run_is_falling_timesteps():
    clock = StepClock(None, None)
    assert indices(clock, [900.0, 900.0, 500.0, 100.0, 800.0, 10.0]) == [0, 0, 1, 2, 0, 1]
    assert clock.step.run == 1
    assert clock.step.total is None


def test_a_timestep_that_is_not_in_the_schedule_is_counted():
    assert indices(StepClock(Pipeline([0.9, 0.5]), None), [900.0, 500.0]) == [0, 1]


def test_layers_of_a_preset_stand_over_its_configuration():
    layers = {1: psa.Config(density=0.3)}
    choice = resolve(psa.Preset("", "", psa.Config(), 2, layers=layers), {"rest": "skip"}, "")
    policy = Policy(choice.config, choice.warmup, layers=choice.layers)
    assert policy.config_at(0, Step(index=1)) is None
    assert policy.config_at(0, Step(index=2)) == psa.Config(rest="skip")
    assert policy.config_at(1, Step(index=2)) == dataclasses.replace(layers[1], rest="skip")


@pytest.mark.parametrize("lengths", [None, (300, 211)])
def test_density_of_a_map_is_that_of_the_plan(lengths):
    config = psa.Config(budget=(0.2, 0.3, 0.5, 0.6, 0.8), block=(64, 32), rest="skip", min_full=0)
    plan = psa.Plan((2, 3, 300, 16), config=config)
    random = np.random.default_rng(0)
    levels = random.integers(0, 7, (2, 3, *plan.blocks), dtype=np.uint8)
    levels[levels == 6] = 0
    density = map_density(torch.tensor(levels), config, lengths, torch.empty(2, 3, 300, 16))
    assert float(density) == pytest.approx(plan.density(levels, kv_lengths=lengths), rel=1e-6)


def test_error_of_sampled_rows_is_that_of_all_rows_when_all_are_sampled():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 50, 8) for _ in range(3))
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    noise = 0.01 * torch.randn_like(dense)
    error = rows_error(q, k, v, dense + noise, 50, None, None)
    assert float(error) == pytest.approx(float(noise.norm() / dense.norm()), rel=1e-4)
    shorter = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, :30], v[:, :, :30])
    assert float(rows_error(q, k, v, shorter, 50, (30,), None)) < 1e-6


def test_a_picture_of_layers_and_steps():
    pytest.importorskip("matplotlib")
    rows = [
        Row(step, layer, step > 0, density, ms=1.0, error=None)
        for step, layer, density in ((0, "b", 1.0), (0, "a", 1.0), (1, "b", 0.25), (1, "a", 0.5))
    ]
    axes, _ = psa.plot(Summary(rows, [])).axes
    assert np.asarray(axes.images[0].get_array()).tolist() == [[1, 0.25], [1, 0.5]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]  # as they ran
    assert "0.6875" in axes.get_title()
    with pytest.raises(ValueError, match="'speed'; allowed: density, error, ms"):
        psa.plot(Summary(rows, []), value="speed")
    with pytest.raises(ValueError, match="the summary has no error"):
        psa.plot(Summary(rows, []), value="error")
    with pytest.raises(ValueError, match="the summary has no density"):
        psa.plot(Summary([], []))
