"""The next stage's Python, started while a stage works: its imports alone take five seconds.

    python -m nanoenvisions.spare < pipe     imports, then runs the command that comes: words with
                                             NUL between them, a bar's beginning before them

`spare` and `go` of setup.sh start it and send the command. It is a process as any stage's: only its
imports are done. Without a command it ends without a word. May import model and threads.
"""
import os
import runpy
import sys

import nanoenvisions
import nanoenvisions.threads  # noqa: F401  before torch: how its threads wait


def imports():
    """What a stage with a model needs, and nothing that makes a context on a GPU."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401

    from nanoenvisions.model import hush
    hush()
    if not torch.cuda.is_available():  # bitsandbytes, which peft imports, asks a GPU what it is
        import peft  # noqa: F401


def main():
    nanoenvisions.mind_ctrl_c()  # a shell has its background processes ignore it
    imports()
    where, *words = os.fsdecode(sys.stdin.buffer.read()).split("\0")
    if words:
        os.environ["RUN_SH_WHERE"] = where
        sys.argv = words[:-1]  # each word ends with a NUL, also the last
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
