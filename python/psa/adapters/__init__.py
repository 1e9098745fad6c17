# SPDX-License-Identifier: Apache-2.0
"""psa inside other packages: diffusers here, transformers in `psa.transformers`. Needs torch."""

from .diffusers import disable, enable, enabled, summary

__all__ = ["disable", "enable", "enabled", "summary"]
