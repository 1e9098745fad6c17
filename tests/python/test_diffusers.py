# SPDX-License-Identifier: Apache-2.0
"""psa.enable, disable, enabled and summary in diffusers pipelines with random weights."""

import importlib.util
import logging
import sys
import types

import pytest
from conftest import ROOT, code_blocks

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
sys.path.insert(0, str(ROOT / "examples" / "python"))

import tiny_models as tiny  # noqa: E402

import psa  # noqa: E402
from psa.adapters import diffusers as adapter, takeover  # noqa: E402

STEPS = 3
LOGGER = "psa.diffusers"


def i2v_arguments(**changes):
    from PIL import Image

    embeds = {"prompt_embeds": tiny.text(512), "negative_prompt_embeds": tiny.text(512, seed=1)}
    return tiny.wan_arguments(image=Image.new("RGB", (192, 128), (90, 20, 50)), **embeds, **changes)


# diffusers 0.35 brought the dispatcher, and Wan2.2 with it.
HAS_DISPATCHER = importlib.util.find_spec("diffusers.models.attention_dispatch") is not None
needs_dispatcher = pytest.mark.skipif(not HAS_DISPATCHER, reason="diffusers is older than 0.35")

FAMILIES = {
    "wan": (tiny.wan_pipeline, tiny.wan_arguments),
    "wan2.2": (lambda: tiny.wan_pipeline(two_transformers=True), tiny.wan_arguments),
    "wan-i2v": (tiny.wan_image_to_video_pipeline, i2v_arguments),
    "wan2.2-ti2v": (lambda: tiny.wan_image_to_video_pipeline(expand=True), i2v_arguments),
    "cogvideox": (tiny.cogvideox_pipeline, tiny.cogvideox_arguments),
    "cogvideox1.5": (
        lambda: tiny.cogvideox_pipeline(first_version=False),
        tiny.cogvideox_arguments,
    ),
    "hunyuan": (tiny.hunyuan_pipeline, tiny.hunyuan_arguments),
    "ltx": (tiny.ltx_pipeline, tiny.ltx_arguments),
}


def run(pipe, arguments, **changes):
    pipe.set_progress_bar_config(disable=True)
    return pipe(**arguments(**{"num_inference_steps": STEPS, **changes})).frames


def state_of(pipe):
    """Whatever psa could leave behind in a pipeline's transformers."""
    state = []
    for model in adapter.transformers_of(pipe).values():
        for name, module in model.named_modules():
            processor = getattr(module, "processor", None)
            state.append((name, processor, None if processor is None else dict(vars(processor))))
            state.append((len(module._forward_pre_hooks), len(module._forward_hooks)))
            state.append(sorted(vars(module)))
    return state


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """A pipeline, its arguments and its dense result."""
    if request.param.startswith("wan2.2") and not HAS_DISPATCHER:
        pytest.skip("diffusers is older than 0.35")
    make, arguments = FAMILIES[request.param]
    pipe = make()
    return pipe, arguments, run(pipe, arguments)


@pytest.fixture(scope="module")
def wan_model():
    return tiny.wan_pipeline()


@pytest.fixture
def wan(wan_model):
    yield wan_model
    psa.disable(wan_model)


@pytest.fixture(scope="module")
def wan_dense(wan_model):
    return run(wan_model, tiny.wan_arguments)


# ---- every family --------------------------------------------------------------------------------


def test_reading_everything_is_dense_attention(family):
    pipe, arguments, dense = family
    with psa.enabled(pipe, "dense", min_tokens=0, warmup=0, strict=True):
        frames = run(pipe, arguments)
        report = psa.summary(pipe)
    assert all(row.is_psa for row in report.rows)
    assert report.density == pytest.approx(1)
    assert max(row.error for row in report.rows) < 1e-5
    torch.testing.assert_close(frames, dense, rtol=0, atol=2e-5 * float(dense.abs().max()))


