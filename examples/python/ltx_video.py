# SPDX-License-Identifier: Apache-2.0
"""LTX-Video with dense attention and with psa.

python examples/python/ltx_video.py --random-weights      # a tiny model on the CPU, seconds
python examples/python/ltx_video.py                       # the published one on a GPU
"""

import compare
import tiny_models

if __name__ == "__main__":
    compare.main(
        __doc__,
        "Lightricks/LTX-Video",
        "LTXPipeline",
        tiny_models.ltx_pipeline,
        tiny_models.ltx_arguments,
        height=512,
        width=704,
        num_frames=161,
    )
