"""Deliberate faults in the product, each of which a test must notice. Minutes, on one core.

    python tests/mutants.py                   all of them; exit code 1 if one survives
    python tests/mutants.py --only pool       those with "pool" in their file or name
    python tests/mutants.py --list            names only

They are listed in faults*.py. Each is put into a copy of the product, on which the tests that ought
to fail are run. A test that passes on a faulty product promises more than it checks: mend the test,
not the table. A text that the product does not have any more is reported as stale: write the fault
anew, or take it out. tests/test_mutants.py keeps the table up to date.
"""
from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faults
import faults_data
import faults_methods
import faults_model
import faults_use

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 600  # seconds; a fault that makes the tests hang is noticed, too


def every_mutant() -> list[tuple]:
    """[(file, test file, name, right text, faulty text, pytest -k)]"""
    return [(*place, *mutant) for table in (faults.FAULTS, faults_model.FAULTS, faults_methods.FAULTS,
                          faults_data.FAULTS, faults_use.FAULTS)
            for place, mutants in table.items() for mutant in mutants]


def faulty(root, mutant) -> str:
    """The text of the product's file with the fault in it; fails if it cannot be put in."""
    file, _, _, right, wrong, _ = mutant
    text = (root / file).read_text(encoding="utf-8")
    if text.count(right) != 1:
        raise ValueError(f"its text is there {text.count(right)} times, not once")
    text = text.replace(right, wrong)
    if file.endswith(".py"):
        compile(text, file, "exec")
    return text


def copy_product(folder: Path):
    """All that the tests need. The models are shared, as no test changes them."""
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(
        ".git", ".venv", "models", "runs", "__pycache__", ".pytest_cache"))
    if (ROOT / "models").exists():
        (folder / "models").symlink_to((ROOT / "models").resolve())


def run_tests(tests: str, keywords: str, mutant=None) -> tuple[str, str]:
    """(passed, failed or a word for what else happened; the last line that pytest wrote)."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        product = Path(scratch) / "product"
        copy_product(product)
        if mutant:
            (product / mutant[0]).write_text(faulty(ROOT, mutant), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
                   f"--basetemp={scratch}/tests", f"tests/{tests}.py", "-k", keywords]
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(command, cwd=product, env=settings, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        try:
            text, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return "failed", f"more than {LIMIT} s"
    words = {0: "passed", 1: "failed", 5: "no such test"}
    return words.get(process.returncode, "broken"), text.strip().rpartition("\n")[2]


def check(mutant) -> tuple:
    """(mutant, killed | SURVIVED | what else, remark)"""
    try:
        faulty(ROOT, mutant)
    except (ValueError, SyntaxError) as error:
        return mutant, "STALE", str(error)
    result, remark = run_tests(mutant[1], mutant[5], mutant)
    return mutant, {"failed": "killed", "passed": "SURVIVED"}.get(result, result.upper()), remark


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="those with this text in their file or name")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    args = parser.parse_args(argv)
    chosen = [one for one in every_mutant() if args.only in f"{one[0]}: {one[2]}"]
    if args.list:
        print(*(f"{one[0]}: {one[2]}" for one in chosen), f"{len(chosen)} in all", sep="\n")
        return
    started, wanted = time.time(), {}
    for _, tests, *_, keywords in chosen:
        wanted.setdefault(tests, set()).add(keywords)
    counts = Counter()
    with ThreadPoolExecutor(args.jobs) as pool:
        # A test that fails anyway kills nothing: first, all of them on the product as it is.
        for tests, (result, remark) in zip(wanted, pool.map(
                lambda one: run_tests(one[0], " or ".join(sorted(one[1]))), wanted.items())):
            if result != "passed":
                sys.exit(f"tests/{tests}.py: {result} without any fault ({remark})")
        for mutant, result, remark in pool.map(check, chosen):
            counts[result] += 1
            print(f"{result:8}  {mutant[0]}: {mutant[2]}"
                  + (f" ({mutant[1]} -k '{mutant[5]}': {remark})" if result != "killed" else ""),
                  flush=True)
    print(", ".join(f"{count} {result}" for result, count in sorted(counts.items())),
          f"of {len(chosen)}, {time.time() - started:.0f} s")
    sys.exit(set(counts) != {"killed"})


if __name__ == "__main__":
    main()