def test_sparse_attention_and_what_disable_leaves(family):
    pipe, arguments, dense = family
    before = state_of(pipe)
    psa.enable(pipe, "balanced", min_tokens=0, warmup=1, strict=True)
    frames = run(pipe, arguments)
    report = psa.summary(pipe)
    psa.disable(pipe)
    assert state_of(pipe) == before
    assert torch.equal(run(pipe, arguments), dense)
    assert torch.isfinite(frames).all()
    assert not torch.equal(frames, dense)
    assert {row.step for row in report.rows} == set(range(STEPS))
    for row in report.rows:
        assert row.is_psa == (row.step > 0)  # one step of warm-up
        assert (row.density < 0.7) == row.is_psa
        assert (row.error is not None) == row.is_psa
        assert row.ms > 0
    assert not report.notices


def test_a_cancelled_run_leaves_nothing(family):
    pipe, arguments, dense = family
    before = state_of(pipe)

    def cancel(pipe, step, timestep, tensors):
        raise KeyboardInterrupt

    psa.enable(pipe, "balanced", min_tokens=0, warmup=0, strict=True)
    frames = run(pipe, arguments)
    with pytest.raises(KeyboardInterrupt):
        run(pipe, arguments, callback_on_step_end=cancel)
    assert torch.equal(run(pipe, arguments), frames)
    psa.disable(pipe)
    assert state_of(pipe) == before
    assert torch.equal(run(pipe, arguments), dense)


def test_an_error_inside_attention_leaves_nothing(family, monkeypatch):
    pipe, arguments, dense = family
    before = state_of(pipe)

    def fail(*args, **kwargs):
        raise MemoryError("of the test")

    psa.enable(pipe, "balanced", min_tokens=0, warmup=0)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(adapter, "attention", fail)
        run(pipe, arguments)
    psa.disable(pipe)
    assert state_of(pipe) == before
    assert torch.equal(run(pipe, arguments), dense)


# ---- schedules -----------------------------------------------------------------------------------


def test_dense_layers_and_warm_up_as_a_fraction(wan):
    psa.enable(wan, "balanced", min_tokens=0, warmup=0.5, dense_layers=(0, -1))
    run(wan, tiny.wan_arguments, num_inference_steps=4)
    computed = {(row.step, row.layer) for row in psa.summary(wan).rows if row.is_psa}
    assert computed == {(2, "blocks.1.attn1"), (3, "blocks.1.attn1")}


def test_a_schedule_decides_per_layer_and_step(wan):
    asked = set()

    def schedule(layer, step, steps):
        asked.add((layer, step, steps))
        return (None, "dense", psa.Config(density=0.5))[layer]

    psa.enable(wan, min_tokens=0, warmup=1, schedule=schedule)
    run(wan, tiny.wan_arguments)
    assert asked == {(layer, step, STEPS) for layer in range(3) for step in (1, 2)}
    rows = psa.summary(wan).by_layer()
    assert not any(row.is_psa for row in rows["blocks.0.attn1"])
    assert [row.density for row in rows["blocks.1.attn1"]] == pytest.approx([1, 1, 1])
    assert rows["blocks.2.attn1"][-1].density < 0.8


def test_level_maps_are_reused_for_as_many_steps(wan, monkeypatch):
    given = []

    def record(*args, **kwargs):
        given.append(kwargs["levels"] is not None)
        return psa.attention(*args, **kwargs)

    monkeypatch.setattr(adapter, "attention", record)
    psa.enable(wan, "balanced", min_tokens=0, warmup=0, reuse_steps=2)
    frames = run(wan, tiny.wan_arguments)
    layers_and_branches = 3 * 2
    expected = [False] * layers_and_branches + [True] * layers_and_branches
    assert given == expected + [False] * layers_and_branches
    given.clear()
    assert torch.equal(run(wan, tiny.wan_arguments), frames)  # nothing of the first run was kept
    assert given == expected + [False] * layers_and_branches


def test_reuse_within_one_step_selects_nothing_else(wan):
    psa.enable(wan, "balanced", min_tokens=0, warmup=0)
    once = run(wan, tiny.wan_arguments, num_inference_steps=1)
    psa.enable(wan, "balanced", min_tokens=0, warmup=0, reuse_steps=5)
    assert torch.equal(run(wan, tiny.wan_arguments, num_inference_steps=1), once)


