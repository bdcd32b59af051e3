"""The right program of each built-in word problem, for METHOD=distill: what a perfect teacher gives.

    python envs.py make --env math --split train --num 160 --out tasks.jsonl
    python tests/perfect_teacher.py --in tasks.jsonl --out teacher.jsonl
    METHOD=distill TEACHER_FILE=teacher.jsonl OUT=runs/distill bash run.sh

The ceiling beside self-training on these problems, for they come with the formula of their answer, which
no stage reads. `--templates`: those that the tasks were made of.
"""
from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402
from nanoenvisions import templates  # noqa: E402


def formula(task: dict, template: dict) -> str:
    """The template's formula with the task's numbers.

    >>> formula({"question": "Mia has 4 pens and buys 7.", "answer": 11},
    ...         {"texts": ["{girl} has {a} pens and buys {b}."], "answer": "a + b"})
    '4 + 7'
    """
    for text in template["texts"]:
        seen, pattern = set(), ""
        for part in re.split(r"(\{\w+[^}]*\})", text):
            name = part[1:-1].split(":")[0]
            if not part.startswith("{"):
                pattern += re.escape(part)
            elif name in seen:
                pattern += f"(?P={name})"
            else:
                seen.add(name)
                pattern += f"(?P<{name}>.+?)"
        found = re.fullmatch(pattern, task["question"])
        if found:
            filled = re.sub(r"\b[a-z]\b", lambda name: found[name[0]], template["answer"])
            if templates.whole(templates.evaluate(filled, {})) == task["answer"]:
                return filled
    envs.fail(f"{task['id']}: its question is not of the template {template.get('id')}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="input", required=True, help="tasks, of envs.py make --env math")
    parser.add_argument("--templates", default=ROOT / "data/math_templates.json")
    parser.add_argument("--out", required=True, help="file to write, JSON Lines")
    args = parser.parse_args(argv)
    every = {one["id"]: one for one in templates.read_templates(args.templates)["templates"]}
    rows = [{"id": task["id"], "program": f"def solution():\n    return {formula(task, every[task['template']])}"}
            for task in envs.read_jsonl(args.input, ("id", "question", "answer", "template"))]
    envs.write_whole(args.out, "".join(map(envs.dump, rows)))
    print(f"{len(rows):,} programs -> {args.out}")


if __name__ == "__main__":
    main()
