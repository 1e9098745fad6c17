# SPDX-License-Identifier: Apache-2.0
"""Wan2.1 text to video with dense attention and with psa.

python examples/python/wan.py --random-weights      # a tiny model on the CPU, seconds
python examples/python/wan.py                       # the published one on a GPU
"""

import compare
import tiny_models

if __name__ == "__main__":
    compare.main(
        __doc__,
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "WanPipeline",
        tiny_models.wan_pipeline,
        tiny_models.wan_arguments,
        height=480,
        width=832,
        num_frames=81,
    )