def test_another_size_and_no_guidance_after_the_first_run(wan):
    psa.enable(wan, "balanced", min_tokens=0, warmup=0, reuse_steps=2, strict=True)
    run(wan, tiny.wan_arguments)
    changes = dict(height=96, width=128, num_frames=21, guidance_scale=1.0)
    frames = run(wan, tiny.wan_arguments, **changes)
    assert {row.step for row in psa.summary(wan).rows} == set(range(STEPS))
    psa.enable(wan, "balanced", min_tokens=0, warmup=0, reuse_steps=2, strict=True)
    assert torch.equal(run(wan, tiny.wan_arguments, **changes), frames)


@needs_dispatcher
def test_two_transformers_share_the_count_of_steps():
    pipe = tiny.wan_pipeline(two_transformers=True)
    with psa.enabled(pipe, "balanced", min_tokens=0, warmup=0):
        run(pipe, tiny.wan_arguments)
    by_model = {}
    for row in psa.summary(pipe).rows:
        by_model.setdefault(row.layer.split(".")[0], set()).add(row.step)
    assert by_model == {"transformer": {0, 1}, "transformer_2": {2}}


def test_enabled_brings_back_what_was_before(wan):
    psa.enable(wan, "balanced", min_tokens=0, warmup=0)
    frames = run(wan, tiny.wan_arguments)
    with psa.enabled(wan, "dense", min_tokens=0, warmup=0):
        assert not torch.equal(run(wan, tiny.wan_arguments), frames)
    assert torch.equal(run(wan, tiny.wan_arguments), frames)


# ---- dense with a reason -------------------------------------------------------------------------


def assert_dense_and_said_once(pipe, arguments, dense, caplog, reason):
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        assert torch.equal(run(pipe, arguments), dense)
        run(pipe, arguments)
    said = [record.message for record in caplog.records if record.name == LOGGER]
    assert len(said) == 1 and reason in said[0]
    assert psa.summary(pipe).notices == said
    assert not any(row.is_psa for row in psa.summary(pipe).rows)


def test_short_sequences_stay_dense(wan, wan_dense, caplog):
    psa.enable(wan, "balanced", warmup=0)
    assert_dense_and_said_once(wan, tiny.wan_arguments, wan_dense, caplog, "384 tokens")


def test_what_no_kernel_computes_stays_dense(wan, wan_dense, caplog, monkeypatch):
    def refuse(*args, **kwargs):
        raise psa.UnsupportedError("head_dim 7 has no kernel")

    monkeypatch.setattr(adapter, "attention", refuse)
    psa.enable(wan, "balanced", min_tokens=0, warmup=0)
    assert_dense_and_said_once(wan, tiny.wan_arguments, wan_dense, caplog, "head_dim 7")
    psa.enable(wan, "balanced", min_tokens=0, warmup=0, strict=True)
    with pytest.raises(psa.UnsupportedError, match=r"blocks\.0\.attn1: head_dim 7"):
        run(wan, tiny.wan_arguments)


def test_a_grid_that_does_not_match_stays_dense(caplog):
    model = tiny.ltx_pipeline().transformer
    inputs = dict(
        hidden_states=torch.randn(1, 48, 8),
        encoder_hidden_states=tiny.text(),
        timestep=torch.tensor([500.0]),
        encoder_attention_mask=torch.ones(1, 16),
        num_frames=2,
        height=4,
        width=6,
        return_dict=False,
    )
    with torch.no_grad():
        dense = model(**inputs)[0]
        coordinates = torch.rand(1, 3, 50)  # of 2 tokens more than the grid has
        longer = {**inputs, "hidden_states": torch.randn(1, 50, 8), "video_coords": coordinates}
        longer_dense = model(**longer)[0]
        psa.enable(model, "balanced", min_tokens=0, warmup=0)
        assert not torch.equal(model(**inputs)[0], dense)
        with caplog.at_level(logging.WARNING, logger=LOGGER):
            assert torch.equal(model(**longer)[0], longer_dense)
    assert "50 queries and 50 keys, but the grid of 2 x 4 x 6" in caplog.text


@pytest.mark.parametrize(
    ("mask", "lengths"),
    [
        (torch.ones(2, 1, 1, 6, dtype=torch.bool), (6, 6)),
        (torch.arange(6)[None, None, None] < torch.tensor([4, 6])[:, None, None, None], (4, 6)),
        (torch.arange(6)[None] < torch.tensor([1, 0])[:, None], (1, 0)),
        (torch.arange(6)[None, None, None].expand(2, 1, 1, 6) >= 2, None),
        (torch.zeros(2, 1, 1, 6), None),
        (torch.ones(2, 1, 6, 6, dtype=torch.bool), None),
    ],
)
def test_only_counts_of_keys_are_read_off_a_mask(mask, lengths):
    assert adapter._key_lengths(mask, 2, 6) == lengths


