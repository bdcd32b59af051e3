#!/usr/bin/env bash
# nanoENVISIONS: a language model teaches itself to write programs that an environment can run.
#
#   bash run.sh                                   SmolLM2-135M on word problems: 8 to 17 minutes on
#                                                 two CPU cores with 4 GB of memory, less on a GPU
#   QUICK=1 bash run.sh                           a first look: two small iterations, minutes
#   bash run.sh -v                                each stage says more of what it did
#   bash run.sh test                              the same set-up, then the tests: some minutes
#   MODEL=Qwen/Qwen2.5-1.5B-Instruct bash run.sh  a bigger model from the hub: a GPU with 8 GB
#
# Each iteration t chains  explore -> refine -> reward -> select -> train  on files in $OUT/iter$t,
# and the adapter it ends with explores in iteration t + 1. A stage whose output exists is finished
# and is skipped, so running this again goes on where it stopped.
set -euo pipefail
from="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")"
. nanoenvisions/setup.sh    # set-up and checks
. nanoenvisions/methods.sh  # what a METHOD leaves out
. nanoenvisions/sweep.sh    # METHODS and SEEDS
[ "${1:-}" != -v ] || { export RUN_SH_VERBOSE=1; shift; }
[ "$from" = "$PWD" ] || paths_from "$from"  # called from elsewhere

# Settings are environment variables: ENV=logic ITERS=8 bash run.sh. An environment may have its own
# defaults in data/ENV.sh, for the embedded model on two CPU cores; where it has none, these hold.
#       name          default     kind      what it is (what is valid, where the kind does not say)
[ "${METHOD:-}" != distill ] || : "${ITERS:=1}"  # its student explores nothing
setting PRESET        ""          text    # a larger run's: gsm8k-0.5b, gsm8k-1.5b, gsm8k-7b
[ -z "$PRESET" ] || preset
setting QUICK         0           "0|1"   # 1: a first look in minutes, see data/quick.sh
[ "$QUICK" = 0 ] || . data/quick.sh
setting ENV           math        name    # math, logic, web, or yours: a name in ENVS of envs.py
[ ! -e "data/$ENV.sh" ] || . "data/$ENV.sh"
setting METHOD        envisions   name    # envisions, or another of those below
setting MODEL         ""          text    # hub name or folder; empty: the SmolLM2 that comes along
setting SEED          0           whole   # of tasks, sampling and training
setting METHODS       ""          names   # several to compare: "envisions rft star"; and/or
setting SEEDS         ""          wholes  # "0 1 2": runs in $OUT/METHOD/seed0 ..., one table
setting OUT "runs/$ENV$([ -z "$METHODS$SEEDS" ] || echo -compare)" text # folder of the run, or
                                          # of these runs; other settings need another one
setting PYTHON        python3     text    # 3.11 or newer; it makes .venv
setting SETUP         1           "0|1"   # 0: no .venv, PYTHON is used as it is
setting RANKS "$(gpus)"           count   # processes that share a stage's work: the number of GPUs
setting STALE         say         "say|redo" # what older code or inputs made: say so, or redo it
setting LOG           none        "none|tensorboard|wandb" # metrics.jsonl's numbers there, too
setting ITERS         5           whole   # iterations; may be raised later, the run goes on
setting DATA          ""          text    # files of tasks or public sets, "a.csv,b.json:svamp", or
                                          # hub:NAME:CONFIG@SPLIT; empty: tasks are made
setting TEST          ""          text    # with DATA: held-out files, each reported as a group
setting HOLD_OUT "$([ -n "$TEST" ] && echo 0 || echo 0.2)" share # of DATA's questions, held out
setting EXAMPLES      expression  "expression|steps" # DATA of math: examples that name every step
setting NUM_TRAIN     160         amount  # training tasks (with DATA: or all); web: each iteration
setting NUM_TEST      120         amount  # held-out tasks
setting NUM_TEST_ENDS "$NUM_TEST" amount  # the same before the first and after the last training
setting NUM_SAMPLES   5           count   # K, programs a task
setting NUM_SAMPLES_0 "$NUM_SAMPLES" count # K in iteration 0: more where a base model often fails
setting MORE_SAMPLES  0           whole   # added to K in each iteration after the first
setting BUDGET        plain       "plain|equal" # equal: where envisions samples K programs and
                                          # rewrites K, a METHOD without refinement samples 2 K
