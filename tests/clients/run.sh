#!/usr/bin/env bash
# Other people's clients against a server of ours.
#   tests/clients/run.sh --install FOLDER   fetches what is missing from PyPI and npm
#   tests/clients/run.sh MOEWE FOLDER       asks the program MOEWE through them
set -euo pipefail
moewe=${1:?the program, or --install} folder=${2:?a folder for the clients}
here=$(cd "$(dirname "$0")" && pwd)
[ "$moewe" = --install ] || moewe=$(realpath "$moewe")
mkdir -p "$folder"
cd "$folder"

if [ "$moewe" = --install ]; then
    v/bin/python -c 'import openai, prometheus_client' 2>/dev/null ||
        { python3 -m venv v && v/bin/python -m pip install --quiet openai prometheus-client; }
    [ -d node_modules/openai ] || npm install --silent --no-fund --no-audit openai
    exit
fi

said=$(mktemp)
"$moewe" serve --port 0 --chat-template chatml --exact 2>"$said" &
server=$!
trap 'kill "$server" 2>/dev/null; rm -f "$said"' EXIT
until address=$(sed -n 's/^listening on //p' "$said") && [ -n "$address" ] && v/bin/python -c "
import urllib.request; urllib.request.urlopen('$address/health')" 2>/dev/null; do
    kill -0 "$server" || { cat "$said"; exit 1; }
    sleep 0.1
done
v/bin/python "$here/openai_python.py" "$address"
node "$here/openai_node.mjs" "$address"
