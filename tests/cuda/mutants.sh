#!/usr/bin/env bash
# Breaks the kernels on purpose, one place at a time in a copy: a mode of check.sh has to notice each. Those
# that none notices are named at the end, and so is a text that is no longer found.
#   tests/cuda/mutants.sh [WORD]    only mutants whose names have this word
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sources=$here/../../engine/src/cuda/kernels
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$sources" "$work/whole"
only=${1:-} unnoticed=()
reasons='emulation: .*|[A-Za-z]+Sanitizer: [a-z -]*|runtime error: .*|.*(instead of|does not hold).*'
reasons+='|Segmentation fault|Aborted'

# A folder of kernels, a mode.
check() {
    KERNELS=$1 FLAGS="-w -O1 -g0" timeout 1800 "$here/check.sh" "$2" >"$work/said" 2>&1
}

# What whole kernels fail, too, says nothing of broken ones.
for mode in plain address thread; do
    check "$work/whole" $mode || { cat "$work/said" && echo "$mode: the kernels fail as they are" && exit 1; }
done

# Name, file, a text that is there once, and what is in its place.
mutant() {
    [[ $1 == *"$only"* ]] || return 0
    local start=$SECONDS text rest mode code noticed=
    rm -rf "$work/kernels" && cp -r "$work/whole" "$work/kernels"
    text=$(cat "$work/kernels/$2" && echo .) # the dot keeps the last newline
    rest=${text#*"$3"}
    if [[ $rest == "$text" || $rest == *"$3"* ]]; then
        unnoticed+=("$1: its text is not there once")
        return 0
    fi
    rest=${text%%"$3"*}$4$rest
    printf '%s' "${rest%.}" >"$work/kernels/$2"
    for mode in plain address thread; do
        code=0
        check "$work/kernels" $mode || code=$?
        case $code in
        0) continue ;;
        1) noticed=$mode && break ;;
        *) head -5 "$work/said" && unnoticed+=("$1: does not compile, or does not end") && return 0 ;;
        esac
    done
    printf '%-62s %-8s %4d s  %s\n' "$1" "${noticed:-NOBODY}" $((SECONDS - start)) \
        "$(grep -m1 -oE "$reasons" "$work/said" | cut -c1-90 || true)"
    [ -n "$noticed" ] || unnoticed+=("$1: nobody notices")
}

mutant "a block's sum does not wait for its warps" steps_math.cuh \
    $'    sync_block();\n    return places[0]' '    return places[0]'
mutant "a block's largest does not wait for its warps" steps_math.cuh \
    $'    sync_block();\n    return larger(larger' '    return larger(larger'
mutant "a warp's sum leaves out half of it" steps_math.cuh \
    'mask = 16; mask > 0; mask >>= 1) value += ' \
    'mask = 8; mask > 0; mask >>= 1) value += '
mutant "mean and squares in the same places" steps_math.cuh \
    'block_sum(squares, places + WARPS)' 'block_sum(squares, places)'
mutant "threads without a column leave before the sum" steps_math.cuh \
    $'    float mean = 0.0f;\n' $'    if (thread_x() >= width) return {};\n    float mean = 0.0f;\n'
mutant "a lane leaves before a shuffle" steps_math.cuh \
    'float half = rounded - ROUND;' 'if (lane == 5) return; float half = rounded - ROUND;'
mutant "the sum of the other half of 16" steps_math.cuh 'extra[3] = scale * half' 'extra[3] = scale * other'
mutant "the last of equal experts" route.cuh 'place += keys[i] >= key;' 'place += keys[i] > key;'
mutant "the last of equal groups" route.cuh 'worths[group] && i > group' 'worths[group] && i < group'
mutant "scores are written while others add them up" route.cuh \
    $'values[i] = keys[i] / sum;\n        sync_block();' 'values[i] = keys[i] / sum;'
mutant "an expert has room for one more" steps.cu 'count >= capacity' 'count > capacity'
mutant "capacity goes by rows, not by choices" steps.cu \
    $'(int choice = 0; choice < used; choice++)\n        for (int first = 0; first < rows; first += THREADS)' \
    $'(int first = 0; first < rows; first += THREADS)\n        for (int choice = 0; choice < used; choice++)'
mutant "an expert's rows are counted while others add theirs" steps.cu \
    $'count += fill[expert];\n            sync_block();' 'count += fill[expert];'
