"""Deliberate faults in the product, each of which a test must notice. Minutes, on one core.

    python tests/mutants.py                   all of them; exit code 1 if one survives
    python tests/mutants.py --only pool       those with "pool" in their file or name
    python tests/mutants.py --list            names only

Each is put into a copy of the product, on which the tests that ought to fail are run. A test that
passes on a faulty product promises more than it checks: mend the test, not this table. A text that
the product does not have any more is reported as stale: write the fault anew, or take it out.
tests/test_mutants.py keeps the table up to date.
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

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 600  # seconds; a fault that makes the tests hang is noticed, too

# (file of the product, test file): [(what is wrong, right text, faulty text, pytest -k)]
TABLE = {
    ("select.py", "test_select"): [
        ("a rewrite need not be right", 'refined is None or refined["reward"] == 0',
         "refined is None", "superior_trajectory"),
        ("a rewrite wins ties", "r(refined) > r(explored)", "r(refined) >= r(explored)",
         "superior_trajectory"),
        ("a rewrite that mends must be likelier", 'explored["reward"] == 0 or r(ref', "r(ref",
         "superior_trajectory"),
        ("pairs without id", 'side[record["id"], record["iter', 'side[record["iter', "joined"),
        ("pairs without iteration", 'record["iteration"], record["candidate"]] = r',
         'record["candidate"]] = r', "joined"),
        ("pairs without candidate", ', record["candidate"]] = r', "] = r", "joined"),
        ("orphan rewrites dropped", "for key, record in refined.items() if key not in explored",
         "for record in ()", "without_its_draft"),
        ("doubles across tasks", 'key = record["id"], envs', "key = envs", "two_tasks"),
        ("a likelier wrong double wins", "rank(record) > rank(best[key])",
         "self_reward(record) > self_reward(best[key])", "right_program_beats"),
        ("the last double wins", "if key not in best or rank(record) > rank(best[key]):",
         "if True:", "doubles_stay or equal_programs_the"),
        ("the first double wins", "key not in best or rank(record) > rank(best[key])",
         "key not in best", "doubles_stay or equal_programs_the"),
        ("what is pooled is not tidied", "in map(tidied, records)", "in records", "dead_code"),
        ("the sampled program is lost", 'record.get("sampled", record["program"])', "program",
         "dead_code"),
        ("empty programs are pooled", 'not record["program"].strip()', "False",
         "equal_programs_the"),
        ("the pool starts with the unlikeliest", "key=rank, reverse=True", "key=rank",
         "random_ranking or lowest_positives"),
        ("--rank ignored", 'if order == "random"', "if False", "flag_rank"),
        ("one shuffle for all tasks", '{seed} {task} {name}', '{seed} {name}', "random_ranking"),
        ("one shuffle for both sides", '{seed} {task} {name}', '{seed} {task}', "random_ranking"),
        ("shuffles without seed", '{seed} {task} {name}', '{task} {name}', "random_ranking"),
        ("--seed ignored", "args.rank, args.seed)", "args.rank, 0)", "flag_rank"),
        ("the coin has no seed", "random.Random(args.seed)", "random.Random(0)", "chance_decides"),
        ("no-ranking uses r", "lambda record: coin.random()", "self_reward", "chance_decides"),
        ("a single positive is not learned from", "max(1, len(positives) - 1)",
         "len(positives) - 1", "numbers_of_rows"),
        ("U1 leaves nothing for U2", "max(1, len(positives) - 1)", "len(positives)",
         "numbers_of_rows"),
        ("U1 is the unlikeliest", "positives[:n1]", "positives[-n1:]", "lowest_positives"),
        ("U2 right after U1", "positives[len(positives) - n2:]", "positives[n1:n1 + n2]",
         "lowest_positives"),
        ("U2 too high for few mistakes", "len(positives) - n1, len(negatives)",
         "len(positives) - n1", "lowest_positive"),
        ("U2 with the easiest mistakes", "negatives[:n2])", "negatives[len(negatives) - n2:])",
         "lowest_positives"),
        ("default N1 = 2", '"--n1", type=int, default=10', '"--n1", type=int, default=2',
         "articles_numbers"),
        ("default N2 = 0", '"--n2", type=int, default=2', '"--n2", type=int, default=0',
         "articles_numbers"),
        ("--n1 ignored", "negatives, args.n1, ", "negatives, 10, ", "lowest_positives"),
        ("--n2 ignored", "args.n1, args.n2", "args.n1, 2", "lowest_positive"),
        ("mistakes without the draft", 'envs.refine_prompt(good, draft["program"])',
         "envs.solve_prompt(good)", "lowest_positives"),
        ("mistakes with the right draft", 'refine_prompt(good, draft["program"])',
         'refine_prompt(good, good["program"])', "lowest_positives"),
        ("mistakes are called solve", '"kind": "refine"', '"kind": "solve"', "numbers_of_rows"),
        ("--reuse ignored", "if reuse:", "if False:", "reuse_pairs"),
        ("--reuse from the likeliest", "positives[-1 - place % len(positives)]", "positives[0]",
         "reuse_pairs"),
        ("--all-positives heeds N1", "map(solve_row, positives)",
         "map(solve_row, positives[:args.n1])", "all_positives"),
        ("--refined ignored", 'if args.refined == "drop"', "if False", "refined_drop"),
        ("--rows-from ignored", 'if args.rows_from == "now"', "if False", "rows_from"),
        ("no pool", "distinct(before + kept)", "distinct(kept)", "pool_grows"),
        ("doubles of one name pass", "if key in seen:", "if False:", "one_name"),
        ("only the first --in file", "for path in paths:", "for path in paths[:1]:",
         "several_files"),
        ("--limit per file", "limit - len(records)", "limit", "several_files"),
        ("an input is overwritten", "envs.protect_inputs([args.out, args.pool_out]",
         "envs.protect_inputs([args.out]", "never_overwritten")],
    ("nanoenvisions/analysis.py", "test_select"): [
        ("solved_new counts all", "solved(kept) - solved(before)", "solved(kept)", "by_hand"),
        ("lost counts what was not explored", "(solved(before) & seen)", "solved(before)",
         "by_hand"),
        ("by refinement counts all rewrites", "solved(rewrites) - explored", "solved(rewrites)",
         "by_hand"),
        ("solved_pool is of now", '"solved_pool": len(solved(pool))',
         '"solved_pool": len(solved(kept))', "by_hand"),
        ("the margin's sign", "round(right - wrong, 4)", "round(wrong - right, 4)", "by_hand"),
        ("the margin counts r that nobody measured", "math.isfinite(self_reward(record))", "True",
         "teachers"),
        ("diversity per program", "max(1, len(solved(pool)))", "max(1, len(pool))", "by_hand"),
        ("tidied counts wrong ones", '"sampled" in record for record in positives',
         '"sampled" in record for record in pool', "dead_code"),
        ("constants counts wrong ones", 'for record in positives\n                          if',
         "for record in pool\n                          if", "constants"),
        ("copies are counted the other way round", '== record.get("reference")',
         '!= record.get("reference")', "by_hand"),
        ("who has no r ranks first", "-math.inf if r is None", "0.0 if r is None", "teachers")],
    ("nanoenvisions/records.py", "test_records"): [
        ("lines are counted from 0", "enumerate(file, 1)", "enumerate(file)", "named_with_file"),
        ("true is a number", "type(value) is int and value >= 0",
         "isinstance(value, int) and value >= 0", "named_with_file"),
        ("nan is a number", " and math.isfinite(value)", "", "named_with_file"),
        ("reward may be 2", "and value in (0, 1)", "and value >= 0", "named_with_file"),
        ("null passes", "(value is None and field in OPTIONAL)", "(value is None)",
         "named_with_file"),
        ("null never passes", " and not (value is None and field in OPTIONAL)", "", "nobody_made"),
        ("deep JSON is a traceback", "(ValueError, RecursionError)", "ValueError", "no_record"),
        ("the limit is one too many", "len(records) >= limit", "len(records) > limit",
         "limit_reads"),
        ("surrogates become ?", "line = json.dumps(record)\n",
         'line = line.encode("utf-8", "replace").decode()\n', "comes_back"),
        ("a link hides an input", "os.path.samefile(out, path)", "str(out) == str(path)",
         "never_an_output"),
        ("a small file is written in place", "os.replace(part, path)\n    except",
         "Path(path).write_text(text)\n    except", "old_one_or"),
        ("the torn line is kept", '.split(b"\\n")[:-1]', '.split(b"\\n")', "last_whole_line"),
        ("half a group is kept", " - len(lines) % self.unit", "", "torn_group"),
        ("what follows a torn line is torn", "file.truncate(", "str(", "last_whole_line"),
        ("changed settings are mixed in", "if changed:", "if False:", "other_settings"),
        ("removed settings pass", "in {**before, **self.settings}", "in self.settings",
         "other_settings"),
        ("lines wait in a buffer", "self.file.flush()", "pass", "until_the_new"),
        ("a failed run's file appears", "if kind is None:", "if True:", "last_whole_line"),
        ("a fingerprint of the first file", "for path in paths:\n        try:\n            digest",
         "for path in paths[:1]:\n        try:\n            digest", "fingerprint"),
        ("metrics rows are appended twice", "if key(old) != key(row)", "if True",
         "metrics_replace"),
        ("metrics rows are one per stage", ', one.get("iteration")\n', "\n", "metrics_replace")],
    ("nanoenvisions/environment.py", "test_records"): [
        ("an indented closing fence stays", "r\"^[ \\t]*```\"", "r\"^```\"", "program_in_an"),
        ("prose is the program", ' or (re.match(r"\\w", blocks[0]) and not indented)', "",
         "program_in_an"),
        ("every fence opens", "if opens else before", "if True else before", "program_in_an"),
        ("an indented fence opens", " and not indented)", ")", "program_in_an"),
        ("what follows the program stays", 'blocks[0].partition("\\n")[2] if opens',
         '"```".join(blocks).partition("\\n")[2] if opens', "program_in_an"),
        ("the byte-order mark stays", '.replace("\\ufeff", "")', "", "program_in_an"),
        ("old line ends stay", '.replace("\\r", "\\n")', "", "program_in_an"),
        ("the first line's indent goes", 'text.strip("\\n").rstrip()', "text.strip()",
         "begin_with"),
        ("white space makes a solution", '" ".join(self.tidy(record).split())', "self.tidy(record)",
         "defaults"),
        ("needed fields may lack", "if default is REQUIRED and", "if False and", "defaults")],
    ("envs.py", "test_prompts"): [
        ("few-shot prompts show no program", '"question"]) + completion(one["program"])',
         '"question"])', "few_shot"),
        ("no instruction", "[env.instruction] * few_shot", "[]", "few_shot"),
        ("refine without the draft", 'ask(env, task["question"], reference)',
         'ask(env, task["question"])', "by_hand"),
        ("refine without the question", 'ask(env, task["question"], reference)',
         'ask(env, "", reference)', "by_hand"),
        ("refine ignores --few-shot", 'if few_shot else []\n    parts = [ask(env, one["question"], ',
         'if False else []\n    parts = [ask(env, one["question"], ', "few_shot"),
        ("the examples' drafts are right", 'one["question"], one["draft"]',
         'one["question"], one["program"]', "few_shot"),
        ("programs are not closed by a fence", 'return f"{program}\\n```"', 'return program',
         "by_hand")],
    ("nanoenvisions/values.py", "test_prompts"): [
        ("1/3 is 1", "int(ratio[1]) / int(ratio[2])", "int(ratio[1])", "numbers_that"),
        ("thousands need no three digits", '(?:,\\d{3})+', '(?:,\\d+)+', "numbers_that"),
        ("other alphabets' digits", 'money}))?", text,\n                          re.ASCII)',
         'money}))?", text)', "numbers_that")],
    ("envs.py", "test_schedule"): [
        ("--enough ignored", "if sum(of_level) < enough * len(of_level)", "if False", "next_level"),
        ("exactly enough is too little", "sum(of_level) < enough", "sum(of_level) <= enough",
         "next_level"),
        ("levels ignored", 'task.get("level", 0) <= reached', "True", "next_level"),
        ("rounds ignored", 'task.get("round", args.iteration) == args.iteration', "True",
         "of_a_round"),
        ("--again ignored", "or rng.random() < args.again", "or True", "explored_again"),
        ("--again takes unsolved ones away", 'task["id"] not in solved or rng', "rng",
         "explored_again"),
        ("nothing is left to explore", "rng.random() < args.again] or chosen",
         "rng.random() < args.again]", "explored_again"),
        ("solved tasks keep their examples", 'args.few_shot_unsolved and task["id"] not in solved',
         "args.few_shot_unsolved", "keep_their_examples"),
        ("what was sampled counts as solved", 'for record in pool if record["reward"]}',
         "for record in pool}", "next_level")],
    ("nanoenvisions/templates.py", "test_tasks"): [
        ("train and test share numbers", "split_of(template, draw[2]) == args.split)", "True)",
         "share_no_question"),
        ("their order decides the split", "sorted(numbers.values())", "list(numbers.values())",
         "share_no_question"),
        ("unseen templates are trained", '"unseen": True', '"unseen": False', "share_no_question"),
        ("a question comes twice", "draw[0] not in used", "True", "only_adds"),
        ("--seed ignored by the numbers", 'f"{args.seed} {args.split} {number}"',
         'f"{args.split} {number}"', "only_adds"),
        ("--seed ignored by the templates", 'group, index, f"{args.seed} {args.split}"',
         'group, index, args.split', "only_adds"),
        ("right by chance", "<= len(numbers)", "< len(numbers)", "right_by_chance"),
        ("no new formulas", 'return "new formula"', 'return "known"', "groups_of_a_test"),
        ("unseen ignored", "if int((number + 1) * unseen) > int(number * unseen)", "if False",
         "groups_of_a_test"),
        ("templates take no turns", "index = turns *", "index += 0 *", "take_turns"),
        ("any Python is run", "if not re.fullmatch(r\"(\\b", "if not re.match(r\"(\\b",
         "arithmetic_only"),
        ("where ignored", 'template.get("where", "1 > 0")', '"1 > 0"', "is_sound")],
    ("nanoenvisions/importers.py", "test_tasks"): [
        ("GSM8K's first ####", 'r".*####(.*)"', 'r".*?####(.*)"', "official_form"),
        ("thousands cut off", 'text.replace(",", "").partition', 'text.partition', "official_form"),
        ("the number of a bad entry", "enumerate(rows, 1):\n        for field",
         "enumerate(rows):\n        for field", "import_refuses"),
        ("ids are not unique", '/{number:05d}", "env": "math"', '", "env": "math"',
         "official_form")],
    ("nanoenvisions/packages.py", "test_packages"): [
        ("dependencies are fetched", '"--no-deps", ', "", "unpacked_once"),
        ("pip's failure is ignored", "if pip.returncode:", "if False:", "wrong_wheel")],
}


def every_mutant() -> list[tuple]:
    """[(file, test file, name, right text, faulty text, pytest -k)]"""
    return [(*place, *mutant) for place, mutants in TABLE.items() for mutant in mutants]


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
