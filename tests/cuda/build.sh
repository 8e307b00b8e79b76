#!/usr/bin/env bash
# Builds the emulated driver: tests/cuda/build.sh OUT_FOLDER [plain|address|thread] [FLAG]...
#   OUT_FOLDER  gets libcuda.so.1, whole or not at all: tests may build beside each other
#   address     with an address sanitizer: programs need LD_PRELOAD of libasan, unless they have it themselves
#   thread      with a race detector, likewise libtsan
#   FLAG        for the compiler, as '-DMOEWE_KERNELS="other.h"'; CXX names another compiler
set -euo pipefail
mkdir -p "${1:?the folder that gets libcuda.so.1}"
out=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
case ${2:-plain} in
plain) sanitizer=() ;;
address) sanitizer=(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g) ;;
thread) sanitizer=(-fsanitize=thread -g) ;;
*) echo "plain, address or thread expected, not '$2'" >&2 && exit 2 ;;
esac
trap 'rm -f "$out/libcuda.so.1.$$"' EXIT
"${CXX:-g++}" -std=c++17 -O2 -ffp-contract=off -Wall -Wextra -shared -fPIC -fvisibility=hidden -pthread \
    -I"$here" -I"$here/../../engine/src/cuda/kernels" "${sanitizer[@]}" "${@:3}" \
    "$here/libcuda.cpp" -o "$out/libcuda.so.1.$$"
mv "$out/libcuda.so.1.$$" "$out/libcuda.so.1"
