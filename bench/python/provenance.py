# SPDX-License-Identifier: Apache-2.0
"""What a result file says of how it was made."""
import subprocess
import sys


def commit():
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                           check=False)
    return found.stdout.strip()


def command():
    return " ".join(["python"] + sys.argv)
