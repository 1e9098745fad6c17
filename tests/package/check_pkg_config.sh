#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A copy of an installed tree elsewhere still serves pkg-config: with the shared library and, that
# one removed, with the static library.
# usage: check_pkg_config.sh PREFIX EXAMPLES_DIR
set -eu
examples=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$1" "$work/moved"
PKG_CONFIG_PATH=$(dirname "$(find "$work/moved" -name psa.pc)")
export PKG_CONFIG_PATH
libdir=$(dirname "$(find "$work/moved" -name libpsa.a)")

build_and_run() { # name, then pkg-config options
  name=$1
  shift
  # Unquoted: pkg-config gives words.
  # shellcheck disable=SC2046
  ${CC:-cc} -std=c99 "$examples/01_quickstart.c" -o "$work/$name" $(pkg-config "$@" --cflags psa) \
    $(pkg-config "$@" --libs psa)
  "$work/$name"
}

pkg-config --libs psa | grep -q "$work/moved" || { echo "psa.pc names another place" >&2; exit 1; }
LD_LIBRARY_PATH=$libdir build_and_run shared
ldd "$work/shared" | grep -q libpsa || { echo "not linked with libpsa.so" >&2; exit 1; }
rm "$libdir"/libpsa.so*
build_and_run static --static