mutant "a choice that was dropped is added" steps.cu 'if (choices[slot] >= 0) sum +=' 'sum +='
mutant "a choice that was dropped is looked up" steps.cu 'if (expert >= 0 && addresses' 'if (addresses'
mutant "too little shared memory for routes" route.cuh '((experts) * 20)' '((experts) * 16)'
mutant "the kept are counted before all have written" steps.cu \
    $'counts[warp] = count_bits(kept);\n    sync_block();' 'counts[warp] = count_bits(kept);'

mutant "the query is used before it is there" attention.cu \
    $'query[i] = from[i] * scale;\n    sync_block();' 'query[i] = from[i] * scale;'
mutant "scores are read before they are there" attention.cu \
    $'        sync_block();\n        bool is_seen' '        bool is_seen'
mutant "the next tile's scores over those in use" attention.cu \
    $'            sums[i] = sum;\n        }\n        sync_block();' $'            sums[i] = sum;\n        }'
mutant "a window of one more" attention.cu 'position + 1 - window : 0' 'position - window : 0'
mutant "what was added up does not shrink" attention.cu 'total = total * shrink +' 'total = total +'
mutant "too little shared memory for attention" attention.cu 'cache::TILE + 2 * steps::WARPS' 'cache::TILE'
mutant "what a chunk has found does not shrink" attention.cu 'all.total * factors.largest + more' 'all.total + more'
mutant "blocks of a head are counted on" attention.cu 'if (before == end - begin) *parts.arrived = 0; // for the next' ''
mutant "the sink counts in every chunk" attention.cu 'chunk == begin ? all : none' 'all'
mutant "a chunk is put together before it is there" attention.cu $'        sync_block();\n        if (thread_x() == 0) {\n            int before' $'        if (thread_x() == 0) {\n            int before'
mutant "more heads than a row has" attention.cu 'if (head >= key_heads) return;' ''
mutant "a position beyond its page" attention.cu 'position % PAGE' 'position'

mutant "a convolution's inputs do not move on" recurrence.cu 'past[tap] = past[tap + 1];' ';'
mutant "sums of warps are read before they are there" recurrence.cu $'        sync_block();\n        return sums[0]' '        return sums[0]'
mutant "all sums of warps in one place" recurrence.cu 'joined(sum, row & 1)' 'joined(sum, 0)'
mutant "keys behind the last four are nobody's" recurrence.cu 'if (warp == 0)' 'if (false)'
mutant "a snapshot a row too late" recurrence.cu 'run.first + 1);' 'run.first);'
mutant "a snapshot of the first layer's numbers" recurrence.cu '(float *)(run.ends[2 * i + 1] + run.distance)' '(float *)run.ends[2 * i + 1]'
mutant "a value head with another's key" recurrence.cu 'head / sharing : head % key_heads' 'head % key_heads : head / (value_heads / key_heads)'
mutant "an adapter of an expert that is not here" steps.cu \
    'if (expert < 0 || !addresses[(size_t)expert * 3 + which]) return;' 'if (expert < 0) return;'
mutant "an expert's own factor is left out" route.cuh 'by.expert_scale ? weight' 'false ? weight'

mutant "rows of panels are swapped" products.cuh 'int lane = row % PANEL;' 'int lane = (row ^ 1) % PANEL;'
mutant "odd bytes at the wrong end of a panel" products.cuh 'ODD == 0 || offset % 64 == 0' 'true'
mutant "odd bytes at the wrong end of a row" products.cuh \
    'return {F::ODD_FIRST ? PanelWords' 'return {!F::ODD_FIRST ? PanelWords'
mutant "rows behind the last panel as if in one" products.cuh 'matrix.is_panels && row < matrix.rows / PANEL * PANEL' 'matrix.is_panels'
mutant "words of blocks at odd addresses" products.cuh \
    'if (F::BYTES % 4 == 0) return' 'if (F::BYTES % 2 == 0) return'
mutant "rows beyond the matrix" products.cu 'bool is_row = row < matrix.rows;' 'bool is_row = true;'
mutant "the scale of the other half of 16" products.cuh 'scale[i] * extras[0]' 'scale[0] * extras[0]'
mutant "mins are added" products.cuh 'term.less = -min[i];' 'term.less = min[i];'
mutant "an embedding without its mins" products.cuh 'F::MIN ? value - min[i / HALF] : value' 'value'
mutant "terms are added before they are there" products.cuh \
    $'        sync_block();\n        if (is_row && warp < count)' '        if (is_row && warp < count)'
mutant "the next tile's terms over those in use" products.cuh \
    $'sum = added(tile[(i * N + warp) * ROWS], sum);\n        sync_block();' \
    'sum = added(tile[(i * N + warp) * ROWS], sum);'
