"""Records and programs as text: reading, writing, resuming, errors in one line, parse_program."""
import contextlib
import gzip
import json
import os
import random
import resource
import subprocess
import sys

import pytest
from conftest import ROOT, in_time

from nanoenvisions.environment import REQUIRED, Environment, parse_program
from nanoenvisions.records import (Output, add_metrics, dump, fingerprint, read_jsonl,
                                   write_whole)

GOOD = {"id": "t1", "env": "math", "question": "?"}


def refusal(call, *args, **options) -> str:
    """The one line with which a call stops."""
    with pytest.raises(SystemExit) as stop:
        call(*args, **options)
    message = str(stop.value.code)
    assert message and "\n" not in message and message.endswith(")")  # the remedy, in brackets
    return message


def written(path, *records):
    path.write_text("".join(map(dump, records)), encoding="utf-8")
    return path


@contextlib.contextmanager
def full_disk(limit):
    """No file may grow beyond `limit` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---- reading ----------------------------------------------------------------------------------

@pytest.mark.parametrize("field, value, message", [
    ("id", 7, '"id" is 7 (it must be a string)'),
    ("question", None, '"question" is None (it must be a string)'),
    ("program", ["x"], "\"program\" is ['x'] (it must be a string)"),
    ("reference", 1, '"reference" is 1 (it must be a string)'),
    ("prompt", {}, '"prompt" is {} (it must be a string)'),
    ("completion", True, '"completion" is True (it must be a string)'),
    ("source", 0, '"source" is 0 (it must be explore or refine)'),
    ("iteration", -1, '"iteration" is -1 (it must be a whole number from 0 on)'),
    ("iteration", True, '"iteration" is True (it must be a whole number from 0 on)'),
    ("candidate", 1.0, '"candidate" is 1.0 (it must be a whole number from 0 on)'),
    ("tokens", "4", "\"tokens\" is '4' (it must be a whole number from 0 on)"),
    ("logprob", float("-inf"), '"logprob" is -inf (it must be a finite number)'),
    ("self_reward", "-1", "\"self_reward\" is '-1' (it must be a finite number)"),
    ("level", float("nan"), '"level" is nan (it must be a finite number)'),
    ("level", 10 ** 400, f'"level" is {"1" + 59 * "0"} (it must be a finite number)'),
    ("reward", 2, '"reward" is 2 (it must be 0 or 1)'),
    ("reward", -1, '"reward" is -1 (it must be 0 or 1)'),
    ("reward", 1.0, '"reward" is 1.0 (it must be 0 or 1)'),
    ("reward", None, '"reward" is None (it must be 0 or 1)'),
])
def test_a_bad_value_is_named_with_file_line_field_and_remedy(tmp_path, field, value, message):
    path = written(tmp_path / "in.jsonl", GOOD, {**GOOD, field: value})
    assert f"{path}:2: {message}" in refusal(read_jsonl, path)


def test_null_stands_for_a_measurement_that_nobody_made(tmp_path):
    record = {**GOOD, "logprob": None, "self_reward": None, "tokens": None}
    assert read_jsonl(written(tmp_path / "in", record)) == [record]


@pytest.mark.parametrize("field, stage", [
    ("id", "envs.py make"), ("question", "envs.py"), ("answer", "envs.py"),
    ("program", "explore.py"), ("iteration", "explore.py"), ("candidate", "explore.py"),
    ("source", "explore.py"), ("reference", "refine.py"), ("reward", "reward.py"),
    ("prompt", "select.py"), ("completion", "select.py"), ("semantics", "envs.py make")])
def test_a_missing_field_is_named_with_the_stage_that_writes_it(tmp_path, field, stage):
    path = written(tmp_path / "in.jsonl", {"other": 1}, {})
    assert refusal(read_jsonl, path, ("other",)).endswith(':2: no "other" (envs.py make writes it)')
    assert refusal(read_jsonl, path, (field,)).endswith(f':1: no "{field}" ({stage} writes it)')


@pytest.mark.parametrize("line, message", [
    (b"{broken", "not JSON"), (b'{"id": "a"} {"id": "b"}', "not JSON: Extra data"),
    (b"[1, 2]", "not a JSON object"), (b'"text"', "not a JSON object"), (b"null", "not a JSON"),
    (b'{"id": "\xff"}', "mend or delete this line"),
    (b"[" * 100_000, "not JSON"), (b'{"id": ' * 100_000, "not JSON"),
])
def test_a_line_that_is_no_record_is_named(tmp_path, line, message):
    """Also one nested so deeply that the parser gives up. Blank lines count as lines."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(dump(GOOD).encode() + b"\n  \n" + line + b"\n")
    said = refusal(read_jsonl, path)
    assert f"{path}:4: " in said and message in said


