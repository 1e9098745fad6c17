# SPDX-License-Identifier: Apache-2.0
"""CogVideoX with dense attention and with psa; text tokens stand before the video.

python examples/python/cogvideox.py --random-weights      # a tiny model on the CPU, seconds
python examples/python/cogvideox.py                       # the published one on a GPU
"""

import compare
import tiny_models

if __name__ == "__main__":
    compare.main(
        __doc__,
        "zai-org/CogVideoX-5b",
        "CogVideoXPipeline",
        tiny_models.cogvideox_pipeline,
        tiny_models.cogvideox_arguments,
        height=480,
        width=720,
        num_frames=49,
    )
