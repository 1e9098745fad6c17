# SPDX-License-Identifier: Apache-2.0
"""python -m psa doctor"""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m psa", description="Pyramid Sparse Attention")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("doctor", help="what psa finds here, what it uses of it, what is wrong")
    parser.parse_args()
    from .doctor import report

    text, problems = report()
    print(text)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
