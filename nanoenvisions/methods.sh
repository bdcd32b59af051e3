# What METHOD, BUDGET, LOSS and a teacher make of the loop in run.sh, as flags of its stages.
# Read by run.sh (". nanoenvisions/methods.sh"), not to be started by itself.

# method: sets, for METHOD,
#   refine       0: no rewrites            explore_how  flags of explore.py
#   select_how   flags of select.py        judge        --judge: the model rewards its programs
#   pair_loss    dpo or unlikelihood: pairs are trained on after the rows; empty: no pairs
#   rescore      flags of explore.py and refine.py that make r of all programs log p(a | x)
#   teacher      flags of explore.py: a teacher's programs instead of one's own
method() {
  refine=1 explore_how=() select_how=() rescore=() pair_loss="" judge="" teacher=()
  [ -z "$TEACHER_URL" ] || teacher=(--teacher-url "$TEACHER_URL" --teacher-model "$TEACHER_MODEL"
                                    --teacher-limit "$TEACHER_LIMIT")
  [[ -z "$TEACHER_MODEL" || -n "$TEACHER_URL" ]] || die "TEACHER_MODEL needs TEACHER_URL, too"
  [ -z "$TEACHER_FILE" ] || teacher+=(--teacher-file "$TEACHER_FILE")
  case "$METHOD" in
    envisions) ;;
    star)         # one greedy sample a task; learn from the right ones of this iteration
      refine=0 AGAIN=1 explore_how=(--greedy) select_how=(--rows-from now --all-positives)
      # more greedy samples would be copies: for an equal budget the likeliest right one of K
      [ "$BUDGET" = plain ] || explore_how=() select_how=(--rows-from now --n1 1 --n2 0 --n3 0) ;;
    rft)          # K samples a task; learn from all right ones of this iteration
      refine=0 AGAIN=1 select_how=(--rows-from now --all-positives) ;;
    sft-dpo)      # K samples a task; the pool's positives, then its pairs with mistakes by DPO
      refine=0 LOSS=dpo select_how=(--n2 0 --n3 0) ;;
    self-rewarding) # the model says which of its programs are right; then as sft-dpo, the best with
      # the worst; no answer is looked at but for the evaluation
      refine=0 LOSS=dpo judge=--judge select_how=(--n2 0 --n3 0 --far-pairs) ;;
    distill)      # a teacher's programs instead of one's own, in every iteration
      refine=0
      [ ${#teacher[@]} != 0 ] || die "METHOD=distill needs TEACHER_FILE, or TEACHER_URL with" \
                                     "TEACHER_MODEL" ;;
    no-refine)    refine=0 ;;                                # and the ablations of the article
    no-pool)      AGAIN=1 select_how=(--rows-from now) ;;    # it has only what it explores
    no-mistakes)  select_how=(--n2 0 --n3 0) ;;
    no-ranking)   select_how=(--rank random) ;;
    *) die "METHOD=$METHOD is unknown" \
           "(envisions, star, rft, sft-dpo, self-rewarding, distill, no-refine, no-pool," \
           "no-mistakes or no-ranking)" ;;
  esac
  [ "$BUDGET" = plain ] || AGAIN=1  # the same number of tasks for all
  [ "$RESCORE" = 0 ] || rescore=(--rescore)
  [ "$NEGATIVES" = repair ] || pair_loss=unlikelihood
  if [ "$LOSS" = dpo ]; then
    [ -z "$pair_loss" ] || die "LOSS=dpo and NEGATIVES=unlikelihood: choose one of them"
    pair_loss=dpo
  fi
  [[ -z "$pair_loss" || "$METHOD$BUDGET" != starplain ]] ||
    die "METHOD=star samples one program a task: there are no pairs for LOSS or NEGATIVES"
  [[ -z "$pair_loss" || "$STEPS" != 1 ]] ||
    die "STEPS=1 has no step for pairs (half of STEPS are for the rows, half for the pairs)"
}
