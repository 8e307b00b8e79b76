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
    python="openai==3.57.0 anthropic==2.14.0 ollama==0.6.3 prometheus-client==0.26.0"
    node="openai@7.59.0 @anthropic-ai/sdk@1.14.0 ollama@0.6.4"
    . "$here/packages.sh"
    exit
fi

arguments=()
. "$here/serving.sh"
for client in openai anthropic ollama; do
    v/bin/python "$here/${client}_python.py" "$address"
    node "$here/${client}_node.mjs" "$address"
done
