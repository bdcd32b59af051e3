"""Web: MiniWoB++ pages; the model acts on them with programs, in a real browser.

A task is one page and a seed; the program acts on it through `agent`. In the sandbox `agent` only
writes down what it is told (its methods return nothing, so no program can need the page).
Afterwards the written actions are checked, and replayed in a real browser with trusted mouse and
keyboard events, and the page itself says whether the task was done. So model-written code never
runs beside the browser, and cannot reach the reward.

May import environment, browser, records and tidy.
"""
from __future__ import annotations

import ast
import atexit
import contextlib
import functools
import json
import random
import re
import zlib

from nanoenvisions import tidy
from nanoenvisions.browser import KEYS, MAX_ACTIONS, Browser, require_page
from nanoenvisions.environment import REQUIRED, Environment, parse_program
from nanoenvisions.records import HERE, progress

ARTICLE_TASKS = """
    choose-date choose-list click-button click-button-sequence click-checkboxes
    click-checkboxes-large click-checkboxes-soft click-checkboxes-transfer click-collapsible
    click-color click-dialog click-dialog-2 click-link click-option click-scroll-list click-shades
    click-shape click-tab click-test click-test-2 click-widget copy-paste copy-paste-2 enter-date
    enter-password enter-text enter-text-dynamic enter-time focus-text focus-text-2 guess-number
    identify-shape multi-layouts multi-orderings navigate-tree read-table search-engine
    simple-algebra simple-arithmetic social-media-all text-transform unicode-test use-slider
    use-spinner""".split()
LONGEST = {"click_xpath": 500, "click_option": 500, "movemouse": 500, "type": 200, "press": 20}
MOST_TYPED = 2_000  # characters in all; each is a key pressed in the browser


def refuse(actions: list, verb, text) -> str | None:
    """Why an action may not follow those before it; None if it may. Holds for agent and replay."""
    if not isinstance(text, str):
        return "needs a string"
    if verb not in LONGEST:
        return "no such action"
    if len(text) > LONGEST[verb]:
        return f"longer than {LONGEST[verb]} characters"
    if verb == "press" and text not in KEYS:
        return f"no such key (the keys are {', '.join(KEYS)})"
    if len(actions) >= MAX_ACTIONS:
        return f"more than {MAX_ACTIONS} actions"
    if verb == "type" and sum(len(typed) for kind, typed in actions if kind == verb) \
            + len(text) > MOST_TYPED:
        return f"more than {MOST_TYPED} characters typed"
    return None


class Agent:
    """What a program knows as `agent`: writes down [["click_xpath", "//*[@id='tt']"], ...]."""

    def __init__(self):
        self.actions = []

    def _write(self, verb, text):
        if isinstance(text, (int, float)):  # agent.type(7) is clear enough
            text = str(text)
        if fault := refuse(self.actions, verb, text):
            raise ValueError(f"call {len(self.actions) + 1}, agent.{verb}({str(text)[:60]!r}): "
                             f"{fault}")
        self.actions.append([verb, text])

    def click_xpath(self, xpath):   # every element it selects
        self._write("click_xpath", xpath)

    def click_option(self, xpath):  # choose an <option> of a list
        self._write("click_option", xpath)

    def movemouse(self, xpath):
        self._write("movemouse", xpath)

    def type(self, text):           # into whatever has the focus
        self._write("type", text)

    def press(self, key):
        self._write("press", key)


def read_actions(value: str) -> list | None:
    """The actions behind a program's value if all are plain and allowed. It may state anything.

        '[["type", "Ada"]]' -> [["type", "Ada"]]        '[["goto", "file:///"]]' -> None
    """
    try:
        stated = json.loads(value)
    except (ValueError, RecursionError):
        return None
    actions = []
    for action in stated if type(stated) is list else [None]:
        if type(action) is not list or len(action) != 2 or type(action[0]) is not str \
                or refuse(actions, *action):
            return None
        actions.append(action)
    return actions


@functools.cache
def known_examples():
    return json.loads((HERE / "data" / "web_examples.json").read_text(encoding="utf-8"))


