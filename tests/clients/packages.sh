# Sourced: fetches the packages "$python" from PyPI and "$node" from npm into the current folder, unless they are there in
# these versions.
if [ "$(cat versions 2>/dev/null)" != "$python $node" ]; then
    [ -x v/bin/python ] || python3 -m venv v
    # shellcheck disable=SC2086 # they are several
    v/bin/python -m pip install --quiet $python
    # shellcheck disable=SC2086
    npm install --silent --no-fund --no-audit --ignore-scripts $node
    echo "$python $node" >versions
fi
