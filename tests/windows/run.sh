#!/usr/bin/env bash
# The program for Windows under Wine, compared with the one for this system: the same texts, the same files.
#   tests/windows/run.sh MOEWE MOEWE.EXE
# Wine opens this system's /proc and has no console here, so neither memory figures nor keys are tested.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
native=$(realpath "$1") program=$(realpath "$2")
golden=$here/../golden
wine=$(command -v wine64 || echo /usr/lib/wine/wine64)
folder=$(mktemp -d)
export WINEPREFIX=$folder/wine WINEDEBUG=-all HOME=$folder/home
finish() {
    "${wine%wine64}wineserver" -k 2>/dev/null || wineserver -k 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
mkdir -p "$HOME"
x86_64-w64-mingw32-gcc -shared -o "$(dirname "$program")/bcryptprimitives.dll" "$here/prng.c" -ladvapi32

passed=0
ok() {
    passed=$((passed + 1))
    printf 'ok   %s\n' "$1"
}
bad() {
    printf 'not  %s\n' "$@" >&2
    exit 1
}
windows() {
    "$wine" "$program" "$@" | tr -d '\r'
}
# Both programs print the same.
same() {
    local what=$1 ours theirs
    shift
    ours=$("$native" "$@" 2>/dev/null) theirs=$(windows "$@" 2>/dev/null)
    [ "$ours" = "$theirs" ] || bad "$what" "$(diff <(printf '%s' "$ours") <(printf '%s' "$theirs") | head)"
    ok "$what"
}

cd "$folder"
for isa in portable avx2; do
    same "run --isa $isa" run --raw --prompt 'Es war einmal' -n 24 --seed 1 -t 2 --isa "$isa"
done
same "run --memory" run --raw --prompt 'Es war einmal' -n 8 --seed 1 -t 2 --memory 40M
same "completions powershell" completions powershell

# The same bytes, beside a name that is not ASCII and in a folder whose path is longer than Windows' old bound.
long=$(printf 'ein-recht-langer-ordner-%02d/' $(seq 12))
mkdir -p "$long"
for out in linux.gguf "Möwe ü.gguf" "${long}tief.gguf"; do
    if [ "$out" = linux.gguf ]; then
        "$native" convert "$golden/mixtral" -o "$out" --bits 4 >/dev/null 2>&1
    else
        windows convert "$golden/mixtral" -o "$out" --bits 4 >/dev/null 2>&1
        cmp -s linux.gguf "$out" || bad "convert to $out: other bytes than on this system"
        ok "convert to $out"
        same "inspect $out" inspect "$out"
    fi
done
windows convert "$golden/mixtral" -o "Möwe ü.gguf" --bits 4 >/dev/null 2>&1 && bad "convert replaced a file unasked"
ok "convert replaces nothing unasked"
windows convert "$golden/mixtral" -o "Möwe ü.gguf" --bits 4 --force >/dev/null 2>&1 || bad "convert --force"
ok "convert --force"
"$native" logits linux.gguf --tokens 5,9,11 -o linux.safetensors --isa avx2 >/dev/null 2>&1
windows logits "Möwe ü.gguf" --tokens 5,9,11 -o windows.safetensors --isa avx2 >/dev/null 2>&1
cmp linux.safetensors windows.safetensors || bad "logits differ"
ok "logits"

printf 'Hallo\n/stats\n' | windows chat --seed 1 -n 8 -t 2 >chat.txt 2>chat-errors.txt || bad "chat" "$(cat chat-errors.txt)"
[ -s chat.txt ] || bad "chat says nothing"
ok "chat, piped"
[ -z "$(find . -name '*.part*')" ] || bad "a part was left behind"
if windows run no-such-model.gguf --prompt x >/dev/null 2>wrong.txt; then bad "a wrong name ended well"; fi
grep -q no-such-model wrong.txt || bad "a wrong name" "$(cat wrong.txt)"
ok "a wrong name"
windows doctor --json >doctor.json 2>/dev/null || bad "doctor"
grep -q '"target": *"x86_64-pc-windows' doctor.json || bad "doctor" "$(cat doctor.json)"
ok "doctor"
windows list >/dev/null 2>&1 || bad "list"
ok "list"
printf '%d checks passed under Wine\n' "$passed"
