# SPDX-License-Identifier: Apache-2.0
"""Wan2.2 text to video, whose two transformers psa follows as one run.

python examples/python/wan22.py --random-weights      # a tiny model on the CPU, seconds
python examples/python/wan22.py                       # the published one on a GPU
"""

import compare
import tiny_models
import torch


def main() -> None:
    chosen = compare.options("Wan-AI/Wan2.2-T2V-A14B-Diffusers", __doc__.splitlines()[0])
    if chosen.random_weights:
        compare.compare(
            tiny_models.wan_pipeline(two_transformers=True),
            tiny_models.wan_arguments,
            chosen.preset,
            **compare.TINY,
        )
        return
    from diffusers import WanPipeline

    pipe = compare.to_cuda(WanPipeline, chosen.model)
    settings = dict(height=480, width=832, num_frames=81, output_type="np")
    compare.compare(
        pipe,
        lambda: dict(prompt=chosen.prompt, generator=torch.manual_seed(0), **settings),
        chosen.preset,
    )


if __name__ == "__main__":
    main()
