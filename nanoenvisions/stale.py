"""What in the folder of a run is out of date: made by other code, or from inputs that have changed.

    python -m nanoenvisions.stale OUT say|redo     once at the start of run.sh, in half a second

run.sh notes in OUT/made, a line for each output: the output, the stage with a hash of its code, the
inputs with theirs. Here they are compared with what is there now. Comments and docstrings are no
code. `redo` removes what is out of date, and run.sh makes it again; by default it is only said.
May import adapters and records.
"""
from __future__ import annotations

import ast
import hashlib
import sys
from pathlib import Path

from nanoenvisions.records import HERE, fail, write_whole

STAGES = ("envs.py", "explore.py", "refine.py", "reward.py", "select.py", "train.py")
SHOWN = 4  # outputs that are named; the others are counted


def imported(tree) -> set[Path]:
    """Files of this repository that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {HERE / f"{name.replace('.', '/')}.py" for name in names if name != "select"}
    return {file for file in files if file.exists()}


def without_words(tree) -> str:
    """A syntax tree as text, without docstrings; comments are not in it anyway."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) \
                and isinstance(getattr(body[0].value, "value", None), str):
            body[0].value.value = ""
    return ast.dump(tree)


def code_hashes() -> dict[str, str]:
    """{stage: hash of its code, of all that it imports, and of the texts in data/}."""
    digests, uses = {}, {}

    def read(file):
        if file not in digests:
            tree = ast.parse(file.read_bytes())
            uses[file] = imported(tree)
            digests[file] = hashlib.sha256(without_words(tree).encode()).hexdigest()
            for other in uses[file]:
                read(other)

    def reach(file, seen):
        if file not in seen:
            seen.add(file)
            for other in uses[file]:
                reach(other, seen)
        return seen
    texts = [hashlib.sha256(path.read_bytes()).hexdigest()
             for path in sorted((HERE / "data").glob("*.js*"))]
    hashes = {}
    for stage in STAGES:
        read(HERE / stage)
        parts = [f"{file.name} {digests[file]}" for file in sorted(reach(HERE / stage, set()))]
        hashes[stage] = hashlib.sha256("\n".join(parts + texts).encode()).hexdigest()[:16]
    return hashes


def content_hash(path: Path) -> str | None:
    path = path / "adapter_model.safetensors" if path.is_dir() else path
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else None


def read_made(out: Path) -> dict:
    """{output: (stage, code hash, {input: hash})} of those that are there; the last line counts."""
    made = {}
    text = (out / "made").read_text(encoding="utf-8") if (out / "made").exists() else ""
    for line in text.splitlines():
        name, stage, *inputs = line.split("\t")
        made.pop(name, None)
        if (out / name).exists():
            stage, _, code = stage.partition(" ")
            made[name] = stage, code, dict(one.rsplit(" ", 1) for one in inputs)
    return made


def out_of_date(out: Path, code: dict) -> dict[str, str]:
    """{output: why}, in the order in which they were made; what follows from one is one, too."""
    stale, hashes = {}, {}
    for name, (stage, made_by, inputs) in read_made(out).items():
        for one in inputs:
            if one not in hashes:
                hashes[one] = content_hash(out / one)
        changed = [one for one, before in inputs.items() if hashes[one] != before]
        if code.get(stage) != made_by:
            stale[name] = f"{stage} or what it imports has changed"
        elif changed:
            stale[name] = f"{changed[0]} has changed"
        elif any(one in stale for one in inputs):
            stale[name] = "made from these"
    return stale


def remove(out: Path, stale):
    from nanoenvisions import adapters  # here: it imports torch
    for name in stale:
        path = out / name
        adapters.remove(path) if path.is_dir() else path.unlink()
    lines = (out / "made").read_text(encoding="utf-8").splitlines(keepends=True)
    write_whole(out / "made", "".join(line for line in lines if line.split("\t")[0] not in stale))


def main():
    out, what = Path(sys.argv[1]), sys.argv[2]
    sys.argv[0] = "run.sh"  # who speaks
    code = code_hashes()
    stale = out_of_date(out, code)
    reasons = list(dict.fromkeys(why for why in stale.values() if why != "made from these"))
    if stale:
        names = ", ".join(list(stale)[:SHOWN]) + f" and {len(stale) - SHOWN} more" * (
            len(stale) > SHOWN)
        about = f"run.sh: out of date in {out}: {names} ({'; '.join(reasons)})"
        if what == "redo":
            try:
                remove(out, stale)
            except OSError as error:
                fail(f"{out}: {error.strerror or error} (what is out of date cannot be removed)")
        print(about + (": made again" if what == "redo" else
                       "; with STALE=redo they are made again, without it they stay"))
    write_whole(out / "code", "".join(f"{stage} {digest}\n" for stage, digest in code.items()))


if __name__ == "__main__":
    main()
