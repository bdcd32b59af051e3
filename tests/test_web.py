"""The web environment with a real Chromium: observations, actions, rewards, and what may go wrong around them."""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

import envs
from nanoenvisions.browser import Browser
from nanoenvisions.web import ARTICLE_TASKS, read_actions

Web = envs.ENVS["web"]
EXAMPLES = json.loads((ROOT / "data" / "web_examples.json").read_text(encoding="utf-8"))
CLICK_BUTTON = "agent.click_xpath('//button')"  # does the task click-test


@pytest.fixture(scope="module")
def browser():
    """The browser that Web keeps open. Without one the tests are skipped, with the command that gets it."""
    try:
        Web.browse(lambda browser: browser.open("click-test", 0))
    except SystemExit as error:
        pytest.skip(str(error))
    yield
    Web.close()


def ask(task, seed):
    return Web.browse(lambda browser: browser.observe(task, seed))


def do(task, seed, program):
    """Record a program and replay it: (outcome, result)."""
    return Web.compare({"task": task, "seed": seed}, Web.run(program, {}))


# ----------------------------------------------------------------------------------- recording --

def test_a_program_is_recorded_without_a_browser():
    program = "for name in ('Ada', 7):\n    agent.click_xpath(\"//*[@id='tt']\")\n    agent.type(name)"
    assert json.loads(Web.run(program, {})) == [
        ["click_xpath", "//*[@id='tt']"], ["type", "Ada"], ["click_xpath", "//*[@id='tt']"], ["type", "7"]]


def test_calls_as_the_documentation_writes_them():
    program = ("agent.click_xpath(xpath='//a')\nagent.click_option(xpath='//b')\nagent.movemouse(xpath='//c')\n"
               "agent.type(text='d')\nagent.press(key='enter')\nexit()")  # exit(): after the actions it does no harm
    assert json.loads(Web.run(program, {})) == [
        ["click_xpath", "//a"], ["click_option", "//b"], ["movemouse", "//c"], ["type", "d"], ["press", "enter"]]


@pytest.mark.parametrize("program, reason", [
    ("agent.click_xpath(None)", r"call 1, agent.click_xpath\('None'\): needs a string"),
    ("agent.type('a')\nagent.press('f13')", r"call 2, agent.press\('f13'\): no such key"),
    ("agent.type('x' * 201)", "longer than 200 characters"),
    ("while True:\n    agent.press('enter')", "more than 100 actions"),
    ("agent.goto('file:///etc/passwd')", "goto"),
    ("agent.click_xpath('//a'", "never closed"),
])
def test_a_wrong_call_is_named(program, reason):
    with pytest.raises(Exception, match=reason):
        Web.run(program, {})


@pytest.mark.parametrize("value", [
    "", "null", "{}", "[1]", '[["type"]]', '[["type", 7]]', '[["goto", "file:///"]]', '[["press", "f13"]]',
    '[[["type"], "a"]]', json.dumps([["type", "a"]] * 101), json.dumps([["type", "x" * 201]]), "[" * 100_000,
    '[["evaluate", "WOB_RAW_REWARD_GLOBAL = 1"]]'], ids=lambda value: value[:20])
def test_whatever_a_program_states_only_known_actions_pass(value):
    assert read_actions(value) is None
    assert Web.compare({"task": "click-test", "seed": 0}, value)[0] == "error"


# -------------------------------------------------------------------------------------- replay --

def test_one_episode_in_full(browser):
    assert ask("enter-text", 1) == ('Enter "Jerald" into the text field and press Submit.\n'
                                    '<input id="tt">\n<button id="subbtn">Submit</button>')
    right = "agent.click_xpath(\"//*[@id='tt']\")\nagent.type('Jerald')\nagent.click_xpath('//button')"
    assert do("enter-text", 1, right) == ("correct", "reward 1.00")
    assert do("enter-text", 2, right) == ("wrong", "reward -1.00")  # another seed wants another name
    assert do("enter-text", 1, right.rpartition("\n")[0]) == ("wrong", "2 actions did not finish the task")
    assert do("enter-text", 1, "pass") == ("wrong", "0 actions did not finish the task")


