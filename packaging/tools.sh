#!/usr/bin/env bash
# The tools that packaging/build.sh calls, in the versions that releases are made with: packaging/tools.sh FOLDER
#
# FOLDER/bin goes into PATH then. zig comes as a Python package, the rest is compiled, unoptimized: they work for seconds.
set -euo pipefail
[ $# = 1 ] || { printf 'usage: packaging/tools.sh FOLDER\n' >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
tools=(cargo-cyclonedx@0.5.9)
if [ "$(uname -s)" = Linux ]; then
    tools+=(cargo-deb@3.8.0)
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet ziglang==0.17.1 cargo-zigbuild==0.24.1
fi
CARGO_PROFILE_DEV_DEBUG=0 cargo install --debug --locked --quiet --root "$folder" "${tools[@]}"
