# SPDX-License-Identifier: Apache-2.0
"""psa.attention on torch tensors: operators, compiler, layouts, dtypes, refusals. Tests with a GPU
skip without one."""

import subprocess
import sys

import numpy as np
import psa
import pytest
import torch

from conftest import TOLERANCE, code_blocks, dense_attention, make_qkv, relative_l2

SMALL = psa.Config(block=(64, 32), density=0.3)
CUDA = torch.cuda.is_available()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not CUDA, reason="no GPU"))]


def tensors(dtype=torch.float32, device="cpu", **sizes):
    return tuple(torch.from_numpy(x).to(device, dtype) for x in make_qkv(**sizes))


def close(out, wanted, dtype=torch.float32):
    tolerance = TOLERANCE[str(dtype).removeprefix("torch.")]
    return relative_l2(out.float().cpu().numpy(), wanted) <= tolerance


def oracle(q, k, v, **options):
    return dense_attention(*(x.float().cpu().numpy() for x in (q, k, v)), **options)


# ---- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_keep_all_is_dense_attention(dtype, device, causal):
    if device == "cuda" and dtype == torch.float32:
        pytest.skip("16-bit types only")
    q, k, v = tensors(dtype, device, head_dim=64)
    out, lse = psa.attention(q, k, v, preset="dense", causal=causal, return_lse=True)
    wanted, wanted_lse = oracle(q, k, v, causal=causal)
    assert (out.dtype, out.device, out.shape) == (dtype, q.device, q.shape)
    assert lse.dtype == torch.float32
    assert close(out, wanted, dtype)
    assert np.abs(lse.cpu().numpy() - wanted_lse).max() < 2e-2


def test_result_is_that_of_numpy():
    arrays = make_qkv()
    out, lse, levels = psa.attention(*arrays, config=SMALL, return_lse=True, return_levels=True)
    same = psa.attention(*tensors(), config=SMALL, return_lse=True, return_levels=True)
    for wanted, given in zip((out, lse, levels), same):
        np.testing.assert_array_equal(wanted, given.numpy())


@pytest.mark.parametrize("device", DEVICES)
def test_padded_batch(device):
    q, k, v = tensors(torch.bfloat16, device, head_dim=64)
    wanted = oracle(q, k, v, kv_lengths=[300, 77])[0]
    for kind in (torch.int32, torch.int64):
        lengths = torch.tensor([300, 77], dtype=kind, device=device)
        out = psa.attention(q, k, v, preset="dense", kv_lengths=lengths)
        assert close(out, wanted, torch.bfloat16)
    listed = psa.attention(q, k, v, preset="dense", kv_lengths=[300, 77])
    assert torch.equal(listed, out)


@pytest.mark.parametrize("device", DEVICES)
def test_sparse_call_agrees_with_the_reference(device):
    q, k, v = tensors(torch.bfloat16, device, head_dim=64)
    out, levels = psa.attention(q, k, v, config=SMALL, return_levels=True)
    plan = psa.Plan(q.shape, k.shape, SMALL, dtype="bf16", backend="reference")
    wanted = plan.forward(q.cpu(), k.cpu(), v.cpu(), levels=levels.cpu())
    assert close(out, wanted.float().numpy(), torch.bfloat16)
    again = psa.attention(q, k, v, config=SMALL, levels=levels)
    assert torch.equal(again, out)
    lengths = torch.tensor([300, 300], dtype=torch.int32, device=device)
    assert plan.density(levels, kv_lengths=lengths) == plan.density(levels)


def test_layouts_and_strides():
    q, k, v = tensors()
    wanted = psa.attention(q, k, v, config=SMALL)
    turned = [x.transpose(1, 2).contiguous() for x in (q, k, v)]
    out = psa.attention(*turned, layout="blhd", config=SMALL)
    assert out.is_contiguous() and torch.equal(out, wanted.transpose(1, 2))
    views = [x.transpose(1, 2) for x in turned]
    out = psa.attention(*views, config=SMALL)
    assert out.stride() == views[0].stride() and torch.equal(out, wanted)
    target = torch.empty_like(turned[0])
    psa.attention(*turned, layout="blhd", config=SMALL, out=target)
    assert torch.equal(target, wanted.transpose(1, 2))


def test_plan_on_tensors():
    q, k, v = tensors(torch.float16)
    plan = psa.Plan(q.shape, k.shape, SMALL, dtype=torch.float16)
    levels = plan.select_levels(q, k)
    out, used = plan.forward(q, k, v, return_levels=True)
    assert torch.equal(levels, used)
    assert torch.equal(out, psa.attention(q, k, v, config=SMALL))
    assert plan.measure(q, k, v).density == pytest.approx(plan.density(levels))