@pytest.mark.parametrize("task", ARTICLE_TASKS)
def test_few_shot_examples_are_true_and_the_same_twice(browser, task):
    """The question is what the page shows, the program does the task, its draft does not; nothing depends on before."""
    examples = Web.examples({"task": task})
    assert len(examples) == 2
    for example in examples * 2:
        seed = example["seed"]
        assert not any(seed in seeds for seeds in Web.SEEDS.values())
        assert ask(task, seed) == example["question"]
        assert do(task, seed, example["program"])[0] == "correct"
        try:
            assert do(task, seed, example["draft"])[0] != "correct"
        except ValueError as error:  # a call that `agent` refuses
            assert "agent." in str(error)


def test_a_browser_that_has_just_started_shows_the_same(browser):
    chosen = random.Random(0).sample(EXAMPLES, 10)
    before = [(ask(one["task"], one["seed"]), do(one["task"], one["seed"], one["program"])) for one in chosen]
    Web.close()
    after = [(ask(one["task"], one["seed"]), do(one["task"], one["seed"], one["program"])) for one in chosen]
    assert before == after


@pytest.mark.parametrize("program, result", [
    ("agent.type('a')\nagent.click_xpath(\"//button[text()='Nein']\")",
     "action 2 of 2, click_xpath(\"//button[text()='Nein']\"): no such element on the page"),
    ("agent.click_xpath('//button[')", "action 1 of 1, click_xpath('//button['): not an XPath that selects elements"),
    ("agent.click_xpath('1 + 1')", "action 1 of 1, click_xpath('1 + 1'): not an XPath that selects elements"),
    ("agent.click_option('//button')", "action 1 of 1, click_option('//button'): not an <option> of a list"),
    ("agent.click_xpath('//script')", "action 1 of 1, click_xpath('//script'): no such element is visible"),
])
def test_the_action_that_failed_is_named(browser, program, result):
    assert do("enter-text", 1, program) == ("error", result)


def test_a_click_goes_to_every_element_that_the_xpath_selects(browser):
    """As in the article's action language: one call takes all shades of red."""
    program = "agent.click_xpath(\"//span[@data-color='red']\")\nagent.click_xpath(\"//*[@id='submit']\")"
    assert do("click-shades", 1000, program) == ("correct", "reward 1.00")


def test_the_first_reward_stays(browser):
    """After the end of the episode nothing counts: neither more clicks nor an action that cannot be done."""
    right, wrong = 'agent.click_xpath("//button[text()=\'ONE\']")', 'agent.click_xpath("//button[text()=\'TWO\']")'
    assert do("click-test-2", 1, f"{right}\n{wrong}\nagent.click_xpath('//nothing')") == (
        "correct", "reward 1.00 after 1 of 3 actions")
    assert do("click-test-2", 1, f"{wrong}\n{right}") == ("wrong", "reward -1.00 after 1 of 2 actions")
    restart = "agent.click_xpath(\"//*[@id='sync-task-cover']\")"
    assert do("click-test-2", 1, f"{restart}\n{right}")[0] == "error"


def test_nothing_is_pasted_from_an_earlier_episode(browser):
    copy = "agent.click_xpath(\"//*[@id='to-copy']\")\nagent.press('command+a')\nagent.press('command+c')\n"
    paste = ("agent.click_xpath(\"//*[@id='answer-input']\")\nagent.press('command+v')\n"
             "agent.click_xpath(\"//*[@id='subbtn']\")")
    assert do("copy-paste", 1000, copy + paste)[0] == "correct"
    assert do("copy-paste", 1000, paste)[0] == "wrong"


# ---------------------------------------------------------------------- crashes, hangs, litter --

def test_an_alert_is_dismissed(browser):
    Web.browse(lambda browser: browser.page.evaluate("alert('Stop!')"))
    assert do("click-test", 1, CLICK_BUTTON)[0] == "correct"


def test_a_crashed_browser_is_started_again(browser):
    before = Web.browser.pid
    os.kill(before, signal.SIGKILL)
    assert do("click-test", 1, CLICK_BUTTON)[0] == "correct"
    assert Web.browser.pid != before


def test_a_crashed_page_is_replaced(browser):
    with pytest.raises(Web.browser.Error):
        Web.browser.page.goto("chrome://crash")
    assert do("click-test", 1, CLICK_BUTTON)[0] == "correct"


