"""explore.py --ask: the program, what it gives and the vote, in every environment; in-process, on the tiny model."""
import re
import sys

import pytest
from conftest import load_stage

import envs
from nanoenvisions import ask, folders
from nanoenvisions.environment import REQUIRED, Environment
from nanoenvisions.web import Web


@pytest.fixture(scope="module")
def explore():
    return load_stage("explore")


@pytest.fixture
def asked(explore, tiny_model, monkeypatch, capsys):
    def asked(*flags):
        monkeypatch.setattr(sys, "argv", ["explore.py"])
        explore.main([*map(str, flags), "--model", tiny_model, "--bits", "32"])
        return capsys.readouterr().out
    return asked


def test_the_program_and_what_it_gives(asked, explore, tiny_model, tmp_path):
    """The same program as explore.py --greedy writes for a task of that question, and its value."""
    question = "Bob had some nuts. How many?"
    said = asked("--ask", question, "--max-new-tokens", 20)
    (tmp_path / "tasks.jsonl").write_text(envs.dump({"id": "a", "env": "math", "question": question, "answer": 1}))
    explore.main(["--in", str(tmp_path / "tasks.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--model", tiny_model,
                  "--greedy", "--few-shot", "--bits", "32", "--max-new-tokens", "20"])
    program = envs.read_jsonl(tmp_path / "out.jsonl")[0]["program"]
    value = re.search(r"(?:return|x =) (\d)", program)[1]
    assert said.startswith(f"{program}\n\ngives {value}\n") and "vote" not in said


def test_the_vote_counts_every_program(asked):
    said = asked("--ask", "Bob had some nuts. How many?", "--num-samples", 16, "--temperature", 1.5)
    votes = re.search(r"^vote of 16 programs: (.*?)(?:; (\d+) gave nothing)?$", said, re.MULTILINE)
    counts = [int(vote.rpartition(" ")[2]) for vote in votes[1].split(", ")]
    assert counts == sorted(counts, reverse=True) and len(counts) > 1
    assert len(counts) == 5 or sum(counts) + int(votes[2] or 0) == 16
    assert f"\ngives {votes[1].split()[0]}\n" in said  # the program above the vote is a winner's


def test_values_that_are_one_answer_vote_together():
    env, task = envs.ENVS["math"], {"env": "math"}
    ran = [{"status": "ok", "value": value, "logprob": r, "program": ""}
           for value, r in (("7", -3), ("8", -0.1), ("7.0", -1), ("8.5", -0.2))]
    camps = ask.count_votes(env, task, [*ran, {"status": "error", "value": "7", "logprob": 0, "program": ""}])
    assert [[one["value"] for one in camp] for camp in camps] == [["7", "7.0"], ["8"], ["8.5"]]
    assert [camp[0]["value"] for camp in ask.count_votes(env, task, ran[1:])] == ["8", "8.5", "7.0"]
    words = [{"status": "ok", "value": value, "logprob": -1, "program": ""} for value in ("apple", "7", "apple", "apple")]
    assert list(map(len, ask.count_votes(env, task, words))) == [3, 1]


@pytest.mark.parametrize("text", [
    "Bob is cold. Cold things are red. Bob is red?", "1. Bob is cold. 2. Cold things are red. 3. Bob is red?",
    "Bob is red? Bob is cold.\nCold things are red.", "1. Bob is cold.\n2. Cold things are red.\n3. Bob is red?\n"])
def test_logic_is_asked_in_sentences(text):
    logic = envs.ENVS["logic"]
    task = logic.asked(text)
    assert task == {"question": "1. Bob is cold.\n2. Cold things are red.\n3. Bob is red?"}
    # what the prompts of the tasks look like, and the program that says it
    assert logic.examples(task)[0]["question"].startswith("1. ")
    assert logic.run("Bob is cold\nif something is cold then it is red\nBob is red?", task) == "True"


def test_logic_needs_a_question(monkeypatch):
    with pytest.raises(SystemExit, match="no question in it"):
        envs.ENVS["logic"].asked("Bob is cold.")


def test_a_page_is_asked_by_its_name(asked):
    try:
        task = envs.ENVS["web"].asked("click-button 7")
    except (BrokenPipeError, SystemExit) as error:
        pytest.skip(str(error))
    finally:
        Web().close()
    assert task["task"] == "click-button" and task["seed"] == 7 and task["answer"] == "success"
    assert envs.ENVS["web"].complaint(task) is None
    said = asked("--env", "web", "--ask", "click-button 7", "--max-new-tokens", 10)
    assert said.startswith(task["question"])  # what was seen, since nobody typed it


@pytest.mark.parametrize("text", ["no-such-page", "click-button seven", "../x"])
def test_a_page_that_is_none(text):
    with pytest.raises(SystemExit, match="no MiniWoB|seed of a web task"):
        envs.ENVS["web"].asked(text)


def test_a_run_says_how_it_is_asked(tmp_path):
    """Its environment, model, bits and last adapter: iter10, not iter9."""
    for number in (2, 9, 10):
        (tmp_path / f"iter{number}/adapter").mkdir(parents=True)
    (tmp_path / "iter11").mkdir()
    (tmp_path / "settings").write_text("ENV=logic\nMODEL=my/model\nBITS=16\nMAX_NEW_TOKENS=50\nMAKE_FLAGS=--a=b\n")
    (tmp_path / "settings").write_bytes((tmp_path / "settings").read_bytes() + b"DATA=m\xfcll.jsonl\n")
    assert folders.read_run(tmp_path)["adapter"] == f"{tmp_path}/iter10/adapter"
    assert folders.read_run(tmp_path)["MAKE_FLAGS"] == "--a=b"
    args = ask.parse_args(["--ask", "x", "--run", str(tmp_path)], envs.ENVS)
    assert (args.env, args.model, args.bits, args.max_new_tokens) == ("logic", "my/model", 16, 50)
    assert args.adapter.endswith("iter10/adapter") and args.temperature == 0
    args = ask.parse_args(["--ask", "x", "--run", str(tmp_path), "--adapter", "a", "--bits", "4", "--env", "math"],
                          envs.ENVS)
    assert (args.env, args.adapter, args.bits) == ("math", "a", 4)


def test_with_an_adapter_no_examples_are_needed(monkeypatch):
    prompts = []
    monkeypatch.setattr(ask.sampling, "checked_model", lambda *args: (None, None))

    def caught(args, model, tokenizer, requests, tick):
        prompts.extend(requests)
        raise KeyboardInterrupt
    monkeypatch.setattr(ask.sampling, "sample", caught)
    for flags in ([], ["--adapter", "a"]):
        with pytest.raises(KeyboardInterrupt):
            ask.answers(ask.parse_args(["--ask", "How many?", *flags], envs.ENVS), envs,
                        {"env": "math", "question": "How many?"})
    assert prompts[1] == "Question: How many?\n```python\n" and prompts[0].count("Question:") > 3


def test_an_environment_that_knows_no_text(explore, monkeypatch):
    class Countdown(Environment):
        job_fields = {"numbers": REQUIRED}
    monkeypatch.setitem(envs.ENVS, "countdown", Countdown())
    with pytest.raises(SystemExit, match='a task of countdown has a field "numbers" .write the method `asked`'):
        explore.main(["--env", "countdown", "--ask", "Make 7 from 3 and 4."])


def test_a_run_of_an_environment_that_was_taken_out(explore, tmp_path):
    (tmp_path / "settings").write_text("ENV=countdown\n")
    with pytest.raises(SystemExit, match="ENV=countdown is none of math, logic, web"):
        explore.main(["--run", str(tmp_path), "--ask", "Make 7 from 3 and 4."])


@pytest.mark.parametrize("flags, said", [
    (["--ask", " "], "--ask: no question"), (["--ask", "x", "--run", "nowhere"], "nowhere/settings: No such file"),
    (["--ask", "x", "--adapter", "nowhere"], "nowhere: no adapter there")])
def test_what_cannot_be_asked(explore, flags, said):
    with pytest.raises(SystemExit, match=said):
        explore.main(flags)
