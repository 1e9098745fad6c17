# SPDX-License-Identifier: Apache-2.0
"""The bundled model in diffusers with psa, against dense attention and against the engine."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, relative_l2

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
sys.path.insert(0, str(ROOT / "examples" / "python"))

import shapes  # noqa: E402

import psa  # noqa: E402

PROMPT = "a large red circle moves left on a navy background"


def normal(seed, count):
    """The engine's noise, src/engine/sampler/noise.cpp: Philox and Box-Muller."""
    pairs = np.arange((count + 1) // 2, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    words = [pairs & low, pairs >> np.uint64(32), np.zeros_like(pairs), np.zeros_like(pairs)]
    key = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    for _ in range(10):
        first, second = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            (second >> np.uint64(32)) ^ words[1] ^ key[0],
            second & low,
            (first >> np.uint64(32)) ^ words[3] ^ key[1],
            first & low,
        ]
        key = [(key[0] + np.uint64(0x9E3779B9)) & low, (key[1] + np.uint64(0xBB67AE85)) & low]
    one, two = (
        ((words[i + 1] << np.uint64(32) | words[i]) >> np.uint64(11)).astype(np.float64)
        for i in (0, 2)
    )
    radius = np.sqrt(-2 * np.log((one + 1) * 2.0**-53))
    angle = 2 * np.pi * two * 2.0**-53
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)[:count]


def test_noise_is_normal():
    noise = normal(7, 100_001)
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


def test_one_step_is_close_to_dense():
    pipe = shapes.load()
    # With 4 frames, far from the 16 of the training, this model now and then makes much of little.
    latents = torch.randn(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    inputs = (latents, torch.tensor([900.0]), shapes.encode(PROMPT))
    with torch.no_grad():
        dense = pipe.transformer(*inputs).sample
        shapes.enable(pipe, warmup=0)
        sparse = pipe.transformer(*inputs).sample
        report = psa.summary(pipe)
        psa.disable(pipe)
        assert torch.equal(pipe.transformer(*inputs).sample, dense)
    assert report.density < 0.11
    assert 1e-3 < relative_l2(sparse, dense) < 0.03
    assert 1e-3 < sum(row.error for row in report.rows) / len(report.rows) < 0.08


@pytest.mark.parametrize(
    "frames",
    [
        4,
        pytest.param(
            16,
            marks=pytest.mark.skipif(
                os.environ.get("PSA_SLOW_TESTS") != "1",
                reason="minutes; PSA_SLOW_TESTS=1 runs it",
            ),
        ),
    ],
)
def test_a_video_is_that_of_the_engine(tmp_path, frames):
    from PIL import Image

    commands = sorted(ROOT.glob("build/*/bin/psa"))
    if not commands:
        pytest.skip("the command psa is not built")
    steps, seed = 4, 5
    subprocess.run(
        [commands[-1], "generate", "--model", shapes.MODEL, "--prompt", PROMPT]
        + ["--frames", str(frames), "--steps", str(steps), "--warmup-steps", "1"]
        + ["--seed", str(seed), "--compute", "f32", "--enlarge", "1", "-o", tmp_path / "%04d.png"],
        check=True,
    )
    pictures = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("*.png"))]
    engine = np.stack(pictures).astype(np.float64)

    pipe = shapes.load()
    shapes.enable(pipe, warmup=1)
    latents = torch.tensor(normal(seed, 3 * frames * 64 * 64), dtype=torch.float32)
    latents = latents.view(1, 3, frames, 64, 64)
    video = shapes.generate(pipe, PROMPT, steps, frames=frames, latents=latents)
    ours = ((video.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 3, 0).numpy()
    assert 10 * np.log10(255**2 / np.mean((ours - engine) ** 2)) > 40
