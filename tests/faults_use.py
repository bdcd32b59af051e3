"""Faults of what is around a run: mistakes, asking, shipping, watching, what is out of date. See faults.py."""

FAULTS = {
    ("nanoenvisions/folders.py", "test_mistakes"): [
        ("a file that is cut off passes", "if 8 + length + ends != size:", "if False:", "one_line_before"),
        ("the rank is not looked at", "if rank not in known:", "if False:", "one_line_before"),
        ("the width is not looked at", "wide not in base", "False", "one_line_before"),
        ("A and B are mistaken", 'shape if side[0] == "A" else shape[::-1]', "shape", "that_fit"),
        ("packed numbers are measured", 'if one["dtype"][0] in "BF"}', "}", "packed_weights"),
        ("more layers than the model has pass", "if deeper or base", "if base", "one_line_before"),
        ("a missing piece passes", "if not (folder / name).exists():", "if False:", "in_pieces"),
        ("pieces replace each other", "shapes |= read", "shapes = read", "in_pieces")],
    ("nanoenvisions/folders.py", "test_families"): [
        ("experts are of another rank", ' or ".experts" in layer', "", "was_learned"),
        ("all layers are [out, in]", "wide not in base", 'base["AB".index(side[0]) - 1] != wide', "was_learned")],
    ("nanoenvisions/begin.py", "test_mistakes"): [
        ("swapped letters are far", "(letter, a[i - 2]) == (b[j - 2], other)", "False", "misspelt"),
        ("what is near to two letters off", "edits(name, one) == 1", "edits(name, one) <= 3", "none_of_our"),
        ("short names count", "SHORT = 4", "SHORT = 1", "none_of_our")],
    ("nanoenvisions/setup.sh", "test_mistakes"): [
        ("a typo binds", '[[ -n "$made" ||', "[[ -n x ||", "binds_nobody"),
        ("results bind nobody", '[[ -n "$made" ||', "[[ -n '' ||", "binds_nobody"),
        ("somebody's settings are replaced", '|| "$(head -n 1 "$OUT/settings")" != PRESET=* ]]', "]]", "binds_nobody"),
        ("any Python will do", "sys.version_info < (3, 11)", "sys.version_info < (3, 1)", "before_it_writes")],
    ("nanoenvisions/setup.sh", "test_run"): [
        ("all tests are run with those named", "all=()", ":", "named")],
    ("nanoenvisions/setup.sh", "test_settings"): [
        ("hidden GPUs count", 'if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]', "if false", "torch_will_see"),
        ("a name with a space is two", "IFS=, read -ra", "read -ra", "spaces_and"),
        ("a comma is never in a name", '[[ -z "$1" || -e "${2:-}$1" ||', '[[ -z "$1" ||', "spaces_and"),
        ("the user's own files are not noted", '"import "* | "--test "* |', '"--test "* |', "own_files"),
        ("the value of a left out flag stays", '" --eval-limit" | *" --num-samples") skip=1', '" --eval-limit" | *" --num-samples")',
         "that_it_knows")],
    ("nanoenvisions/methods.sh", "test_settings"): [
        ("no-pool forgets what is solved", "no-pool)      AGAIN=1 ", "no-pool)      ", "explores_solved"),
        ("an equal budget is not", '[ "$BUDGET" = plain ] || AGAIN=1', ":", "equally_many")],
    ("nanoenvisions/setup.sh", "test_spare"): [
        ("the last stage makes a Python ready", '[ "$t" = "$ITERS" ] || spare', "spare", "left_over"),
        ("none is ever made ready", '[ "$t" = "$ITERS" ] || spare', ":", "second_stage"),
        ("one that was killed is sent the command", 'kill -0 "$now" 2> /dev/null || now=""', ":", "killed"),
        ("how the stage ended is forgotten", 'wait "$now"; else', 'wait; else', "with_its_code"),
        ("its pipe stays open", '"$@" >&8\n    exec 8>&-', '"$@" >&8', "second_stage")],
    ("nanoenvisions/spare.py", "test_spare"): [
        ("Ctrl-C does nothing", "nanoenvisions.mind_ctrl_c()", "pass", "signal"),
        ("the bar begins with an older place", 'os.environ["RUN_SH_WHERE"] = where', "pass", "second_stage"),
        ("an empty word is lost", "words[:-1]", "[word for word in words if word]", "second_stage"),
        ("nothing is imported", "    imports()\n    where", "    where", "second_stage")],
    ("nanoenvisions/__init__.py", "test_mistakes"): [
        ("Ctrl-C has a traceback", "if not stopped:", "if True:", "ctrl_c"),
        ("every fault is called a stop", "if not stopped:", "if False:", "keep_their_traceback"),
        ("a stopped stage is a failed one", "os.kill(os.getpid(), signal.SIGINT)", "os._exit(1)", "nothing_is_lost")],
    ("nanoenvisions/adapters.py", "test_mistakes"): [
        ("no room is taken", "os.posix_fallocate(file.fileno(), 0, need)", "pass", "full_disk"),
        ("what was begun stays", "            remove(part)\n        fail(f\"{part}: {error.strerror}, {need",
         "            pass\n        fail(f\"{part}: {error.strerror}, {need", "full_disk")],
    ("nanoenvisions/records.py", "test_mistakes"): [
        ("run.sh is told of flags", "if flags in settings:", "if False:", "own_words"),
        ("that another OUT is needed is not said", 'if {*named} - {"OUT", "IN", "METRICS"}:', "if False:", "own_words")],
    ("nanoenvisions/ask.py", "test_ask"): [
        ("the vote knows no 7.0", '{**task, "answer": value}, one["value"])[0] == "correct"',
         '{**task, "answer": value}, one["value"])[0] == "right"', "one_answer"),
        ("words have a vote each", 'one["value"] == value or ', "", "one_answer"),
        ("programs that failed vote", 'if one["status"] != "ok":\n            continue', "if False:\n            continue",
         "one_answer"),
        ("the fewest votes win", "(-len(camp), -max", "(len(camp), -max", "counts_every or one_answer"),
        ("of equal camps the unlikelier wins", "-len(camp), -max", "-len(camp), max", "one_answer"),
        ("an adapter gets examples", "few_shot=not args.adapter", "few_shot=True", "no_examples"),
        ("one program is drawn", "if args.num_samples == 1:", "if False:", "says_how")],
    ("nanoenvisions/folders.py", "test_ask"): [
        ("iter9 is after iter10", "max(numbers)", "max(map(str, numbers))", "says_how")],
    ("nanoenvisions/logic.py", "test_ask"): [
        ("questions stay where they are", 'lines.sort(key=lambda line: line.endswith("?"))', "pass", "in_sentences")],
    ("data/ship.py", "test_ship"): [
        ("the base model is shipped", "load_model(base, adapter, int", "load_model(base, None, int", "same_tokens"),
        ("no stop string", "stop_strings=[STOP], ", "", "same_tokens"),
        ("the weights stay float32", "model = model.to(torch.bfloat16)", "model = model.float()", "plain_bfloat16"),
        ("another prompt", '+ json.dumps(behind) + " }}"', '+ " }}"', "same_tokens"),
        ("what is there is replaced", "if out.exists() and (not", "if False and (not", "cannot_be")],
    ("nanoenvisions/watch.py", "test_watch"): [
        ("the change is to the first iteration", 'row["iteration"] == iteration - 1', 'row["iteration"] == 0', "by_hand"),
        ("one iteration too many is left", "(of - iteration - 1) * took", "(of - iteration) * took", "by_hand"),
        ("a resumed iteration took no time", "took = max(seconds, sum", "took = min(seconds, sum", "resumed"),
        ("groups are left out of the log", "if isinstance(value, dict):", "if False:", "numbers_are")],
    ("run.sh", "test_stale"): [
        ("noted when it has ended", 'made "$output" "$@"; start "$@";', 'start "$@"; made "$output" "$@";', "outlives")],
    ("nanoenvisions/stale.py", "test_stale"): [
        ("a docstring is code", 'body[0].value.value = ""', "pass", "said_and_redone"),
        ("only a stage's own file is code", "            for other in uses[file]:\n                reach(other, seen)\n        return",
         "        return", "said_and_redone"),
        ("what follows is fresh", "elif any(one in stale for one in inputs):", "elif False:", "what_follows"),
        ("replaced files pass", "elif changed:", "elif False:", "what_follows"),
        ("prompts in data/ are no code", 'glob("*.js*")', 'glob("*.none")', "data_of"),
        ("the first note counts", "made.pop(name, None)\n", "if name in made:\n            continue\n", "an_adapter_and"),
        ("redone once said", 'if what == "redo":\n            try', 'if True:\n            try', "said_and_redone")],
}
