# SPDX-License-Identifier: Apache-2.0
"""What a result file says of how it was made."""
import subprocess
import sys


def commit():
    """Of the working tree, with a mark where tracked files differ from it; nothing where there is
    no git, as on machines that get a copy."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude", "*"],
                               capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip()


def command():
    return " ".join(["python"] + sys.argv)
