"""Tasks from files of any known form: which form it is, what is held out, what is left out.

It is `envs.py import`, which run.sh calls for DATA and TEST. May import flags, importers, records.
"""
from __future__ import annotations

import hashlib
import os
import random
import re
import unicodedata
from collections import Counter
from pathlib import Path

from nanoenvisions import records
from nanoenvisions.flags import number_or_all, share
from nanoenvisions.importers import read_rows, source_name
from nanoenvisions.records import dump, fail, protect_inputs, write_whole

# What tells a form: fields that its rows have, the most telling first. A form with more fields
# comes before one with some of them.
TELLING = [
    ("tasks", {"id", "env", "question", "answer"}),
    ("gsm-hard", {"input", "code", "target"}), ("pal", {"input", "target"}),
    ("envisions", {"input", "label"}), ("mawps", {"Question", "Numbers", "Answer"}),
    ("svamp", {"Body", "Question", "Answer"}), ("multiarith", {"sQuestion", "lSolutions"}),
    ("math", {"problem", "solution"}), ("proofwriter", {"theory", "questions"}),
    ("ruletaker", {"context", "questions"}), ("prontoqa", {"example1"}),
    ("logiclm", {"context", "question", "options", "answer"}),
    ("gsm8k", {"question", "answer"})]


def split_sources(text: str, formats) -> list[tuple]:
    """[(source, format or None)] of "a.jsonl,b.csv:svamp,hub:openai/gsm8k".

    A comma in the name of a file that exists is part of it.
    """
    found = []
    for one in [text] if os.path.exists(text) else text.split(","):
        source, _, format = one.strip().rpartition(":")
        if not source or source == "hub" or format not in formats:
            if source and source != "hub" and not one.strip().startswith("hub:") \
                    and not os.path.exists(one.strip()):
                fail(f"{one.strip()}: {format} is no format (use one of: {', '.join(formats)})")
            source, format = one.strip(), None
        if not source.startswith("hub:") and not os.path.exists(source):
            fail(f"{source}: there is no such file (give a path, or hub:NAME)")
        found.append((source, format))
    return found


def recognise(source: str, rows: list, formats) -> str:
    """The format of a source, by the fields of its rows."""
    if not rows:
        fail(f"{source}: no rows in it")
    fields = set(rows[0])
    if "raw_logic_programs" in fields:
        fail(f"{source}: these are programs, not tasks (envs.py import --format logiclm-programs)")
    for name, telling in TELLING:
        if telling <= fields:
            if name == "gsm8k" and not all("####" in str(row.get("answer")) for row in rows[:20]):
                return "tasks" if "env" in fields else "own"
            # ASDiv's XML and SVAMP's JSON have the same fields
            return "asdiv" if name == "svamp" and "Formula" in fields else name
    fail(f"{source}: cannot tell its format by its fields, {', '.join(sorted(map(str, fields)))} "
         f"(name it: {source}:FORMAT, one of {', '.join(formats)}; or give rows with question and "
         "answer)")


def read_source(source: str, format: str | None, formats, env: str | None, fault) -> list[dict]:
    """The tasks of a source.

    formats  {name: function(source) -> tasks}
    env      the environment they must be of; None: any
    fault(task)  why it cannot be a task at all, or None
    """
    if format is None:
        rows = read_rows(source)
        format = recognise(source, rows, formats)
        if format == "own" and env not in (None, "math"):  # their answers are no numbers
            rows, format = [{"env": env, **row} for row in rows], "tasks"
        tasks = formats[format](source, rows=rows)
    else:
        tasks = formats[format](source)
    if not tasks:
        fail(f"{source}: no tasks in it (is it of the format {format}?)")
    for number, task in enumerate(tasks, 1):
        required = "id", "env", "question", "answer"
        if why := records.complaint(task, required) or fault(task):
            fail(f"{source}: entry {number}: {why}")
        if env and task["env"] != env:
            fail(f'{source}: "env" is {task["env"]!r}, not {env!r} (use that ENV, or another file)')
    return tasks


