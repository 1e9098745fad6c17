# SPDX-License-Identifier: Apache-2.0
"""Why attention stayed dense: said once through `logging`, or raised."""

from __future__ import annotations

import logging

from ..errors import UnsupportedError


class Notices:
    """Each text once, as a warning of `logger`."""

    def __init__(self, logger: logging.Logger, strict: bool = False) -> None:
        self._logger = logger
        self._strict = strict
        self._said: dict[str, str] = {}

    @property
    def texts(self) -> list[str]:
        """All that was said, in order."""
        return list(self._said.values())

    def dense(self, where: str, reason: str) -> None:
        """Attention at `where` stays dense for a `reason` that the caller may not expect; raises
        UnsupportedError if strict."""
        if self._strict:
            raise UnsupportedError(f"{where}: {reason}")
        self.say(reason, f"dense attention in {where} and its like: {reason}")

    def say(self, key: str, text: str) -> None:
        """`text`, unless something was said under `key` before."""
        if key not in self._said:
            self._said[key] = text
            self._logger.warning("%s", text)
