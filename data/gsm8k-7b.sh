# PRESET=gsm8k-7b: LLaMA2-Chat 7B on GSM8K with the article's numbers, but for QLoRA instead of all
# weights and GSM8K without MATH; for a GPU with 24 GB. A setting from outside comes first.
: "${MODEL:=meta-llama/Llama-2-7b-chat-hf}"
: "${DATA:=hub:openai/gsm8k:main}"       # or your own copy: DATA=train.jsonl TEST=test.jsonl
: "${TEST:=hub:openai/gsm8k:main@test}"
: "${EXAMPLES:=steps}"                   # programs of several lines, with variables
: "${NUM_TRAIN:=all}"                    # 7,473
: "${NUM_TEST:=300}"                     # between the first and the last evaluation
: "${NUM_TEST_ENDS:=all}"                # all 1,319
: "${ITERS:=10}"
: "${NUM_SAMPLES:=5}"                    # K
: "${N1:=10}"
: "${N2:=2}"
: "${SELECT_FLAGS=}"                     # the article's rows
: "${MAX_NEW_TOKENS:=256}"               # GSM8K's longest programs
: "${TEMPERATURE_0:=1.0}"                # the authors': vLLM's default
: "${TEMPERATURE:=1.0}"
: "${EXPLORE_FLAGS=--top-p 1}"
: "${FEW_SHOT:=0}"                       # examples in iteration 0 only
: "${EPOCHS:=1}"
: "${MIN_STEPS:=0}"
: "${LEARNING_RATE:=1e-4}"               # of low-rank matrices; the authors' 2e-5 is for all weights
: "${TRAIN_FLAGS=--batch-size 128 --max-length 2048 --warmup 0.03}"