def test_parameters_under_no_grad():
    q, k, v = (torch.nn.Parameter(x) for x in tensors())
    with torch.no_grad():
        assert not psa.attention(q, k, v, config=SMALL).requires_grad


# ---- operators ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("extras", [False, True])
def test_opcheck(device, turned, extras):
    import psa.torch_ops  # noqa: F401  registers them

    q, k, v = tensors(torch.bfloat16, device, head_dim=64)
    if turned:
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    lengths = torch.tensor([300, 200], dtype=torch.int32, device=device) if extras else None
    arguments = (q, k, v, lengths, None, None, str(SMALL), [0] * 5, None, None, 0, extras, extras)
    torch.library.opcheck(torch.ops.psa.attention.default, arguments)
    out = torch.empty_like(q)
    torch.library.opcheck(torch.ops.psa.attention_out.default, (*arguments, out))


def test_packed_tensors_have_the_strides_that_the_fake_promises():
    import psa.torch_ops  # noqa: F401

    packed = torch.randn(2, 300, 3, 4, 32)
    q, k, v = (x.transpose(1, 2) for x in packed.unbind(2))
    arguments = (q, k, v, None, None, None, "", [0] * 5, None, None, 0, True, True)
    torch.library.opcheck(torch.ops.psa.attention.default, arguments)


def test_fake_tensors_know_the_shapes():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        q, k, v = (torch.empty(1, heads, 1000, 64, device="cuda") for heads in (4, 2, 2))
        out, lse, levels = psa.attention(q, k, v, return_lse=True, return_levels=True)
    assert (out.shape, out.device.type) == ((1, 4, 1000, 64), "cuda")
    assert lse.shape == (1, 4, 1000) and levels.shape == (1, 4, 8, 8)


def both(compiled, eager, *inputs):
    wanted, given = eager(*inputs), compiled(*inputs)
    for one, other in zip(wanted, given):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend):
    def call(q, k, v):
        out, levels = psa.attention(
            q * 0.5, k, v, preset="balanced", grid=(3, 10, 10), return_levels=True
        )
        again, lse = psa.attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            layout="blhd",
            config=SMALL,
            kv_lengths=[300, 200],
            causal=True,
            return_lse=True,
        )
        return out.sum(-1), levels, again + 1, lse

    torch._dynamo.reset()
    both(torch.compile(call, fullgraph=True, backend=backend), call, *tensors())


def test_compiles_with_dynamic_lengths_and_with_out():
    def call(q, k, v, out):
        psa.attention(q, k, v, config=SMALL, out=out)
        return (out * 2,)

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (300, 200):
        inputs = tensors(len_q=length, len_kv=length)
        both(compiled, call, *inputs, torch.zeros_like(inputs[0]))


def test_module_compiles():
    torch._dynamo.reset()
    module = psa.PSAAttention(psa.PSAConfig(rearrange_method="Gilbert"), grid=(3, 10, 10))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    both(lambda *x: (compiled(*x),), lambda *x: (module(*x),), *tensors())


# ---- the published plug-in's interface ----------------------------------------------------------


def test_module_is_attention():
    q, k, v = tensors()
    module = psa.PSAAttention()
    assert "rest=skip" in repr(module) and not list(module.parameters())
    wanted = psa.attention(q, k, v, config=psa.PSAConfig())
    assert torch.equal(module(q, k, v), wanted)
    out, lse = module(q, k, v, return_lse=True)
    assert torch.equal(out, wanted) and lse.shape == q.shape[:3]
    assert torch.equal(psa.psa_attention(q, k, v, config=psa.PSAConfig()), wanted)


# ---- refusals -----------------------------------------------------------------------------------

