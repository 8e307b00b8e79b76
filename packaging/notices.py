"""The licences of what is compiled into the program: notices.py TARGET, from `cargo metadata`, on standard output.

Most of them ask that their notice goes with every copy. Equal texts are written once, below the packages they are for.
A package without a text of its own is named with its licence.
"""

import json
import pathlib
import subprocess
import sys

NAMES = ("licen", "copying", "notice", "copyright", "unlicense")


def compiled_in(metadata):
    """The packages that `moewe` depends on, without those of builds and tests."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    seen, waiting = set(), [name for name, package in packages.items() if package["name"] == "moewe"]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            normal = (edge for edge in nodes[name]["deps"] if any(kind["kind"] is None for kind in edge["dep_kinds"]))
            waiting.extend(edge["pkg"] for edge in normal)
    strangers = (packages[name] for name in seen if packages[name]["source"])
    return sorted(strangers, key=lambda package: (package["name"], package["version"]))


def texts(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name.lower().startswith(NAMES))
    found = [file.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip() for file in files]
    return found or [f"No text comes with it; its licence is {package['license'] or 'not named'}."]


def main(target):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    metadata = json.loads(subprocess.check_output(command))
    packages_of = {}
    for package in compiled_in(metadata):
        for text in texts(package):
            packages_of.setdefault(text, []).append(f"{package['name']} {package['version']} ({package['license']})")
    parts = ["\n".join(packages) + "\n\n" + text for text, packages in packages_of.items()]
    rule = "\n\n" + "=" * 80 + "\n\n"
    sys.stdout.buffer.write(("What is compiled into moewe, and its licences." + rule + rule.join(parts) + "\n").encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
