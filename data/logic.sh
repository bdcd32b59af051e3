# Defaults of ENV=logic: the embedded model on two CPU cores. run.sh reads this file and says what
# each setting may be. A setting from outside comes first: `: "${NAME:=value}"` only fills it in.
: "${ITERS:=6}"            # iterations
: "${NUM_TRAIN:=240}"      # training tasks: many, since each has one right program
: "${NUM_TEST:=64}"        # held-out tasks
: "${NUM_SAMPLES:=6}"      # K, programs a task
: "${NUM_SAMPLES_0:=12}"   # K in iteration 0: the base model is seldom right
: "${MAX_NEW_TOKENS:=96}"  # longest program
: "${EPOCHS:=2}"           # passes over the training rows
# 24 steps learn the first iterations' 20 rows by heart (loss 0.001); 40 end no higher
: "${MIN_STEPS:=24}"       # optimiser steps, where the rows are fewer
: "${N1:=4}"               # most positives a task to learn from
: "${ENOUGH:=0.3}"         # curriculum: share of a level to solve before the next is let in
: "${FEW_SHOT:=0}"         # no examples after iteration 0: an adapter copied them
: "${AGAIN:=0}"            # solved tasks are not explored again: the pool keeps the one program
: "${TEMPERATURE:=1.0}"    # of sampling after iteration 0
: "${MAKE_FLAGS=--guards}" # the reward wants every sentence as one line, in the task's own words
# No refinement: a theory has one right program, so P+ never holds the second one that the article
# would pair with a mistake (n2 = 0), and a model that was taught no rewrite copies the draft.
: "${REFINE_FROM:=1000}"   # first iteration with refinement
