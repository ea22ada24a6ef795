#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# dromedary2-70b.mk and smollm2.mk: what they print, and a whole run on the tiny model.
load helper

setup() {
	export MAKEFLAGS=
	tiny "$T/model"
	jq '.max_position_embeddings = 16384' "$M/config.json" > "$T/model/config.json"
	mkdir "$T/data"
	for i in 1 2 3; do
		echo "{\"conversations\":[{\"from\":\"human\",\"value\":\"Say $i\"},{\"from\":\"gpt\",\"value\":\"$i\"}]}" >> "$T/data/sharegpt.jsonl"
		echo "{\"instruction\":\"Write $i\",\"context\":\"\",\"response\":\"x\",\"category\":\"open_qa\"}" >> "$T/data/dolly.jsonl"
		echo "{\"message_id\":\"r$i\",\"parent_id\":null,\"text\":\"Why $i\"}" >> "$T/data/oasst1.jsonl"
		echo "{\"message_id\":\"a$i\",\"parent_id\":\"r$i\",\"text\":\"Yes\"}" >> "$T/data/oasst1.jsonl"
		echo "{\"id\":\"cot.$i\",\"system_prompt\":\"\",\"question\":\"Think $i\",\"response\":\"x\"}" >> "$T/data/openorca.jsonl"
		echo "{\"problem\":\"Add $i\",\"solution\":\"x\",\"level\":\"1\",\"type\":\"a\"}" >> "$T/data/math.jsonl"
		echo "{\"chosen\":\"\\n\\nHuman: Hi $i\\n\\nAssistant: Hello\",\"rejected\":\"\\n\\nHuman: Hi $i\\n\\nAssistant: No\"}" >> "$T/data/hh.jsonl"
		echo "{\"history\":\"How $i\",\"human_ref_A\":\"So\",\"human_ref_B\":\"Not\",\"labels\":1,\"score_ratio\":3.0}" >> "$T/data/shp.jsonl"
	done
}
recipe() { # FILE WORK OPTION...
	make --no-print-directory -f "pipelines/$1.mk" BIN="$BIN" MODEL="$T/model" WORK="$T/$2" DATA="$T/data" "${@:3}"
}
small() { # FILE WORK OPTION...
	recipe "$@" JUDGE_P=demo DIMENSIONS=Concise,Poetic AGREE=mean R=2 SA_NEW=4 MAX_NEW=16 RAW_CHARS=0 RM_BATCH=4 SFT_BATCH=50 ROLLOUTS=15 MINIBATCH=8 PPO_NEW=8 PPO_WARM=1 DRAW=2 ALARM=kl=100
}

@test "recipe: every stage of the 70B file runs, whole or in parts, the same bytes" {
	small dromedary2-70b one SHARDS=1
	[ -e "$T/one/dromedary2/adapter_model.safetensors" ]
	[ -e "$T/one/state/2/state.json" ]
	[ "$(jq -s length "$T/one/ppo/2.jsonl")" -eq 1 ]
	small dromedary2-70b two SHARDS=3 LAUNCH='xargs -P 2 -I {} bash -c'
	diff -r -x '*.log' "$T/one" "$T/two"
	[ "$(small dromedary2-70b one -n | grep -c sal-)" -eq 0 ]
}
@test "recipe: make -n of the 70B file names every tool and the paper's values" {
	recipe dromedary2-70b n -n > "$T/out"
	for tool in prompts generate filter sft synthpref rmdata rmtrain score ppo-step; do grep -q "sal-$tool " "$T/out"; done
	for value in "max-tokens 512 --temperature 0.7 --top-p 0.95" "min-chars 160" "prompt-len 512 --response-len 512" "warmup-ratio 0.03 --batch 128 --epochs 1 --max-grad-norm 0.3" \
		"-n 2 --max-tokens 768 --seed 42" "-p rm --template judge.txt --min-chars 16" "passes 4 --max-principles 8 --geometric 0.2" \
		"negate 0.5 --noise 0.1 --rule-noise 0.25" "len 256 --response-len 640 --max-len 1024 --learning-rate 5e-5" "warmup-ratio 0.01" \
		"len 128 --response-len 768 --max-len 1280 --learning-rate 3e-5" "batch 64" "lora-r 64 --lora-alpha 16" "-p ppo --draw 3 --template reward_rl.txt" \
		"/ 576" "learning-rate 2e-5 --schedule cosine --warmup-steps 5" "minibatch 288 --epochs 2" "response-len 1024 --kl-estimator k1 --kl-coef 0.01" \
		"length-bonus 5 --length-bonus-cap 0.8 --stop-penalty -6 --reward-scale 10" "clip-range 0.2 --value-clip-range 0.2 --vf-coef 0.1 --max-grad-norm 1" "alarm kl=100 --alarm lr=1 --alarm length=8:1000"; do
		grep -q -e "$value" "$T/out" || { echo "no $value"; false; }
	done
}
@test "recipe: smollm2.mk is the same without data sets" {
	head -n 8 prompts/demo.jsonl > "$T/few"
	small smollm2 s OASST1="$T/few" MAX_PROMPT=1000 RL_PROMPT=1000 ROLLOUTS=8
	[ -e "$T/s/dromedary2/adapter_model.safetensors" ]
	[ ! -e "$T/s/pmp" ]
}
