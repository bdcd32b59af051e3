"""What run.sh asks before it begins: are all settings known, is the model there?

    python -m nanoenvisions.begin              before anything is installed: the settings' names
    python -m nanoenvisions.begin MODEL LOG    before anything is written: model and log, too

May import folders, records and watch.
"""
from __future__ import annotations

import os
import sys

from nanoenvisions.folders import check_folders
from nanoenvisions.records import fail
from nanoenvisions.watch import require

SHORT = 4  # letters: names of fewer are near to too many others


def edits(a: str, b: str) -> int:
    """How many letters must be put in, left out, changed or swapped to make a into b.

    >>> edits("DATE", "DATA"), edits("ITRES", "ITERS"), edits("PYTHONPATH", "PYTHON")
    (1, 1, 4)
    """
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, a[i - 2]) == (b[j - 2], other):
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def misspelt(environment, settings) -> str | None:
    """What is said of the first variable that is one letter off a setting; None if none is.

    >>> misspelt({"DATE": "a.csv", "HOME": "/root"}, ["DATA", "ITERS"])
    'DATE=a.csv is no setting: did you mean DATA? (else: env -u DATE bash run.sh)'
    """
    for name, value in environment.items():
        if name.isupper() and len(name) >= SHORT and name not in settings:
            near = [one for one in settings if len(one) >= SHORT and edits(name, one) == 1]
            if near:
                return (f"{name}={value:.60} is no setting: did you mean {near[0]}? "
                        f"(else: env -u {name} bash run.sh)")
    return None


def main():
    sys.argv[0] = "run.sh"  # who speaks
    if fault := misspelt(os.environ, os.environ["RUN_SH_SETTINGS"].split()):
        fail(fault)
    if sys.argv[1:]:
        require(sys.argv[2])
        check_folders(sys.argv[1] or None, flag="MODEL=")


if __name__ == "__main__":
    main()
