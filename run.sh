#!/usr/bin/env bash
# nanoENVISIONS: a language model teaches itself to write programs that an environment can run.
#
#   bash run.sh                                        SmolLM2-135M on word problems; two CPU cores or any GPU
#   bash run.sh test                                   the same set-up, then the tests
#   ENV=logic bash run.sh                              the other environments: logic, web
#   MODEL=Qwen/Qwen2.5-1.5B-Instruct bash run.sh       a bigger model from the hub, for a GPU
#
# Each iteration t chains   explore -> refine -> reward -> select -> train   on files in $OUT/iter$t, and the adapter it
# ends with explores in iteration t + 1. A stage whose output exists is skipped, so running this again goes on where it
# stopped. Time on two CPU cores: see README.md.
set -euo pipefail
cd "$(dirname "$0")"

ENV="${ENV:-math}"                    # math, logic or web
METHOD="${METHOD:-envisions}"         # envisions; star (one greedy sample, right ones only); rft (K samples, right ones
                                      # only); or without one part: no-refine, no-pool, no-mistakes, no-ranking
MODEL="${MODEL:-}"                    # hub name or folder; empty: the embedded SmolLM2-135M-Instruct
SEED="${SEED:-0}"                     # tasks, sampling and training
OUT="${OUT:-runs/$ENV}"               # everything of this run; another seed or setting needs another OUT
PYTHON="${PYTHON:-python3}"           # 3.11 or newer, makes .venv
SETUP="${SETUP:-1}"                   # 0: no .venv, use $PYTHON as it is
BITS="${BITS:-4}"                     # 4: QLoRA; 16: bfloat16; 32: float32
TEMPERATURE_0="${TEMPERATURE_0:-0.8}" # of sampling in iteration 0: a small base model drowns in noise above 0.8
REFINE_FROM="${REFINE_FROM:-1}"       # first iteration with refinement (the authors: 1; a base model refines badly)
MIN_STEPS="${MIN_STEPS:-40}"          # fewest optimiser steps: the first sets of rows are small, they get more passes
N2="${N2:-2}"                         # most mistakes per task to learn from
LEARNING_RATE="${LEARNING_RATE:-$([ -z "$MODEL" ] && echo 1e-3 || echo 2e-4)}"  # 1e-3 for 135M, 2e-4 for 1B and more

# Set any of these from outside as well; the values are for the embedded model on two CPU cores.
#   ITERS           iterations; may be raised later, the run goes on
#   NUM_TRAIN       training tasks (web: in each iteration)        NUM_TEST    held-out tasks
#   NUM_SAMPLES     K, programs per task                           EPOCHS      passes over the training rows
#   NUM_SAMPLES_0   K in iteration 0: more, where a base model is seldom right
#   MAX_NEW_TOKENS  longest program                                N1          most positives per task to learn from
#   ENOUGH          share of a level to solve before the next is let in; 0: all levels at once
#   FEW_SHOT        share of an unsolved task's samples that keep examples after iteration 0; 0: none, as in the article
#   AGAIN           share of the solved tasks to explore again; 1: all, as in the article
#   TEMPERATURE     of sampling after iteration 0: a trained model finds little new below 1
#   MAKE_FLAGS      more flags for envs.py make, e.g. "--tasks click-link,enter-text"
case "$ENV" in
  math)
    : "${ITERS:=5}" "${NUM_TRAIN:=160}" "${NUM_TEST:=120}" "${NUM_SAMPLES:=5}" "${MAX_NEW_TOKENS:=72}" "${EPOCHS:=2}"
    : "${N1:=4}" "${ENOUGH:=0}" "${FEW_SHOT:=1}" "${AGAIN:=1}" "${TEMPERATURE:=1.0}" "${MAKE_FLAGS=}" ;;
  logic)
    : "${ITERS:=6}" "${NUM_TRAIN:=240}" "${NUM_TEST:=64}" "${NUM_SAMPLES:=4}" "${MAX_NEW_TOKENS:=96}" "${EPOCHS:=2}"
    : "${N1:=4}" "${ENOUGH:=0.4}" "${FEW_SHOT:=0}" "${AGAIN:=0.3}" "${TEMPERATURE:=1.0}" "${MAKE_FLAGS=--guards}"
    : "${NUM_SAMPLES_0:=12}" ;;
  web)
    : "${ITERS:=2}" "${NUM_TRAIN:=100}" "${NUM_TEST:=104}" "${NUM_SAMPLES:=5}" "${MAX_NEW_TOKENS:=80}" "${EPOCHS:=2}"
    : "${N1:=2}" "${ENOUGH:=0}" "${FEW_SHOT:=0.4}" "${AGAIN:=1}" "${TEMPERATURE:=1.0}" "${MAKE_FLAGS=}" ;;
  *) echo "run.sh: ENV=$ENV is unknown (math, logic or web)" >&2; exit 1 ;;
