"""What an environment is: the class that Math, Logic, Web and yours derive from, and parse_program.

May import nothing of this project. To add an environment, write one file with a class that derives
from Environment and enter it in ENVS of envs.py; a complete example of 40 lines is in the README.
"""
from __future__ import annotations

import re

STOP = "\n```"  # the closing fence: ends a program and does not belong to it
REQUIRED = object()  # in job_fields: a task without this field cannot be run


class Environment:
    """A kind of task x, the language of its programs a, and the judge of their outcomes y.

    Members are used in three places, and each says in which:
        stage    in explore.py, select.py and the other stages, without any program running
        child    in a fresh, confined process for each program, which is trusted in nothing
        caller   in reward.py, which knows the answer, sees what the child stated, and compares
    """

    fence = ""        # the word after ``` in prompts: it tells the model which language is wanted
    instruction = ""  # one sentence, put before the examples of a few-shot prompt
    job_fields: dict = {}  # what `run` needs of a task: {field: default}, or REQUIRED as default
    formats: dict = {}     # public data sets that can be imported: {name: function(path) -> tasks}
    new_tasks_each_iteration = False  # whether `make` heeds args.rounds (web: new seeds)

    # ---- stage: tasks and prompts ----

    def add_arguments(self, parser):
        """Flags of `envs.py make` that only this environment has."""

    def make(self, args) -> list[dict]:
        """args.num tasks of args.split (train and test are disjoint), the same for one args.seed.

        A task has id (unique), env, question, answer, and the job_fields; see the table in envs.py.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot make tasks, only import them")

    def examples(self, task: dict) -> list[dict]:
        """Worked examples for the few-shot prompt: [{"question", "program", "draft"}].

        A draft is a faulty first attempt, shown in the refinement prompt. Default: none.
        """
        return []

    def asked(self, text: str) -> dict:
        """The task that a text of `explore.py --ask` is: question, job_fields, and `answer` only if
        the environment itself knows whether an outcome is right. Default: the text is the question.
        """
        return {"question": text}

    def complaint(self, task: dict) -> str | None:
        """Why this task cannot be rewarded, with the remedy; None if it can."""
        for field, default in self.job_fields.items():
            if default is REQUIRED and field not in task:
                return f'no "{field}" (envs.py make writes it)'
        answer = task["answer"]
        if isinstance(answer, bool) or not isinstance(answer, (int, float, str)):
            return f'"answer" is {answer!r:.60} (it must be a number or a string)'
        return None

    # ---- child: run the program ----

    def modules(self, program: str) -> tuple:
        """Modules to import before programs run: slow ones, each set gets a server of its own."""
        return ()

    def run(self, program: str, job: dict) -> str:
        """The value that the program states, as text. Raise anything: it becomes an "error".

        job holds the fields that job_fields names. The answer never comes here.
        """
        raise NotImplementedError

    # ---- caller: judge the outcome ----

    def compare(self, task: dict, value: str) -> tuple[str, str]:
        """b = 1[y = value]: ("correct" | "wrong" | "error", what happened, in one line)."""
        return ("correct" if value == str(task["answer"]) else "wrong"), value

    def close(self):
        """Give back what `compare` has opened (a browser)."""

    # ---- stage: what is learned ----

    def tidy(self, record: dict) -> str:
        """The program to learn from: that of a rewarded record, without what does nothing."""
        return parse_program(record["program"])

    def teaches(self, record: dict) -> bool:
        """Whether a right program is a lesson. Default: each is; math leaves `return 42` out."""
        return True

    def canonical(self, record: dict) -> str:
        """Two programs of a task are one solution if this is equal. Default: blanks are one."""
        return " ".join(self.tidy(record).split())


def parse_program(text: str) -> str:
    """The program in what a model wrote: without fences, byte-order mark, CRLF, outer blank lines.

    What is sampled, run and trained on goes through this one function, so all three are the same.

    >>> parse_program("def solution():\\n    return 2\\n```\\n\\nQuestion: ...")
    'def solution():\\n    return 2'
    >>> parse_program("Sure:\\n```python\\nanswer = 1\\n```\\nDone.")
    'answer = 1'
    """
    text = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    before, *blocks = re.split(r"^[ \t]*```", text, flags=re.MULTILINE)
    if blocks:
        # The first fence opens a block if nothing stands before it, or if it is not indented and
        # names a language; else it closes the program, which began without a fence.
        indented = re.search(r"(?:^|\n)[ \t]+\Z", text[:text.index("```")])
        opens = not before.strip() or (re.match(r"\w", blocks[0]) and not indented)
        text = blocks[0].partition("\n")[2] if opens else before
    return text.strip("\n").rstrip()
