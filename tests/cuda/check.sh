#!/usr/bin/env bash
# Runs every kernel by itself under emulation (kernels.cpp): tests/cuda/check.sh [plain|address|thread]...
#   address   with sanitizers of addresses and of undefined behaviour
#   thread    with a race detector
# All three where none is named. The exit code is 2 where a build fails, and 1 where a kernel is wrong. KERNELS
# names another folder of kernels, FLAGS more flags for the compiler, CXX another compiler.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernels=${KERNELS:-$here/../../engine/src/cuda/kernels}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
read -ra more <<<"${FLAGS:-}"

[ $# -gt 0 ] || set -- plain address thread
for mode in "$@"; do
    case $mode in
    plain) flags=(-O2) seeds=4 ;;
    address)
        # The emulation's barriers give memcpy nothing to copy, from nowhere.
        flags=(-O1 -g -fsanitize=address,undefined -fno-sanitize=nonnull-attribute)
        flags+=(-fno-sanitize-recover=undefined) seeds=2
        ;;
    thread) flags=(-O1 -g -fsanitize=thread) seeds=1 ;;
    *) echo "plain, address or thread expected, not '$mode'" >&2 && exit 2 ;;
    esac
    "${CXX:-g++}" -std=c++17 -ffp-contract=off -Wall -Wextra "${flags[@]}" "${more[@]}" -I"$here" -I"$kernels" \
        "$here/kernels.cpp" -o "$work/kernels" || exit 2
    echo "-- $mode"
    code=0
    TSAN_OPTIONS=halt_on_error=1 "$work/kernels" "$seeds" 2>"$work/errors" || code=1
    grep -v 'support makecontext' "$work/errors" >&2 || true
    [ $code = 0 ] || exit 1
done