esac
: "${NUM_SAMPLES_0:=$NUM_SAMPLES}"

die() { echo "run.sh: $*" >&2; exit 1; }

# ---- set-up: a virtual environment with pinned packages, once -----------------------------------------------------
if [ "$SETUP" = 1 ]; then
  command -v "$PYTHON" > /dev/null || die "no $PYTHON here (install Python 3.11 or newer, or set PYTHON)"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$PYTHON is $("$PYTHON" -V 2>&1), but 3.11 or newer is needed (set PYTHON to one)"
  wanted="requirements.txt"
  [ "${1:-}" = test ] && wanted="$wanted tests/requirements.txt"
  for file in $wanted; do
    stamp=".venv/installed-$(echo "$file" | tr / -)"
    cmp -s "$file" "$stamp" && continue
    .venv/bin/python -m pip --version > /dev/null 2>&1 || "$PYTHON" -m venv --clear .venv ||
      die "cannot make .venv (on Debian and Ubuntu: apt-get install python3-venv)"
    echo "run.sh: installing $file into .venv (some minutes, once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$file" || die "pip failed, see above"
    cp "$file" "$stamp"
  done
  PYTHON=.venv/bin/python
fi
export TOKENIZERS_PARALLELISM=false
if [ -z "$MODEL" ]; then
  export HF_HUB_OFFLINE=1   # the embedded model needs no hub
  [ -e models/SmolLM2-135M-Instruct/model.safetensors ] ||
    "$PYTHON" -W ignore -c 'from nanoenvisions import model; model.default_model()'
fi

if [ "${1:-}" = test ]; then
  shift
  exec "$PYTHON" -m pytest -q tests "$@"
fi
[ $# = 0 ] || die "unknown argument $1 (settings are environment variables: ITERS=2 bash run.sh)"

# ---- one run per OUT, always with the same settings ---------------------------------------------------------------
mkdir -p "$OUT"
if command -v flock > /dev/null; then   # a stage may outlive a run.sh that was killed: wait for it
  exec 9> "$OUT/.lock"
  flock -n 9 || { echo "run.sh: waiting for another run in $OUT to end"; flock 9; }
fi
settings=""
for name in ENV METHOD MODEL SEED BITS TEMPERATURE_0 TEMPERATURE REFINE_FROM FEW_SHOT AGAIN ENOUGH N1 N2 NUM_TRAIN \
            NUM_TEST NUM_SAMPLES NUM_SAMPLES_0 MAX_NEW_TOKENS EPOCHS MIN_STEPS LEARNING_RATE MAKE_FLAGS; do
  settings="$settings$name=${!name}"$'\n'
done
rounds=()
if [ "$ENV" = web ]; then   # new seeds every iteration
  rounds=(--rounds "$ITERS")
  settings="${settings}ITERS=$ITERS"$'\n'
fi
if [ -e "$OUT/settings" ]; then
  changed="$(diff <(printf %s "$settings") "$OUT/settings" | sed -n 's/^> /was /p; s/^< /now /p' | tr '\n' ';')" || true
  [ -z "$changed" ] || die "$OUT was begun with other settings: ${changed%;} (use these, or another OUT)"
else
  printf %s "$settings" > "$OUT/settings.tmp" && mv "$OUT/settings.tmp" "$OUT/settings"
fi

# stage OUTPUT SCRIPT FLAGS...: run a stage unless its output exists, which means that it is finished
stage() {
  local output="$1"; shift
  [ -e "$output" ] || "$PYTHON" -W ignore "$@"
}
common=(--seed "$SEED" --metrics "$OUT/metrics.jsonl")
sampling=(--bits "$BITS" --max-new-tokens "$MAX_NEW_TOKENS" ${MODEL:+--model "$MODEL"} "${common[@]}")
explore_how=()
select_how=(--n1 "$N1" --n2 "$N2")
pool=1
case "$METHOD" in
  envisions) ;;
  star) explore_how=(--greedy); REFINE_FROM=$ITERS; pool=0; select_how=(--n1 1 --n2 0) ;;
  rft) REFINE_FROM=$ITERS; pool=0; select_how=(--n1 "$N1" --n2 0) ;;
  no-refine) REFINE_FROM=$ITERS ;;
  no-pool) pool=0 ;;
  no-mistakes) select_how=(--n1 "$N1" --n2 0) ;;
  no-ranking) select_how+=(--rank random) ;;
  *) die "METHOD=$METHOD is unknown (envisions, star, rft, no-refine, no-pool, no-mistakes or no-ranking)" ;;
