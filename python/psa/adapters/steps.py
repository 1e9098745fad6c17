# SPDX-License-Identifier: Apache-2.0
"""Which denoising step a call of the transformer belongs to, told by its timestep."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Two timesteps are the same if they are equal after one of them was rounded to bf16, in which some
# pipelines pass them.
_TOLERANCE = 2.0**-8


@dataclass(frozen=True)
class Step:
    index: int = 0
    """From 0, in the order of denoising."""
    total: int | None = None
    """Steps of the run; None where nobody said."""
    branch: int = 0
    """Number of this call among those of the step: guidance that is not batched makes two."""
    run: int = 0
    """Number of the run since psa was enabled."""


class StepClock:
    """Follows the calls of a pipeline's transformers.

    With a pipeline the schedule is its scheduler's; a run begins when that is set anew, which
    every pipeline does. A transformer alone is followed by its timesteps, which fall during a run.
    """

    def __init__(self, pipeline: object | None, num_steps: int | None) -> None:
        try:  # the pipeline's transformer owns this
            self._pipeline: Callable[[], object | None] = weakref.ref(pipeline)
        except TypeError:  # None, or a stand-in for a pipeline that has no weak references
            self._pipeline = lambda: pipeline
        self._num_steps = num_steps
        self._schedule: object | None = None  # the scheduler's tensor: a new one for each run
        self._timesteps: list[float] = []
        self._last: float | None = None
        self.step = Step(total=num_steps)

    def observe(self, timestep: float) -> Step:
        """The step of a call with this timestep."""
        is_new_run = self._read_schedule()
        index = self._scheduled_index(timestep)
        if index is None:
            index, is_new_run = self._counted_index(timestep)
        last = self.step
        is_same_step = not is_new_run and index == last.index and self._last is not None
        self.step = Step(
            index=index,
            total=self._num_steps or len(self._timesteps) or None,
            branch=last.branch + 1 if is_same_step else 0,
            run=last.run + (is_new_run and self._last is not None),
        )
        self._last = timestep
        return self.step

    def _scheduler(self) -> Any:
        return getattr(self._pipeline(), "scheduler", None)

    def _read_schedule(self) -> bool:
        schedule = getattr(self._scheduler(), "timesteps", None)
        if schedule is None or schedule is self._schedule:
            return False
        self._schedule = schedule
        self._timesteps = [float(timestep) for timestep in schedule.tolist()]
        return True

    def _scheduled_index(self, timestep: float) -> int | None:
        near = [
            index
            for index, one in enumerate(self._timesteps)
            if abs(one - timestep) <= _TOLERANCE * max(abs(one), abs(timestep))
        ]
        # Rounding can make neighbours equal: then the scheduler's own count decides, if it has one.
        counted = getattr(self._scheduler(), "step_index", None)
        if counted in near:
            return int(counted)
        return min(near, key=lambda i: abs(self._timesteps[i] - timestep), default=None)

    def _counted_index(self, timestep: float) -> tuple[int, bool]:
        if self._last is None or timestep > self._last:
            return 0, True
        return self.step.index + (timestep < self._last), False
