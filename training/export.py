# SPDX-License-Identifier: Apache-2.0
"""The files of a model folder: weights in diffusers' layout, text table, recorded attention."""
import json
import math
import pathlib

import torch
from safetensors.torch import load_file, save_file

import model as model_module

WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXT_TABLE = "text_encoder.safetensors"
TEXT_PREFIX = "text_table."  # of the text table's parameters among all parameters
TEXT_RULE = (
    "lower-case, split on spaces, drop unknown words, cut or pad with id 0 to 32; "
    "embedding = token_embedding[id] + position_embedding[position], padding too, no mask; "
    "unconditional = 32 times id 0"
)


def named_parameters(model, text_table):
    """(name, parameter) of both, the text table's with TEXT_PREFIX."""
    yield from model.named_parameters()
    for name, parameter in text_table.named_parameters():
        yield TEXT_PREFIX + name, parameter


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_weights(folder, values):
    """bf16 transformer and f32 text table from {name: tensor}."""
    transformer, text = {}, {}
    for name, value in values.items():
        if name.startswith(TEXT_PREFIX):
            text[name.removeprefix(TEXT_PREFIX)] = value.detach().float().cpu().contiguous()
        else:
            transformer[name] = value.detach().bfloat16().cpu().contiguous()
    save_file(transformer, folder / WEIGHTS, {"format": "pt"})
    save_file(text, folder / TEXT_TABLE, {"format": "pt", "rule": TEXT_RULE})


def write_configuration(folder, config, vocab, shift):
    write_json(folder / "config.json", config)
    write_json(folder / "vocab.json", vocab)
    scheduler = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": shift,
        "use_dynamic_shifting": False,
    }
    write_json(folder / "scheduler_config.json", scheduler)


def load_weights(folder, model, text_table):
    """Strictly loads what write_weights wrote, bf16 or f32."""
    folder = pathlib.Path(folder)
    for module, name in ((model, WEIGHTS), (text_table, TEXT_TABLE)):
        values = {key: value.float() for key, value in load_file(folder / name).items()}
        module.load_state_dict(values, strict=True)


def load_model(folder, config, words, device):
    """Model and text table as they are shipped, with weights rounded to bf16."""
    model = model_module.VideoTransformer(config)
    text_table = model_module.TextTable(words)
    load_weights(folder, model, text_table)
    return model.to(device).eval(), text_table.to(device).eval()


@torch.no_grad()
def diffuseness(q, k, queries=256):
    """Per head, the mean share of keys that hold 90 % of a query's probability; q, k [H, N, D]."""
    tokens = q.shape[1]
    chosen = torch.linspace(0, tokens - 1, min(queries, tokens), device=q.device).long()
    logits = q[:, chosen].float() @ k.float().transpose(1, 2) / math.sqrt(q.shape[2])
    mass = logits.softmax(-1).sort(-1, descending=True).values.cumsum(-1)
    return ((mass < 0.9).sum(-1) + 1).float().mean(-1) / tokens


def write_attention(folder, q, k, v, metadata):
    """q, k, v [1, 2, N, D] bf16 of the most concentrated and the most diffuse head.

    q, k, v come as [F, T, H, D], frames of one clip. Returns the figures of all heads and the
    file's metadata.
    """
    grid_frames, heads = q.shape[0], q.shape[2]
    side = math.isqrt(q.shape[1])
    by_head = [x.flatten(0, 1).transpose(0, 1) for x in (q, k, v)]  # [H, N, D]
    spread = diffuseness(*by_head[:2]).tolist()
    chosen = [min(range(heads), key=spread.__getitem__), max(range(heads), key=spread.__getitem__)]
    metadata = metadata | {
        "grid": f"{grid_frames},{side},{side}",
        "heads": ",".join(map(str, chosen)),
        "branch": "cond",
        "order": "frame-major (t,h,w)",
        "note": "after RMSNorm(across heads)+RoPE; softmax scale 1/sqrt(64) not applied",
    }
    tensors = {
        name: x[None, chosen].bfloat16().cpu().contiguous() for name, x in zip("qkv", by_head)
    }
    name = f"qkv_layer{metadata['layer']}_step{metadata['step']}.safetensors"
    save_file(tensors, folder / name, metadata)
    return {"file": name, "diffuseness_by_head": [round(x, 4) for x in spread], **metadata}
