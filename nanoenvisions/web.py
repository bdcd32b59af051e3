"""Web: MiniWoB++ pages in a real browser.

May import environment, packages, records and tidy.
"""
from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import random
import re
import signal
import sys
import tempfile
import zlib

from nanoenvisions.environment import REQUIRED, Environment
from nanoenvisions.packages import fetch_package
from nanoenvisions.records import HERE, fail, progress

# A task is one MiniWoB++ page and a seed; the program acts on it through `agent`. In the sandbox `agent` only writes
# down what it is told (its methods return nothing, so no program can need the page). Afterwards the written actions
# are checked and replayed in a real browser with trusted mouse and keyboard events, and the page itself says whether
# the task was done. So model-written code never runs beside the browser, and cannot reach the reward.

MINIWOB = ("miniwob", "1.1.0", "297006e84219d56ad037e843527ed773a4a82509dc43b6031ec4a3ad3e3e61d9")  # its pages: MIT
PAGES = "miniwob/html/miniwob"  # where they lie in the wheel
ARTICLE_TASKS = """choose-date choose-list click-button click-button-sequence click-checkboxes click-checkboxes-large
    click-checkboxes-soft click-checkboxes-transfer click-collapsible click-color click-dialog click-dialog-2 click-link
    click-option click-scroll-list click-shades click-shape click-tab click-test click-test-2 click-widget copy-paste
    copy-paste-2 enter-date enter-password enter-text enter-text-dynamic enter-time focus-text focus-text-2
    guess-number identify-shape multi-layouts multi-orderings navigate-tree read-table search-engine simple-algebra
    simple-arithmetic social-media-all text-transform unicode-test use-slider use-spinner""".split()
MAX_ACTIONS = 100
LONGEST = {"click_xpath": 500, "click_option": 500, "movemouse": 500, "type": 200, "press": 20}  # characters
KEYS = {"enter": "Enter", "space": "Space", "backspace": "Backspace", "arrowleft": "ArrowLeft",
        "arrowright": "ArrowRight", "arrowup": "ArrowUp", "arrowdown": "ArrowDown", "command+a": "ControlOrMeta+a",
        "command+c": "ControlOrMeta+c", "command+v": "ControlOrMeta+v"}  # the article's name -> Playwright's
GET_CHROMIUM = ("on Debian: apt-get install chromium-headless-shell; elsewhere: python -m playwright install "
                "--with-deps --only-shell chromium; or set CHROMIUM=/path/to/chromium")


class Agent:
    """What a program knows as `agent`. Writes down [["click_xpath", "//*[@id='tt']"], ["type", "Ada"], ...]."""

    def __init__(self):
        self.actions = []

    def _write(self, verb, text):
        call = f"call {len(self.actions) + 1}, agent.{verb}({str(text)[:60]!r}):"
        if isinstance(text, (int, float)):  # agent.type(7) is clear enough
            text = str(text)
        if not isinstance(text, str):
            raise TypeError(f"{call} needs a string")
        if len(text) > LONGEST[verb]:
            raise ValueError(f"{call} longer than {LONGEST[verb]} characters")
        if verb == "press" and text not in KEYS:
            raise ValueError(f"{call} no such key (the keys are {', '.join(KEYS)})")
        if len(self.actions) == MAX_ACTIONS:
            raise ValueError(f"{call} more than {MAX_ACTIONS} actions")
        self.actions.append([verb, text])

    click_xpath = functools.partialmethod(_write, "click_xpath")    # click on every element that the XPath selects
    click_option = functools.partialmethod(_write, "click_option")  # choose an <option> of a list
    movemouse = functools.partialmethod(_write, "movemouse")
    type = functools.partialmethod(_write, "type")                  # into whatever has the focus
    press = functools.partialmethod(_write, "press")