setting MOST_TASKS    0           whole   # an iteration explores so many: those not explored for
                                          # longest, seldom solved ones first; 0: all
setting TEMPERATURE_0 0.8         heat    # in iteration 0: a small base model drowns in noise above
setting TEMPERATURE   1.0         heat    # later: a trained model finds little new below 1
setting MAX_NEW_TOKENS 96         count   # longest program
setting FEW_SHOT      0           share   # of an unsolved task's samples that keep their examples
setting AGAIN         1           share   # of the solved tasks that are explored again
setting ENOUGH        0           share   # of a level to solve before the next is let in
setting REFINE_FROM   1           whole   # first iteration with refinement (the authors: 1)
setting N1            4           count   # most positives a task to learn from (the authors: 10)
setting N2            2           whole   # most mistakes a task to learn from
setting RESCORE       0           "0|1"   # 1: r of all programs is log p(a | x), rewrites included
setting START         base        "base|last" # train from the base model, or from the last adapter
setting TEACHER_URL   ""          text    # an OpenAI-compatible server whose model writes iteration
                                          # 0's programs; its key is in TEACHER_API_KEY, not here
setting TEACHER_MODEL ""          text    # the name by which that server knows the teacher
setting TEACHER_FILE  ""          text    # or a file with them: program, and id or question
setting TEACHER_LIMIT 2000        count   # most requests to the server in an iteration
setting LOSS          sft         "sft|dpo" # dpo: after the rows, DPO on pairs (right, wrong)
setting NEGATIVES     repair      "repair|unlikelihood" # unlikelihood: wrong ones are avoided, too
setting PAIRS         2           count   # most pairs a task, for either
setting BITS          4           "4|16|32" # 4: QLoRA; 16: bfloat16; 32: float32
setting EPOCHS        2           count   # passes over the training rows
setting MIN_STEPS     40          whole   # fewest optimiser steps: few rows get more passes
setting STEPS         0           whole   # exactly so many steps, half of them for pairs where they
                                          # are trained on; 0: by EPOCHS and MIN_STEPS
setting LEARNING_RATE "$([ -z "$MODEL" ] && echo 1e-3 || echo 2e-4)" rate # 135M: 1e-3, 7B: 1e-4
setting MAKE_FLAGS    ""          text    # more flags: python envs.py make --env ENV --help
setting EXPLORE_FLAGS ""          text    # python explore.py --help, e.g. "--top-p 0.9 --slots 64"
setting REFINE_FLAGS  "$(refine_flags)" text # python refine.py --help, e.g. "--rescore"
setting REWARD_FLAGS  ""          text    # python reward.py --help, e.g. "--timeout 5"
setting SELECT_FLAGS  ""          text    # python select.py --help
setting TRAIN_FLAGS   ""          text    # python train.py --help, e.g. "--rank 32"
export RUN_SH_SETTINGS="${names[*]}"
[[ -z "$METHODS$SEEDS" || -n "${*#check}" ]] || sweep "$@"  # several runs, each by a run.sh

method  # its flags stand behind those of the settings, so that they win
data_fits
[[ ! "$MODEL" =~ ^[./] || -d "$MODEL" ]] || die "MODEL=$MODEL: there is no such folder"

# ---- set-up: packages, the embedded model, what the environment says ----------------------------
fits "$PYTHON"
known_env
[ "$SETUP" = 0 ] || set_up requirements.txt $([ "${1:-}" != test ] || echo tests/requirements.txt)
export TOKENIZERS_PARALLELISM=false
if [ -z "$MODEL" ]; then
  [[ "$DATA$TEST" = *hub:* ]] || export HF_HUB_OFFLINE=1  # the embedded model needs no hub
  [ -e models/SmolLM2-135M-Instruct/model.safetensors ] ||
    "$PYTHON" -W ignore -c 'from nanoenvisions import model; model.default_model()'
