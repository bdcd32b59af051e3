"""One Chromium for all episodes: opens MiniWoB++ pages, shows them, replays actions on them.

May import packages and records. data/web_page.js is its hand in the page.
"""
from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
import time

from nanoenvisions.packages import fetch_package
from nanoenvisions.records import HERE, fail

MINIWOB = ("miniwob", "1.1.0",  # its pages: MIT licence
           "297006e84219d56ad037e843527ed773a4a82509dc43b6031ec4a3ad3e3e61d9")
PAGES = "miniwob/html/miniwob"  # where they lie in the package
MAX_ACTIONS = 100               # of a program, and elements that they click on
SUCCESS = 0.8                   # a page's raw reward is -1 ... 1; the article asks for more
KEYS = {"enter": "Enter", "space": "Space", "backspace": "Backspace", "arrowleft": "ArrowLeft",
        "arrowright": "ArrowRight", "arrowup": "ArrowUp", "arrowdown": "ArrowDown",
        "command+a": "ControlOrMeta+a", "command+c": "ControlOrMeta+c",
        "command+v": "ControlOrMeta+v"}  # the article's name -> Playwright's
GET_CHROMIUM = ("on Debian: apt-get install chromium-headless-shell; elsewhere: python -m "
                "playwright install --with-deps --only-shell chromium; or set CHROMIUM=/path")


