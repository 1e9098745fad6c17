#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The installed headers include each other and the standard library, nothing else.
# usage: check_headers.sh INCLUDE_DIR
set -eu
cd "$1"
bad=0
found=0
for header in $(find psa -type f); do
  found=$((found + 1))
  for name in $(sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"]\([^>"]*\)[>"].*/\1/p' \
    "$header"); do
    case $name in
      psa/*) [ -f "$name" ] && continue ;;
      stddef.h | stdint.h) continue ;;
      *[!a-z_]*) ;; # no header of the C++ library has a dot, a slash or a digit
      *) continue ;;
    esac
    echo "$header includes $name" >&2
    bad=1
  done
done
for header in psa.h psa.hpp plan.hpp stages.hpp presets.hpp types.hpp config.hpp version.hpp; do
  [ -f "psa/$header" ] || { echo "psa/$header is not installed" >&2; bad=1; }
done
echo "$found headers"
exit $bad
