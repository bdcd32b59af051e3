"""A teacher's programs instead of one's own samples: from a file or an OpenAI-compatible server.

The server gets the prompt of explore.py's first iteration, one request a program, and is trusted in
nothing: it may be slow, wrong, overloaded or gone. May import environment and records.
"""
from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from nanoenvisions.environment import parse_program
from nanoenvisions.records import (Output, add_metrics, complaint, fail, fingerprint, progress,
                                   read_jsonl)

KEY = "TEACHER_API_KEY"  # environment variable; its value is in no file, message or setting
AT_ONCE = 4              # requests under way together
TRIES = 6                # of one request, with pauses of about 1, 2, 4, 8 and 16 ...
FIRST_PAUSE = 1.0        # seconds
LONGEST_PAUSE = 60       # seconds, whatever the server asks for
LONGEST_REPLY = 1 << 20  # bytes
TEMPORARY = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # worth another try


def add_arguments(parser):
    """The flags of explore.py that name a teacher."""
    add = parser.add_argument
    add("--teacher-url", help="a teacher's server writes the programs, http://localhost:8000/v1; "
                              f"its key, if it wants one, is in the environment variable {KEY}")
    add("--teacher-model", help="name of the model that the server is asked for")
    add("--teacher-limit", type=int, default=1000, help="most requests, those tried again included")
    add("--teacher-timeout", type=float, default=120, help="seconds to wait for one reply")
    add("--teacher-file", help="or a file has them: lines with program and id, or question")


