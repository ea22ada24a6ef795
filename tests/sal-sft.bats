# SPDX-License-Identifier: Apache-2.0
load helper
D="--lora-r 4 --learning-rate 1e-2 --schedule constant --warmup-steps 0 --batch 3"
data() { for i in 1 2 3 4 5 6 7; do printf '{"prompt_tokens":[%d,2,3],"response_tokens":[%d,5,6,%d]}\n' $i $((i + 7)) $i; done; }

@test "the loss falls, and the adapter works" {
	data | sal-sft -q -m "$M" -o "$T/a" $D --epochs 8 > "$T/log"
	jq -se '.[-1].loss < .[0].loss * 0.9' "$T/log"
	data | sal-score -q -m "$M" -a "$T/a" --logprobs | jq -es 'length == 7' > /dev/null
}
@test "options of a fresh adapter beside -a: a note, and the adapter keeps its own" {
	data | sal-sft -q -m "$M" -o "$T/a" $D > /dev/null
	for o in "--lora-r 8" "--lora-alpha 3" "--lora-targets q_proj"; do
		data | sal-sft -m "$M" -a "$T/a" -o "$T/b" --batch 3 $o > /dev/null 2> "$T/err"
		grep -q "^sal-sft: --lora-r, --lora-alpha and --lora-targets are of a fresh adapter: $T/a keeps its own" "$T/err"
		cmp <(jq -S 'del(.base_model_name_or_path)' "$T/a/adapter_config.json") <(jq -S 'del(.base_model_name_or_path)' "$T/b/adapter_config.json")
	done
	data | sal-sft -q -m "$M" -a "$T/a" -o "$T/b" $D 2> "$T/err" > /dev/null
	[ ! -s "$T/err" ]
	data | sal-sft -m "$M" -a "$T/a" -o "$T/b" --batch 3 --lora-dropout 0.25 2> "$T/err" > /dev/null
	! grep -q fresh "$T/err"
	jq -e '.lora_dropout == 0.25 and .r == 4' "$T/b/adapter_config.json"
}
@test "DPO starts at ln 2 and separates the answers" {
	printf '{"prompt_tokens":[1,2],"chosen_tokens":[3,4],"rejected_tokens":[5,6,7]}\n' |
		sal-sft -q -m "$M" -o "$T/a" --loss dpo --beta 0.5 $D --epochs 6 > "$T/log"
	jq -se '(.[0].loss - 0.6931472 | fabs) < 1e-6 and .[-1].loss < 0.6' "$T/log"
}
@test "a run that was cut goes on to the same bytes" {
	data | sal-sft -q -m "$M" -o "$T/a" $D --epochs 4 --lora-dropout 0.3 > /dev/null
	# once it reads, the name of the result is taken from it; what was saved after update 10 of 12 stays
	cut() { printf '{"pad":"%070000d","prompt_tokens":[1,2,3],"response_tokens":[8,5,6,1]}\n' 0; touch "$T/b"; data | tail -n +2; }
	run bash -c "$(declare -f data cut); T='$T'; cut | sal-sft -q -m '$M' -o '$T/b' $D --epochs 4 --lora-dropout 0.3 --save-every 5 2> '$T/err' > /dev/null"
	refused 1
	rm "$T/b"
	for other in "--seed 2" "--epochs 5" "--learning-rate 1e-3" "--dtype f32" "--lora-r 8" "--lora-dropout 0.2" "--no-shuffle" "-a $T/a"; do
		run bash -c "$(declare -f data); data | sal-sft -q -m '$M' -o '$T/b' $D --epochs 4 --lora-dropout 0.3 --save-every 5 $other 2> '$T/err' > /dev/null"
		refused 1
		grep -q 'b.partial: a saved run of another command' "$T/err"
	done
	run bash -c "$(declare -f data); data | tac | sal-sft -q -m '$M' -o '$T/b' $D --epochs 4 --lora-dropout 0.3 --save-every 5 2> '$T/err' > /dev/null"
	refused 1
	[ "$(data | sal-sft -q -m "$M" -o "$T/b" $D --epochs 4 --lora-dropout 0.3 --save-every 5 --micro-batch 7 -j 1 | wc -l)" -eq 2 ]
	[ ! -e "$T/b.partial" ]
	cmp "$T/a/adapter_model.safetensors" "$T/b/adapter_model.safetensors"
}
@test "--prompt-len keeps the last tokens of a prompt and its BOS, --response-len the first of an answer" {
	same() { # RECORD OPTION...: the loss of the record as it is and of the other with the options
		cmp <(echo "$1" | sal-sft -q -m "$M" -o "$T/x" $D) <(echo "$long" | sal-sft -q -m "$M" -o "$T/x" $D "${@:2}")
	}
	local long='{"prompt_tokens":[1,2,3,4],"response_tokens":[5,6,7]}'
	same '{"prompt_tokens":[3,4],"response_tokens":[5,6,7]}' --prompt-len 2
	same '{"prompt_tokens":[1,2,3,4],"response_tokens":[5]}' --response-len 1
	same "$long" --prompt-len 4 --response-len 3
	long='{"prompt_tokens":[269,2,3,4],"response_tokens":[5,6,7]}' # the tiny model's BOS
	same '{"prompt_tokens":[269,4],"response_tokens":[5,6,7]}' --prompt-len 2
	same '{"prompt_tokens":[4],"response_tokens":[5,6,7]}' --prompt-len 1
}
@test "an answer that was cut off teaches no end" {
	told() { printf '{"prompt":"hi","response":"there"%s}\n' "$1" | sal-sft -q -m "$M" -o "$T/a${#1}" $D | jq .num_tokens; }
	[ "$(told ,\"has_stop\":true)" -eq "$(told)" ]
	[ "$(told ,\"has_stop\":false)" -eq $(($(told) - 1)) ]
}
