"""What a reader of the five stages need not open: see "Where things are" in the README.

Here, and so before anything slow is imported: Ctrl-C is no fault, and ends with one line.
"""
import contextlib
import os
import signal
import sys

stopped = []  # a mark, once Ctrl-C has come: a library that is being imported may swallow it


def stop(number, frame):
    stopped.append(number)
    raise KeyboardInterrupt


def say_stopped(kind, error, trace, otherwise=sys.excepthook):
    """For sys.excepthook: one line instead of a traceback, then the end that a signal makes."""
    if not stopped:
        return otherwise(kind, error, trace)
    if "RUN_SH_SETTINGS" not in os.environ:  # else run.sh says it
        clear = "\r\033[K" if sys.stderr.isatty() else ""  # what is left of a progress bar, and ^C
        print(f"{clear}{os.path.basename(sys.argv[0])}: stopped; run the same command again to go "
              "on", file=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)  # exit code 130 to a shell


def mind_ctrl_c():
    """From here on Ctrl-C ends this process with one line, also if it was begun to ignore it."""
    with contextlib.suppress(ValueError):  # not the main thread: whoever imports this sees to it
        signal.signal(signal.SIGINT, stop)
        sys.excepthook = say_stopped


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    mind_ctrl_c()
