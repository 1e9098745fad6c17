# SPDX-License-Identifier: Apache-2.0
"""psa under diffusers' context parallelism: two processes on the CPU, which run this file."""

import json
import os
import subprocess
import sys
import types

import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
sys.path.insert(0, str(ROOT / "examples" / "python"))

import tiny_models as tiny  # noqa: E402

import psa  # noqa: E402
from psa.adapters import takeover  # noqa: E402

PROCESSES = 2


def run(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(**tiny.wan_arguments(num_inference_steps=2)).frames


def compare(rank, meeting_point):
    """In one of the processes: outputs before and after the transformer is spread over both."""
    from diffusers import ContextParallelConfig

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=PROCESSES
    )
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and here it is 0
    pipe = tiny.wan_pipeline()
    dense = run(pipe)
    options = dict(min_tokens=0, warmup=0)
    psa.enable(pipe, "balanced", strict=True, **options)
    alone = run(pipe)
    density = psa.summary(pipe).density
    pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=PROCESSES))
    together = run(pipe)
    summary = psa.summary(pipe)
    psa.enable(pipe, "balanced", strict=True, **options)
    assert torch.equal(run(pipe), together)  # enabled after it was spread
    psa.enable(pipe, "balanced", head_density=(0.2, 0.4), **options)
    by_head = run(pipe)
    notices = psa.summary(pipe).notices
    psa.disable(pipe)
    torch.testing.assert_close(run(pipe), dense, rtol=0, atol=1e-4)
    torch.testing.assert_close(by_head, dense, rtol=0, atol=1e-4)
    torch.distributed.destroy_process_group()
    return {
        "change": float((alone - dense).abs().max()),
        "difference": float((together - alone).abs().max()),
        "density": [density, summary.density],
        "is_psa": [row.is_psa for row in summary.rows],
        "notices": notices,
    }


def test_ulysses_on_two_processes(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "ContextParallelConfig"):
        pytest.skip("this version of diffusers has no context parallelism")
    command = [sys.executable, __file__, str(tmp_path / "meeting")]
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(PROCESSES)
    ]
    try:
        results = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, results):
        assert process.returncode == 0, err.decode()
        found = json.loads(out.splitlines()[-1])
        assert found["change"] > 1e-3
        assert found["difference"] < 1e-5
        assert found["density"][0] == pytest.approx(found["density"][1], abs=1e-3)
        assert found["is_psa"] == [True] * (2 * 3)  # steps, layers
        assert len(found["notices"]) == 1 and "a density for each head" in found["notices"][0]


def test_two_gpus_program_with_tiny_models(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "ContextParallelConfig"):
        pytest.skip("this version of diffusers has no context parallelism")
    program = ROOT / "bench" / "python" / "two_gpus.py"
    command = [sys.executable, str(program), "--tiny", "--repeats", "1", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    report = json.loads((tmp_path / "two_gpus_wan-1.3b-720p.json").read_text(encoding="utf-8"))
    assert list(report["variants"]) == ["dense", "psa balanced"]
    for row in report["variants"].values():
        assert row["relative_l2_of_difference"] < 1e-5
        assert row["density"][0] == pytest.approx(row["density"][1], abs=1e-3)
    assert report["variants"]["psa balanced"]["density"][0] < 0.5


@pytest.mark.parametrize("ulysses", [1, 2])
def test_ring_attention_stays_dense(ulysses):
    pytest.importorskip("diffusers.models.attention_dispatch")
    degrees = types.SimpleNamespace(ring_degree=2, ulysses_degree=ulysses)
    config = types.SimpleNamespace(context_parallel_config=degrees)
    refusal = takeover._parallel_refusal(config, torch.empty(1), torch.empty(1))
    assert refusal is not None and "ring attention" in refusal


def test_a_gradient_through_the_exchange_stays_dense():
    dispatch = pytest.importorskip("diffusers.models.attention_dispatch")
    if not hasattr(dispatch, "_templated_context_parallel_attention"):
        pytest.skip("this version of diffusers has no context parallelism")
    degrees = types.SimpleNamespace(ring_degree=1, ulysses_degree=2)
    config = types.SimpleNamespace(context_parallel_config=degrees)
    q = torch.empty(1, requires_grad=True)
    assert "gradient" in takeover._parallel_refusal(config, q, q)
    with torch.no_grad():
        assert takeover._parallel_refusal(config, q, q) is None


if __name__ == "__main__":
    print(json.dumps(compare(int(sys.argv[2]), sys.argv[1])), flush=True)
    # diffusers still holds process groups, and their gloo threads can abort a process that ends by
    # taking the interpreter down ("terminate called without an active exception").
    os._exit(0)
