# SPDX-License-Identifier: Apache-2.0
"""golden/*.txt: a command in the first line, then what it prints to stdout.

Times, sizes of the workspace and what depends on the machine are masked. `--update` writes what the
program prints now; read the difference before you commit it.
"""

import re
import shlex
import unittest

import harness
from harness import HERE, PsaTest

UPDATE = False

MASKS = [
    (r"(?m)^time {7}.*$", "time       <times>"),
    (r"(?m)^not used .*\n", ""),
    (r"(?m)^workspace .*$", "workspace  <size>"),
    (r'(?m)"(\w*ms|workspace_bytes)": [0-9.e+-]+', r'"\1": <number>'),
    (r"workspace  \d+ bytes\\n", r"workspace  <size>\\n"),
    (r"(not used [^\\]*\\n)+", ""),
]


def masked(text):
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


class Golden(PsaTest):
    def test_every_file(self):
        files = sorted((HERE / "golden").glob("*.txt"))
        self.assertGreater(len(files), 8)
        for path in files:
            command, _, expected = path.read_text(encoding="utf-8").partition("\n")
            with self.subTest(golden=path.name):
                words = shlex.split(command)
                self.assertEqual(words[:2], ["$", "psa"], "the first line is the command")
                printed = masked(self.succeed(*words[2:]).stdout)
                if UPDATE:
                    path.write_text(f"{command}\n{printed}", encoding="utf-8")
                else:
                    self.assertEqual(printed, expected)


def add_update(parser):
    parser.add_argument("--update", action="store_true", help="write what psa prints now")


if __name__ == "__main__":
    UPDATE = harness.main(add_update)[0].update
    unittest.main(argv=["golden_test.py"])