@pytest.mark.parametrize("wrap, remedy", [
    (gzip.compress, "unpack it with gunzip"),
    (lambda text: text.decode().encode("utf-16"), "save it as UTF-8")])
def test_other_files_are_recognised(tmp_path, wrap, remedy):
    path = tmp_path / "in.jsonl"
    path.write_bytes(wrap(dump(GOOD).encode()))
    said = refusal(read_jsonl, path)
    assert f"{path}:1: " in said and remedy in said


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "in").write_bytes(b"\xef\xbb\xbf" + dump(GOOD).encode())
    assert read_jsonl(tmp_path / "in") == [GOOD]


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    assert "no records" in refusal(read_jsonl, tmp_path / "empty")
    assert read_jsonl(tmp_path / "empty", allow_empty=True) == []
    for path in (tmp_path / "none", tmp_path):
        assert str(path) in refusal(read_jsonl, path, allow_empty=True)


def test_limit_reads_no_further_and_check_has_the_last_word(tmp_path):
    path = written(tmp_path / "in", *({**GOOD, "id": f"t{i}"} for i in range(4)))
    with open(path, "a") as file:
        file.write("{broken\n")
    assert [record["id"] for record in read_jsonl(path, limit=4)] == ["t0", "t1", "t2", "t3"]
    assert read_jsonl(path, limit=0, allow_empty=True) == []
    said = refusal(read_jsonl, path, check=lambda one: "odd (x)" if one["id"] == "t2" else None)
    assert said.endswith(f"{path}:3: odd (x)")


# ---- writing ----------------------------------------------------------------------------------

@pytest.mark.parametrize("text", ["\ud800", "a\udfff\ud83d b", "\U0001f600 é \u2028\x85", "\ufeff"])
def test_every_string_comes_back_as_it_was(tmp_path, text):
    """Lone surrogates, too, which no UTF-8 file may hold; one line stays one line."""
    path = tmp_path / "out.jsonl"
    with Output(path, {}) as out:
        out.write({**GOOD, "program": text}, GOOD)
    path.read_bytes().decode("utf-8")
    assert read_jsonl(path) == [{**GOOD, "program": text}, GOOD]


def test_other_peoples_letters_stay_readable():
    assert dump({"question": "Wie viele Äpfel?"}) == '{"question": "Wie viele Äpfel?"}\n'


def test_a_small_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "folder" / "file"
    write_whole(path, "old")
    with full_disk(100):
        said = refusal(write_whole, path, "new" * 1000)
    assert str(path) in said and path.read_text() == "old"
    assert os.listdir(path.parent) == ["file"]
    write_whole(path, "é" * 1000)
    assert path.read_text(encoding="utf-8") == "é" * 1000 and os.listdir(path.parent) == ["file"]


def test_devices_are_written_into():
    write_whole(os.devnull, "text")
    assert not os.path.isfile(os.devnull) and os.path.exists(os.devnull)


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "out", tmp_path):
        assert str(path) in refusal(write_whole, path, "text")
        assert str(path) in refusal(Output(path, {}).__enter__)


# ---- resuming ---------------------------------------------------------------------------------

def begun(path, records, torn=b"", unit=1, settings=None):
    """An output as a kill leaves it: some records, and a torn line."""
    with contextlib.suppress(KeyboardInterrupt), Output(path, settings or {"seed": 0}, unit) as out:
        out.write(*records)
        raise KeyboardInterrupt
    assert not path.exists()
    with open(f"{path}.part", "ab") as file:
        file.write(torn)


@pytest.mark.parametrize("torn", [b"", b"{", b'{"id": "t9"}', b'{"id": "\xc3'])
def test_a_killed_output_goes_on_behind_its_last_whole_line(tmp_path, torn):
    path = tmp_path / "out"
    begun(path, [{"id": "a"}, {"id": "b"}], torn)
    with Output(path, {"seed": 0}) as out:
        assert out.done == [{"id": "a"}, {"id": "b"}]
        out.write({"id": "c"})
    assert [record["id"] for record in read_jsonl(path)] == ["a", "b", "c"]
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("lines, kept", [(2, 0), (3, 3), (5, 3), (6, 6)])
def test_a_torn_group_is_dropped_whole(tmp_path, lines, kept):
    """Groups of 3 are written together; half of one would be sampled in another batch."""
    begun(tmp_path / "out", [{"id": str(i)} for i in range(lines)], b"{", unit=3)
    with Output(tmp_path / "out", {"seed": 0}, unit=3) as out:
        assert len(out.done) == kept
        out.write({"id": "new"})
    assert [one["id"] for one in read_jsonl(tmp_path / "out")] == [*map(str, range(kept)), "new"]


