# METHODS and SEEDS of run.sh: several runs, one after another, and one table of them all.
# Read by run.sh (". nanoenvisions/sweep.sh"), not to be started by itself.

# sweep: a run for each of METHODS and SEEDS, just as `METHOD=m SEED=s OUT=... bash run.sh` does it,
# so each goes on where it stopped. The first seed comes first, with every method. One that breaks
# does not stop the others, but is named at the end, and the exit code is then 1. Does not return.
sweep() {
  local method seed folder methods="${METHODS:-$METHOD}" seeds="${SEEDS:-$SEED}" below="$METHODS"
  local folders=() broken=()
  export METHODS="" SEEDS=""  # of each run by itself
  for method in $methods; do
    METHOD="$method" bash run.sh check || exit 1
  done
  [ $# = 0 ] || exit 0  # check
  trap 'exit 130' INT  # the run that it stops has said so
  for seed in $seeds; do
    for method in $methods; do
      folder="$OUT${below:+/$method}/seed$seed"
      folders+=("$folder")
      echo "run.sh: METHOD=$method SEED=$seed OUT=$folder"
      METHOD="$method" SEED="$seed" OUT="$folder" bash run.sh || broken+=("$folder")
    done
  done
  [ "$SETUP" = 0 ] || PYTHON=.venv/bin/python
  "$PYTHON" data/report.py --in "${folders[@]}" --out "$OUT/report.html" || broken+=("the table")
  [ "${#broken[@]}" = 0 ] || die "broken: ${broken[*]} (why stands above; the same command goes on)"
  exit 0
}
