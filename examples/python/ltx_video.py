# SPDX-License-Identifier: Apache-2.0
"""LTX-Video with dense attention and with psa.

python examples/python/ltx_video.py --random-weights      # a tiny model on the CPU, seconds
python examples/python/ltx_video.py                       # the published one on a GPU
"""

import compare
import tiny_models
import torch


def main() -> None:
    chosen = compare.options("Lightricks/LTX-Video", __doc__.splitlines()[0])
    if chosen.random_weights:
        compare.compare(
            tiny_models.ltx_pipeline(),
            tiny_models.ltx_arguments,
            chosen.preset,
            **compare.TINY,
        )
        return
    from diffusers import LTXPipeline

    pipe = compare.to_cuda(LTXPipeline, chosen.model)
    settings = dict(height=512, width=704, num_frames=161, output_type="np")
    compare.compare(
        pipe,
        lambda: dict(prompt=chosen.prompt, generator=torch.manual_seed(0), **settings),
        chosen.preset,
    )


if __name__ == "__main__":
    main()
