# Defaults of ENV=math: the embedded model on two CPU cores. run.sh reads this file and says what
# each setting may be. A setting from outside comes first: `: "${NAME:=value}"` only fills it in.
: "${ITERS:=5}"            # iterations
: "${NUM_TRAIN:=160}"      # training tasks
: "${NUM_TEST:=120}"       # held-out tasks: 48 of known templates, 48 of unseen, 24 of new formulas
: "${NUM_SAMPLES:=5}"      # K, programs a task
: "${MAX_NEW_TOKENS:=72}"  # longest program
: "${EPOCHS:=2}"           # passes over the training rows
: "${N1:=4}"               # most positives a task to learn from
: "${ENOUGH:=0}"           # no curriculum: all levels at once
: "${FEW_SHOT:=1}"         # unsolved tasks keep their examples in all samples
: "${AGAIN:=1}"            # solved tasks are all explored again
: "${TEMPERATURE:=1.0}"    # of sampling after iteration 0
: "${N2:=1}"               # most mistakes a task to learn from, and with the flags below:
# --reuse: a task with a single right program has a mistake to learn from, too; --n3 1: and one
# right program to keep; --either: one of the two. Without them, rewrites undo two in five right
# drafts (docs/METHOD.md). SELECT_FLAGS= N2=2 is the article.
: "${SELECT_FLAGS=--reuse --n3 1 --either}"
