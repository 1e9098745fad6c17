# SPDX-License-Identifier: Apache-2.0
"""Where results come from: machine, commit and command."""
import json
import subprocess
import sys

from bench.python.provenance import commit


def facts(psa: str, backend: str) -> dict:
    """For the head of a results file."""
    return {"machine": machine(psa, backend), "commit": commit(),
            "command": " ".join(["python3 -m bench.quality", *sys.argv[1:]])}


def machine(psa: str, backend: str) -> dict:
    """Where this runs, in the words of `psa doctor`."""
    found = json.loads(subprocess.run([psa, "doctor", "--json"], capture_output=True, text=True,
                                      check=True).stdout)
    used = next(b for b in found["backends"] if b["name"] == backend and b["state"] == "used")
    devices = {"cpu": found["machine"]["cpu"]}
    if backend == "cuda":
        devices["gpu"] = found["cuda"]["devices"][0]["name"]
    return {**devices, "threads": found["machine"]["usable_processors"], "backend": used["name"],
            "isa": used["isa"]}
