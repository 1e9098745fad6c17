# SPDX-License-Identifier: Apache-2.0
"""CogVideoX with dense attention and with psa; text tokens stand before the video.

python examples/python/cogvideox.py --random-weights      # a tiny model on the CPU, seconds
python examples/python/cogvideox.py                       # the published one on a GPU
"""

import compare
import tiny_models
import torch


def main() -> None:
    chosen = compare.options("zai-org/CogVideoX-5b", __doc__.splitlines()[0])
    if chosen.random_weights:
        compare.compare(
            tiny_models.cogvideox_pipeline(),
            tiny_models.cogvideox_arguments,
            chosen.preset,
            **compare.TINY,
        )
        return
    from diffusers import CogVideoXPipeline

    pipe = compare.to_cuda(CogVideoXPipeline, chosen.model)
    settings = dict(height=480, width=720, num_frames=49, output_type="np")
    compare.compare(
        pipe,
        lambda: dict(prompt=chosen.prompt, generator=torch.manual_seed(0), **settings),
        chosen.preset,
    )


if __name__ == "__main__":
    main()