mutant "too little shared memory for products" products.cuh '(int)sizeof(Term);' '(int)sizeof(Term) - 64;'
mutant "sums of lanes are read before they are there" products.cuh \
    $'    sync_warp();\n    if (lane >= OWN' '    if (lane >= OWN'
mutant "an expert's row of another slot" products.cu 'inputs_per_slot ? slot : slot / used' 'slot'
mutant "the bias of another expert" products.cu 'bias + (size_t)expert * rows' 'bias'
mutant "an expert that is not here" products.cu 'if (!bytes) return;' ''

mutant "inputs are multiplied before they are there" decode.cu $'    sync_block();\n    return inputs;' '    return inputs;'
mutant "the sums of up over those of gate" decode.cu 'sync_block(); // of floats, the sums of lanes are in use' ''
mutant "the last block but one adds up" decode.cu '== all - 1' '== all - 2'
mutant "blocks that have arrived are counted on" decode.cu 'if (*place) *counter = 0;' ''
mutant "all learn who is last before it is known" decode.cu $'    }\n    sync_block();\n    return *place' $'    }\n    return *place'
mutant "blocks of two rows count themselves together" decode.cu 'input * ((rows + 31) / 32) + block_x()' 'block_x()'
mutant "a choice that was dropped, in a joined sum" decode.cu 'if (choices[i] >= 0) sum +=' 'sum +='
mutant "the third matrix in the place of the second" decode.cu 'at = is_third ? at_2 : at_1' 'at = at_1'
mutant "a head's rotation before its norm is done" attention.cu \
    $'    sync_block();\n    turn(piece' '    turn(piece'
mutant "a head is kept before its rotation is done" attention.cu \
    $'// the whole block\n    sync_block();' '// the whole block'

mutant "prompt: columns are multiplied before they are there" prompts.cuh \
    '            sync_block(); // what is multiplied now' '            // what is multiplied now'
mutant "prompt: copies are not waited for" prompts.cuh $'            copies_wait<0>();\n' ''
mutant "prompt: the stage that is filled" prompts.cuh 'shared->stages[(number - 1) % 2], sums' 'shared->stages[number % 2], sums'
mutant "prompt: rows of a fragment in another order" prompts.cuh 'row + i % 2 * 8, group, half, i / 2' 'row + i / 2 * 8, group, half, i % 2'
mutant "prompt: the sum of the other half of 16" prompts.cuh 'TERMS == 1 ? 1 : 2 + half' 'TERMS == 1 ? 1 : 3 - half'
mutant "prompt: mins are added" prompts.cuh 'factors.less[i] = -min[i]' 'factors.less[i] = min[i]'
mutant "prompt: results of inputs that are not there" prompts.cuh 'if (n >= count || row' 'if (row'
mutant "prompt: results of rows that are not there" prompts.cuh 'n >= count || row >= matrix.rows' 'n >= count'
mutant "prompt: rows behind the last are unpacked" prompts.cuh 'if (first_row + row >= matrix.rows || group' 'if (group'
mutant "prompt: a group behind the last is copied" prompts.cuh 'input < count && piece < here * 2' 'input < count'
mutant "prompt: the last tile's rows as if all were in panels" prompts.cuh \
    'first_row + ROWS <= matrix.rows / PANEL * PANEL' 'first_row <= matrix.rows'
mutant "prompt: an expert that is not here" prompts.cuh 'if (!matrix.bytes) continue;' ''
mutant "prompt: the bias of another expert" prompts.cuh 'if (bias) bias += ' 'if (!bias) bias += '
mutant "prompt: an input of another slot" prompts.cuh 'slot(n) / chosen.sharing : 0' 'slot(n) : 0'
mutant "prompt: too little shared memory" prompts.cuh 'sizeof(prompts::Shared<F>)' '(sizeof(prompts::Shared<F>) - 64)'
mutant "prompt: pieces of eight rows in the same banks" prompts.cuh '(piece ^ (row & 2)' '(piece ^ (row & 1)'
mutant "prompt: a slot's place counts itself" slots.cu '(1u << lane) - 1' '(2u << lane) - 1'
mutant "prompt: tiles begin where those before do" slots.cu '(tiles_before + i) * 3' 'i * 3'
mutant "prompt: slots begin where those before do" slots.cu 'sorted[before + place]' 'sorted[place]'
mutant "prompt: a tile of all slots" slots.cu 'count - first < prompts::INPUTS ?' 'true ?'

if [ ${#unnoticed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${unnoticed[@]}"
    exit 1
fi