fi
[ "${1:-}" != test ] || run_tests "${@:2}"
[[ $# = 0 || "$*" = check ]] ||
  die "unknown argument $1 (settings are environment variables: ITERS=2 bash run.sh)"
flags_fit
[ $# = 0 ] || exit 0  # check: nothing to complain about
one_run
[ -e "$OUT/iter$ITERS/eval.jsonl" ] || "$PYTHON" -c 'import nanoenvisions, torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print("run.sh:", f"on {name}" if name else "no CUDA GPU here, using the CPU")'

# ---- the loop -----------------------------------------------------------------------------------
start() {
  case "$RANKS $1" in
    *" envs.py" | *" reward.py" | *" select.py") "$PYTHON" -W ignore "$@" ;;
    "1 "*) go "$@" ;;
    *) PYTHONWARNINGS=ignore "$PYTHON" -P -m torch.distributed.run --standalone \
         --nproc-per-node "$RANKS" "$@" ;;
  esac
}
# stage OUTPUT SCRIPT FLAGS...: run a stage unless its output exists, for then it is finished. What
# makes it is noted before: a stage may end well though run.sh is killed meanwhile.
stage() {
  local output="$1"; shift
  [ -e "$output" ] || { ran=1; made "$output" "$@"; start "$@"; }
}
common=(--seed "$SEED" --metrics "$OUT/metrics.jsonl")
model=(--bits "$BITS" ${MODEL:+--model "$MODEL"} "${common[@]}")

# evaluate T: how good is the model that explores in iteration T? Greedy, on held-out tasks.
evaluate() {
  local eval="$OUT/iter$1/eval.jsonl"
  stage "$eval.explored" explore.py --in "$OUT/test.jsonl" --out "$eval.explored" --eval \
    --iteration "$1" --max-new-tokens "$MAX_NEW_TOKENS" "${adapter[@]}" "${model[@]}" \
    $EXPLORE_FLAGS "${some[@]}"
  stage "$eval" reward.py --in "$eval.explored" --out "$eval" --eval "${common[@]}" $REWARD_FLAGS
}

# tasks: train and held out share no question
[ -z "$DATA" ] || stage "$OUT/tasks.jsonl" envs.py import "$DATA" --env "$ENV" --test "$TEST" \
  --hold-out "$HOLD_OUT" --limit "$NUM_TRAIN" --num-test "$NUM_TEST_ENDS" --seed "$SEED" \
  --style "$EXAMPLES" --test-out "$OUT/test.jsonl" --out "$OUT/tasks.jsonl"
stage "$OUT/tasks.jsonl" envs.py make --env "$ENV" --split train --num "$NUM_TRAIN" \
  --rounds "$((ITERS > 0 ? ITERS : 1))" --seed "$SEED" --out "$OUT/tasks.jsonl" $MAKE_FLAGS
stage "$OUT/test.jsonl" envs.py make --env "$ENV" --split test --num "$NUM_TEST_ENDS" \
  --seed "$SEED" --out "$OUT/test.jsonl" $MAKE_FLAGS

