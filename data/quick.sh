# QUICK=1: a first look in minutes, with the embedded model, in a folder of its own. A setting from
# outside comes first.
: "${OUT:=runs/quick-${ENV:-math}$([ -z "${METHODS:-}${SEEDS:-}" ] || echo -compare)}"
: "${ITERS:=2}"            # two trainings; the second iteration refines, too
: "${NUM_TRAIN:=48}"
: "${NUM_TEST:=32}"        # few: an accuracy of 50 % is known to +-17 points only
: "${MIN_STEPS:=24}"       # optimiser steps, where the rows are fewer