# What tells two questions apart: decimals as one, words, signs. A minus before a word is a hyphen
# or a dash; the range is that of Unicode's arrows and operators.
TELLS_APART = re.compile(r"(?:\d+|(?<!\w))\.\d\w*|\w+|-(?![-\s]*[^\W\d]{2})"
                         r"|[+*/^=<>|~()\[\]{}±×÷·\u2190-\u22ff]")


def wording(task: dict) -> str:
    """The question without case, punctuation and layout: two that differ in these are one.

    >>> wording({"question": "Bo has $3.  How many?"})
    'bo has 3 how many'
    >>> wording({"question": "Is -2.5 in the 20-page book<3?"})
    'is - 2.5 in the 20 page book < 3'
    """
    question = re.sub("[\u2212\u2013]", "-", task["question"])  # a minus, typeset; an en dash
    return " ".join(TELLS_APART.findall(question.lower()))


def loose_wording(task: dict) -> str:
    """The wording with one spelling for each number and letter: what a test asks is not trained on.

    Too much may be one here, which costs a training task: "the pair 1,200" and "the pair 1200".

    >>> loose_wording({"question": "He has $1,050.00 and \uff13 euros."})
    'he has 1050 and 3 euros'
    """
    text = unicodedata.normalize("NFKC", task["question"]).replace("\u00ad", "")  # soft hyphens
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return wording({"question": re.sub(r"(?<=\d)\.(?:(\d*[1-9])0*|0+)(?!\d)",
                                       lambda found: f".{found[1]}" if found[1] else "", text)})


def is_held_out(task: dict, share: float, seed: int) -> bool:
    """Whether a question falls into the held-out share: by its words, whatever else is there."""
    words = " ".join(re.findall(r"\w+", wording(task)))  # 12 - 4 falls where 12 + 4 does
    digest = hashlib.sha256(f"{seed} {words}".encode()).digest()
    return int.from_bytes(digest[:6], "big") < share * 2 ** 48


def subset(tasks: list, num: int | None, seed: int) -> list:
    """`num` of the tasks, drawn by seed, in the order drawn: a smaller num is the same beginning.

    None: all of them, drawn likewise.
    """
    return random.Random(seed).sample(tasks, len(tasks))[:num]


def collect(sources, test_sources, formats, env, fault, unfit, hold_out, seed) -> tuple:
    """(training tasks, held-out tasks, remarks) of sources [(source, format)].

    Held-out tasks have a `group`, named after their file; "held out" are those of the training
    sources. A training task with the question of another one, or of a held-out one, is left out.
    formats, env, fault  see read_source
    unfit(task)          what makes a task unfit to be rewarded, or None: such are left out
    """
    counts, faults, train, test = Counter(), [], {}, []
    in_test = "that stand in the test, too"

    def usable(source, format):
        for task in read_source(source, format, formats, env, fault):
            if why := unfit(task):
                faults.append(f"{source}: {task['id']}: {why}")
            else:
                yield task
    for name, (source, format) in zip(group_names(test_sources), test_sources):
        test += [{**task, "group": task.get("group", name)} for task in usable(source, format)]
    asked = set(map(loose_wording, test))
    for source, format in sources:
        for task in usable(source, format):
            question = wording(task)
            if loose_wording(task) in asked:
                counts[in_test] += 1
            elif question in train:
                counts["asked before"] += 1
            else:
                train[question] = task
    held_out = [task for task in train.values() if is_held_out(task, hold_out, seed)]
    test += [{**task, "group": "held out"} for task in held_out]
    asked = set(map(loose_wording, held_out))
    rest = [task for task in train.values() if loose_wording(task) not in asked]
    counts[in_test] += len(train) - len(held_out) - len(rest)
    train = rest
    for tasks in (train, test):
        unique_ids(tasks)
    if faults:
        counts[f"that cannot be rewarded (the first: {faults[0]})"] = len(faults)
    return train, test, [f"{count:,} left out {why}" for why, count in counts.items() if count]