esac
[ "$pool" = 1 ] || AGAIN=1   # without a pool, what is not explored again would be forgotten

"$PYTHON" - << 'END'
import torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print("run.sh:", f"on {name}" if name else "no CUDA GPU here, using the CPU")
END

# ---- tasks: train and held out share no question ------------------------------------------------------------------
stage "$OUT/tasks.jsonl" envs.py make --env "$ENV" --split train --num "$NUM_TRAIN" --seed "$SEED" \
  --out "$OUT/tasks.jsonl" "${rounds[@]}" $MAKE_FLAGS
stage "$OUT/test.jsonl" envs.py make --env "$ENV" --split test --num "$NUM_TEST" --seed "$SEED" \
  --out "$OUT/test.jsonl" $MAKE_FLAGS

# evaluate T: how good is the model that explores in iteration T? Greedy, on held-out tasks.
evaluate() {
  stage "$OUT/iter$1/eval.jsonl.explored" explore.py --in "$OUT/test.jsonl" --out "$OUT/iter$1/eval.jsonl.explored" \
    --iteration "$1" --greedy "${adapter[@]}" "${sampling[@]}"
  stage "$OUT/iter$1/eval.jsonl" reward.py --in "$OUT/iter$1/eval.jsonl.explored" --out "$OUT/iter$1/eval.jsonl" \
    --eval "${common[@]}"
}

# ---- the loop -----------------------------------------------------------------------------------------------------
adapter=(--few-shot)   # iteration 0: the base model with examples in its prompt
last_pool=()           # empty in iteration 0, and always with METHOD=no-pool
levels=()
for ((t = 0; t < ITERS; t++)); do
  it="$OUT/iter$t"
  temperature=(--temperature "$([ "$t" = 0 ] && echo "$TEMPERATURE_0" || echo "$TEMPERATURE")")
  num_samples=(--num-samples "$([ "$t" = 0 ] && echo "$NUM_SAMPLES_0" || echo "$NUM_SAMPLES")")
  mkdir -p "$it"
  evaluate "$t"
  # which tasks: harder levels wait until easier ones are solved, and tasks may belong to one iteration
  stage "$it/tasks.jsonl" envs.py schedule --in "$OUT/tasks.jsonl" --out "$it/tasks.jsonl" \
    --iteration "$t" --enough "$ENOUGH" "${levels[@]}" --few-shot-unsolved "$FEW_SHOT" --again "$AGAIN"
  # 1. sample K programs per task
  stage "$it/explored.jsonl" explore.py --in "$it/tasks.jsonl" --out "$it/explored.jsonl" \
    --iteration "$t" "${temperature[@]}" "${num_samples[@]}" "${explore_how[@]}" "${adapter[@]}" "${sampling[@]}"
  # 2. rewrite each of them
  if [ "$t" -ge "$REFINE_FROM" ]; then
    stage "$it/refined.jsonl" refine.py --in "$it/explored.jsonl" --out "$it/refined.jsonl" \
      "${temperature[@]}" "${adapter[@]}" "${sampling[@]}"
  else
    [ -e "$it/refined.jsonl" ] || : > "$it/refined.jsonl"   # no rewrites in this iteration
  fi
  # 3. run them all: 1 if the outcome is the known one, else 0
  stage "$it/rewarded.jsonl" reward.py --in "$it/explored.jsonl" "$it/refined.jsonl" \
    --out "$it/rewarded.jsonl" "${common[@]}"
  # 4. keep the better of each pair, pool, rank, and make training rows
  stage "$it/sft.jsonl" select.py --in "$it/rewarded.jsonl" --pool-out "$it/pool.jsonl" --out "$it/sft.jsonl" \
    "${last_pool[@]}" "${select_how[@]}" "${common[@]}"
  # 5. fine-tune the base model on them
  stage "$it/adapter" train.py --in "$it/sft.jsonl" --out "$it/adapter" --iteration "$t" --bits "$BITS" \
    --epochs "$EPOCHS" --min-steps "$MIN_STEPS" --learning-rate "$LEARNING_RATE" \
    ${MODEL:+--model "$MODEL"} "${common[@]}"
  adapter=(--adapter "$it/adapter")
  levels=(--pool "$it/pool.jsonl")
  [ "$pool" = 0 ] || last_pool=("${levels[@]}")
done
mkdir -p "$OUT/iter$ITERS"
evaluate "$ITERS"

"$PYTHON" data/report.py --in "$OUT/metrics.jsonl" --out "$OUT/curve.svg"
