# SPDX-License-Identifier: Apache-2.0
"""Wan2.2 text to video, whose two transformers psa follows as one run.

python examples/python/wan22.py --random-weights      # a tiny model on the CPU, seconds
python examples/python/wan22.py                       # the published one on a GPU
"""

import compare
import tiny_models

if __name__ == "__main__":
    compare.main(
        __doc__,
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        "WanPipeline",
        lambda: tiny_models.wan_pipeline(two_transformers=True),
        tiny_models.wan_arguments,
        height=480,
        width=832,
        num_frames=81,
    )
