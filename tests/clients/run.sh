#!/usr/bin/env bash
# Other people's clients against a server of ours: tests/clients/run.sh MOEWE FOLDER
#   MOEWE   the program
#   FOLDER  where the clients are installed, from PyPI and npm, where they are missing
set -euo pipefail
moewe=$(realpath "${1:?the program}") folder=${2:?a folder for the clients}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder"
cd "$folder"
if ! v/bin/python -c 'import openai' 2>/dev/null; then
    python3 -m venv v && v/bin/python -m pip install --quiet openai
fi
said=$(mktemp)
"$moewe" serve --port 0 --chat-template chatml --exact 2>"$said" &
server=$!
trap 'kill "$server" 2>/dev/null; rm -f "$said"' EXIT
until address=$(sed -n 's/^listening on //p' "$said") && [ -n "$address" ] && curl -sf "$address/health" >/dev/null; do
    kill -0 "$server" || { cat "$said"; exit 1; }
    sleep 0.1
done
v/bin/python "$here/openai_python.py" "$address"
if command -v npm >/dev/null; then
    [ -d node_modules/openai ] || npm install --silent --no-fund --no-audit openai
    node "$here/openai_node.mjs" "$address"
else
    echo "no npm: OpenAI's package for JavaScript was not asked"
fi
