# SPDX-License-Identifier: Apache-2.0
"""The training loop: a curriculum of clip lengths by share of the time, with a hard stop.

What is learnt is an objective: `batch(clips, frames)` makes the tensors of a step by name,
`loss(batch)` runs the model on them. Denoising is that of the video models.

Attention over a whole clip of 16,384 tokens costs far more than all else, so the model learns what
shapes and colours look like from single frames, motion from short clips with frames further apart,
and only then whole clips. Every step has the same number of frames (rows), whatever the phase.
"""
import dataclasses
import json
import math
import time

import torch
from torch.nn import functional

import world as world_module
from optimiser import MuonAdamW, RunningMean

CAPTION_DROPOUT = 0.1  # share of samples without a caption, for classifier-free guidance
WARM_UP_STEPS = 100
LEAST_RATE = 0.01  # of the peak rate, at the end
GRADIENT_NORM = 1.0
# Noise levels are shifted by this times the root of the number of frames. The noise at which the
# position of the shape is decided grows with the number of pixels that show it.
SHIFT_PER_ROOT_FRAME = 3.0
STEPS_AHEAD = 8  # of the device; the schedule follows the clock and must not run away from it
EAGER_STEPS = 3  # before a CUDA graph is recorded: compiles, allocates, tunes


@dataclasses.dataclass(frozen=True)
class Phase:
    frames: int  # per clip
    share: float  # of the training time


@dataclasses.dataclass(frozen=True)
class Settings:
    phases: tuple[Phase, ...]
    rows: int  # frames per step, over all clips
    muon_rate: float
    adam_rate: float
    mean_decay: float  # of the running mean of weights
    decay_from: float  # share of the time after which the rates fall linearly
    graph: bool
    log_every: int


def shifted(levels, shift):
    """Noise levels 0..1, moved towards 1: the resolution shift of flow matching."""
    return shift * levels / (1 + (shift - 1) * levels)


def random_frames(count, device):
    """`count` frame numbers of a clip, evenly spaced, random stride and offset."""
    longest = (world_module.FRAMES - 1) // max(count - 1, 1)
    uniform = torch.rand(2, device=device)
    stride = 1 + (uniform[0] * longest).floor()
    offset = (uniform[1] * (world_module.FRAMES - (count - 1) * stride)).floor()
    return offset + stride * torch.arange(count, device=device)


def make_batch(world, clips, frames):
    """Tensors of one step: what the model sees, and the velocity it shall answer."""
    device = world.device
    scenes = world.draw(clips)
    numbers = random_frames(frames, device)
    video = world.render(scenes, numbers)
    ids = world.token_ids(scenes)
    ids = torch.where(torch.rand(clips, 1, device=device) < CAPTION_DROPOUT, 0, ids)
    # One level per stratum: samples are alike, so the order of strata needs no shuffle.
    levels = (torch.arange(clips, device=device) + torch.rand(clips, device=device)) / clips
    levels = shifted(levels, SHIFT_PER_ROOT_FRAME * math.sqrt(frames))
    noise = torch.randn_like(video)
    level = levels[:, None, None, None, None]
    return {
        "noisy": (1 - level) * video + level * noise,
        "timestep": 1000 * levels,
        "ids": ids,
        "frames": numbers,
        "target": noise - video,
    }


class Denoising:
    """The velocity of noisy clips of a world, for a video model and its text table."""

    def __init__(self, model, text_table, world):
        self.model, self.text_table, self.world = model, text_table, world

    def batch(self, clips, frames):
        return make_batch(self.world, clips, frames)

    def loss(self, batch):
        text = self.text_table(batch["ids"])
        velocity = self.model(batch["noisy"], batch["timestep"], text, batch["frames"])
        return functional.mse_loss(velocity.float(), batch["target"])


