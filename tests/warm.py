"""A Python that has torch and its like imported already, for tests that start many stages.

    python tests/warm.py FOLDER      serves on FOLDER/socket; FOLDER/python is used like a python;
                                     ends when its stdin does, and removes FOLDER

FOLDER/python hands its arguments, environment and open files to the server, which forks; the child
runs the script. A stage so starts in a tenth of a second instead of seconds. Everything else is as
ever: a process of its own for each stage, its exit code, its files. Not for tests that kill.
"""
import atexit
import io
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import traceback
import warnings

CLIENT = """#!{python} -ISE
import json, os, socket
import sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
code = server.recv(1)
os._exit(code[0] if code else 1)
"""


def run(words, folder):
    """What `python WORDS` does, as far as run.sh needs it: -W ignore, -c CODE, -m MODULE or SCRIPT, arguments."""
    if words[0] == "-W":
        warnings.simplefilter(words[1])
        words = words[2:]
    if words[0] == os.environ.get("WARM_SKIPS"):  # a script that the caller does not need
        return
    os.chdir(folder)
    if words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], folder
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")


def child(connection):
    """In the fork: take over the caller's files, run the script, send its exit code back."""
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    request = b""
    while len(request) < int.from_bytes(length, "big"):
        request += connection.recv(1 << 16)
    words, folder, environment = json.loads(request)
    for target, file in enumerate(files):
        os.dup2(file, target)
    sys.stdout, sys.stderr = (io.TextIOWrapper(open(number, "wb", closefd=False), line_buffering=True)
                              for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    code = 0
    try:
        run(words, folder)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(bytes([code]))
    os._exit(code)


def main(folder):
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401
    transformers.logging.disable_progress_bar()
    path, script = os.path.join(folder, "socket"), os.path.join(folder, "python")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    with open(script, "w") as file:
        file.write(CLIENT.format(python=sys.executable, path=path))
    os.chmod(script, 0o755)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    print("ready", flush=True)
    waiting = selectors.DefaultSelector()
    for file in (server, sys.stdin):
        waiting.register(file, selectors.EVENT_READ)
    while True:
        if any(key.fileobj is sys.stdin for key, _ in waiting.select()):
            shutil.rmtree(folder)
            return
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            child(connection)
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