def test_training_stays_dense(wan, caplog):
    psa.enable(wan.transformer, "balanced", min_tokens=0, warmup=0)
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        out = wan.transformer(
            torch.randn(1, 16, 2, 8, 8), torch.tensor([5.0]), tiny.text(), return_dict=False
        )[0]
    out.sum().backward()
    wan.transformer.zero_grad()
    assert "gradient" in caplog.text


# ---- beside the rest of diffusers ----------------------------------------------------------------


@needs_dispatcher
def test_backends_set_while_psa_is_in(wan, wan_dense):
    psa.enable(wan, "balanced", min_tokens=0, warmup=1)
    frames = run(wan, tiny.wan_arguments)
    wan.transformer.set_attention_backend("native")
    assert torch.equal(run(wan, tiny.wan_arguments), frames)
    wan.transformer.reset_attention_backend()
    psa.disable(wan)
    assert torch.equal(run(wan, tiny.wan_arguments), wan_dense)


@needs_dispatcher
def test_the_backend_alone_is_dense_and_says_so(wan, wan_dense, caplog):
    takeover._OUTSIDE._said.clear()
    takeover.register_backend()
    wan.transformer.set_attention_backend("psa")
    try:
        with caplog.at_level(logging.WARNING, logger=LOGGER):
            assert torch.equal(run(wan, tiny.wan_arguments), wan_dense)
        assert caplog.text.count("outside of psa.enable") == 1
        psa.enable(wan, "dense", min_tokens=0, warmup=1)  # dense steps meet the backend as well
        torch.testing.assert_close(run(wan, tiny.wan_arguments), wan_dense, rtol=0, atol=1e-4)
    finally:
        psa.disable(wan)
        wan.transformer.set_attention_backend("native")
        wan.transformer.reset_attention_backend()


def test_fused_projections(caplog):
    pipe = tiny.cogvideox_pipeline()
    pipe.transformer.fuse_qkv_projections()
    dense = run(pipe, tiny.cogvideox_arguments)
    psa.enable(pipe, "dense", min_tokens=0, warmup=0, strict=True)
    frames = run(pipe, tiny.cogvideox_arguments)
    torch.testing.assert_close(frames, dense, rtol=0, atol=2e-5 * float(dense.abs().max()))
    psa.enable(pipe, "balanced", min_tokens=0, warmup=0)
    pipe.transformer.unfuse_qkv_projections()  # puts other processors in
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        run(pipe, tiny.cogvideox_arguments)
    assert caplog.text.count("call psa.enable again") == 1


def test_weights_and_configuration_are_untouched(wan, tmp_path):
    keys = list(wan.transformer.state_dict())
    config = dict(wan.transformer.config)
    psa.enable(wan, "balanced")
    assert list(wan.transformer.state_dict()) == keys
    assert dict(wan.transformer.config) == config
    wan.transformer.save_pretrained(tmp_path)
    again = type(wan.transformer).from_pretrained(tmp_path)
    assert again.num_parameters() == wan.transformer.num_parameters()


# ---- options -------------------------------------------------------------------------------------


def test_warm_up_of_presets(tmp_path):
    from psa.adapters.policy import resolve

    assert resolve("balanced", {}, "").warmup == 0.1
    assert resolve("wan2.1-14b", {}, "").warmup == pytest.approx(15 / 50)
    assert resolve("wan2.2-a14b", {}, "").warmup == pytest.approx(12 / 40)
    assert resolve("cogvideox-5b-4steps", {}, "").warmup == 0
    pytest.importorskip("yaml")
    path = tmp_path / "own.yaml"
    path.write_text("preset: balanced\ndensity: .3\nwarmup_steps: 7\n")
    choice = resolve(path, {"rest": "skip"}, "")
    assert choice.warmup == 7
    assert (choice.config.order, choice.config.rest) == ("gilbert", "skip")
    assert resolve("order=tile3d density=.2", {}, "").config == psa.Config(order="tile3d", density=0.2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(preset="fast"), "preset is 'fast'"),
        (dict(preset="prefill"), "causal is true"),
        (dict(importance="user_scores"), "brings no scores"),
        (dict(densty=0.2), "'densty' is not known"),
        (dict(warmup=1.5), "warmup is 1.5"),
        (dict(warmup=-1), "warmup is -1"),
        (dict(dense_layers=(3,)), "allowed: -3..2"),
        (dict(reuse_steps=0), "reuse_steps is 0"),
        (dict(min_tokens=-1), "min_tokens is -1"),
        (dict(num_steps=0), "num_steps is 0"),
    ],
)
def test_bad_options_change_nothing(wan, options, text):
    before = state_of(wan)
    with pytest.raises(ValueError, match=text):
        psa.enable(wan, **options)
    assert state_of(wan) == before