def check_arguments(args):
    """Fail if what is said of a teacher makes no sense."""
    if args.teacher_file and args.teacher_url:
        fail("--teacher-file and --teacher-url: choose one of them")
    if args.teacher_url:
        try:
            parts = urllib.parse.urlsplit(args.teacher_url)
        except ValueError as error:
            fail(f"--teacher-url {args.teacher_url}: {error}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            fail("--teacher-url must be like http://localhost:8000/v1, without name and password")
        if not args.teacher_model:
            fail("--teacher-url needs --teacher-model, the name that the server knows it by")
        if args.teacher_limit < 1 or not args.teacher_timeout > 0:
            fail("--teacher-limit must be at least 1, --teacher-timeout above 0")
    if args.teacher_file and not os.path.isfile(args.teacher_file):
        fail(f"--teacher-file {args.teacher_file}: there is no such file")


def programs_to_file(args, tasks, make_prompt, make_record):
    """Write what explore.py would, by the teacher: records without logprob.

    make_prompt(task, k), make_record(task, k): of its k-th program, as for sample_to_file
    """
    started = time.time()
    jobs = [(task, k) for k in range(args.num_samples) for task in tasks]  # a first one for all
    settings = {key: value for key, value in vars(args).items()
                if key not in ("out", "metrics", "inputs", "teacher_limit", "teacher_timeout")}
    settings |= {"stage": "teacher", "inputs": fingerprint(*args.inputs)}
    if args.teacher_file:
        settings["teacher"] = fingerprint(args.teacher_file)
        given = given_programs(args.teacher_file)
        more = sum(max(0, len(programs_of(given, task)) - args.num_samples) for task in tasks)
        if more:
            print(f"explore: {more:,} programs of {args.teacher_file} are left out: --num-samples "
                  f"is {args.num_samples}")
        jobs = [(task, k) for task, k in jobs if k < len(programs_of(given, task))]
    name = args.teacher_model or os.path.basename(args.teacher_file)
    with Output(args.out, settings) as out:
        records = list(out.done)
        done = {(record["id"], record["candidate"]) for record in records}
        left = [(task, k) for task, k in jobs if (task["id"], k) not in done]
        if args.teacher_file:
            replies = (programs_of(given, task)[k] for task, k in left)
        else:
            asking = Asking(args, args.teacher_limit - len(records))
            replies = asking.replies([(make_prompt(task, k), f"{task['id']} {k}")
                                      for task, k in left])
        # replies first: when they end, they may still have a failure to raise
        for text, (task, k) in zip(progress(replies, "teacher", total=len(left)), left):
            if text is None:  # none came, or none was asked for; those behind it may be there
                continue
            records.append(make_record(task, k) | {"program": parse_program(text), "teacher": name})
            out.write(records[-1])
        if not records:
            fail(f"{args.teacher_file or args.teacher_url}: no program for any of the "
                 f"{len(tasks)} tasks " + ("(its lines need the id or the question of a task)"
                                           if args.teacher_file else "(raise --teacher-limit)"))
        seconds = time.time() - started
        counts = {"stage": "explore", "iteration": records[0]["iteration"],
                  "seconds": round(seconds, 1), "tasks": len({record["id"] for record in records}),
                  "programs": len(records), "teacher": name}
        if not args.teacher_file:
            counts["requests"] = asking.requests
        add_metrics(args.metrics, counts)  # before the output stands: who has it is finished
    print(f"explore: {len(records):,} programs of {name} for {counts['tasks']:,} of {len(tasks):,} "
          f"tasks, {seconds:.0f} s -> {args.out}")
    if len(records) < len(jobs):
        print(f"explore: {len(jobs) - len(records):,} programs were not asked for: "
              f"--teacher-limit is {args.teacher_limit}")


# ------------------------------------------------------------------------------------ The file --

def given_programs(path) -> dict:
    """{("id" or "question", its value): {line: program}} of a teacher's file."""
    def check(row):
        return None if "id" in row or "question" in row else 'no "id" and no "question" (give one)'
    given = collections.defaultdict(dict)
    for line, row in enumerate(read_jsonl(path, ("program",), check=check)):
        for field in {"id", "question"} & set(row):
            given[field, row[field]][line] = row["program"]
    return given


def programs_of(given, task) -> list[str]:
    """What the file has for a task, by its id or its question, in the order of the lines."""
    lines = given.get(("id", task["id"]), {}) | given.get(("question", task["question"]), {})
    return [lines[line] for line in sorted(lines)]


# ---------------------------------------------------------------------------------- The server --

class NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the server that the user named, and nowhere else."""

    def redirect_request(self, *_):
        return None


class Temporary(Exception):
    """A failure that another try may mend; `pause`: seconds that the server asked for."""

    def __init__(self, what, pause=0):
        super().__init__(what)
        self.pause = pause


class Asking:
    """Requests to one server: a few at a time, tried again with pauses, never above the limit."""

    def __init__(self, args, limit: int):
        self.args, self.limit, self.requests = args, limit, 0
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.opener = urllib.request.build_opener(NoRedirect)
        base = args.teacher_url.rstrip("/").removesuffix("/chat/completions")
        self.url = f"{base}{'' if base.endswith('/v1') else '/v1'}/chat/completions"
        self.key = os.environ.get(KEY, "").strip()
        if not self.key.isascii() or not self.key.isprintable() or " " in self.key:
            fail(f"{KEY} has blanks, line ends or other signs that no key has (copy it again)")

    def replies(self, questions):
        """What the server answers to each (prompt, name), in order; None: there is no answer.

        First tries are taken from the limit in the order of the questions. When one question
        fails for good no more are asked, but answers that are under way, and paid for, are kept.
        """
        left, waiting, failure = collections.deque(questions), collections.deque(), None
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                while True:
                    while left and len(waiting) < AT_ONCE and self.may_ask():
                        waiting.append(pool.submit(self.ask, *left.popleft()))
                    if not waiting:
                        break
                    try:
                        text = waiting.popleft().result()
                    except SystemExit as error:
                        text, failure = None, failure or error
                        self.stopped.set()
                    yield text
                if failure:
                    raise failure
            finally:
                self.stopped.set()  # threads that pause give up

    def may_ask(self) -> bool:
        """Whether one more request is allowed; if so, it is counted."""
        with self.lock:
            allowed = self.requests < self.limit and not self.stopped.is_set()
            self.requests += allowed
            return allowed

    def ask(self, prompt: str, name: str) -> str | None:
        """One program's text; None: no request is left for another try. The first is counted."""
        for number in range(TRIES):
            if number and not self.may_ask():
                return None
            try:
                return self.request(prompt, name)
            except Temporary as error:
                what, asked = error, error.pause
            if number < TRIES - 1:
                pause = FIRST_PAUSE * 2 ** number  # not all at once again: each a little otherwise
                pause *= random.Random(f"{name} {number}").uniform(0.7, 1.3)
                self.stopped.wait(min(max(pause, asked), LONGEST_PAUSE))
        fail(f"{self.url}: {what}, {TRIES} times (run again: what it has written is kept)")

    def request(self, prompt: str, name: str) -> str:
        args = self.args
        body = {"model": args.teacher_model, "temperature": args.temperature, "top_p": args.top_p,
                "max_tokens": max(args.max_new_tokens, 512),
                "messages": [{"role": "user", "content": prompt}]}
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        end, said = time.monotonic() + args.teacher_timeout, ""
        try:
            with self.opener.open(request, timeout=args.teacher_timeout) as response:
                return self.text_of(read_whole(response, end))
        except urllib.error.HTTPError as error:
            with contextlib.suppress(OSError, http.client.HTTPException):
                said = error.read(2000).decode("utf-8", "replace")
            what = self.one_line(f"HTTP {error.code} {said}")
            if error.code in TEMPORARY:
                asked = error.headers.get("Retry-After", "")
                raise Temporary(what, int(asked[:6]) if asked.isdecimal() else 0) from None
            fail(f"{self.url}: {what} (check --teacher-url, --teacher-model and {KEY})")
        except (OSError, http.client.HTTPException) as error:  # refused, gone, too slow, cut short
            raise Temporary(self.one_line(getattr(error, "reason", error) or type(error).__name__)
                            ) from None

    def text_of(self, reply: bytes) -> str:
        try:
            text = json.loads(reply)["choices"][0]["message"]["content"]
            if isinstance(text, str):
                return text
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        said = self.one_line(reply[:200].decode("utf-8", "replace"))
        raise Temporary(f"no choices[0].message.content in its reply: {said}")

    def one_line(self, text) -> str:
        """For a message: short, in one line, and without the key, which servers like to quote."""
        text = " ".join(str(text).split())
        return (text.replace(self.key, "***") if self.key else text)[:200]


def read_whole(response, end: float) -> bytes:
    """The body, unless it takes longer than `end` or never ends."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > end:
            raise TimeoutError("timed out")
        if size > LONGEST_REPLY:
            raise OSError(f"more than {LONGEST_REPLY} bytes")
    return b"".join(parts)
