#!/usr/bin/env bash
# One target's part of a release: packaging/build.sh TARGET FOLDER
#
# Leaves in FOLDER moewe-VERSION-TARGET.tar.gz (.zip for Windows), what the program is made of (.cdx.json, CycloneDX), for
# Linux a .deb, and a .sha256 beside each. One commit gives the same bytes in whichever folder it is built, with the same
# Rust and the tools of packaging/tools.sh, which have to be in PATH.
#
# The program writes its own manual and has to answer before it is packed; one for another system than this is run by
# what cargo's variable CARGO_TARGET_<TARGET>_RUNNER names.
set -euo pipefail
[ $# = 2 ] || { printf 'usage: packaging/build.sh TARGET FOLDER\n' >&2; exit 2; }
triple=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
cd "$(dirname "$0")/.."
# Of 2012: every distribution that is still kept up has a newer one.
glibc=2.17

# The time of all that is packed is that of the commit.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)} TZ=UTC LC_ALL=C
read -r version repository target < <(cargo metadata --locked --no-deps --format-version 1 | python3 -c '
import json, sys
data = json.load(sys.stdin)
package = next(package for package in data["packages"] if package["name"] == "moewe")
print(package["version"], package["repository"], data["target_directory"])' | tr -d '\r')
name=moewe-$version-$triple
suffix=
case $triple in *-windows-*) suffix=.exe ;; esac
built=$target/$triple/dist
program=$built/moewe$suffix

# Folders of this machine must not show in the program, in a panic's message for one.
remapped() {
    local sysroot commit
    sysroot=$(rustc --print sysroot)
    commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
    printf '%s\n' "$(native "$PWD")=moewe" "$(native "$target")=target" "$(native "${CARGO_HOME:-$HOME/.cargo}")=cargo" \
        "$sysroot/lib/rustlib/src/rust=/rustc/$commit"
}
native() { cygpath -w "$1" 2>/dev/null || printf '%s' "$1"; }

compile() {
    local pair flags=()
    while read -r pair; do
        flags+=("--remap-path-prefix=$pair")
        case $triple in *-windows-msvc) ;; *) export CFLAGS="${CFLAGS:-} -ffile-prefix-map=$pair" ;; esac
    done < <(remapped)
    # No runtime has to be installed, and the linker leaves the time out.
    case $triple in *-windows-msvc) flags+=(-Ctarget-feature=+crt-static -Clink-arg=/Brepro) ;; esac
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf '%s' "${flags[*]}")
    export CARGO_ENCODED_RUSTFLAGS CARGO_INCREMENTAL=0 MACOSX_DEPLOYMENT_TARGET=11.0
    case $triple in
    *-linux-gnu) cargo zigbuild --locked --profile dist --target "$triple.$glibc" -p moewe ;;
    *) cargo build --locked --profile dist --target "$triple" -p moewe ;;
    esac
}

run() {
    local runner
    runner=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$triple")_RUNNER
    ${!runner:-} "$program" "$@"
}

# It is the version that its archive is named after, asks for no newer glibc, and computes with the model inside.
check() {
    [ "$(run --version | tr -d '\r')" = "moewe $version" ]
    case $triple in
    *-linux-gnu)
        local newest
        newest=$(readelf --version-info "$program" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
        printf '%s: %s bytes, newest symbol of %s\n' "$program" "$(wc -c <"$program")" "$newest"
        [ "$(printf '%s\n' "$newest" "GLIBC_$glibc" | sort -V | tail -n 1)" = "GLIBC_$glibc" ]
        ;;
    esac
    [ -n "$(run run --raw --prompt 'Es war einmal' -n 8 --seed 1)" ]
}

archive() {
    local folder=$built/package
    rm -rf "$folder"
    mkdir -p "$folder/completions"
    cp "$program" README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$folder"
    python3 packaging/notices.py "$triple" >"$folder/THIRD-PARTY"
    run man "$folder/man"
    run completions bash >"$folder/completions/moewe.bash"
    run completions zsh >"$folder/completions/_moewe"
    run completions fish >"$folder/completions/moewe.fish"
    run completions powershell >"$folder/completions/_moewe.ps1"
    python3 packaging/archive.py "$folder" "$name" "$out"
}

# What the program is made of. The tool writes beside every Cargo.toml of the workspace, and where that lies.
materials() {
    cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$triple" --no-build-deps --override-filename materials
    mv materials.json "$built"
    rm -f ./*/materials.json
    python3 - "$built/materials.json" "$out/$name.cdx.json" <<'END'
import pathlib, sys
made, out = map(pathlib.Path, sys.argv[1:])
text = made.read_bytes().replace(pathlib.Path.cwd().as_uri().encode(), b"file:///moewe")
text = text.replace(b"file:///moewe#moewe@", b"file:///moewe#")  # cargo leaves the name out where the folder has it
out.write_bytes(text)
END
}

debian() {
    local folder=$built/debian owner maintainer
    owner=$(cut -d/ -f4 <<<"$repository")
    maintainer="$owner <$owner@users.noreply.github.com>"
    rm -rf "$folder"
    mkdir -p "$folder/man"
    cp "$built"/package/man/*.1 "$folder/man"
    printf 'moewe (%s-1) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- %s  %s\n' "$version" "$maintainer" \
        "$(date -Rd "@$SOURCE_DATE_EPOCH")" >"$folder/changelog.Debian"
    cp "$built/package/THIRD-PARTY" "$folder"
    cp CHANGELOG.md "$folder/changelog"
    gzip -9n "$folder"/man/*.1 "$folder"/changelog* "$folder/THIRD-PARTY"
    cargo deb --quiet --locked --no-build --no-strip --target "$triple" --profile dist --output "$out" \
        --maintainer "$maintainer"
}

checksums() {
    python3 - "$out" "$name" "moewe_$version-1_" <<'END'
import hashlib, pathlib, sys
folder, *beginnings = sys.argv[1:]
for file in sorted(pathlib.Path(folder).iterdir()):
    if file.name.startswith(tuple(beginnings)) and file.suffix != ".sha256":
        line = f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        file.with_name(file.name + ".sha256").write_bytes(line.encode())
        sys.stdout.write(line)
END
}

compile
check
archive
materials
case $triple in *-linux-gnu) debian ;; esac
checksums
