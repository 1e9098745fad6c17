# SPDX-License-Identifier: Apache-2.0
"""Exceptions of psa. Bad arguments are ValueError or TypeError, as everywhere in Python."""


class PsaError(RuntimeError):
    """libpsa.so is missing, does not fit this package, or has failed."""


class UnsupportedError(PsaError, NotImplementedError):
    """The call is valid, but no backend on this machine computes it; the text says why."""
