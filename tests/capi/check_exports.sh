#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The shared library exports the functions of psa.h, all of them and nothing else, and the C99
# program calls each.
# usage: check_exports.sh libpsa.so psa.h abi_*.c
set -eu
library=$1
header=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nm -D --defined-only --format=posix "$library" | cut -d' ' -f1 | sed 's/@.*//' | sort -u \
  >"$work/exported"
# Declarations: PSA_API, a return type, a name, an opening bracket.
grep -oE '^PSA_API [a-z0-9_ *]*\bpsa_[a-z0-9_]+\(' "$header" | grep -oE 'psa_[a-z0-9_]+\($' |
  tr -d '(' | sort -u >"$work/declared"
[ -s "$work/declared" ] || { echo "no declaration found in $header" >&2; exit 1; }
if ! diff -u "$work/declared" "$work/exported" >&2; then
  echo "-: declared in $header only; +: exported by $library only" >&2
  exit 1
fi
while read -r name; do
  grep -q "\b$name(" "$@" || { echo "no test in C calls $name" >&2; exit 1; }
done <"$work/declared"
echo "$(wc -l <"$work/declared") functions"
