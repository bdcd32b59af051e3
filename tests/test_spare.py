"""nanoenvisions/spare.py: the next stage's Python is made ready while a stage runs, and changes nothing but the time."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

STAGE = """
import json, os, signal, sys
print(json.dumps({"argv": sys.argv, "torch": "torch" in sys.modules, "path": sys.path[0], "name": __name__,
                  "where": os.environ["RUN_SH_WHERE"], "parent": os.getppid(), "stdin": sys.stdin.read()}), flush=True)
if "--wait" in sys.argv:
    import time
    time.sleep(60)
sys.exit(int(sys.argv[1]))
"""
ODD = ["two words", "a\nline", "", "ü", "$HOME", "*"]


@pytest.fixture
def stages(tmp_path):
    """stages("go ..."): a shell that has setup.sh, a stage that tells what it was given, and no other iteration."""
    (tmp_path / "stage.py").write_text(STAGE)

    def start(commands):
        return subprocess.Popen(
            ["bash", "-c", "set -euo pipefail\n. nanoenvisions/setup.sh\n"
             f"t=0 ITERS=1 OUT={tmp_path} PYTHON={sys.executable} stage={tmp_path}/stage.py\n{commands}"],
            cwd=ROOT, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, env={**os.environ, "RUN_SH_SETTINGS": "", "RUN_SH_WHERE": ""},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    return start


def ended(process, code=0):
    said, errors = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in errors, errors
    return [json.loads(line) for line in said.splitlines()], errors


def runs(number: str) -> bool:
    """Whether a process has not ended; one that nobody has asked how it ended (Z) has."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_the_second_stage_gets_what_the_first_gets_and_torch(stages, tmp_path):
    words = " ".join(f"$'{word}'" if "\n" not in word else r"$'a\nline'" for word in ODD)
    (first, second), errors = ended(stages(
        f'export RUN_SH_WHERE="iteration 0, "; go "$stage" 0 {words}\n'
        f'export RUN_SH_WHERE="iteration 1, "; t=1; go "$stage" 0 {words}'))
    assert first["argv"] == second["argv"] == [str(tmp_path / "stage.py"), "0", *ODD] and not errors
    assert (first["torch"], second["torch"]) == (False, True)
    assert (first["where"], second["where"]) == ("iteration 0, ", "iteration 1, ")
    assert first["parent"] == second["parent"] and second["stdin"] == "" and second["name"] == "__main__"


def test_a_stage_that_fails_ends_the_run_with_its_code(stages, tmp_path):
    lines, _ = ended(stages('go "$stage" 0; go "$stage" 7; go "$stage" 0'), 7)
    assert [line["argv"][1] for line in lines] == ["0", "7"]


def test_none_is_left_over(stages, tmp_path):
    """Neither after the last stage, nor if run.sh is killed and cannot say so: its pipe is closed."""
    process = stages('go "$stage" 0; echo $ready; kill -9 $$')
    first, spare = process.communicate(timeout=120)[0].splitlines()
    until = time.time() + 60
    while runs(spare) and time.time() < until:
        time.sleep(0.05)
    assert not runs(spare)
    process = stages('t=1; go "$stage" 0; echo "[\\"$ready\\"]"')
    assert ended(process)[0][1] == [""]  # the last stage makes none ready
    assert not list(tmp_path.glob(".pipe"))


def test_one_that_was_killed_is_not_missed(stages):
    lines, _ = ended(stages('go "$stage" 0; kill -9 $ready; wait $ready || true; t=1; go "$stage" 0'))
    assert [line["torch"] for line in lines] == [False, False]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_stage_and_the_spare(stages, number, code):
    process = stages('go "$stage" 0; go "$stage" 0 --wait')
    for _ in range(2):
        stage = json.loads(process.stdout.readline())
    assert stage["torch"]
    begun = time.time()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a keyboard does it
    else:
        process.send_signal(number)     # to run.sh alone, as a job scheduler does it
    lines, errors = ended(process, code)
    assert time.time() - begun < 50 and not lines
    assert errors == "run.sh: stopped; run the same command again to go on\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of its group is left


def test_without_a_command_it_says_nothing():
    done = subprocess.run([sys.executable, "-m", "nanoenvisions.spare"], cwd=ROOT, capture_output=True,
                          stdin=subprocess.DEVNULL, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
