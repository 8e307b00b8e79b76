#!/usr/bin/env bash
# What package managers need to know of a release: packaging/manifests.sh VERSION FOLDER
#
# FOLDER holds the archives with their .sha256, as packaging/build.sh leaves them. Fills the version, the address and the
# archives' hashes into the manifests for Homebrew, Scoop and winget, and writes them to FOLDER/manifests. A manifest that
# names an archive which is not there is an error. The address is `repository` in Cargo.toml.
set -euo pipefail
[ $# = 2 ] || { printf 'usage: packaging/manifests.sh VERSION FOLDER\n' >&2; exit 2; }
version=$1
folder=$(cd "$2" && pwd)
cd "$(dirname "$0")/.."

repository=$(sed -n 's/^repository = "\(.*\)"$/\1/p' Cargo.toml)
owner=$(cut -d/ -f4 <<<"$repository")
if [ "$owner" = OWNER ]; then
    printf 'Cargo.toml: repository is still %s; put the address of the project there\n' "$repository" >&2
    exit 1
fi

fill() {
    local text triple sums
    text=$(sed -e "s|@VERSION@|$version|g" -e "s|@REPOSITORY@|$repository|g" -e "s|@OWNER@|$owner|g" "$1")
    while [[ $text =~ @SHA256:([a-z0-9_-]+)@ ]]; do
        triple=${BASH_REMATCH[1]}
        sums=$(cat "$folder/moewe-$version-$triple".{tar.gz,zip}.sha256 2>/dev/null || true)
        if ! [[ $sums =~ ^([0-9a-f]{64})\  ]]; then
            printf '%s names moewe-%s-%s, whose .sha256 is not in %s\n' "$1" "$version" "$triple" "$folder" >&2
            return 1
        fi
        text=$(sed "s|@SHA256:$triple@|${BASH_REMATCH[1]}|g" <<<"$text")
    done
    mkdir -p "$(dirname "$2")"
    printf '%s\n' "$text" >"$2"
}

cd packaging
for file in homebrew/*.rb scoop/*.json winget/*.yaml; do
    named=$file
    # winget wants files named after the package.
    case $file in winget/*) named=winget/$owner.$(basename "$file") ;; esac
    fill "$file" "$folder/manifests/$named"
done
