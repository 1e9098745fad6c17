# SPDX-License-Identifier: Apache-2.0
"""psa as an attention implementation of transformers, in models with random weights."""

import logging
import sys

import pytest
from conftest import ROOT, code_blocks

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
sys.path.insert(0, str(ROOT / "examples" / "python"))

import tiny_models as tiny  # noqa: E402

import psa  # noqa: E402
from psa.adapters import transformers as adapter  # noqa: E402

LENGTH = 300


@pytest.fixture(scope="module", params=["qwen2.5-vl", "qwen3-vl"])
def model(request):
    return tiny.qwen2_5_vl() if request.param == "qwen2.5-vl" else tiny.qwen3_vl()


@pytest.fixture(scope="module")
def decoder():
    return tiny.qwen2_5_vl()


@pytest.fixture
def calls(monkeypatch):
    """Shapes of q and k of the calls that psa computed."""
    shapes = []

    def record(q, k, v, **options):
        shapes.append((tuple(q.shape), tuple(k.shape)))
        return psa.attention(q, k, v, **options)

    monkeypatch.setattr(adapter, "attention", record)
    return shapes


def logits(model, implementation, inputs):
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        return model(**inputs).logits


def words(*pads, side="left"):
    """A batch of random tokens, element i with pads[i] places of padding at a side."""
    ids = torch.randint(7, 151, (len(pads), LENGTH), generator=torch.Generator().manual_seed(1))
    place = torch.arange(LENGTH)
    place = place if side == "left" else place.flip(0)
    return {"input_ids": ids, "attention_mask": (place >= torch.tensor(pads)[:, None]).long()}


def register(preset="dense", **options):
    return psa.transformers.register(preset, **{"min_tokens": 2, "strict": True, **options})


def test_prefill_of_a_video_prompt(model, calls):
    inputs = tiny.video_prompt(by_frame=model.config.model_type == "qwen3_vl")
    dense = logits(model, "sdpa", inputs)
    length = inputs["input_ids"].shape[1]
    register()
    torch.testing.assert_close(logits(model, "psa", inputs), dense, rtol=0, atol=1e-5)
    # Both decoder layers with their heads ungrouped, and nothing of the vision tower.
    assert calls == [((1, 4, length, 32), (1, 2, length, 32))] * 2
    register("prefill", block="32x32")
    sparse = logits(model, "psa", inputs)
    assert torch.isfinite(sparse).all()
    assert not torch.allclose(sparse, dense, rtol=0, atol=1e-5)
    assert torch.equal(logits(model, "sdpa", inputs), dense)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches(decoder, side, calls):
    inputs = words(0, 40, 100, 40, side=side)
    dense = logits(decoder, "sdpa", inputs)
    register()
    given = logits(decoder, "psa", inputs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(given[real], dense[real], rtol=0, atol=1e-5)
    assert sorted(calls)[::2] == [
        ((1, 4, 200, 32), (1, 2, 200, 32)),
        ((1, 4, 300, 32), (1, 2, 300, 32)),
        ((2, 4, 260, 32), (2, 2, 260, 32)),
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"prefill_chunk_size": 64}, {"cache_implementation": "static"}],
    ids=["dynamic", "chunked", "static"],
)
def test_generation(decoder, options, calls):
    inputs = words(0, 40, 100)
    arguments = {**inputs, "max_new_tokens": 6, "do_sample": False, **options}
    decoder.set_attn_implementation("sdpa")
    try:
        expected = decoder.generate(**arguments)
    except RuntimeError as error:  # chunks with transformers 5.17
        pytest.skip(f"this version of transformers fails with sdpa too: {error}")
    register()
    decoder.set_attn_implementation("psa")
    assert torch.equal(decoder.generate(**arguments), expected)
    assert calls and all(q[2] > 1 for q, _ in calls)  # decoding is not psa's


