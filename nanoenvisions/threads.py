"""How the threads of a computation wait for one another. Imported before torch.

At the end of each parallel loop OpenMP's threads wait for the slowest, and by default they spin:
on a machine that is busy with other things they burn the very time that the slowest would need.
Asleep they lose a few microseconds a loop. Two settings, for the two OpenMP libraries that torch is
built with; what the user has set counts. May import the standard library only.

And whether there is a torch at all: the wrong Python is told so in one line.
"""
import importlib.util
import os
import sys

if importlib.util.find_spec("torch") is None:
    sys.exit(f"{os.path.basename(sys.argv[0])}: this Python has no torch (source .venv/bin/activate"
             "; bash run.sh makes it)")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # GNU's, and any other that keeps the standard
os.environ.setdefault("KMP_BLOCKTIME", "0")          # Intel's and LLVM's