adapter=(--few-shot)  # iteration 0: the base model with examples in its prompt
pool=()               # and nothing solved yet
history=()            # nor explored
last=()               # no adapter yet
judge_how=() select_pairs=() train_pairs=() start=()
some=()               # which held-out tasks: all at both ends
for ((t = 0; t < ITERS; t++)); do
  it="$OUT/iter$t" refine_now=0 temperature="$TEMPERATURE"
  k="$((NUM_SAMPLES + MORE_SAMPLES * t))"
  [ "$t" != 0 ] || k="$NUM_SAMPLES_0" temperature="$TEMPERATURE_0"
  [ "$t" -lt "$REFINE_FROM" ] || refine_now="$refine"
  [[ "$BUDGET$refine" != equal0 || "$t" -lt "$REFINE_FROM" ]] || k="$((2 * k))"
  sampling=(--temperature "$temperature" --max-new-tokens "$MAX_NEW_TOKENS")
  mkdir -p "$it"
  export RUN_SH_WHERE="iteration $t of $ITERS, "  # before a stage's bar
  # which tasks: harder levels wait until easier ones are solved, and tasks may be of one iteration
  stage "$it/tasks.jsonl" envs.py schedule --in "$OUT/tasks.jsonl" --out "$it/tasks.jsonl" \
    --iteration "$t" "${pool[@]}" --history "${history[@]}" \
    $([ "$MOST_TASKS" = 0 ] || echo --most "$MOST_TASKS") \
    --enough "$ENOUGH" --few-shot-unsolved "$FEW_SHOT" --again "$AGAIN"
  # 1. sample K programs a task; the model is loaded once for this and for its evaluation
  stage "$it/explored.jsonl" explore.py --in "$it/tasks.jsonl" --out "$it/explored.jsonl" \
    --iteration "$t" --num-samples "$k" "${sampling[@]}" "${adapter[@]}" "${model[@]}" \
    --also-eval "$OUT/test.jsonl" "$it/eval.jsonl.explored" "${some[@]}" \
    $EXPLORE_FLAGS "${explore_how[@]}" "${rescore[@]}" "${teacher[@]}"
  evaluate "$t"
  [ "$METHOD" = distill ] || teacher=()
  # 2. rewrite each of them, right or wrong
  if [ "$refine_now" = 1 ]; then
    stage "$it/refined.jsonl" refine.py --in "$it/explored.jsonl" --out "$it/refined.jsonl" \
      "${sampling[@]}" "${adapter[@]}" "${model[@]}" $REFINE_FLAGS "${rescore[@]}"
  else
    [ -e "$it/refined.jsonl" ] || : > "$it/refined.jsonl"  # no rewrites in this iteration
  fi
  # 3. run them all: 1 if the outcome is the known one, else 0 (or let the model judge them)
  [ -z "$judge" ] || judge_how=(--judge --bits "$BITS" ${MODEL:+--model "$MODEL"} "${last[@]}")
  stage "$it/rewarded.jsonl" reward.py --in "$it/explored.jsonl" "$it/refined.jsonl" \
    --out "$it/rewarded.jsonl" "${common[@]}" $REWARD_FLAGS "${judge_how[@]}"
  # 4. keep the better of each pair, pool, rank, and make training rows
  [ -z "$pair_loss" ] || select_pairs=(--pairs "$it/pairs.jsonl" --num-pairs "$PAIRS")
  [ -z "$pair_loss" ] || train_pairs=(--pairs "$it/pairs.jsonl" --pair-loss "$pair_loss")
  stage "$it/sft.jsonl" select.py --in "$it/rewarded.jsonl" "${pool[@]}" \
    --pool-out "$it/pool.jsonl" --out "$it/sft.jsonl" --n1 "$N1" --n2 "$N2" "${common[@]}" \
    $SELECT_FLAGS "${select_how[@]}" "${select_pairs[@]}"
  # 5. fine-tune the base model on them (START=last: the last adapter)
  stage "$it/adapter" train.py --in "$it/sft.jsonl" --out "$it/adapter" --iteration "$t" \
    --epochs "$EPOCHS" --min-steps "$MIN_STEPS" --steps "$STEPS" \
    --learning-rate "$LEARNING_RATE" "${start[@]}" "${train_pairs[@]}" \
    "${model[@]}" $TRAIN_FLAGS
  adapter=(--adapter "$it/adapter") some=()
  [[ "$((t + 1))" = "$ITERS" || "$NUM_TEST" = all ]] || some=(--eval-limit "$NUM_TEST")
  pool=(--pool "$it/pool.jsonl")
  history+=("$it/rewarded.jsonl")
  last=("${adapter[@]}")
  [ "$START" = base ] || start=("${last[@]}")
  told "$t"
done
mkdir -p "$OUT/iter$ITERS"
evaluate "$ITERS"
told "$ITERS"
pictures=()  # drawn already, if nothing has been measured since
[ ! "$OUT/metrics.jsonl" -nt "$OUT/report.html" ] ||
  pictures=(--out "$OUT/curve.svg" "$OUT/report.html")
"$PYTHON" data/report.py --in "$OUT" "${pictures[@]}"
