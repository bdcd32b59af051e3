# What run.sh needs before its loop: settings, the virtual environment, one run per folder.
# Read by run.sh (". nanoenvisions/setup.sh"), not to be started by itself.

die() { echo "run.sh: $*" >&2; exit 1; }

# setting NAME DEFAULT KIND: the environment variable NAME, or else DEFAULT; it must be of KIND.
# Checked before anything is written, so that a typo leaves nothing behind.
names=()
setting() {
  local value="${!1-$2}" valid words
  local name='[A-Za-z][A-Za-z0-9_-]*' whole='(0|[1-9][0-9]{0,8})' gap='[[:space:]]'
  local positive='0*\.0*[1-9][0-9]*|0*[1-9][0-9]*(\.[0-9]*)?'
  [ "$3" = text ] || value="${value:-$2}"  # an empty text is a value: it takes a default away
  case "$3" in
    text)   valid='.*'                          words="" ;;
    name)   valid="$name"                       words="a name" ;;
    names)  valid="($gap*$name($gap+$name)*$gap*)?"    words="names with spaces between" ;;
    wholes) valid="($gap*$whole($gap+$whole)*$gap*)?"  words="whole numbers with spaces between" ;;
    whole)  valid="$whole"                      words="a whole number from 0 on" ;;
    count)  valid='[1-9][0-9]{0,8}'             words="a whole number from 1 on" ;;
    amount) valid='[1-9][0-9]{0,8}|all'         words="a whole number from 1 on, or all" ;;
    heat)   valid='[0-9]{1,2}(\.[0-9]*)?|100|\.[0-9]+'  words="a number from 0 to 100" ;;
    share)  valid='0?\.[0-9]+|[01]\.0*|[01]'    words="a number from 0 to 1" ;;
    rate)   valid="($positive)([eE]-?[0-9]+)?"  words="a number above 0, such as 2e-4" ;;
    *)      valid="$3"                          words="one of ${3//|/, }" ;;
  esac
  [[ "$value" =~ ^($valid)$ ]] || die "$1=$value is not ${words}"
  printf -v "$1" %s "$value"
  names+=("$1")
}

# gpus: how many CUDA GPUs there are, at least 1
gpus() {
  local found=0
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then  # no more than these are seen by torch
    found="$(tr , '\n' <<< "$CUDA_VISIBLE_DEVICES" | grep -c .)" || true
  elif command -v nvidia-smi > /dev/null; then
    found="$(nvidia-smi -L 2> /dev/null | grep -c ^GPU)" || true
  fi
  echo "$((found > 1 ? found : 1))"
}

# preset: the settings of data/$PRESET.sh, which come before those of the environment
preset() {
  local known
  known="$(cd data; grep -l "PRESET=" *.sh | sed 's/[.]sh$//' | paste -sd ' ')"
  [[ " $known " = *" $PRESET "* ]] || die "PRESET=$PRESET is unknown ($known)"
  [ "${QUICK:-0}" = 0 ] || die "PRESET=$PRESET and QUICK=$QUICK: choose one of them"
  . "data/$PRESET.sh"
}