@pytest.mark.parametrize("settings, said", [
    ({"seed": 1}, "seed: 0 -> 1"), ({}, "seed: 0 -> None"),
    ({"seed": 0, "top": 2}, "top: None -> 2"),
])
def test_other_settings_are_refused_and_named(tmp_path, settings, said):
    with contextlib.suppress(KeyboardInterrupt), Output(tmp_path / "out", {"seed": 0}) as out:
        out.write({"id": "a"})
        raise KeyboardInterrupt
    with pytest.raises(SystemExit, match=f"begun with other settings \\({said}\\)"):
        Output(tmp_path / "out", settings).__enter__()
    assert read_jsonl(tmp_path / "out.part") == [{"id": "a"}]  # nothing is lost
    (tmp_path / "out.part").unlink()  # as it says
    with Output(tmp_path / "out", settings) as out:
        out.write({"id": "b"})
    assert read_jsonl(tmp_path / "out") == [{"id": "b"}] and [*tmp_path.iterdir()] == [tmp_path / "out"]


def test_settings_are_compared_as_json_has_them(tmp_path):
    begun(tmp_path / "out", [{"id": "a"}], settings={"inputs": ("a", "b"), 1: None})
    with Output(tmp_path / "out", {"inputs": ("a", "b"), 1: None}) as out:
        assert len(out.done) == 1


def test_two_processes_do_not_write_one_file(tmp_path):
    with Output(tmp_path / "out", {"seed": 0}) as out:
        out.write({"id": "a"})
        assert "is being written by another process" in refusal(Output(tmp_path / "out", {"seed": 0}).__enter__)
        out.write({"id": "b"})
    assert [one["id"] for one in read_jsonl(tmp_path / "out")] == ["a", "b"]


def test_what_cannot_be_written_is_said_in_a_line():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert "too deep to be written" in refusal(lambda: dump({"field": deep}))


def test_a_part_without_its_settings_is_neither_trusted_nor_emptied(tmp_path):
    """They are written before the part is begun, so it is somebody else's."""
    begun(tmp_path / "out", [{"id": "a"}])
    (tmp_path / "out.part.settings").unlink()
    before = (tmp_path / "out.part").read_bytes()
    assert "is in the way" in refusal(Output(tmp_path / "out", {"seed": 1}).__enter__)
    assert (tmp_path / "out.part").read_bytes() == before and len(os.listdir(tmp_path)) == 1
    (tmp_path / "out.part").rename(tmp_path / "thesis")
    (tmp_path / "out.part").symlink_to(tmp_path / "thesis")
    assert "is in the way" in refusal(Output(tmp_path / "out", {"seed": 1}).__enter__)
    assert (tmp_path / "thesis").read_bytes() == before
    (tmp_path / "out.part").unlink()
    (tmp_path / "out.part").write_bytes(b"")  # nothing to lose
    with Output(tmp_path / "out", {"seed": 1}) as out:
        assert out.done == []


def test_the_old_output_stands_until_the_new_one_is_whole(tmp_path):
    path = written(tmp_path / "out", {"id": "old"})
    with Output(path, {}) as out:
        out.write({"id": "new"})
        assert read_jsonl(path) == [{"id": "old"}]
        assert read_jsonl(f"{path}.part") == [{"id": "new"}]  # flushed: a kill loses nothing
    assert read_jsonl(path) == [{"id": "new"}]


