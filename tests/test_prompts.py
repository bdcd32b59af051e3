"""Prompts: the very characters that sampling and training share, for every environment."""
import json
import random

import pytest
from conftest import run_stage

import envs

TASK = {"id": "t", "env": "math", "question": "How many are 2 and 3?", "answer": 5}
CODE = "def solution():\n    return 2 + 3"
TASKS = {"math": TASK, "logic": {**TASK, "env": "logic", "semantics": "owa"},
         "web": {**TASK, "env": "web", "task": "click-button", "seed": 1}}


def test_the_prompts_by_hand():
    assert envs.solve_prompt(TASK) == "Question: How many are 2 and 3?\n```python\n"
    assert envs.refine_prompt(TASK, CODE) == (
        f"Question: How many are 2 and 3?\n```python\n{CODE}\n```\nRefined:\n```python\n")
    assert envs.completion(CODE) == f"{CODE}\n```"


@pytest.mark.parametrize("name", envs.ENVS)
def test_few_shot_prompts_show_what_the_zero_shot_ones_ask_for(name):
    """Instruction, examples in the form of the task, the task itself: each as without examples."""
    env, task = envs.ENVS[name], TASKS[name]
    examples = env.examples(task)
    wanted = [env.instruction]
    wanted += [envs.solve_prompt({**task, "question": one["question"]})
               + envs.completion(one["program"]) for one in examples]
    assert envs.solve_prompt(task, True) == "\n\n".join([*wanted, envs.solve_prompt(task)])
    wanted = [f"{env.instruction} {envs.REFINE}"]
    wanted += [envs.refine_prompt({**task, "question": one["question"]}, one["draft"])
               + envs.completion(one["program"]) for one in examples]
    wanted += [envs.refine_prompt(task, CODE)]
    assert envs.refine_prompt(task, CODE, True) == "\n\n".join(wanted)
    assert examples and all(one["draft"] != one["program"] for one in examples)


@pytest.mark.parametrize("name", envs.ENVS)
def test_what_a_prompt_asks_for_is_what_is_parsed(name):
    """A prompt and its completion, in a model's hand, give the program back."""
    for one in envs.ENVS[name].examples(TASKS[name]):
        for program in (one["program"], one["draft"]):
            assert envs.parse_program(envs.completion(program)) == program
            whole = envs.solve_prompt(TASKS[name]) + envs.completion(program)
            assert envs.parse_program(whole.partition("\n")[2]) == program


def test_whatever_fences_a_model_writes_what_is_taught_is_what_was_run():
    """Random texts of fences, indents and program lines, in each environment."""
    parts = ["def solution():\n", "    return 2", "\n", "```", "    ```", "\n```", "```python\n",
             "\t```\n", "answer = 1", " ", "x = '```'\n", "\ufeff", "\r\n", "Refined:\n",
             "1. Bob is cold", "\nBob is red?", "agent.click_xpath('//a')", "#", "\'\'\'\n"]
    rng = random.Random(0)
    for _ in range(700):
        text = "".join(rng.choices(parts, k=rng.randint(1, 9)))
        run = envs.parse_program(text)
        assert envs.parse_program(run) == run, repr(text)
        for env in envs.ENVS.values():
            taught = env.tidy({"program": text, "outcome": "correct", "result": ""})
            assert envs.parse_program(envs.completion(taught)) == taught, repr(text)


def test_sampling_and_training_share_the_characters(tmp_path):
    """The prompt of a training row is the one that explore.py and refine.py make of the record."""
    records = [{**TASK, "iteration": 0, "candidate": k, "source": "explore", "program": program,
                "reward": reward, "self_reward": -0.5} for k, (program, reward) in enumerate(
                    [(CODE, 1), ("def solution():\n    return 7 - 2", 1),
                     ("def solution():\n    return 6", 0)])]
    (tmp_path / "in").write_text("".join(map(envs.dump, records)))
    done = run_stage("select", "--in", tmp_path / "in", "--pool-out", tmp_path / "pool", "--out",
                     tmp_path / "sft")
    assert done.returncode == 0, done.stderr
    solve, refine = map(json.loads, (tmp_path / "sft").read_text().splitlines())
    assert solve["prompt"] == envs.solve_prompt(TASK)
    assert refine["prompt"] == envs.refine_prompt(TASK, "def solution():\n    return 6")


def test_no_example_is_a_task():
    """What stands in the prompt is neither trained on nor measured."""
    made = [task["question"] for split in ("train", "test") for task in envs.ENVS["math"].make(
        envs.parse_args(["make", "--split", split, "--num", "300", "--out", "x"]))]
    shapes = {" ".join(word for word in question.split() if not word[0].isdigit())
              for question in made}
    for one in envs.ENVS["math"].examples({}):
        shape = " ".join(word for word in one["question"].split() if not word[0].isdigit())
        assert one["question"] not in made and shape not in shapes


# ---- the value of a program, and whether it is the answer ---------------------------------------

@pytest.mark.parametrize("text, number", [
    ("42", 42), ("-4.5", -4.5), ("+3", 3), ("1,234,567.5", 1234567.5), ("$1,234.50", 1234.5),
    ("-$5", -5), ("$-5", -5), ("36%", 36), ("36 %", 36), ("1/3", 1 / 3), ("-7/2", -3.5),
    (".5", 0.5), ("5.", 5), ("1e3", 1000), ("2E-2", 0.02), (" 42\n", 42),
    ("", None), (".", None), ("1/0", None), ("1,23", None), ("12,34,567", None),
    ("42 apples", None),
    ("nan", None), ("inf", None), ("1e999", None), ("True", None), ("None", None), ("0x10", None),
    ("1_000", None), ("--5", None), ("4 2", None), ("٤٢", None), ("1e1000000000", None),
    ("9" * 2_000 + "/1", None), ("<int of 9999 bits>", None), ("[42]", None)])
def test_numbers_that_programs_state(text, number):
    assert envs.number(text) == (number if number is None else pytest.approx(number))
