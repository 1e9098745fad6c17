# SPDX-License-Identifier: Apache-2.0
"""HunyuanVideo with dense attention and with psa; padded text stands behind the video.

python examples/python/hunyuan_video.py --random-weights      # a tiny model on the CPU, seconds
python examples/python/hunyuan_video.py                       # the published one on a GPU
"""

import compare
import tiny_models

if __name__ == "__main__":
    compare.main(
        __doc__,
        "hunyuanvideo-community/HunyuanVideo",
        "HunyuanVideoPipeline",
        tiny_models.hunyuan_pipeline,
        tiny_models.hunyuan_arguments,
        height=544,
        width=960,
        num_frames=61,
    )
