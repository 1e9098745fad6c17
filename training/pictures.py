# SPDX-License-Identifier: Apache-2.0
"""PNG files and contact sheets, with nothing but NumPy and zlib."""
import struct
import zlib

import numpy as np

FRAMES_SHOWN = 5
ENLARGED = 2  # times
GAP = 4  # pixels between pictures


def write_png(path, pixels):
    """Writes uint8 [H, W, 3]."""
    height, width, _ = pixels.shape

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
        file.write(chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def frame_row(video):
    """Evenly spaced frames of a clip [F, H, W, 3] in 0..1 beside each other, uint8."""
    chosen = np.linspace(0, len(video) - 1, FRAMES_SHOWN).round().astype(int)
    frames = (video[chosen] * 255).round().astype(np.uint8)
    frames = frames.repeat(ENLARGED, 1).repeat(ENLARGED, 2)
    frames = np.pad(frames, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(frames), 1)


def contact_sheet(sampled, rendered, columns=2):
    """Each sampled clip above the rendered one of its caption; lists of [F, H, W, 3] in 0..1."""
    cells = [np.concatenate([frame_row(a), frame_row(b)]) for a, b in zip(sampled, rendered)]
    cells = [np.pad(c, ((0, 3 * GAP), (0, 3 * GAP), (0, 0)), constant_values=255) for c in cells]
    while len(cells) % columns:
        cells.append(np.full_like(cells[0], 255))
    lines = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    return np.concatenate(lines)
