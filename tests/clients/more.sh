#!/usr/bin/env bash
# What people use above the interfaces' own packages, against a server of ours; heavier than `run.sh`.
#   tests/clients/more.sh --install FOLDER   fetches what is missing from PyPI and npm
#   tests/clients/more.sh MOEWE FOLDER       asks the program MOEWE through them
set -euo pipefail
moewe=${1:?the program, or --install} folder=${2:?a folder for the clients}
here=$(cd "$(dirname "$0")" && pwd)
[ "$moewe" = --install ] || moewe=$(realpath "$moewe")
mkdir -p "$folder"
cd "$folder"

if [ "$moewe" = --install ]; then
    python="litellm==1.110.2 langchain-openai==1.7.4 llm==0.36 instructor==1.17.0 lm-eval[api]==0.4.13 schemathesis==4.32.5"
    node="ai@7.0.173 @ai-sdk/openai-compatible@3.0.92"
    . "$here/packages.sh"
    exit
fi

# With the cache that `moewe logits` has.
arguments=(--cache-type f32)
. "$here/serving.sh"
v/bin/python "$here/more_python.py" "$address"
v/bin/python "$here/lm_eval_python.py" "$address" "$moewe"
node "$here/more_node.mjs" "$address"
# Whatever our own document allows, and much that it does not: no fault, and no answer that it does not tell of. What is
# left out says on purpose that it is not done (501).
v/bin/st run "$address/openapi.json" --max-time 120 --workers 2 --seed 7 --exclude-path /v1/embeddings \
    --exclude-path /infill --exclude-path /props \
    --checks not_a_server_error,response_schema_conformance,status_code_conformance
