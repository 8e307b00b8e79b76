#!/usr/bin/env bash
# The page of `moewe serve` in a real Chromium, against the program and against a server that says what it is told.
#   tests/page/run.sh --install FOLDER   fetches what is missing from npm; Chromium has to be there (Debian: chromium)
#   tests/page/run.sh MOEWE FOLDER       looks at the page of the program MOEWE
set -euo pipefail
moewe=${1:?the program, or --install} folder=${2:?a folder for the packages}
here=$(cd "$(dirname "$0")" && pwd)
[ "$moewe" = --install ] || moewe=$(realpath "$moewe")
mkdir -p "$folder"
cd "$folder"
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$CHROMIUM" ] || { echo "no Chromium is installed; CHROMIUM=PATH names one"; exit 1; }
export CHROMIUM

if [ "$moewe" = --install ]; then
    { [ -d node_modules/playwright-core ] && [ -d node_modules/axe-core ]; } ||
        npm install --silent --no-fund --no-audit playwright-core axe-core
    exit
fi

said=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null; rm -rf "$said"' EXIT
# Starts a server; its address is then in `address`.
serve() {
    local name=$1; shift
    : >"$said/$name"
    "$moewe" serve --port 0 "$@" 2>"$said/$name" &
    servers+=($!)
    until address=$(sed -n 's/^listening on //p' "$said/$name") && [ -n "$address" ] &&
        node -e "fetch('$address/health').then((health) => process.exit(health.ok ? 0 : 1), () => process.exit(1))"; do
        kill -0 "${servers[-1]}" || { cat "$said/$name"; exit 1; }
        sleep 0.1
    done
}
serve chat --chat-template chatml
chat=$address
base=()
! "$moewe" serve --help | grep -q -- ' --base' || base=(--base)
serve base "${base[@]}"
node "$here/page.mjs" "$chat" "$address" ${ONLY:+"$ONLY"}