class Browser:
    """One Chromium, kept open from episode to episode; every episode loads its page afresh (40-60 ms).

    Its profile and temporary files lie in a private folder. A watcher outside deletes the folder when this process
    ends, however it ends; Chromium itself ends when its pipe to us closes. No network port is opened.
    """
    PATIENCE = 15.0  # seconds until an episode counts as hung and the browser is killed
    WATCHER = 'cat; for try in 1 2 3 4 5 6 7 8 9; do rm -rf "$0"; sleep 0.3; [ -e "$0" ] || break; done'

    def __init__(self):
        import subprocess  # here: the sandbox forks its server for every program: it stays light
        try:
            from playwright.sync_api import Error, sync_playwright
        except ImportError:
            fail("the web environment needs playwright (pip install playwright)")
        self.Error = Error
        self.pages = fetch_package(*MINIWOB) / PAGES
        self.folder = tempfile.mkdtemp(prefix="nanoenvisions-web-")
        self.watcher = subprocess.Popen(["sh", "-c", self.WATCHER, self.folder], stdin=subprocess.PIPE,
                                        start_new_session=True)  # `cat` ends when we do; the session outlives Ctrl-C
        before = os.environ.get("TMPDIR")
        try:
            os.environ["TMPDIR"] = self.folder  # inherited by Playwright's helper process
            self.playwright = sync_playwright().start()
            self.chromium = self._launch()
            processes = self.chromium.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
            self.pid = next(process["id"] for process in processes if process["type"] == "browser")
            context = self.chromium.new_context(viewport={"width": 500, "height": 320}, locale="en-US")
            context.grant_permissions(["clipboard-read", "clipboard-write"])
            context.add_init_script(path=HERE / "data" / "web_page.js")
            self.page = context.new_page()  # dismisses alerts by itself
        except Error as error:
            self.close()
            fail(f"no working Chromium: {str(error).strip().splitlines()[0]} ({GET_CHROMIUM})")
        finally:
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before

    def _launch(self):
        # Debian's programs themselves, not the scripts in /usr/bin; with None Playwright takes its own download.
        debian = ["/usr/lib/chromium/chromium-headless-shell", "/usr/lib/chromium/chromium"]
        path = os.environ.get("CHROMIUM") or next(filter(os.path.exists, debian), None)
        options = dict(executable_path=path, env={**os.environ, "HOME": self.folder},
                       args=["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-sync"])  # the pages are local files
        if os.geteuid() != 0:
            try:
                return self.playwright.chromium.launch(chromium_sandbox=True, **options)
            except self.Error as error:
                if "sandbox" not in str(error).lower():
                    raise
                print("web: this system forbids Chromium's own sandbox; going on without it", file=sys.stderr)
        return self.playwright.chromium.launch(chromium_sandbox=False, **options)  # root cannot have it

    def open(self, task: str, seed: int):
        """Begin the episode `seed` of a task."""
        self.page.goto((self.pages / f"{task}.html").as_uri())
        self.page.evaluate("seed => nano.start(seed)", seed)

    def observe(self, task: str, seed: int) -> str:
        """What the model sees: the task in words, then the page. No episode stays open while a model thinks."""
        self.open(task, seed)
        return self.page.evaluate("nano.observe()")

    def act(self, verb: str, text: str) -> str | None:
        """One action, with the trusted events of a real mouse and keyboard. Returns why it cannot be done, or None."""
        if verb == "type":
            return self.page.keyboard.type(text)
        if verb == "press":
            return self.page.keyboard.press(KEYS[text])
        acted = False
        for index in range(self.page.evaluate("xpath => nano.find(xpath)", text)):  # like the article: on each of them
            if verb != "movemouse" and self.page.evaluate("index => nano.choose(index)", index):
                acted = True
                continue
            place = self.page.evaluate("index => nano.place(index)", index)
            if place is None or verb == "click_option":
                continue
            self.clicks += 1
            if self.clicks > MAX_ACTIONS:
                return f"more than {MAX_ACTIONS} elements to click"
            (self.page.mouse.move if verb == "movemouse" else self.page.mouse.click)(*place)
            acted = True
        if not acted:
            return "not an <option> of a list" if verb == "click_option" else "no such element is visible"

    def replay(self, task: str, seed: int, actions: list) -> tuple[str, str]:
        """Do the actions on a fresh page. ("correct" | "wrong" | "error", what happened)"""
        self.open(task, seed)
        self.clicks, fault = 0, None
        if ["press", "command+v"] in actions:  # nothing from an earlier episode may be pasted
            self.page.evaluate("navigator.clipboard.writeText('')")
        for number, (verb, text) in enumerate(actions, 1):
            try:
                fault = self.act(verb, text)
            except self.Error as error:
                if not self.chromium.is_connected() or "crash" in str(error):
                    raise
                fault = str(error).splitlines()[0].removeprefix("Page.evaluate: ")
            if fault:
                break
        state = self.page.evaluate("nano.state()")
        if state["done"]:  # actions after the end do not matter, whatever they did
            reward = state["reward"]
            return ("correct" if reward > Web.SUCCESS else "wrong"), f"reward {reward:.2f}"
        if not state["here"]:
            return "wrong", "an action left the page of the task"
        if fault:
            return "error", f"action {number} of {len(actions)}, {verb}({text!r}): {fault}"
        return "wrong", f"{len(actions)} actions did not finish the task"

    def kill(self):
        """End a browser that hangs: every call that waits for it then raises."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self):
        for end in (getattr(self, "chromium", None), getattr(self, "playwright", None)):
            with contextlib.suppress(Exception):  # it may be dead already; the watcher clears up in any case
                end.stop() if hasattr(end, "stop") else end.close()
        self.watcher.stdin.close()
        self.watcher.wait()


def require_page(name: str, seed: int = 0):
    """Fail where a task cannot be one: its name becomes a path, and only whole numbers seed a page for good."""
    if not re.fullmatch(r"[a-z0-9-]+", str(name)) or not (fetch_package(*MINIWOB) / PAGES / f"{name}.html").exists():
        fail(f"no MiniWoB++ task {name!r} (choose from {', '.join(ARTICLE_TASKS)})")
    if type(seed) is not int:
        fail(f"the seed of a web task is {seed!r} (it must be a whole number: make the tasks with envs.py make)")


@functools.cache
def known_examples():
    return json.loads((HERE / "data" / "web_examples.json").read_text(encoding="utf-8"))


def read_actions(value: str) -> list | None:
    """The actions behind a program's value if they are plain and within the limits. It may state anything.

        '[["type", "Ada"]]' -> [["type", "Ada"]]        '[["goto", "file:///"]]' -> None
    """
    try:
        actions = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if type(actions) is not list or len(actions) > MAX_ACTIONS:
        return None
    for action in actions:
        if type(action) is not list or len(action) != 2 or {type(action[0]), type(action[1])} != {str}:
            return None
        verb, text = action
        if verb not in LONGEST or len(text) > LONGEST[verb] or (verb == "press" and text not in KEYS):
            return None
    return actions


class Web(Environment):
    fence = "agent"  # after "python" a small model writes functions, not actions
    instruction = "Do the task on the web page with agent.click_xpath(xpath), agent.type(text) and the like."
    job_fields = {"task": REQUIRED, "seed": REQUIRED}  # for compare()
    new_tasks_each_iteration = True
    # Short pages with something to learn; the four shortest of the article have one program for all seeds.
    DEFAULT_TASKS = ("click-button click-link click-option click-dialog-2 choose-list enter-text enter-text-dynamic "
                     "enter-password focus-text-2 unicode-test").split()
    UNSEEN_TASKS = ["click-test-2", "click-button-sequence", "focus-text"]  # in the test only
    # No seed for two purposes. Below 1,000,000: the article's own (0 ... 49) and the few-shot examples' (1000 ...).
    SEEDS = {"train": range(1_000_000, 2_000_000), "test": range(2_000_000, 3_000_000)}
    TRIES = 12  # seeds until a page shows a question of the wanted half; a few pages have one question for all seeds
    SUCCESS = 0.8  # the page's raw reward is -1 ... 1; the article asks for more than this
    browser = None

    def add_arguments(self, parser):
        parser.add_argument("--tasks", default=",".join(self.DEFAULT_TASKS), metavar="A,B,...",
                            help="web: MiniWoB++ pages, or `all` for the article's 44 (default: %(default)s)")
        parser.add_argument("--unseen-tasks", default=",".join(self.UNSEEN_TASKS), metavar="A,B,...",
                            help="web: pages that --split test has besides (default: %(default)s)")

    def make(self, args) -> list[dict]:
        names = ARTICLE_TASKS if args.tasks == "all" else args.tasks.split(",")
        unseen = [name for name in args.unseen_tasks.split(",") if name and name not in names]
        names = names + unseen * (args.split == "test")
        for name in names:
            require_page(name)
        pool = self.SEEDS[args.split]
        seeds = iter(random.Random(f"{args.split} {args.seed}").sample(pool, len(pool)))
        tasks = []
        for number in progress(range(args.num * args.rounds), "web pages"):
            name = names[number % len(names)]  # as many of each as possible
            for _ in range(self.TRIES):
                seed = next(seeds)
                question = self.browse(lambda browser: browser.observe(name, seed))
                if (zlib.crc32(question.encode()) % 2 == 0) == (args.split == "train"):
                    break
            tasks.append({"id": f"web/{name}/{seed}", "env": "web", "question": question, "answer": "success",
                          "task": name, "seed": seed, "group": "unseen" if name in unseen else "known"})
            if args.rounds > 1:
                tasks[-1]["round"] = number // args.num
        return tasks

    def examples(self, task) -> list[dict]:
        """Two worked examples of the same task, on seeds of their own; none for pages that are not the article's."""
        return [example for example in known_examples() if example["task"] == task["task"]]

    def run(self, program: str, job: dict) -> str:
        agent = Agent()
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__", "agent": agent})
        return json.dumps(agent.actions, ensure_ascii=True)

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
        """work(browser); with a fresh browser once more if the first broke down or hung."""
        import threading  # here: it would run code in each program's process
        for _ in range(2):
            browser = Web.browser = Web.browser or Browser()
            guard = threading.Timer(Browser.PATIENCE, browser.kill)
            guard.daemon = True
            guard.start()
            try:
                return work(browser)
            except browser.Error as error:
                fault = str(error).splitlines()[0]
                self.close()
            finally:
                guard.cancel()
        raise BrokenPipeError(f"the browser broke down or hung for {Browser.PATIENCE:.0f} s, twice ({fault})")

    def close(self):
        if Web.browser is not None:
            Web.browser.close()
            Web.browser = None


atexit.register(Web().close)