class Trainer:
    def __init__(self, objective, named_parameters, device, settings):
        named_parameters = list(named_parameters)
        self.objective, self.device, self.settings = objective, device, settings
        self.parameters = [parameter for _, parameter in named_parameters]
        self.optimiser = MuonAdamW(named_parameters)
        self.mean = RunningMean(named_parameters, settings.mean_decay)
        self.on_gpu = device.type == "cuda"
        self.log = []
        self.steps = 0
        self.clips = 0
        self._loss_sum = torch.zeros((), device=self.device)
        self._graph = self._inputs = None

    def run(self, deadline, end_of_phase):
        """Trains until time.monotonic() is `deadline`; calls end_of_phase(phase) after each."""
        stream = torch.cuda.Stream() if self.on_gpu else None
        if self.on_gpu:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # The first step compiles the model: the shares are those of the time after it.
            self._eager_step(self.settings.phases[0], rate=1 / WARM_UP_STEPS)
            self._wait()
            self._start, self._deadline = time.monotonic(), deadline
            self._last_log = (self._start, self.steps)
            self._say({"first_step_done": True, "budget": round(deadline - self._start, 1)})
            end = 0.0
            for phase in self.settings.phases:
                end += phase.share
                self._run_phase(phase, end)
                end_of_phase(phase)

    def _run_phase(self, phase, end):
        self._clear_gradients()
        self._graph = self._inputs = None
        if self.on_gpu:
            torch.cuda.empty_cache()
        first = self.steps
        while self._progress() < min(end, 1.0):
            if self.settings.graph and self.on_gpu and self.steps == first + EAGER_STEPS:
                self._record(phase)
            step = self._graph_step if self._graph else self._eager_step
            step(phase, self._rate())
            if self.steps % STEPS_AHEAD == 0:
                self._wait()
            if self.steps % self.settings.log_every == 0:
                self._write_log(phase)

    def _progress(self):
        return (time.monotonic() - self._start) / max(self._deadline - self._start, 1e-9)

    def _rate(self):
        """Share of the peak rates now."""
        decay = (1 - self._progress()) / (1 - self.settings.decay_from)
        return min((self.steps + 1) / WARM_UP_STEPS, 1.0, max(decay, LEAST_RATE))

    def _wait(self):
        if self.on_gpu:
            torch.cuda.current_stream().synchronize()

    def _batch(self, phase):
        return self.objective.batch(self.settings.rows // phase.frames, phase.frames)

    def _accumulate(self, batch):
        """Gradients of one batch; adds its loss to the sum."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu):
            loss = self.objective.loss(batch)
        loss.backward()
        self._loss_sum += loss.detach()

    def _clear_gradients(self):
        for parameter in self.parameters:
            parameter.grad = None

    def _eager_step(self, phase, rate):
        self._clear_gradients()
        self._accumulate(self._batch(phase))
        self._update(phase, rate)

    def _record(self, phase):
        """Records forward and backward pass as a CUDA graph: saves the time of 1,000 launches.

        Random numbers are drawn outside, into the graph's inputs. Gradients must not exist yet, so
        that the graph creates them, in memory that every replay writes again.
        """
        self._clear_gradients()
        self._inputs = self._batch(phase)
        self._wait()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream()):
            self._accumulate(self._inputs)

    def _graph_step(self, phase, rate):
        for name, value in self._batch(phase).items():
            self._inputs[name].copy_(value)
        self._graph.replay()
        self._update(phase, rate)

    def _update(self, phase, rate):
        torch.nn.utils.clip_grad_norm_(self.parameters, GRADIENT_NORM)
        self.optimiser.step(self.settings.muon_rate * rate, self.settings.adam_rate * rate)
        self.mean.update()
        self.steps += 1
        self.clips += self.settings.rows // phase.frames

    def _write_log(self, phase):
        loss = self._loss_sum.item()
        self._loss_sum.zero_()
        now, (then, steps) = time.monotonic(), self._last_log
        self._last_log = (now, self.steps)
        entry = {
            "step": self.steps,
            "seconds": round(now - self._start, 1),
            "frames": phase.frames,
            "clips": self.clips,
            "loss": round(loss / (self.steps - steps), 5),
            "rate": round(self._rate(), 4),
            "ms_per_step": round((now - then) / (self.steps - steps) * 1000, 1),
        }
        self.log.append(entry)
        self._say(entry)

    @staticmethod
    def _say(entry):
        print(json.dumps(entry), flush=True)