# paths_from FOLDER: run.sh was called there, so paths are meant as seen from it
paths_from() {
  [[ "${OUT:-/}" = /* ]] || OUT="$1/$OUT"
  [[ ! -e "$1/${TEACHER_FILE:--}" ]] || TEACHER_FILE="$1/$TEACHER_FILE"
  [[ -z "${MODEL:-}" || ! -d "$1/$MODEL" ]] || MODEL="$1/$MODEL"
  DATA="$(seen_from "$1" "${DATA:-}")" TEST="$(seen_from "$1" "${TEST:-}")"
}

# seen_from FOLDER "a.csv:FORMAT,b.json": the same, with paths as seen from the repository
seen_from() {
  local one list="" parts
  cut_at_commas "$2" "$1/"
  for one in "${parts[@]}"; do
    [[ ! -e "$1/$one" && ! -e "$1/${one%:*}" ]] || one="$1/$one"
    list+="${list:+,}$one"
  done
  printf %s "$list"
}

# cut_at_commas LIST [FOLDER/]: sets parts, each "a.csv" or "a.csv:FORMAT"; a name that is there may
# have a comma in it
cut_at_commas() {
  parts=(${1:+"$1"})
  [[ -z "$1" || -e "${2:-}$1" || -e "${2:-}${1%:*}" ]] || IFS=, read -ra parts <<< "$1"
}

# refine_flags: EXPLORE_FLAGS without what explore.py alone knows
refine_flags() {
  local one flags=() skip=0
  for one in $EXPLORE_FLAGS; do
    case "$skip $one" in
      1*) skip=0 ;;
      *" --plain" | *" --greedy" | *" --teacher-"*=* | *" --eval-limit="* | *" --num-samples="*) ;;
      *" --teacher-"* | *" --eval-limit" | *" --num-samples") skip=1 ;;
      *) flags+=("$one") ;;
    esac
  done
  echo "${flags[*]}"
}

# data_fits: dies unless DATA, TEST and their numbers go together
data_fits() {
  [[ "$NUM_TRAIN$NUM_TEST$NUM_TEST_ENDS" != *all* || -n "$DATA" ]] ||
    die "NUM_TRAIN, NUM_TEST and NUM_TEST_ENDS can be \"all\" with DATA only"
  [[ "$NUM_TEST_ENDS" = all || "$NUM_TEST" != all && "$NUM_TEST_ENDS" -ge "$NUM_TEST" ]] ||
    die "NUM_TEST_ENDS=$NUM_TEST_ENDS is less than NUM_TEST=$NUM_TEST"
  [[ -n "$DATA" || -z "$TEST" ]] || die "TEST=$TEST needs DATA, too (the tasks to learn from)"
  [[ -n "$DATA" || "$EXAMPLES $HOLD_OUT" = "expression 0.2" ]] ||
    die "EXAMPLES and HOLD_OUT are for DATA only"
  local list one parts
  for list in "$DATA" "$TEST"; do
    cut_at_commas "$list"
    for one in "${parts[@]}"; do
      [[ "$one" = hub:* || -e "$one" || -e "${one%:*}" ]] ||
        die "DATA or TEST names $one: there is no such file"
    done
  done
}

# takes NAME SCRIPT FLAGS...: dies if the script would refuse these flags, which setting NAME holds
takes() {
  local name="$1" said; shift
  said="$("$PYTHON" -W ignore -c 'import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0])["parse_args"](sys.argv[1:])' "$@" 2>&1 > /dev/null)" ||
    die "$name: ${said##*$'\n'}"
}

# fits PYTHON: dies unless it can run this: its version, and with SETUP=0 the packages
fits() {
  local said
  command -v "$1" > /dev/null || die "no $1 here (install Python 3.11, or set PYTHON)"
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$1 is $("$1" -V 2>&1), but 3.11 or newer is needed (set PYTHON to one)"
  [ "$SETUP" = 1 ] || said="$("$1" -c 'import importlib.util, sys
missing = [name for name in sys.argv[1:] if not importlib.util.find_spec(name)]
sys.exit(", ".join(missing) or None)' torch transformers peft bitsandbytes 2>&1)" ||
    die "$1 has no ${said##*$'\n'} (pip install -r requirements.txt, or leave SETUP=0 away)"
  "$1" -W ignore -m nanoenvisions.begin || exit 1
}

# flags_fit: dies unless each stage takes the flags that the settings and the teacher give it
flags_fit() {
  [ -z "$MAKE_FLAGS" ] || takes MAKE_FLAGS envs.py make --env "$ENV" --out x $MAKE_FLAGS
  [ -z "$EXPLORE_FLAGS" ] || takes EXPLORE_FLAGS explore.py --in x --out x $EXPLORE_FLAGS
  [ ${#teacher[@]} = 0 ] || takes "the teacher" explore.py --in x --out x "${teacher[@]}"
  [ -z "$REFINE_FLAGS" ] || takes REFINE_FLAGS refine.py --in x --out x $REFINE_FLAGS
  [ -z "$REWARD_FLAGS" ] || takes REWARD_FLAGS reward.py --in x --out x $REWARD_FLAGS
  [ -z "$SELECT_FLAGS" ] || takes SELECT_FLAGS select.py --in x --out x --pool-out x $SELECT_FLAGS
  [ -z "$TRAIN_FLAGS" ] || takes TRAIN_FLAGS train.py --in x --out x $TRAIN_FLAGS
}

# known_env: dies unless envs.py knows ENV; new_tasks=1: each iteration has tasks of its own
known_env() {
  new_tasks="$("$PYTHON" -W ignore -c 'import sys, envs
if sys.argv[1] not in envs.ENVS:
    sys.exit("run.sh: ENV=" + sys.argv[1] + " is unknown (" + ", ".join(envs.ENVS) + ")")
print(int(envs.ENVS[sys.argv[1]].new_tasks_each_iteration))' "$ENV")"
}

# set_up FILES...: a virtual environment in .venv with pinned packages, once
set_up() {
  local file stamp
  for file in "$@"; do
    stamp=".venv/installed-${file//\//-}"
    cmp -s "$file" "$stamp" && continue
    if ! .venv/bin/python -m pip --version > /dev/null 2>&1; then
      # one of somebody else's (uv makes them without pip) stays; .venv.begun: ours, half made
      [ ! -e .venv ] || [ -e .venv.begun ] ||
        die ".venv has no pip, and is not replaced (move it, or set SETUP=0 and PYTHON)"
      : > .venv.begun
      "$PYTHON" -m venv --clear .venv ||
        die "cannot make .venv (on Debian and Ubuntu: apt-get install python3-venv)"
      rm .venv.begun
    fi
    echo "run.sh: installing $file into .venv (some minutes, once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$file" ||
      die "pip failed, see above"
    cp "$file" "$stamp"
  done
  PYTHON=.venv/bin/python
}

# run_tests FLAGS...: pytest with these flags, and all tests if no file is named; files of tests are
# dealt out to two to four cores
run_tests() {
  local cores one workers=() all=(tests)
  for one in "$@"; do
    [ ! -e "${one%%::*}" ] || all=()
  done
  cores="$(nproc)"
  ! "$PYTHON" -c 'import xdist' 2> /dev/null ||
    workers=(-n "$((cores < 4 ? cores : 4))" --dist loadfile --no-loadscope-reorder)
  unset RUN_SH_SETTINGS  # else stages that tests start speak of settings instead of flags
  OMP_NUM_THREADS=1 exec "$PYTHON" -m pytest -q -ra "${workers[@]}" "${all[@]}" "$@"
}

# one_run: one run in $OUT at a time, and always with the same settings
one_run() {
  local name settings="" changed found made
  "$PYTHON" -W ignore -m nanoenvisions.begin "$MODEL" "$LOG" || exit 1
  mkdir -p "$OUT" || die "OUT=$OUT cannot be written to"
  # A folder of something else is left alone: settings is the first that a run writes.
  found="$(ls -A "$OUT" | grep -vxE '\.lock|settings\.tmp|(tasks|test)\.jsonl' | head -n 1)" || true
  [ -e "$OUT/settings" ] || [ -z "$found" ] ||
    die "OUT=$OUT is no folder of a run: $found is in it (choose another OUT)"
  if command -v flock > /dev/null; then  # a stage may outlive a run.sh that was killed: wait for it
    exec 9>> "$OUT/.lock"
    flock -n 9 || { echo "run.sh: waiting for another run in $OUT to end"; flock 9; }
  fi
  for name in "${names[@]}"; do
    case "$name" in
      OUT | PYTHON | SETUP | RANKS | METHODS | SEEDS | LOG | STALE) ;;
      ITERS) [ "$new_tasks" = 0 ] || settings+="ITERS=$ITERS"$'\n' ;;  # all tasks are made at first
      *) settings+="$name=${!name}"$'\n' ;;
    esac
  done
  # Settings alone, nothing made with them: they were a typo's, and bind nobody. Ours begin so.
  made="$(find "$OUT" -type f ! -path "$OUT/settings*" ! -path "$OUT/.lock" ! -path "$OUT/code" |
          head -n 1)" || true
  if [ -e "$OUT/settings" ] && [[ -n "$made" || "$(head -n 1 "$OUT/settings")" != PRESET=* ]]; then
    changed="$(diff <(printf %s "$settings") "$OUT/settings" |
               sed -n 's/^> /was /p; s/^< /now /p' | tr '\n' ';')" || true
    [ -z "$changed" ] ||
      die "$OUT was begun with other settings: ${changed%;} (use these, or another OUT)"
  else
    printf %s "$settings" > "$OUT/settings.tmp" && mv "$OUT/settings.tmp" "$OUT/settings"
  fi
  "$PYTHON" -W ignore -m nanoenvisions.stale "$OUT" "$STALE"
}

# go SCRIPT FLAGS...: runs a stage with a model, in the Python that was made ready while the stage
# before it ran, and makes the next one ready if there will be a next: see nanoenvisions/spare.py
ready=""  # its process; its standard input is open here as 8
go() {
  local now="$ready"
  ready=""
  kill -0 "$now" 2> /dev/null || now=""
  if [ -n "$now" ]; then
    printf '%s\0' "${RUN_SH_WHERE:-}" "$@" >&8
    exec 8>&-
  fi
  [ "$t" = "$ITERS" ] || spare
  if [ -n "$now" ]; then wait "$now"; else "$PYTHON" -W ignore "$@"; fi
}

# spare: starts a Python that imports what a stage needs and waits for its command
spare() {
  local pipe="$OUT/.pipe"
  rm -f "$pipe"
  mkfifo "$pipe" 2> /dev/null || return 0  # a file system without pipes
  "$PYTHON" -W ignore -m nanoenvisions.spare < "$pipe" &
  ready=$!
  exec 8> "$pipe"
  rm -f "$pipe"
}

# stopped CODE: the end that a signal makes; what runs is waited for, and the spare Python goes
stopped() {
  exec 8>&-
  wait
  echo "run.sh: stopped; run the same command again to go on" >&2
  exit "$1"
}
trap 'stopped 130' INT
trap 'kill $(jobs -p) 2> /dev/null; stopped 143' TERM

# hash PATH: of a file, or of an adapter's weights
hash() {
  local digest path="$1"
  [ ! -d "$path" ] || path="$path/adapter_model.safetensors"
  digest="$(sha256sum < "$path")"
  printf %s "${digest:0:16}"
}

# made OUTPUT SCRIPT FLAGS...: notes what a stage that has ended read: see nanoenvisions/stale.py
made() {
  local output="$1" script="$2" last="" one file code read="" parts; shift 2
  local outputs=("$output")
  code="$(sed -n "s/^$script //p" "$OUT/code")"
  for one in "$@"; do
    case "$last $one" in
      "$OUT/test.jsonl $OUT/"*.explored) outputs+=("$one") ;;  # of --also-eval
      "--out "* | "--metrics "* | "--pool-out "* | *" $output") ;;
      "--pairs "*) [ "$script" = select.py ] || read+=$'\t'"${one#"$OUT/"} $(hash "$one")" ;;
      *" $OUT/"*) read+=$'\t'"${one#"$OUT/"} $(hash "$one")" ;;
      "import "* | "--test "* | "--teacher-file "*)  # the user's own files
        cut_at_commas "$one"
        for file in "${parts[@]}"; do
          [ -f "$file" ] || file="${file%:*}"
          [ ! -f "$file" ] || read+=$'\t'"$(realpath "$file") $(hash "$file")"
        done ;;
    esac
    last="$one"
  done
  for one in "${outputs[@]}"; do
    printf '%s\t%s %s%s\n' "${one#"$OUT/"}" "$script" "$code" "$read" >> "$OUT/made"
  done
}

# told T: at the end of iteration T, if anything was done in it: one line, and the numbers for LOG
ran=0 since=0
told() {
  [ "$ran" = 0 ] || "$PYTHON" -W ignore -m nanoenvisions.watch --run "$OUT" --iteration "$1" \
    --of "$ITERS" --seconds "$((SECONDS - since))" --log "$LOG"
  ran=0 since="$SECONDS"
}