class Web(Environment):
    """MiniWoB++ pages; a solution is a Python program of agent's actions."""

    fence = "agent"  # after "python" a small model writes functions, not actions
    instruction = ("Do the task on the web page with agent.click_xpath(xpath), agent.type(text) "
                   "and the like.")
    job_fields = {"task": REQUIRED, "seed": REQUIRED}  # for compare()
    new_tasks_each_iteration = True
    # Short pages with something to learn; the four shortest have one program for all seeds.
    DEFAULT_TASKS = ("click-button click-link click-option click-dialog-2 choose-list enter-text "
                     "enter-text-dynamic enter-password focus-text-2 unicode-test").split()
    UNSEEN_TASKS = ["click-test-2", "click-button-sequence", "focus-text"]  # in the test only
    # No seed for two purposes. Below 1,000,000: the article's own (0 ... 49), and those of the
    # few-shot examples (1000 ...).
    SEEDS = {"train": range(1_000_000, 2_000_000), "test": range(2_000_000, 3_000_000)}
    TRIES = 12  # seeds until a page's question is of the wanted half; some pages have only one
    browser = None

    def add_arguments(self, parser):
        parser.add_argument("--tasks", default=",".join(self.DEFAULT_TASKS), metavar="A,B,...",
                            help="web: MiniWoB++ pages, or `all` for the article's 44: "
                                 f"{', '.join(ARTICLE_TASKS)} (default: %(default)s)")
        parser.add_argument("--unseen-tasks", default=",".join(self.UNSEEN_TASKS),
                            metavar="A,B,...",
                            help="web: pages that --split test has besides (default: %(default)s)")

    def make(self, args) -> list[dict]:
        names = ARTICLE_TASKS if args.tasks == "all" else args.tasks.split(",")
        unseen = [name for name in args.unseen_tasks.split(",") if name and name not in names]
        names = names + unseen * (args.split == "test")
        for name in names:
            require_page(name)
        owned = self.SEEDS[args.split]
        seeds = iter(random.Random(f"{args.split} {args.seed}").sample(owned, len(owned)))
        tasks = []
        for number in progress(range(args.num * args.rounds), "web pages"):
            name = names[number % len(names)]  # as many of each as possible
            for _ in range(self.TRIES):
                seed = next(seeds)
                question = self.browse(lambda browser: browser.observe(name, seed))
                if (zlib.crc32(question.encode()) % 2 == 0) == (args.split == "train"):
                    break
            tasks.append({"id": f"web/{name}/{seed}", "env": "web", "question": question,
                          "answer": "success", "task": name, "seed": seed,
                          "group": "unseen" if name in unseen else "known"})
            if args.rounds > 1:
                tasks[-1]["round"] = number // args.num
        return tasks

    def asked(self, text) -> dict:
        """A page's name, with a seed if it is not to be 0: "click-button 7"; the page judges."""
        name, _, seed = text.strip().partition(" ")
        require_page(name, int(seed) if seed.strip().isdigit() else seed or 0)
        task = {"task": name, "seed": int(seed or 0), "answer": "success"}
        return task | {"question": self.browse(lambda browser: browser.observe(name, task["seed"]))}

    def examples(self, task) -> list[dict]:
        """Two worked examples of the same task, on seeds of their own, for the article's pages."""
        return [example for example in known_examples() if example["task"] == task["task"]]

    def complaint(self, task):
        if type(task.get("seed", 0)) is not int:
            return f'"seed" is {task["seed"]!r:.60} (web needs a whole number)'
        return super().complaint(task)

    # ---- child ----

    def run(self, program: str, job: dict) -> str:
        agent = Agent()
        code = compile(program, "<program>", "exec", dont_inherit=True)
        with contextlib.suppress(SystemExit):  # sys.exit() after the actions does no harm
            exec(code, {"__name__": "__main__", "agent": agent})
        return json.dumps(agent.actions, ensure_ascii=True)

    # ---- caller ----

    def compare(self, task, value) -> tuple[str, str]:
        actions = read_actions(value)
        require_page(task["task"], task["seed"])
        if actions is None:
            return "error", "the program's value is not a list of actions"
        try:
            return self.browse(lambda browser: browser.replay(task["task"], task["seed"], actions))
        except BrokenPipeError as error:
            return "error", str(error)

    def browse(self, work):
        """work(browser); once more with a fresh one if the first broke down, not if it was slow."""
        import threading  # here: it would run code in each program's process
        for last in (False, True):
            browser = Web.browser = Web.browser or Browser()
            stop = threading.Event()
            watcher = threading.Thread(target=browser.watch, args=(stop,), daemon=True)
            watcher.start()
            try:
                return work(browser)
            except browser.Error as error:
                fault = str(error).splitlines()[0]
                self.close()
                if browser.was_slow:
                    raise BrokenPipeError("the page took more than "
                                          f"{Browser.CPU_SECONDS:.0f} s") from None
                if last:
                    raise BrokenPipeError(f"the browser broke down, twice ({fault})") from None
            finally:
                stop.set()
                watcher.join()

    def close(self):
        if Web.browser is not None:
            Web.browser.close()
            Web.browser = None

    # ---- stage ----

    def tidy(self, record: dict) -> str:
        """Without actions after the task was done, and without dead code.

        "reward 1.00 after 2 of 5 actions": of five plain statements the first two are kept.
        """
        program = parse_program(record["program"])
        used = re.search(r"^reward \S+ after (\d+) of (\d+) actions$", record.get("result", ""))
        if used:
            program = first_actions(program, int(used[1]), int(used[2]))
        return tidy.tidy(program, ran=record.get("outcome", "correct") in ("correct", "wrong"))

    def canonical(self, record: dict) -> str:
        return tidy.canonical(self.tidy(record))


def first_actions(program: str, used: int, written: int) -> str:
    """The lines of the first `used` actions, where each of `written` statements is one action."""
    try:
        body = ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return program
    plain = [isinstance(one, ast.Expr) and isinstance(one.value, ast.Call)
             and isinstance(one.value.func, ast.Attribute)
             and getattr(one.value.func.value, "id", "") == "agent" for one in body]
    if not all(plain) or len(body) != written or body[used - 1].end_lineno == body[used].lineno:
        return program
    return "\n".join(program.split("\n")[:body[used - 1].end_lineno])


atexit.register(Web().close)
