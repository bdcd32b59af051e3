"""How the threads of a computation wait for one another. Imported before torch.

At the end of each parallel loop OpenMP's threads wait for the slowest, and by default they spin:
on a machine that is busy with other things they burn the very time that the slowest would need.
Asleep at once they lose more than a second thread gains, where loops are as short as here. So they
spin for some microseconds, then sleep (measured in docs/SPEED.md). Settings for the two OpenMP
libraries that torch is built with; what the user has set counts. May import the standard library
only.

And whether there is a torch at all: the wrong Python is told so in one line.
"""
import importlib.util
import os
import sys

if importlib.util.find_spec("torch") is None:
    sys.exit(f"{os.path.basename(sys.argv[0])}: this Python has no torch (source .venv/bin/activate"
             "; bash run.sh makes it)")
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # GNU's: turns of a thread before it sleeps
    os.environ.setdefault("KMP_BLOCKTIME", "0")      # Intel's and LLVM's: milliseconds
