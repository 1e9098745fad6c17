# SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices of the blocks, AdamW for everything else, and a running mean of weights."""
import math

import torch

MOMENTUM = 0.95
WEIGHT_DECAY = 0.01
# Quintic Newton-Schulz iteration that drives all singular values towards 1 (Muon, K. Jordan).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
# Makes the root mean square of a Muon update that of a typical AdamW update.
UPDATE_RMS = 0.2


def orthogonalised(matrices):
    """Nearest orthogonal matrices, roughly, of a stack [n, rows, columns]; in bf16."""
    x = matrices.to(torch.bfloat16)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x


class MuonAdamW:
    """Updates the named parameters; those named `blocks.*` with two dimensions by Muon."""

    def __init__(self, named_parameters):
        matrices, rest = {}, []
        for name, parameter in named_parameters:
            if name.startswith("blocks.") and parameter.ndim == 2:
                matrices.setdefault(tuple(parameter.shape), []).append(parameter)
            else:
                rest.append(parameter)
        # One stack per shape: few large products instead of many small ones.
        self._matrices = matrices
        self._momenta = {
            shape: torch.zeros(len(group), *shape, device=group[0].device)
            for shape, group in matrices.items()
        }
        fused = rest[0].is_cuda
        self._adam = torch.optim.AdamW(
            rest, betas=(0.9, 0.98), eps=1e-8, weight_decay=WEIGHT_DECAY, fused=fused
        )

    @torch.no_grad()
    def step(self, muon_rate, adam_rate):
        """One update from the parameters' gradients."""
        for group in self._adam.param_groups:
            group["lr"] = adam_rate
        self._adam.step()
        for shape, group in self._matrices.items():
            gradient = torch.stack([parameter.grad for parameter in group])
            momentum = self._momenta[shape].mul_(MOMENTUM).add_(gradient)
            update = orthogonalised(gradient + MOMENTUM * momentum).float()
            torch._foreach_mul_(group, 1 - muon_rate * WEIGHT_DECAY)
            scale = muon_rate * UPDATE_RMS * math.sqrt(max(shape))
            torch._foreach_add_(group, list(update.unbind()), alpha=-scale)


class RunningMean:
    """Exponential mean of parameters; early on it forgets faster, so that it leaves the start."""

    def __init__(self, named_parameters, decay):
        self._named = dict(named_parameters)
        self._values = [parameter.detach().clone() for parameter in self._named.values()]
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self):
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._values, list(self._named.values()), 1 - decay)

    def values(self):
        """{name: mean}."""
        return dict(zip(self._named, self._values))
