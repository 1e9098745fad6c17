# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL reads a video: the first token with "sdpa" and with psa.

python examples/python/qwen_vl.py --random-weights      # a tiny model on the CPU, seconds
python examples/python/qwen_vl.py --video clip.mp4      # the published one on a GPU
"""

import argparse
import time

import tiny_models
import torch

import psa


def load(chosen):
    """A model and the inputs of its prompt."""
    if chosen.random_weights:
        return tiny_models.qwen2_5_vl(), tiny_models.video_prompt(frames=8)
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        chosen.model, dtype=torch.bfloat16, device_map="cuda"
    )
    content = [{"type": "video", "path": chosen.video}, {"type": "text", "text": chosen.prompt}]
    inputs = AutoProcessor.from_pretrained(chosen.model).apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return model, inputs.to(model.device)


def first_token(model, inputs, implementation):
    model.set_attn_implementation(implementation)
    start = time.perf_counter()
    token = model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1].item()
    return token, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="Qwen/Qwen2.5-VL-7B-Instruct")
    parser.add_argument("--random-weights", action="store_true", help="a tiny one, on the CPU")
    parser.add_argument("--preset", default="prefill")
    parser.add_argument("--video", default="clip.mp4")
    parser.add_argument("--prompt", default="What happens in this video?")
    chosen = parser.parse_args()

    model, inputs = load(chosen)
    psa.transformers.register(chosen.preset, min_tokens=256 if chosen.random_weights else 2048)
    for implementation in ("sdpa", "psa"):
        first_token(model, inputs, implementation)  # warms up
        token, seconds = first_token(model, inputs, implementation)
        length = inputs["input_ids"].shape[1]
        print(f"{implementation}: {length} tokens, {seconds:.2f} s, token {token}")


if __name__ == "__main__":
    main()
