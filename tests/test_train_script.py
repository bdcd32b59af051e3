"""train.py as people start it: what it refuses, what it never deletes, what it writes."""
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
from conftest import ROOT, run_stage

import envs
import train
from nanoenvisions import adapters


@pytest.fixture
def row_file(tmp_path):
    path = tmp_path / "sft.jsonl"
    path.write_text("".join(
        envs.dump({"prompt": f"Question: How many are {i}?\n```python\n", "kind": "solve",
                   "id": str(i), "completion": f"def solution():\n    return {i}\n```"})
        for i in range(1, 10)))
    return path


@pytest.fixture(scope="session")
def adapter(tiny_model, tmp_path_factory):
    """A folder as PEFT itself writes it, model card included."""
    import peft
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear",
                                                       task_type="CAUSAL_LM"))
    folder = tmp_path_factory.mktemp("peft") / "adapter"
    model.save_pretrained(folder)
    assert (folder / "README.md").exists()
    return folder


def tree(folder) -> dict:
    """Every file under a folder with its bytes, links and empty folders too."""
    return {str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else
            path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")}


# ------------------------------------------------------------------------------- Nothing is lost --

def thesis(place, adapter):
    place.mkdir()
    (place / "thesis.tex").write_text("five years")


def an_adapter_and_a_thesis(place, adapter):
    shutil.copytree(adapter, place)
    (place / "thesis.tex").write_text("five years")


def an_adapter_and_a_folder(place, adapter):
    shutil.copytree(adapter, place)
    (place / "checkpoint-1").mkdir()


def an_adapter_and_a_hidden_file(place, adapter):
    shutil.copytree(adapter, place)
    (place / ".notes").write_text("mine")


def an_adapter_that_somebody_described(place, adapter):
    shutil.copytree(adapter, place)
    card = place / "README.md"
    card.write_text(card.read_text().replace("## Uses", "## Uses\n\nSolves word problems."))


def an_adapter_with_a_licence_in_its_card(place, adapter):
    shutil.copytree(adapter, place)
    card = place / "README.md"
    card.write_text(card.read_text().replace("library_name", "license: mit\nlibrary_name", 1))


def another_configuration(place, adapter):
    place.mkdir()
    (place / "adapter_config.json").write_text('{"network adapter": "eth0"}')


def weights_alone(place, adapter):
    place.mkdir()
    (place / "adapter_model.bin").write_text("of something else")


def a_file(place, adapter):
    place.write_text("five years")


def a_link_to_an_adapter(place, adapter):
    shutil.copytree(adapter, place.with_name("kept"))
    place.symlink_to("kept")


def a_link_to_nothing(place, adapter):
    place.symlink_to("nowhere")


def an_adapter_of_links(place, adapter):
    shutil.copytree(adapter, place)
    os.rename(place / "adapter_model.safetensors", place.with_name("weights"))
    (place / "adapter_model.safetensors").symlink_to(place.with_name("weights"))


def a_run(place, adapter):
    (place / "iter0").mkdir(parents=True)
    shutil.copytree(adapter, place / "iter0/adapter")
    (place / "metrics.jsonl").write_text("{}\n")


def refusal(row_file, out, *flags) -> str:
    """What train.py says to an --out, before it looks for the model: there is none of that name.

    Called here; a process for each case would take minutes.
    """
    with pytest.raises(SystemExit) as stop:
        train.main(["--in", str(row_file), "--out", str(out), "--model", "no such model",
                    *map(str, flags)])
    assert len(str(stop.value).splitlines()) == 1
    return str(stop.value)


@pytest.mark.parametrize("name", ["out", "out.part", "out.old"])
@pytest.mark.parametrize("what", [
    thesis, an_adapter_and_a_thesis, an_adapter_and_a_folder, an_adapter_and_a_hidden_file,
    an_adapter_that_somebody_described, an_adapter_with_a_licence_in_its_card, a_file,
    a_link_to_an_adapter, a_link_to_nothing, an_adapter_of_links, a_run, another_configuration,
    weights_alone])
def test_what_is_no_adapter_is_neither_deleted_nor_overwritten(tmp_path, row_file, adapter, what,
                                                               name):
    if what in (another_configuration, weights_alone) and name != "out":
        return  # half an adapter, as a kill leaves it under these two names
    (tmp_path / "work").mkdir()
    what(tmp_path / "work" / name, adapter)
    before = tree(tmp_path / "work")
    assert "will not be removed" in refusal(row_file, tmp_path / "work/out")
    assert tree(tmp_path / "work") == before


@pytest.mark.parametrize("out", [".", "..", "../..", "/", "", "iter0/..", "iter0/.", "../math"])
def test_no_folder_of_a_clone_or_a_run_is_replaced(tmp_path, row_file, adapter, monkeypatch, out):
    """From inside of a run, and of an empty folder."""
    a_run(tmp_path / "runs/math", adapter)
    (tmp_path / "empty/iter0").mkdir(parents=True)
    for folder in ("runs/math", "empty"):
        before = tree(tmp_path)
        monkeypatch.chdir(tmp_path / folder)
        if folder == "empty" and out in ("iter0/.", "../math"):
            continue  # an empty folder, and a name that is free
        assert "--out" in refusal(row_file, out)
        assert tree(tmp_path) == before


def test_a_clone_survives_out_dot(tmp_path, row_file):
    """As people would do it: a copy of the repository, `train.py --out .` in its root."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for path in ROOT.glob("*.py"):
        shutil.copy(path, clone)
    shutil.copytree(ROOT / "nanoenvisions", clone / "nanoenvisions",
                    ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data", clone / "data", ignore=shutil.ignore_patterns("__pycache__"))
    (clone / ".git").mkdir()
    (clone / ".git/HEAD").write_text("ref: refs/heads/main")
    before = tree(clone)
    done = subprocess.run([sys.executable, "-B", "train.py", "--in", row_file, "--out", "."],
                          cwd=clone, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "not a name for a new folder" in done.stderr
    assert tree(clone) == before


def test_what_is_read_or_written_beside_the_adapter_stays(tmp_path, row_file, adapter):
    """--adapter, --in and --metrics must not lie where the new adapter will."""
    shutil.copytree(adapter, tmp_path / "out")
    assert "which is replaced" in refusal(row_file, tmp_path / "out", "--adapter", tmp_path / "out")
    assert "which is replaced" in refusal(row_file, tmp_path / "out", "--metrics",
                                          tmp_path / "out/metrics.jsonl")
    assert "is an input, too" in refusal(row_file, tmp_path / "new", "--metrics", row_file)
    assert tree(tmp_path / "out") == tree(adapter)


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path, row_file):
    (tmp_path / "file").write_text("")
    assert "can be written" in refusal(row_file, tmp_path / "file/out")


@pytest.mark.parametrize("before", ["nothing", "empty", "adapter", "interrupted"])
def test_an_adapter_is_replaced(tmp_path, row_file, tiny_model, adapter, before):
    """... by the two files that count; the base model is named as people elsewhere know it."""
    out = tmp_path / "new/out"
    if before == "empty":
        out.mkdir(parents=True)
    elif before == "adapter":
        shutil.copytree(adapter, out)
    elif before == "interrupted":  # while it wrote the first adapter, and while it removed another
        for place in ("new/out.part", "new/out.old"):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / "adapter_model.safetensors").write_bytes(b"half")
        card = (adapter / "README.md").read_text()
        (tmp_path / "new/out.part/README.md").write_text(card[:card.index("## Uses") + 9])
    done = run_stage("train", "--in", row_file, "--out", f"{out}/", "--model", tiny_model,
                     "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(out.parent)) == ["out"]
    assert sorted(os.listdir(out)) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", tiny_model)


def test_the_embedded_model_is_named_as_on_the_hub(tmp_path, row_file):
    """... not by a path of this machine, which is of no use elsewhere."""
    done = run_stage("train", "--in", row_file, "--limit", 1, "--out", tmp_path / "a",
                     "--epochs", 1)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert str(ROOT) not in json.dumps(config)


def change_and_kill(folder, at, model) -> int:
    """Write an adapter to folder/out, killed before the at-th change below folder; exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes = itertools.count(1)

    def kill(event, args):
        if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            if str(args[0]).startswith(str(folder)) and next(changes) == at:
                os._exit(9)
    sys.addaudithook(kill)
    try:
        adapters.claim(folder / "out")
        adapters.save(model, "base", folder / "out")
        adapters.put_in_place(folder / "out")
        os._exit(0)
    finally:
        os._exit(1)


def test_a_kill_at_any_point_loses_no_adapter(tmp_path, tiny_model, adapter):
    """The old or the new one is whole somewhere; running it again ends with the same files."""
    import peft
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    model = peft.PeftModel.from_pretrained(model, adapter)
    adapters.save(model, "base", tmp_path / "wanted")
    adapters.put_in_place(tmp_path / "wanted")
    wholes = [tree(tmp_path / "wanted"), tree(adapter)]
    for at in itertools.count(1):
        work = tmp_path / str(at)
        work.mkdir()
        shutil.copytree(adapter, work / "out")
        code = change_and_kill(work, at, model)
        assert any(tree(place) in wholes for place in work.glob("out*")), f"lost at change {at}"
        if code == 0:
            break
        assert code == 9
        assert change_and_kill(work, 0, model) == 0
        assert tree(work) == {"out": None} | {f"out/{k}": v for k, v in wholes[0].items()}
    assert at > 6  # the folder was changed so often


# ---------------------------------------------------------------------------------- Bad values --

@pytest.mark.parametrize("line, message", [
    ('{"prompt": "x"}', ':2: no "completion" (select.py writes it)'),
    ('{"prompt": 3, "completion": "x"}', ':2: "prompt" is 3'),
])
def test_bad_rows_are_named(tmp_path, row_file, line, message):
    lines = row_file.read_text().splitlines()
    row_file.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    done = run_stage("train", "--in", row_file, "--out", tmp_path / "a")
    assert done.returncode == 1 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("flags, message", [
    ("--rank 0", "--rank is 0"), ("--rank -4", "--rank is -4"), ("--alpha 0", "--alpha is 0"),
    ("--epochs 0", "--epochs is 0"), ("--batch-size 0", "--batch-size is 0"),
    ("--max-length 0", "--max-length is 0"), ("--micro-tokens 0", "--micro-tokens is 0"),
    ("--width 0", "--width is 0"), ("--min-steps -1", "--min-steps is -1"),
    ("--seed -1", "--seed is -1"), ("--seed 4294967296", "from 0 to 4294967295"),
    ("--limit 0", "--limit is 0"), ("--iteration -1", "--iteration is -1"),
    ("--learning-rate -1", "--learning-rate is -1"), ("--learning-rate 0", "above 0"),
    ("--learning-rate nan", "--learning-rate is nan"), ("--learning-rate inf", "is inf"),
    ("--warmup 1.5", "--warmup is 1.5"), ("--warmup nan", "from 0 to 1")])
def test_bad_values_are_refused_in_one_line(flags, message):
    """Before anything is read: neither the rows nor the model exist."""
    with pytest.raises(SystemExit) as stop:
        train.main(["--in", "no rows", "--model", "no model", "--out", "no/folder", *flags.split()])
    assert message in str(stop.value) and len(str(stop.value).splitlines()) == 1
    assert not os.path.exists("no")


def test_an_empty_prompt_and_prompts_that_are_all_too_long(tmp_path, row_file, tiny_model):
    done = run_stage("train", "--in", row_file, "--model", tiny_model, "--out", tmp_path / "a",
                     "--max-length", 5)
    assert done.returncode == 1 and "every prompt has 5 tokens or more" in done.stderr
    with open(row_file, "a") as file:
        file.write(envs.dump({"prompt": "", "completion": "x"}))
    assert ':10: "prompt" is empty' in refusal(row_file, tmp_path / "a")


def test_an_adapter_of_another_model_or_of_none(tmp_path, row_file, tiny_model, adapter):
    assert "no adapter there" in refusal(row_file, tmp_path / "a", "--adapter", tmp_path)
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    weights = safetensors.torch.load_file(other / "adapter_model.safetensors")
    narrow = {key: one[:, :1] if "lora_A" in key else one[:1] for key, one in weights.items()}
    safetensors.torch.save_file({key: one.contiguous() for key, one in narrow.items()},
                                other / "adapter_model.safetensors", metadata={"format": "pt"})
    assert "it is of another model" in refusal(row_file, tmp_path / "a", "--adapter", other, "--model", tiny_model)


SHORT_OF_MEMORY = """
import resource
import torch, transformers, train
used = 4096 * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (used + 1_500_000_000, resource.RLIM_INFINITY))
train.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process as Linux does")
def test_a_short_memory_is_said_in_one_line(tmp_path, tiny_model):
    """1.5 GB, and a row of 50,000 tokens: their mask alone has 2.5 billion entries."""
    rows = tmp_path / "sft.jsonl"
    rows.write_text(envs.dump({"prompt": "Question: x\n", "completion": "y" * 50_000}))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SHORT_OF_MEMORY, "--in", rows, "--out",
         tmp_path / "a", "--model", tiny_model, "--max-length", "60000", "--bits", "32"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 1 and "out of memory (lower --micro-tokens, now 2048" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "a").exists()


# ----------------------------------------------------------------------------------- As a whole --

def test_training_learns_and_repeats_itself(tmp_path, row_file, tiny_model):
    """The loss falls, the same seed gives the same adapter, and explore.py can use it.

    27 steps of 4 rows are 108 rows, and so are 12 passes over 9 rows: --min-steps 27 with one epoch
    is the same as 12 epochs. (Steps go on over the ends of passes, so no pass ends with a small
    one: 12 epochs were 36 steps before.)
    """
    flags = ["--in", row_file, "--model", tiny_model, "--batch-size", 4, "--learning-rate", 5e-3]
    for name, length in (("one", ("--epochs", 12)), ("two", ("--epochs", 1, "--min-steps", 27))):
        done = run_stage("train", *flags, *length, "--out", tmp_path / name,
                         "--metrics", tmp_path / "m")
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes()
                for name in ("one", "two"))
    assert one == two
    row = json.loads((tmp_path / "m").read_text())
    assert row["loss"] < 0.6 * row["loss_first"] and (row["rows"], row["steps"]) == (9, 27)
    assert f"27 steps, loss {row['loss_first']:.3f} -> {row['loss']:.3f}" in done.stdout
    (tmp_path / "t").write_text(envs.dump({"id": "t", "env": "math", "answer": 7,
                                           "question": "How many are 7?"}))
    done = run_stage("explore", "--in", tmp_path / "t", "--out", tmp_path / "e", "--model",
                     tiny_model, "--adapter", tmp_path / "one", "--max-new-tokens", 40)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("stage", ["train", "explore", "refine"])
def test_idle_threads_soon_sleep(stage):
    """Torch's OpenMP library says how often it spins, and that a user's own setting counts."""
    for own in ({}, {"OMP_WAIT_POLICY": "active"}):
        settings = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
        done = subprocess.run([sys.executable, "-c", f"import {stage}"], cwd=ROOT,
                              capture_output=True, text=True,
                              env={**settings, **own, "OMP_DISPLAY_ENV": "verbose"})
        if "GOMP_SPINCOUNT" not in done.stderr:
            pytest.skip("this torch has another OpenMP library than GNU's")
        assert ("GOMP_SPINCOUNT = '2000'" in done.stderr) == (not own)


def test_no_other_stage_is_imported():
    code = "import sys, train; print(sorted({'explore', 'refine', 'reward'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n"