def test_a_transformer_alone(wan):
    model = wan.transformer
    with pytest.raises(ValueError, match="num_steps"):
        psa.enable(model, warmup=0.2)
    inputs = (torch.randn(1, 16, 2, 8, 8), tiny.text())
    psa.enable(model, "balanced", min_tokens=0, warmup=0.5, num_steps=2)
    with torch.no_grad():
        for timestep in (900.0, 400.0, 900.0):  # the third begins a new run
            model(inputs[0], torch.tensor([timestep]), inputs[1])
            rows = psa.summary(model).rows
            assert rows[-1].is_psa == (timestep < 900)
    assert {row.step for row in rows} == {0}


def test_any_object_with_a_transformer_and_a_scheduler(wan):
    scheduler = types.SimpleNamespace(timesteps=torch.tensor([900.0, 500.0]))
    pipe = types.SimpleNamespace(transformer=wan.transformer, scheduler=scheduler)
    psa.enable(pipe, "balanced", min_tokens=0, warmup=0.5)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            pipe.transformer(torch.randn(1, 16, 2, 8, 8), timestep[None], tiny.text())
    assert [row.is_psa for row in psa.summary(pipe).rows] == [False] * 3 + [True] * 3


def test_models_that_psa_does_not_know():
    with pytest.raises(psa.UnsupportedError, match="Linear; supported: WanTransformer3DModel"):
        psa.enable(torch.nn.Linear(2, 2))
    with pytest.raises(psa.UnsupportedError, match="object has no transformer"):
        psa.enable(object())
    with pytest.raises(ValueError, match=r"psa\.enable\(pipe\) comes first"):
        psa.summary(torch.nn.Linear(2, 2))


def test_a_subclass_of_a_known_model():
    from diffusers import WanTransformer3DModel

    class Own(WanTransformer3DModel):
        pass

    model = tiny.wan_transformer()
    model.__class__ = Own
    assert psa.disable(psa.enable(model, "balanced")) is model


def test_a_pipeline_is_freed_with_its_adapter():
    import gc
    import weakref

    pipe = tiny.wan_pipeline()
    psa.enable(pipe, "balanced")
    gone = weakref.ref(pipe.transformer)
    del pipe
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_transformers(in_place):
    pipe = tiny.wan_pipeline()
    psa.enable(pipe, "balanced", min_tokens=0, warmup=1, strict=True)
    frames = run(pipe, tiny.wan_arguments)
    if in_place:
        pipe.transformer.compile(backend="eager")
    else:
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    psa.enable(pipe, "balanced", min_tokens=0, warmup=1, strict=True)
    torch.testing.assert_close(run(pipe, tiny.wan_arguments), frames, rtol=0, atol=1e-4)
    assert [row.is_psa for row in psa.summary(pipe).rows].count(True) == 3 * (STEPS - 1)


def test_the_code_of_the_guide_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "my-wan.yaml").write_text("preset: balanced\ndensity: .3\nwarmup_steps: 1\n")
    monkeypatch.chdir(tmp_path)
    settings = {**tiny.wan_arguments(num_inference_steps=1), "generator": None}
    names = {"psa": psa, "pipe": tiny.wan_pipeline(), "prompt": None, "settings": settings}
    blocks = [
        block for block in code_blocks("docs/diffusers.md", "python") if "Wan-AI" not in block
    ]
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "<docs/diffusers.md>", "exec"), names)
    assert "nothing has run" not in capsys.readouterr().out