def test_a_full_disk_is_one_line_and_finished_lines_are_kept(tmp_path):
    """In a process of its own: a file that cannot be flushed complains once more when it goes."""
    code = ("import resource\nfrom nanoenvisions.records import Output\n"
            "with Output({!r}, {{'seed': 0}}) as out:\n"
            "    out.write({{'id': 'a'}})\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
            "    out.write({{'id': 'b' * 1000}})").format(str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "free some space" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    with Output(tmp_path / "out", {"seed": 0}) as out:
        assert out.done == [{"id": "a"}]


def test_a_fingerprint_is_that_of_all_contents(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a\n")
    two.write_text("a\n")
    assert fingerprint(one) == fingerprint(two) != fingerprint(one, two)
    two.write_text("b\n")
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(one, two) != fingerprint(two, one)
    assert "none" in refusal(fingerprint, one, tmp_path / "none")


# ---- metrics ----------------------------------------------------------------------------------

def test_metrics_replace_the_row_of_the_same_stage_and_iteration(tmp_path):
    path = tmp_path / "m.jsonl"
    for stage, iteration, num in (("eval", 0, 1), ("eval", 1, 2), ("train", 0, 3), ("eval", 0, 4)):
        add_metrics(path, {"stage": stage, "iteration": iteration, "num": num})
    rows = [(row["stage"], row["iteration"], row["num"]) for row in read_jsonl(path)]
    assert sorted(rows) == [("eval", 0, 4), ("eval", 1, 2), ("train", 0, 3)]


def test_rows_of_other_peoples_making_stay(tmp_path):
    path = written(tmp_path / "m", {"note": "mine"}, {"stage": "train", "iteration": 0})
    add_metrics(path, {"stage": "eval", "iteration": 0})
    assert read_jsonl(path)[0] == {"note": "mine"} and len(read_jsonl(path)) == 3
    add_metrics(None, {"stage": "eval"})  # no file wanted


def test_a_corrupt_metrics_file_is_named_and_kept(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"stage": "eval", "iter')
    assert f"{path}:1: not JSON" in refusal(add_metrics, path, {"stage": "eval", "iteration": 0})
    assert path.read_text() == '{"stage": "eval", "iter'


# ---- programs in what a model wrote -----------------------------------------------------------

CODE = "def solution():\n    return 2"


@pytest.mark.parametrize("text", [
    CODE, f"\n\n{CODE}\n\n", f"{CODE}  \n\t\n", f"\ufeff{CODE}", CODE.replace("\n", "\r\n"),
    CODE.replace("\n", "\r"),
    # the fence that was asked for, and what models write behind it
    f"{CODE}\n```", f"{CODE}\n```\n\nQuestion: How many?\n```python\ndef solution():\n    return 3",
    # a closing fence that is indented like the code: what is executed is cut there, so is the rest
    f"{CODE}\n    ```\nPlease answer with a python code snippet.", f"{CODE}\n\t```",
    f"{CODE}\n    ```python\nmore",
    # a fence at the start opens, with and without a language, indented or not
    f"```\n{CODE}\n```", f"```python\n{CODE}", f"\n  ```py\n{CODE}\n  ```\nThe answer is 2.",
    f"\ufeff```python\r\n{CODE}\r\n```",  f"```python\n\ufeff{CODE}\n```",
    # prose before it
    f"Sure, here it is:\n\n```python\n{CODE}\n```\nIt returns 2.",
    f"Sure:\n```python\n{CODE}\n```\nOr:\n```python\ndef solution():\n    return 3\n```",
])
def test_the_program_in_an_answer(text):
    assert parse_program(text) == CODE


@pytest.mark.parametrize("text", [
    "", "\n", "```", "```python", "```\n```\nprose", " \t\r\n", "\ufeff"])
def test_no_program(text):
    assert parse_program(text) == ""


def test_only_lines_that_begin_with_a_fence_are_fences():
    code = 'def solution():\n    text = "```"\n    return len(text)  # ```\n'
    assert parse_program(code) == code.strip()
    assert parse_program("    x = 1\n    y = 2") == "    x = 1\n    y = 2"  # its own indent


def test_what_is_a_program_is_not_parsed_further():
    """What is sampled, run and trained on goes through it one after another: it must stay."""
    rng = random.Random(0)
    parts = ["```", "```python", "\n", "\n", " ", "    ", "x", "\r", "\r\n", "\ufeff", "Sure:",
             "\t", "\x0c"]
    for _ in range(20_000):
        text = "".join(rng.choices(parts, k=rng.randint(1, 8)))
        once = parse_program(text)
        assert parse_program(once) == once, repr(text)
        lines = [line.lstrip(" \t") for line in once.split("\n")]
        assert not any(line.startswith("```") for line in lines), repr(text)


@pytest.mark.parametrize("part", [
    "\n", " ", "\t", "\r", "`", "x ", "\n ", "\ufeff", "```\n", " ```\n", "```python\n", "\n    ```"])
def test_hostile_texts_take_no_time(part):
    text = (part * 20_000)[:20_000]
    texts = text, text + "x", "x" + text, "x\n" + text + "y"
    in_time(lambda: [parse_program(one) for one in texts], 1)


# ---- what an environment gets for nothing -----------------------------------------------------

def test_defaults_of_an_environment():
    class Riddle(Environment):
        job_fields = {"hint": REQUIRED, "tries": 3}
    env = Riddle()
    assert env.complaint({"answer": 2}) == 'no "hint" (envs.py make writes it)'
    assert env.complaint({"answer": "two", "hint": ""}) is None
    for answer in (True, None, [2]):
        assert f'"answer" is {answer!r}' in env.complaint({"answer": answer, "hint": ""})
    assert env.compare({"answer": 2}, "2") == ("correct", "2")
    assert env.compare({"answer": 2}, "2.0") == ("wrong", "2.0")
    assert env.canonical({"program": "a  b\n\tc\n```\nd"}) == "a b c"
    assert env.canonical({"program": "a bc"}) != env.canonical({"program": "ab c"})
    with pytest.raises(NotImplementedError, match="Riddle cannot make tasks"):
        env.make(None)
    assert env.examples({}) == [] and json.dumps(env.modules("x")) == "[]"
