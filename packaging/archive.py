"""Packs a folder for a release: archive.py FOLDER NAME OUT

Makes OUT/NAME.tar.gz, or OUT/NAME.zip where the folder has a moewe.exe, with everything below NAME/. Names are sorted,
times are SOURCE_DATE_EPOCH, and nobody owns anything, so that the same files always give the same bytes.
"""

import gzip
import os
import pathlib
import sys
import tarfile
import time
import zipfile


def mode(path):
    return 0o755 if path.name in ("moewe", "moewe.exe") else 0o644


def write_tar(path, name, folder, files, when):
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, when) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for file in files:
                entry = tarfile.TarInfo(f"{name}/{file.relative_to(folder).as_posix()}")
                entry.size, entry.mode, entry.mtime = file.stat().st_size, mode(file), when
                with open(file, "rb") as content:
                    archive.addfile(entry, content)


def write_zip(path, name, folder, files, when):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in files:
            entry = zipfile.ZipInfo(f"{name}/{file.relative_to(folder).as_posix()}", time.gmtime(when)[:6])
            entry.create_system, entry.external_attr = 3, (0o100000 | mode(file)) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes(), compresslevel=9)


def main(folder, name, out):
    folder, when = pathlib.Path(folder), int(os.environ["SOURCE_DATE_EPOCH"])
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    windows = (folder / "moewe.exe").is_file()
    write, suffix = (write_zip, ".zip") if windows else (write_tar, ".tar.gz")
    write(pathlib.Path(out) / (name + suffix), name, folder, files, when)


if __name__ == "__main__":
    main(*sys.argv[1:])