Q, K, V = tensors()
CASES = {
    "numpy": ((Q, K.numpy(), V), {}, TypeError, "k is a numpy.ndarray; q is a torch.Tensor"),
    "torch": ((Q.numpy(), K, V), {}, TypeError, "k is a torch.Tensor; q is a numpy.ndarray"),
    "double": ((Q.double(), K, V), {}, TypeError, "q is torch.float64; allowed: torch.float32"),
    "mixed": ((Q, K.bfloat16(), V), {}, TypeError, "k is bf16 on cpu; q is f32 on cpu"),
    "sparse": ((Q.to_sparse(), K, V), {}, (TypeError, NotImplementedError), "sparse|Sparse"),
    "lengths": ((Q, K, V), {"kv_lengths": torch.ones(2)}, TypeError, "kv_lengths is torch.float32"),
    "large": ((Q, K, V), {"kv_lengths": torch.tensor([1, 2**40])}, ValueError, "kv_lengths.1. is"),
    "levels": ((Q, K, V), {"levels": torch.ones(2, 4, 3, 3)}, TypeError, "levels is float32"),
    "numpy_levels": ((Q, K, V), {"levels": np.ones(3)}, TypeError, "levels is a numpy.ndarray"),
    "out": ((Q, K, V), {"out": Q}, ValueError, "out overlaps q"),
    "out_blhd": ((Q, K, V), {"out": Q[0]}, ValueError, "out has 3 axes; it must have 4"),
    "no_grid": ((Q, K, V), {"preset": "balanced"}, ValueError, "grid is"),
    "threads": ((Q, K, V), {"num_threads": -1}, ValueError, "num_threads is -1"),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_argument(name):
    inputs, options, kind, text = CASES[name]
    with pytest.raises(kind, match=text):
        psa.attention(*inputs, **options)


def test_gradients_are_refused():
    q, k, v = tensors()
    v.requires_grad_()
    with pytest.raises(NotImplementedError, match="v requires a gradient; psa is for inference"):
        psa.attention(q, k, v)
    with pytest.raises(NotImplementedError, match="v requires a gradient"):
        psa.Plan(q.shape, k.shape).forward(q, k, v)
    with torch.no_grad():
        psa.attention(q, k, v)


def test_gradients_through_the_operator_are_refused():
    import psa.torch_ops  # noqa: F401

    q, k, v = tensors()
    q.requires_grad_()
    out, _, _ = torch.ops.psa.attention(
        q, k, v, None, None, None, "", [0] * 5, None, None, 0, False, False
    )
    with pytest.raises(NotImplementedError, match="no backward"):
        out.sum().backward()


def test_torch_is_not_imported_for_numpy():
    code = "import sys, numpy, psa; psa.attention(*[numpy.ones((1,1,8,8),'f')]*3); "
    code += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_code_of_the_guide_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in code_blocks("docs/python.md", "python"):
        exec(compile(block, "<docs/python.md>", "exec"), names)
    assert torch.equal(
        names["step"](*(names[x] for x in "qkv")), names["plan"].forward(*(names[x] for x in "qkv"))
    )


# ---- CUDA ---------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not CUDA, reason="no GPU")


@needs_cuda
def test_work_is_queued_on_the_current_stream():
    q, k, v = tensors(torch.bfloat16, "cuda", head_dim=64)
    wanted = psa.attention(q, k, v, config=SMALL)
    late = [torch.zeros_like(x) for x in (q, k, v)]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        psa.attention(*late, config=SMALL)  # takes the stream's memory, which may wait
        stream.synchronize()
        torch.cuda._sleep(100_000_000)  # cycles
        for x, y in zip(late, (q, k, v)):
            x.copy_(y)
        out = psa.attention(*late, config=SMALL)
        assert not stream.query(), "the call waited for the stream"
    stream.synchronize()
    assert torch.equal(out, wanted)


@needs_cuda
def test_cuda_graph():
    q, k, v = tensors(torch.bfloat16, "cuda", len_q=320, len_kv=320, head_dim=64)
    settings = {"preset": "balanced", "grid": (5, 8, 8)}
    psa.attention(q, k, v, **settings)  # makes the plan
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = psa.attention(q, k, v, **settings)
    q.copy_(torch.randn_like(q))
    psa._attention._plan.cache_clear()  # the graph keeps the plan that it needs
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, psa.attention(q, k, v, **settings))


@needs_cuda
def test_reduce_overhead_mode():
    torch._dynamo.reset()

    def call(q, k, v):
        return (psa.attention(q, k, v, config=SMALL) * 2,)

    compiled = torch.compile(call, fullgraph=True, mode="reduce-overhead")
    inputs = tensors(torch.bfloat16, "cuda", head_dim=64)
    for _ in range(3):
        both(lambda *x: [y.clone() for y in compiled(*x)], call, *inputs)


@needs_cuda
def test_devices_must_agree():
    q, k, v = tensors(torch.bfloat16, "cuda", head_dim=64)
    with pytest.raises(TypeError, match="k is bf16 on cpu; q is bf16 on cuda:0"):
        psa.attention(q, k.cpu(), v)
    with pytest.raises(TypeError, match="kv_lengths is on cpu; q is on cuda:0"):
        psa.attention(q, k, v, kv_lengths=torch.tensor([300, 300]))
    with pytest.raises(psa.UnsupportedError, match="must all be f16 or all be bf16"):
        psa.attention(q.float(), k.float(), v.float())
