"""tests/gpu_check.py runs: with tiny shapes, on a CPU, where it shows what does not need a GPU."""
import json
import subprocess
import sys

from conftest import ROOT


def test_the_check_of_a_gpu_runs_without_one(tmp_path):
    done = subprocess.run([sys.executable, "-W", "ignore", ROOT / "tests" / "gpu_check.py", "--dry", "--out",
                           tmp_path / "gpu.json"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "gpu.json").read_text())["figures"]
    assert figures["programs, recorded against plain"] == "15 of 15 equal"
    assert {name.split(":")[0].split(" ")[0] for name in figures} >= {"log-probability", "train", "tiny", "training"}
