"""After a run: a folder that transformers, vLLM, llama.cpp's converter and the hub can take.

The adapter is added to the weights that it was trained on. With BITS=4 these are the rounded ones,
unpacked: added to the original weights, which are others, it is no longer the model of the run.
All is written in bfloat16.

Writes  config, weights, tokenizer with our prompt as its chat template, generation_config.json with
        our stop string, README.md (a model card) and Modelfile (for Ollama).

    python data/ship.py --in runs/math --out shipped          # docs/USE.md: how to load it
    python data/ship.py --in runs/math --iteration 2 --out shipped
"""
from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the repository

import envs
from data import tables
from data.runs import read_runs
from nanoenvisions.environment import STOP
from nanoenvisions.flags import Parser, whole
from nanoenvisions.folders import HUB_NAME, check_folders, read_run


def prompt_around(env: str) -> tuple[str, str]:
    """What stands before and behind a question: the prompt is written in envs.py alone."""
    before, _, behind = envs.ask(envs.ENVS[env], "\0").partition("\0")
    return before, behind


def chat_template(tokenizer, env: str) -> str:
    """Our prompt as a chat's: the last message is the question, what came before is left out."""
    before, behind = prompt_around(env)
    starts = tokenizer.bos_token if tokenizer("a").input_ids[0] == tokenizer.bos_token_id else ""
    return ("{{ " + json.dumps((starts or "") + before) + " + messages[-1]['content'] + "
            + json.dumps(behind) + " }}")


def modelfile(env: str, longest: int) -> str:
    before, behind = prompt_around(env)
    return (f'FROM .\nTEMPLATE """{before}{{{{ .Prompt }}}}{behind}"""\n'
            f'PARAMETER stop "{STOP.strip()}"\nPARAMETER temperature 0\n'
            f"PARAMETER num_predict {longest}\n")


def model_card(run: dict, known: dict, base: str, adapter: str) -> str:
    """README.md: what it is, how it came about, how good it is, and how it is asked."""
    before, behind = prompt_around(known["ENV"])
    embedded, local = base == HUB_NAME, Path(base).is_dir()
    base = Path(base).name if local else base
    head = ["---", *[f"base_model: {base}"] * (not local), "library_name: transformers",
            "pipeline_tag: text-generation", "tags: [nanoenvisions, self-training]",
            *["license: apache-2.0"] * embedded, "---"]
    settings = "\n".join(f"{name}={value}" for name, value in known.items()
                         if value and name != "adapter")
    iterations = run["iterations"]
    curve = tables.aligned(tables.score_table(iterations)) if any(
        "eval" in rows for rows in iterations.values()) else "not evaluated"
    return "\n".join(head) + f"""

# {Path(base).name}, taught by itself

{base} after self-training with nanoENVISIONS: it wrote programs for {known["ENV"]} tasks, an
environment ran them, and it learned from those whose outcome was right (METHOD={known["METHOD"]},
the adapter of {Path(adapter).parent.name}). Its weights are the base model's
{"rounded to 4 bits" if known["BITS"] == "4" else "as they were"}, the adapter added, in bfloat16.

- **Data:** {known.get("DATA") or "tasks that nanoENVISIONS makes itself"}.
- **Licence:** {"Apache-2.0, as the base model's" if embedded else "that of the base model"}.
- **Run what it writes in a sandbox only:** nobody has read these programs.

Held-out accuracy, the model that explores in each iteration:

```
{curve}
```

## How to ask it

The tokenizer's chat template is this prompt; a program ends where a line begins with three
backticks.

````
{before}Mia has 4 pens and buys 3 more. How many pens has she?{behind}````

## Settings

```
{settings}
```
"""


def parse_args(argv=None):
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--in", dest="inputs", required=True, metavar="RUN", help="folder of a run: OUT of run.sh")
    add("--out", required=True, metavar="FOLDER", help="folder to make; it must be new")
    add("--iteration", type=whole, metavar="T", help="whose adapter (default: the last)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    out, known = Path(args.out), read_run(args.inputs)
    adapter = known["adapter"] if args.iteration is None else \
        f"{args.inputs}/iter{args.iteration}/adapter"
    if not adapter:
        envs.fail(f"{args.inputs}: no adapter in it yet (let run.sh end an iteration first)")
    if out.exists() and (not out.is_dir() or os.listdir(out)):
        envs.fail(f"{out} is there already, and is not replaced (give --out a new name)")
    base = known.get("MODEL") or None
    check_folders(base, adapter)
    runs = read_runs([args.inputs])

    warnings.simplefilter("ignore", FutureWarning)  # of the libraries
    import torch  # here: what is wrong above is said at once
    from transformers import GenerationConfig
    from nanoenvisions.model import load_model
    from nanoenvisions.rounded import forget_quantiser
    model, tokenizer = load_model(base, adapter, int(known["BITS"]), torch.device("cpu"))
    model = model.to(torch.bfloat16)
    forget_quantiser(model)
    longest = int(known["MAX_NEW_TOKENS"])
    theirs = model.generation_config  # its temperature, say, or repetition penalty is not ours
    model.generation_config = GenerationConfig(
        bos_token_id=theirs.bos_token_id, eos_token_id=theirs.eos_token_id,
        pad_token_id=theirs.pad_token_id, stop_strings=[STOP], do_sample=False,
        max_new_tokens=longest)
    tokenizer.chat_template = chat_template(tokenizer, known["ENV"])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".ship-") as scratch:
            whole_one = Path(scratch) / "whole"
            model.save_pretrained(whole_one)
            tokenizer.save_pretrained(whole_one)
            card = model_card(runs[0], known, base or HUB_NAME, adapter)
            (whole_one / "README.md").write_text(card, encoding="utf-8")
            (whole_one / "Modelfile").write_text(modelfile(known["ENV"], longest), encoding="utf-8")
            if out.exists():
                out.rmdir()  # empty
            os.rename(whole_one, out)
    except OSError as error:
        envs.fail(f"{out}: {error.strerror or error} (free some space, or choose another --out)")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"ship: {adapter} in {base or HUB_NAME}, {size / 1e6:,.0f} MB -> {out} (docs/USE.md says "
          "how to load it)")


if __name__ == "__main__":
    main()
