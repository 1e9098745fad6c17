# SPDX-License-Identifier: Apache-2.0
# Thin wrapper: what each target does is in scripts/, how it is built in CMakePresets.json.
.PHONY: demo test test-python quality format hooks clean

demo:  ## install what is missing, build the library and the command line, run it on real q, k, v
	scripts/install-deps demo
	scripts/demo

test:  ## install what is missing, run every check
	scripts/install-deps demo test
	scripts/check --all

test-python:  ## test the Python package with torch, diffusers and transformers, and its wheel
	scripts/install-deps demo test
	scripts/test-python --torch

quality:  ## measure what sparse attention loses on the bundled models, write docs/quality.md again
	scripts/install-deps demo test
	scripts/quality

format:  ## lay out the sources with clang-format 14
	scripts/check-format --fix

hooks:  ## check each commit of this clone before it is made
	git config core.hooksPath scripts/hooks

clean:
	rm -rf build out
