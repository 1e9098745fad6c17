# SPDX-License-Identifier: Apache-2.0
"""A Wan checkpoint small enough to write by hand: random weights, pixels, a few words."""

import json

import harness

HEADS, HEAD_DIM, LAYERS, FFN, TEXT, FREQ, CHANNELS = 2, 16, 2, 24, 8, 16, 3
DIM = HEADS * HEAD_DIM
WORDS = ["<pad>", "a", "red", "blue", "circle", "moves", "left"]
TOKENS = 6

CONFIG = {
    "_class_name": "WanTransformer3DModel",
    "patch_size": [1, 2, 2],
    "num_attention_heads": HEADS,
    "attention_head_dim": HEAD_DIM,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": TEXT,
    "freq_dim": FREQ,
    "ffn_dim": FFN,
    "num_layers": LAYERS,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 64,
}


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def attention(name):
    shapes = {f"{name}.norm_q.weight": (DIM,), f"{name}.norm_k.weight": (DIM,)}
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        shapes |= linear(f"{name}.{part}", DIM, DIM)
    return shapes


def weight_shapes():
    shapes = {
        "patch_embedding.weight": (DIM, CHANNELS, 1, 2, 2),
        "patch_embedding.bias": (DIM,),
        "scale_shift_table": (1, 2, DIM),
    }
    embedder = "condition_embedder"
    shapes |= linear(f"{embedder}.time_embedder.linear_1", FREQ, DIM)
    shapes |= linear(f"{embedder}.time_embedder.linear_2", DIM, DIM)
    shapes |= linear(f"{embedder}.time_proj", DIM, 6 * DIM)
    shapes |= linear(f"{embedder}.text_embedder.linear_1", TEXT, DIM)
    shapes |= linear(f"{embedder}.text_embedder.linear_2", DIM, DIM)
    shapes |= linear("proj_out", DIM, 4 * CHANNELS)
    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        shapes |= attention(f"{block}.attn1") | attention(f"{block}.attn2")
        shapes |= {f"{block}.norm2.weight": (DIM,), f"{block}.norm2.bias": (DIM,)}
        shapes |= linear(f"{block}.ffn.net.0.proj", DIM, FFN)
        shapes |= linear(f"{block}.ffn.net.2", FFN, DIM)
        shapes[f"{block}.scale_shift_table"] = (1, 6, DIM)
    return shapes


def tensors_of(shapes, scale):
    tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        values = harness.normal_values(harness.size_of(shape), seed)
        tensors[name] = ("F32", shape, harness.f32_bytes([scale * x for x in values]))
    return tensors


def write_model(folder, shapes=None, defaults=None, config=None):
    """A checkpoint in `folder`; `shapes`, `defaults` (psa.json) and `config` replace the usual."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    weights = tensors_of(shapes or weight_shapes(), 0.15)
    harness.write_safetensors(folder / "diffusion_pytorch_model.safetensors", weights)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    embeddings = {
        "token_embedding.weight": (len(WORDS), TEXT),
        "position_embedding.weight": (TOKENS, TEXT),
    }
    harness.write_safetensors(folder / "text_encoder.safetensors", tensors_of(embeddings, 1.0))
    if defaults is None:
        defaults = {
            "size": [4, 16, 16],
            "steps": 3,
            "guidance": 2.0,
            "attention": "block=16x16 pooled=8 order=gilbert",
        }
    (folder / "psa.json").write_text(json.dumps(defaults))


def write_latent_model(folder):
    """One that predicts 16 latent channels."""
    shapes = weight_shapes()
    shapes["patch_embedding.weight"] = (DIM, 16, 1, 2, 2)
    shapes["proj_out.weight"], shapes["proj_out.bias"] = (64, DIM), (64,)
    write_model(folder, shapes, config=dict(CONFIG, in_channels=16, out_channels=16))
