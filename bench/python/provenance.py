# SPDX-License-Identifier: Apache-2.0
"""What a result file says of how it was made."""
import subprocess
import sys


def commit():
    """Of the working tree, with a mark where tracked files differ from it that are no results, which
    a run may write one after the other; nothing where there is no git, as on machines that get a
    copy."""
    try:
        head = _git("rev-parse", "--short", "HEAD").strip()
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".",
                       ":!bench/results", ":!docs")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}-dirty" if changes else head


def _git(*arguments):
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def command():
    return " ".join(["python"] + sys.argv)