def group_names(sources) -> list[str]:
    """The names of files: a/test.jsonl and b/test.jsonl are "a/test" and "b/test"."""
    paths = [Path(source_name(source)) for source, _ in sources]
    stems = Counter(path.stem for path in paths)
    return [path.stem if stems[path.stem] == 1 else f"{path.parent.name}/{path.stem}"
            for path in paths]


def unique_ids(tasks: list):
    """Records are joined by id: where several files give the same one, the later get a number.

    Candidates of one task share its id: the first of them has the number 0.
    """
    used, times, names = set(), Counter(), {}
    for place, task in enumerate(tasks):
        name = task["id"]
        if not task.get("candidate"):
            while name in used:  # a file of ours may have "a#2" already
                times[task["id"]] += 1
                name = f"{task['id']}#{times[task['id']] + 1}"
            used.add(name)
            names[task["id"]] = name
        tasks[place] = {**task, "id": names.get(task["id"], name)}


# ------------------------------------------------------------------------------------- Command --

def add_arguments(add, formats, envs, styles):
    """The flags of `envs.py import`; add: an argparse parser's add_argument."""
    add("sources", metavar="FILE[:FORMAT],...",
        help="data sets' own files (MATH: or its folder), or hub:NAME; or your own, of rows with "
             "question and answer")
    add("--format", choices=formats, help="of the last (or only) file, if its rows do not tell")
    add("--env", choices=envs, help="the environment that they are tasks of (default: any)")
    add("--style", choices=styles, help="math: steps for examples whose programs name "
        "every quantity (default: expression, one each)")
    add("--limit", type=number_or_all, metavar="N", help="only N tasks: the first, or with "
        "--test-out a random draw (default: all)")
    add("--seed", type=int, default=0, help="another seed, another draw (default: %(default)s)")
    add("--test", metavar="FILE[:FORMAT],...", help="held-out tasks, each file reported as a group")
    add("--hold-out", type=share, default=0, metavar="SHARE",
        help="share of FILE's questions to hold out, as one more group (default: %(default)s)")
    add("--num-test", type=number_or_all, metavar="N", help="only N held-out ones (default: all)")
    add("--test-out", metavar="FILE", help="file for the held-out tasks")
    add("--out", required=True, help="task file to write, JSON Lines")


def import_tasks(args, formats, fault, unfit):
    """envs.py import: turn public data sets, or files of your own, into tasks.

    With --test-out also into held-out ones. Then nothing that is asked in the test is trained on,
    questions are asked once, and both files are in an order drawn by --seed: their first N lines
    are a fair sample. fault, unfit: see `collect`.
    """
    if args.format:
        args.sources += f":{args.format}"
    sources = split_sources(args.sources, formats)
    tests = split_sources(args.test, formats) if args.test else []
    protect_inputs([args.out, args.test_out], [source for source, _ in sources + tests])
    style = {"style": args.style} if args.style == "steps" else {}  # what is usual stays unsaid
    if not args.test_out:
        tasks = [task | style for source in sources
                 for task in read_source(*source, formats, args.env, fault)]
        unique_ids(tasks)
        tasks = tasks[:args.limit]
        write_whole(args.out, "".join(map(dump, tasks)))
        print(f"import: {len(tasks):,} tasks -> {args.out}")
        return
    train, test, remarks = collect(sources, tests, formats, args.env, fault, unfit,
                                   args.hold_out, args.seed)
    chosen = subset(train, args.limit, args.seed)
    asked = subset(test, args.num_test, args.seed)
    for name, tasks in (("held-out", asked), ("training", chosen)):
        if not tasks:
            fail(f"{args.sources}: no {name} tasks are left ({'; '.join(remarks) or 'none at all'};"
                 " give --test, another --hold-out, or another file)")
    for path, tasks in ((args.test_out, asked), (args.out, chosen)):
        write_whole(path, "".join(dump(task | style) for task in tasks))
    print(f"import: {len(chosen):,} of {len(train):,} training tasks -> {args.out}; "
          f"{len(asked):,} of {len(test):,} held-out ones -> {args.test_out}"
          + "".join(f"; {remark}" for remark in remarks))