def test_a_page_that_hangs_is_given_up_once(browser, monkeypatch):
    """By the browser's own time; it is not tried again, which would take as long once more."""
    do("click-test", 1, CLICK_BUTTON)
    monkeypatch.setattr(Browser, "CPU_SECONDS", 1.5)
    endless = "//*[" + "count(//*[" * 14 + "1" + "])" * 14 + "]"  # 14 nested searches in the page
    begun = Web.browser.cpu_seconds(), time.monotonic()
    outcome, result = do("social-media-all", 1, f"agent.click_xpath({endless!r})")
    assert (outcome, result) == ("error", "the page took more than 2 s")
    monkeypatch.undo()
    assert do("click-test", 1, CLICK_BUTTON)[0] == "correct"
    assert time.monotonic() - begun[1] < 60


def test_a_page_that_waits_for_a_busy_machine_does_not_hang(browser, monkeypatch):
    """The browser is stopped for longer than its time limit, as if it got no core: still right."""
    do("click-test", 1, CLICK_BUTTON)
    monkeypatch.setattr(Browser, "CPU_SECONDS", 2.0)
    stop = (f"sleep 0.1; kill -STOP {Web.browser.pid}; sleep 4; kill -CONT {Web.browser.pid}")
    helper = subprocess.Popen(["sh", "-c", stop])
    begun = time.monotonic()
    outcomes = {do("click-test", 1, CLICK_BUTTON)[0] for _ in range(10)}
    while time.monotonic() - begun < 3:  # some calls came before the stop
        outcomes.add(do("click-test", 1, CLICK_BUTTON)[0])
    helper.wait()
    assert outcomes == {"correct"}


def test_much_typing_is_refused_before_it_begins():
    program = "for _ in range(99):\n    agent.type('a' * 200)"
    with pytest.raises(ValueError, match="call 11, .*more than 2000 characters typed"):
        Web.run(program, {})
    assert read_actions(json.dumps([["type", "a" * 200]] * 11)) is None


# ------------------------------------------------------------- what a program must not get at --

LOOK = {  # one program for every seed: it lets the XPath read in the question what is to be done
    "click-button": "//button[contains(//*[@id='query'], text())]",
    "click-link": "//span[@class='alink'][contains(//*[@id='query'], text())]",
    "click-tab": "//a[contains(//*[@id='query'], text())]",
    "choose-list": "//option[contains(//*[@id='query'], text())]",
}


@pytest.mark.parametrize("task", LOOK)
def test_the_question_cannot_be_read_by_an_xpath(browser, task):
    program = f"agent.click_xpath({LOOK[task]!r})\nagent.click_xpath('//button[@class=\"secondary-action\"]')"
    assert all(do(task, seed, program)[0] != "correct" for seed in range(3))
    assert "Click" in ask(task, 0) or "Select" in ask(task, 0) or "Switch" in ask(task, 0)


@pytest.mark.parametrize("typed", ["<img src=x onerror=core.endEpisode(1)>",
                                   "<svg onload=core.endEpisode(1)>",
                                   "<iframe srcdoc='<script>parent.core.endEpisode(1)</script>'>",
                                   "<script>core.endEpisode(1)</script>"])
def test_typed_text_never_becomes_a_script(browser, typed):
    """Page `terminal` writes what is typed into its HTML as it is."""
    program = ("agent.click_xpath(\"//*[@id='terminal-target']\")\n"
               f"agent.type({typed!r})\nagent.press('enter')\nagent.press('enter')")
    for seed in range(2):
        assert do("terminal", seed, program)[0] != "correct"
        assert do("terminal", seed, program.split("\n", 1)[1])[0] != "correct"


def test_another_page_earns_nothing(browser):
    """Page `terminal` goes where a typed <meta> says, to a page that is easier. All the typing takes its second."""
    program = ("agent.click_xpath(\"//*[@id='terminal-target']\")\n"
               "agent.type(\"<meta http-equiv='refresh' content='1;url=click-test.html'>\")\nagent.press('enter')\n"
               "for _ in range(9): agent.type('.' * 200)\nagent.click_xpath(\"//*[@id='sync-task-cover']\")\n"
               "agent.click_xpath(\"//*[@id='subbtn']\")")
    assert all(do("terminal", seed, program)[0] != "correct" for seed in range(4))


def test_what_is_in_no_element_is_no_element(browser):
    outcome, result = do("click-test", 0, "agent.click_xpath('/')")
    assert outcome == "error" and "no such element" in result


# ----------------------------------------------------------------------------- what is learned --

RIGHT = "agent.click_xpath(\"//*[@id='tt']\")\nagent.type('Jerald')\nagent.click_xpath('//button')"