class Browser:
    """One Chromium, kept open; every episode loads its page afresh (40-60 ms).

    Its profile and temporary files lie in a private folder. A watcher outside deletes the folder
    when this process ends, however it ends; Chromium itself ends when its pipe to us closes. No
    network port is opened.
    """
    CPU_SECONDS = 15.0    # of the browser's own time, until an episode counts as hung: on a busy
    WALL_SECONDS = 300.0  # machine it may take long; this is for one that hangs without computing
    WATCHER = ('cat; for try in 1 2 3 4 5 6 7 8 9; do rm -rf "$0"; sleep 0.3; '
               '[ -e "$0" ] || break; done')

    def __init__(self):
        import subprocess  # here: the sandbox forks its server for every program: it stays light
        try:
            from playwright.sync_api import Error, sync_playwright
        except ImportError:
            fail("the web environment needs playwright (pip install playwright)")
        self.Error, self.was_slow = Error, False
        self.pages = fetch_package(*MINIWOB) / PAGES
        self.folder = tempfile.mkdtemp(prefix="nanoenvisions-web-")
        self.watcher = subprocess.Popen(["sh", "-c", self.WATCHER, self.folder],
                                        stdin=subprocess.PIPE, start_new_session=True)
        before = os.environ.get("TMPDIR")
        try:
            os.environ["TMPDIR"] = self.folder  # inherited by Playwright's helper process
            self.playwright = sync_playwright().start()
            self.chromium = self._launch()
            self.devtools = self.chromium.new_browser_cdp_session()
            self.pid = next(one["id"] for one in self.processes() if one["type"] == "browser")
            context = self.chromium.new_context(viewport={"width": 500, "height": 320},
                                                locale="en-US")
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
        # Debian's programs themselves, not the scripts in /usr/bin; else Playwright's own download.
        debian = ["/usr/lib/chromium/chromium-headless-shell", "/usr/lib/chromium/chromium"]
        path = os.environ.get("CHROMIUM") or next(filter(os.path.exists, debian), None)
        options = dict(executable_path=path, env={**os.environ, "HOME": self.folder},
                       args=["--host-resolver-rules=MAP * ~NOTFOUND",  # the pages are local files
                             "--disable-sync"])
        if os.geteuid() != 0:
            try:
                return self.playwright.chromium.launch(chromium_sandbox=True, **options)
            except self.Error as error:
                if "sandbox" not in str(error).lower():
                    raise
                print("web: this system forbids Chromium's own sandbox; going on without it",
                      file=sys.stderr)
        # root cannot have it
        return self.playwright.chromium.launch(chromium_sandbox=False, **options)

    def processes(self) -> list[dict]:
        """Chromium's own list: [{"type": "renderer", "id": 4711, "cpuTime": 0.8}, ...]."""
        return self.devtools.send("SystemInfo.getProcessInfo")["processInfo"]

    def cpu_seconds(self) -> float:
        """Processor time of the browser and its helpers so far, by the kernel's account."""
        ticks, family = 0, {self.pid}
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rpartition(") ")[2].split()
                if pid in family or int(fields[1]) in family:  # children have larger numbers
                    family.add(pid)
                    ticks += int(fields[11]) + int(fields[12])  # user and system time
        return ticks / os.sysconf("SC_CLK_TCK")

    def watch(self, stop):
        """In a thread of its own: end the browser if an episode takes too much of its time."""
        begun, before = time.monotonic(), self.cpu_seconds()
        while not stop.wait(1.0):
            if (self.cpu_seconds() - before > self.CPU_SECONDS
                    or time.monotonic() - begun > self.WALL_SECONDS):
                self.was_slow = True
                return self.kill()

    def open(self, task: str, seed: int, hide: bool = False):
        """Begin the episode `seed` of a task; `hide` what is asked, from programs that look."""
        self.page.goto((self.pages / f"{task}.html").as_uri())
        self.page.evaluate("([seed, hide]) => nano.start(seed, hide)", [seed, hide])

    def observe(self, task: str, seed: int) -> str:
        """What the model sees: the task in words, then the page.

        No episode stays open while a model thinks.
        """
        self.open(task, seed)
        return self.page.evaluate("nano.observe()")

    def act(self, verb: str, text: str) -> str | None:
        """One action, with trusted events of mouse and keyboard: why it cannot be done, or None."""
        if verb == "type":
            return self.page.keyboard.type(text)
        if verb == "press":
            return self.page.keyboard.press(KEYS[text])
        acted = False
        # as in the authors' code, on each element that the XPath selects
        for index in range(self.page.evaluate("xpath => nano.find(xpath)", text)):
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
        if acted:
            return None
        option = verb == "click_option"
        return "not an <option> of a list" if option else "no such element is visible"

    def replay(self, task: str, seed: int, actions: list) -> tuple[str, str]:
        """Do the actions on a fresh page: ("correct" | "wrong" | "error", what happened).

        The first action after which the page is done is the last one: see Web.tidy.
        """
        self.open(task, seed, hide=True)
        self.clicks, fault, number, state = 0, None, 0, self.page.evaluate("nano.state()")
        if ["press", "command+v"] in actions:  # nothing from an earlier episode may be pasted
            self.page.evaluate("navigator.clipboard.writeText('')")
        for number, (verb, text) in enumerate(actions, 1):
            try:
                fault = self.act(verb, text)
                state = self.page.evaluate("nano.state()")
            except self.Error as error:
                if not self.chromium.is_connected() or "crash" in str(error):
                    raise
                fault = str(error).splitlines()[0].removeprefix("Page.evaluate: ")
            if fault or state["done"]:
                break
        state = self.page.evaluate("nano.state()")
        if state["done"] and state["here"]:  # not that of a page to which it went
            spare = f" after {number} of {len(actions)} actions" * (number < len(actions))
            done = "correct" if state["reward"] > SUCCESS else "wrong"
            return done, f"reward {state['reward']:.2f}{spare}"
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
            with contextlib.suppress(Exception):  # dead already; the watcher clears up in any case
                end.stop() if hasattr(end, "stop") else end.close()
        self.watcher.stdin.close()
        self.watcher.wait()


def require_page(name: str, seed: int = 0):
    """Fail where a task cannot be one: its name becomes a path, only whole numbers are seeds."""
    plain = re.fullmatch(r"[a-z0-9-]{1,60}", str(name))
    if not plain or not (fetch_package(*MINIWOB) / PAGES / f"{name}.html").exists():
        fail(f"no MiniWoB++ task {name!r} (--tasks all stands for the article's 44, see --help)")
    if type(seed) is not int:
        fail(f"the seed of a web task is {seed!r} (it must be a whole number: make the tasks with "
             "envs.py make)")
