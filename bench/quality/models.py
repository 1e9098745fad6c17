# SPDX-License-Identifier: Apache-2.0
"""What is captured of which model: fixed prompts and seeds."""
from .captures import TEST, TUNING, Model, Run

MODELS = {model.name: model for model in (
    Model("shapes", "models/shapes", weights="models/shapes", layers=tuple(range(8)),
          steps=(3, 9, 15), runs=(
              Run(TUNING, 21, "a large purple square moves left on a teal background"),
              Run(TUNING, 23, "a large blue triangle moves right on a gray background"),
              Run(TEST, 11, "a large yellow circle moves right on a navy background"))),
    Model("flows", "models/flows", weights="models/flows", layers=tuple(range(6)),
          steps=(3, 9, 15), runs=(
              Run(TUNING, 31, "a coarse ocean texture drifts left slowly"),
              Run(TUNING, 32, "a fine ember texture swirls clockwise quickly"),
              Run(TEST, 33, "a medium dusk texture zooms in slowly"))),
    Model("causal", "models/causal, causal", causal=True,
          made_by="bench/quality/capture_causal.py --out build/quality/causal makes them (torch)"),
)}
