# SPDX-License-Identifier: Apache-2.0
"""HunyuanVideo with dense attention and with psa; padded text stands behind the video.

python examples/python/hunyuan_video.py --random-weights      # a tiny model on the CPU, seconds
python examples/python/hunyuan_video.py                       # the published one on a GPU
"""

import compare
import tiny_models
import torch


def main() -> None:
    chosen = compare.options("hunyuanvideo-community/HunyuanVideo", __doc__.splitlines()[0])
    if chosen.random_weights:
        compare.compare(
            tiny_models.hunyuan_pipeline(),
            tiny_models.hunyuan_arguments,
            chosen.preset,
            **compare.TINY,
        )
        return
    from diffusers import HunyuanVideoPipeline

    pipe = compare.to_cuda(HunyuanVideoPipeline, chosen.model)
    settings = dict(height=544, width=960, num_frames=61, output_type="np")
    compare.compare(
        pipe,
        lambda: dict(prompt=chosen.prompt, generator=torch.manual_seed(0), **settings),
        chosen.preset,
    )


if __name__ == "__main__":
    main()