def text_decoder(name, **settings):
    import transformers

    config = getattr(transformers, f"{name}Config")(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        vocab_size=151,
        pad_token_id=0,
        **settings,
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def test_decoders_of_text_alone(calls):
    model = text_decoder("Llama")
    inputs = words(0, 70)
    dense = logits(model, "sdpa", inputs)
    register()
    given = logits(model, "psa", inputs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(given[real], dense[real], rtol=0, atol=1e-5)
    assert len(calls) == 2 * 2


def test_sliding_windows(calls, caplog):
    model = text_decoder("Mistral", sliding_window=100)
    inputs = words(0)
    dense = logits(model, "sdpa", inputs)
    register(strict=False)
    assert torch.equal(logits(model, "psa", inputs), dense)
    assert caplog.text.count("more than causality and padding") == 1
    assert not calls
    shorter = {name: tensor[:, :90] for name, tensor in inputs.items()}
    dense = logits(model, "sdpa", shorter)
    torch.testing.assert_close(logits(model, "psa", shorter), dense, rtol=0, atol=1e-5)
    assert len(calls) == 2


def test_short_prompts_layers_and_decoding_are_what_sdpa_computes(decoder, calls):
    inputs = words(0)
    dense = logits(decoder, "sdpa", inputs)
    psa.transformers.register()
    assert torch.equal(logits(decoder, "psa", inputs), dense)
    register(dense_layers=(0, 1))
    assert torch.equal(logits(decoder, "psa", inputs), dense)
    assert not calls
    register(dense_layers=(1,))
    logits(decoder, "psa", inputs)
    assert len(calls) == 1


def test_settings_of_single_layers(decoder, monkeypatch):
    configs = []

    def record(q, k, v, **options):
        configs.append(options["config"])
        return psa.attention(q, k, v, **options)

    monkeypatch.setattr(adapter, "attention", record)
    sparse = psa.Config(block=(32, 32))
    by_head = psa.Config(block=(32, 32), head_density=(0.2, 0.3, 0.5, 0.9))
    register(psa.Preset("", "", sparse, layers={1: by_head}), rest="skip")
    logits(decoder, "psa", words(0))
    assert [config.head_density for config in configs] == [None, (0.2, 0.3, 0.5, 0.9)]
    assert {config.rest for config in configs} == {"skip"}  # overrides hold for every layer

    dense = psa.preset("dense").config
    register(psa.Preset("", "", sparse, layers={0: dense, 1: dense}))
    expected = logits(decoder, "sdpa", words(0))
    torch.testing.assert_close(logits(decoder, "psa", words(0)), expected, rtol=0, atol=1e-5)


def test_several_names_have_their_own_options(decoder, calls):
    inputs = words(0)
    assert register(name="psa-first", dense_layers=(0,)) == "psa-first"
    register(name="psa-none", dense_layers=(0, 1))
    logits(decoder, "psa-none", inputs)
    assert not calls
    logits(decoder, "psa-first", inputs)
    assert len(calls) == 1


def test_other_masks_stay_dense(decoder, caplog):
    inputs = words(0)
    packed = torch.cat([torch.arange(120), torch.arange(LENGTH - 120)])[None]
    inputs = {"input_ids": inputs["input_ids"], "position_ids": packed.expand(3, 1, LENGTH)}
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    mask[120:, :120] = False  # two sequences in one
    inputs["attention_mask"] = mask[None, None]
    dense = logits(decoder, "sdpa", inputs)
    register(strict=False)
    with caplog.at_level(logging.WARNING, logger="psa.transformers"):
        assert torch.equal(logits(decoder, "psa", inputs), dense)
        logits(decoder, "psa", inputs)
    assert caplog.text.count("more than causality and padding") == 1
    register()
    with pytest.raises(psa.UnsupportedError, match="more than causality"):
        logits(decoder, "psa", inputs)


def test_training_and_missing_kernels_stay_dense(decoder, caplog, monkeypatch):
    inputs = words(0)
    dense = logits(decoder, "sdpa", inputs)
    register(strict=False)
    decoder.set_attn_implementation("psa")
    with caplog.at_level(logging.WARNING, logger="psa.transformers"):
        decoder(**inputs).logits.sum().backward()
        decoder.zero_grad()
        assert "gradient" in caplog.text

        def refuse(*args, **kwargs):
            raise psa.UnsupportedError("head_dim 7 has no kernel")

        monkeypatch.setattr(adapter, "attention", refuse)
        assert torch.equal(logits(decoder, "psa", inputs), dense)
        assert caplog.text.count("head_dim 7 has no kernel") == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(preset="balanced"), "order is 'gilbert'"),
        (
            dict(preset=psa.Preset("", "", psa.Config(), layers={3: psa.Config(order="gilbert")})),
            "order is 'gilbert' in layer 3",
        ),
        (dict(budget_scope="head"), "budget_scope is 'head'; causal"),
        (dict(preset="fast"), "preset is 'fast'"),
        (dict(min_tokens=1), "min_tokens is 1"),
        (dict(densty=0.2), "'densty' is not known"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        psa.transformers.register(**options)


def lower(queries, keys, first=0, offset=None, last=None):
    """The mask of `queries` at `offset` of `keys` that exist from `first` to before `last`."""
    offset = keys - queries if offset is None else offset
    place = torch.arange(keys)
    seen = place <= torch.arange(queries)[:, None] + offset
    return seen & (place >= first) & (place < (keys if last is None else last))


@pytest.mark.parametrize(
    ("mask", "span"),
    [
        (lower(6, 6), adapter.Span(0, 6, 0, 6)),
        (lower(6, 6, first=2), adapter.Span(2, 6, 2, 6)),  # padded on the left
        (lower(6, 6, last=4), adapter.Span(0, 4, 0, 4)),  # padded on the right
        (lower(3, 8), adapter.Span(0, 3, 0, 8)),  # a chunk
        (lower(3, 8, first=6), adapter.Span(1, 3, 6, 8)),  # a chunk that begins with padding
        (lower(3, 8, offset=2), adapter.Span(0, 3, 0, 5)),  # a static cache with empty places
        (lower(3, 8, offset=2, first=1), adapter.Span(0, 3, 1, 5)),
        (torch.zeros(3, 8, dtype=torch.bool), adapter.Span(0, 0, 0, 0)),  # padding alone
        (torch.ones(3, 8, dtype=torch.bool), None),
        (lower(6, 6) & (torch.arange(6) != 3), None),
        (lower(6, 6) & ~lower(6, 6, offset=-3), None),  # a sliding window
    ],
)
def test_what_a_mask_says(mask, span):
    assert adapter._read_span(mask) == span


def test_the_code_of_the_guide_runs(decoder):
    names = {"psa": psa, "model": decoder, "inputs": words(0)}
    blocks = code_blocks("docs/transformers.md", "python")
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "<docs/transformers.md>", "exec"), names)
    assert names["output"].shape[1] > LENGTH
