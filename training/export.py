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
    replace_whole(path, lambda part: part.write_text(json.dumps(value, indent=2) + "\n", "utf-8"))


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_tensors(path, tensors, metadata):
    replace_whole(path, lambda part: save_file(tensors, part, metadata))


def replace_whole(path, write):
    """Calls write(part) for a file beside `path`, which then takes its place."""
    part = path.with_name(path.name + ".part")
    write(part)
    part.replace(path)


def write_weights(folder, values):
    """bf16 transformer and f32 text table from {name: tensor}."""
    transformer, text = {}, {}
    for name, value in values.items():
        if name.startswith(TEXT_PREFIX):
            text[name.removeprefix(TEXT_PREFIX)] = value.detach().float().cpu().contiguous()
        else:
            transformer[name] = value.detach().bfloat16().cpu().contiguous()
    write_tensors(folder / WEIGHTS, transformer, {"format": "pt"})
    write_tensors(folder / TEXT_TABLE, text, {"format": "pt", "rule": TEXT_RULE})


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


def write_attention(folder, q, k, v, grid, metadata):
    """q, k, v [1, 2, N, D] bf16 of the most concentrated and the most diffuse head.

    q, k, v come as [F, T, H, D], frames of one clip; grid: its tokens (F, height, width). Returns
    the figures of all heads and the file's metadata.
    """
    heads, head_dim = q.shape[2:]
    by_head = [x.flatten(0, 1).transpose(0, 1) for x in (q, k, v)]  # [H, N, D]
    spread = diffuseness(*by_head[:2]).tolist()
    chosen = [min(range(heads), key=spread.__getitem__), max(range(heads), key=spread.__getitem__)]
    metadata = metadata | {
        "grid": ",".join(map(str, grid)),
        "heads": ",".join(map(str, chosen)),
        "branch": "cond",
        "order": "frame-major (t,h,w)",
        "note": f"after RMSNorm(across heads)+RoPE; softmax scale 1/sqrt({head_dim}) not applied",
    }
    tensors = {
        name: x[None, chosen].bfloat16().cpu().contiguous() for name, x in zip("qkv", by_head)
    }
    name = f"qkv_layer{metadata['layer']}_step{metadata['step']}.safetensors"
    write_tensors(folder / name, tensors, metadata)
    return {"file": name, "diffuseness_by_head": [round(x, 4) for x in spread], **metadata}
