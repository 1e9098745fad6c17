# SPDX-License-Identifier: Apache-2.0
"""`psa.transformers.register()`: psa as an attention implementation of transformers."""

from .adapters.transformers import register

__all__ = ["register"]