@pytest.mark.parametrize("junk", ["agent.type('more')", "agent.press('enter')\nagent.press('enter')"])
def test_actions_after_the_task_is_done_are_not_learned(browser, junk):
    program = f"{RIGHT}\n{junk}"
    outcome, result = do("enter-text", 1, program)
    record = {"program": program, "outcome": outcome, "result": result}
    assert outcome == "correct" and f"after 3 of {3 + junk.count('agent')} actions" in result
    assert Web.tidy(record) == RIGHT
    plain = {"program": RIGHT, "outcome": "correct", "result": "reward 1.00"}
    assert Web.tidy(plain) == RIGHT and Web.canonical(plain) == Web.canonical(record)


def test_words_of_a_program_are_not_the_browsers():
    """A program may end with any error; `after 9 of 1 actions` says how much was needed only behind a reward."""
    record = {"program": "agent.type('a')", "outcome": "error", "result": "SystemExit: after 9 of 1 actions"}
    assert Web.tidy(record) == record["program"]


def test_a_loop_is_left_as_it_is():
    program = "for name in 'ab':\n    agent.type(name)"
    record = {"program": program, "outcome": "correct", "result": "reward 1.00 after 1 of 2 actions"}
    assert Web.tidy(record) == program


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"  # a zombie is dead


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit"])
def test_no_process_and_no_file_is_left(browser, tmp_path, end):
    child = ("import os, signal, sys\nimport envs\nWeb = envs.ENVS['web']\n"
             "Web.browse(lambda browser: browser.open('click-test', 0))\n"
             f"print(Web.browser.pid, flush=True)\n{end}\n")
    done = subprocess.run([sys.executable, "-c", child], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)},
                          capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.time() + 10
    while (alive(pid) or list(tmp_path.iterdir())) and time.time() < deadline:
        time.sleep(0.1)
    assert not alive(pid) and not list(tmp_path.iterdir())


def test_without_a_browser_one_line_says_how_to_get_it(tmp_path):
    done = subprocess.run([sys.executable, "envs.py", "make", "--env", "web", "--out", str(tmp_path / "tasks.jsonl")],
                          cwd=ROOT, env={**os.environ, "CHROMIUM": "/no/such/chromium"}, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "apt-get install chromium-headless-shell" in last and "playwright install" in last


# --------------------------------------------------------------------------------------- tasks --

def make(**changes):
    arguments = dict(tasks="click-link,enter-text", num=5, rounds=1, split="train", seed=0, unseen_tasks="")
    return Web.make(argparse.Namespace(**(arguments | changes)))


def test_make_gives_whole_records_and_new_seeds_for_every_round(browser):
    tasks = make(rounds=2)
    assert tasks == make(rounds=2)
    assert [task["round"] for task in tasks] == [0] * 5 + [1] * 5
    assert [task["task"] for task in tasks[:3]] == ["click-link", "enter-text", "click-link"]
    assert len({task["seed"] for task in tasks}) == 10
    one = tasks[1]
    assert one["id"] == f"web/enter-text/{one['seed']}" and one["env"] == "web" and one["answer"] == "success"
    assert one["question"] == ask("enter-text", one["seed"])
    assert {task["seed"] for task in tasks}.isdisjoint(task["seed"] for task in make(seed=1, rounds=2))


def test_train_and_test_share_neither_seeds_nor_questions(browser):
    train, test = make(tasks="enter-text", num=20), make(tasks="enter-text", num=20, split="test")
    for field in ("seed", "question"):
        assert {task[field] for task in train}.isdisjoint(task[field] for task in test)


def test_no_seed_serves_two_purposes():
    """The article's own, those of the few-shot examples, those that are trained on, the test's."""
    known = {*range(50), *range(1_000, 1_100)}
    train, test = map(set, (Web.SEEDS["train"], Web.SEEDS["test"]))
    assert not train & test and not known & (train | test)


def test_some_pages_are_in_the_test_only(browser):
    pages = dict(tasks="click-link", unseen_tasks="focus-text", num=4)
    assert [task["group"] for task in make(**pages, split="test")] == ["known", "unseen"] * 2
    assert {task["task"] for task in make(**pages)} == {"click-link"}


@pytest.mark.parametrize("name", ["no-such-page", "../../../etc/passwd", ""])
def test_an_unknown_task_is_named(name):
    with pytest.raises(SystemExit, match="no MiniWoB"):
        make(tasks=name)
    with pytest.raises(SystemExit, match="no MiniWoB"):
        Web.compare({"task": name, "seed": 1}, "[]")
