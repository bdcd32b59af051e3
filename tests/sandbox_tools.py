"""What the tests of the sandbox share."""
import ctypes
from pathlib import Path

import envs


def run(programs, **settings):
    jobs = [{"env": "math", "program": program} for program in programs]
    return list(envs.run_programs(jobs, **settings))


def children():
    """Child processes of this one, once it is the new parent of its orphaned descendants."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}
