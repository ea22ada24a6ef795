# SPDX-License-Identifier: Apache-2.0
load helper

# config NAME HIDDEN LAYERS HEADS KV_HEADS FFN: LLaMA-2's configuration of that size
config() {
	mkdir -p "$T/$1"
	printf '{"model_type":"llama","hidden_size":%d,"num_hidden_layers":%d,"num_attention_heads":%d,"num_key_value_heads":%d,"intermediate_size":%d,"vocab_size":32000,"max_position_embeddings":4096,"rms_norm_eps":1e-5}' \
		"$2" "$3" "$4" "$5" "$6" > "$T/$1/config.json"
}
# The same by hand for one step of PPO, 1280 rows, rank 64, two adapters trained and two frozen: bytes of each part
count() { # HIDDEN LAYERS KV_WIDTH FFN HEADS bf16|nf4
	awk -v h="$1" -v n="$2" -v kv="$3" -v f="$4" -v a="$5" -v q="$6" 'BEGIN {
		layer = 2 * h * h + 2 * h * kv + 3 * h * f # elements of the seven projections
		each = q == "nf4" ? 1 / 2 + 1 / 64 + 4 / (64 * 256) : 2
		vocabulary = 2 * 32000 * h * 2 # embedding and head in bf16
		weights = n * layer * each + vocabulary + (2 * n + 1) * h * 4 + 4096 * 128 * 4
		lora = n * 64 * (2 * (h + h) + 2 * (h + kv) + 3 * (h + f)) # parameters of one adapter
		adapters = 2 * lora * (2 + 4) + 2 * lora * 2
		gradients = 2 * (lora * 4 + 2 * 64 * f * 4) # the sum, and of one record those of A and of B
		moments = 2 * lora * 8
		# input of each layer, and of the last norm; one layer; the backward pass; the rows that a loss reads
		row = (n + 1) * h * 4 + (4 * h + 3 * f + 7 * 64) * 2 + h * 4 + a * 4 + (4 * h + 3 * f + 4 * kv + 64) * 2 + 2 * h * 4 + h * 2 + 2 * h * 4
		printf "{\"weights\":%.0f,\"adapters\":%.0f,\"gradients\":%.0f,\"moments\":%.0f,\"activations\":%.0f}", weights, adapters, gradients, moments, 1280 * row
	}'
}
near() { # RECORD COUNTED: each part within 1 in 1000
	jq -en --argjson x "$1" --argjson y "$2" '$y | to_entries | all(.value as $v | $x[.key] - $v | fabs <= 0.001 * $v)'
}
plan() { sal-model plan -q --frozen 2 --batch 288 --ranks 48 --length 1280 "$@"; }

@test "LLaMA-2 7B, 13B and 70B: the plan is the hand count" {
	config 7B 4096 32 32 32 11008
	config 13B 5120 40 40 40 13824
	config 70B 8192 80 64 8 28672
	for q in none nf4; do
		near "$(plan -m "$T/7B" --quantize $q)" "$(count 4096 32 4096 11008 32 $q)"
		near "$(plan -m "$T/13B" --quantize $q)" "$(count 5120 40 5120 13824 40 $q)"
		near "$(plan -m "$T/70B/config.json" --quantize $q)" "$(count 8192 80 1024 28672 64 $q)"
	done
}
@test "70B in 4 bits with four adapters fits 80 GB with the batch of one card of 48; in 16 bits it is refused in one line" {
	config 70B 8192 80 64 8 28672
	plan -m "$T/70B" --quantize nf4 --device-memory 80G > "$T/o"
	jq -e '.batch == 6 and .trained == 2 and .frozen == 2 and .sum < 80e9 and .sum > 70e9 and .seconds > 0 and
		.sum == .weights + .adapters + .gradients + .moments + .kv_cache + .activations + .workspace' "$T/o"
	run bash -c "sal-model plan -m '$T/70B' --frozen 2 --length 1280 --device-memory 80G 2> '$T/err' > '$T/o'"
	refused 1
	grep -q '^sal-model: .* does not fit into 80.00 GB$' "$T/err"
	jq -e '.sum > 80e9' "$T/o"
}
@test "keys and values of sampling are those of every layer, of every sequence and one more" {
	config 70B 8192 80 64 8 28672
	sal-model plan -q -m "$T/70B" --stage generate -b 16 --length 1664 | jq -e '.kv_cache == 2 * 2 * 80 * 8 * 128 * 1664 * 17'
}
@test "a length past the context, a size that is none, a device that is none: one line" {
	run bash -c "sal-model plan -m '$M' --length 257 2> '$T/err'"
	refused 1
	for b in 80X 1e308T; do
		run bash -c "sal-model plan -m '$M' --device-memory $b 2> '$T/err'"
		refused 2
	done
	for d in tpu cuda: cuda:x cuda:-1 cuda:+1 cuda:1junk 'cuda: 1' cuda:1234 cuda0 CUDA ''; do
		run bash -c "sal-model plan -m '$M' -d '$d' 2> '$T/err'"
		refused 1
		grep -qF "device '$d': not one of cpu, cuda, cuda:N" "$T/err"
		run bash -c "sal-score -m '$M' --logprobs -d '$d' < /dev/null 2> '$T/err'"
		refused 1
		grep -qF "device '$d': not one of cpu, cuda, cuda:N" "$T/err"
	done
	sal-model plan -q -m "$M" -d cuda:7 | jq -e .weights
	run bash -c "sal-model grow -m '$M' 2> '$T/err'"
	refused 2
	config wide 8192 80 64 8 28672
	sed -i 's/4096/1048576/' "$T/wide/config.json"
	run bash -c "sal-model plan -m '$T/wide' --stage generate -b 65536 2> '$T/err'"
	refused 1
}
@test "inspect: the configuration and every tensor, as they are in the files" {
	sal-model inspect -q -m "$M" > "$T/o"
	jq -es '.[0].arch == "llama" and .[0].hidden_size == 64 and .[0].tensors == length - 1 and .[0].bytes == (.[1:] | map(.bytes) | add) and
		.[0].parameters == (.[1:] | map(.shape | reduce .[] as $d (1; . * $d)) | add) and
		(.[1:] | map(select(.tensor == "model.layers.1.mlp.down_proj.weight")) | .[0].shape == [64, 96] and .[0].dtype == "BF16")' "$T/o"
}
@test "merge: the folder scores as base and adapter do; without an adapter the tensors are those of the base" {
	printf '{"prompt_tokens":[1,9,4],"response_tokens":[2,3,7,7]}\n' > "$T/in"
	sal-sft -q -m "$M" -o "$T/a" --lora-r 4 --learning-rate 3e-2 --schedule constant --warmup-steps 0 --epochs 3 < "$T/in" > /dev/null
	sal-model merge -q -m "$M" -a "$T/a" -o "$T/m" --dtype f32 | jq -e '.tensors == 20'
	sal-score -q -m "$M" -a "$T/a" --logprobs --dtype f32 < "$T/in" > "$T/two"
	sal-score -q -m "$T/m" --logprobs --dtype f32 < "$T/in" > "$T/one"
	sal-score -q -m "$M" --logprobs --dtype f32 < "$T/in" > "$T/base"
	jq -es '[.[0].logprobs, .[1].logprobs] | transpose | all(.[0] - .[1] | fabs < 1e-4)' "$T/one" "$T/two"
	jq -es '[.[0].logprobs, .[1].logprobs] | transpose | any(.[0] - .[1] | fabs > 1e-2)' "$T/one" "$T/base"
	[ "$(jq -r .torch_dtype "$T/m/config.json")" = float32 ]
	sal-model merge -q -m "$M" -o "$T/b" > /dev/null
	cmp "$M/tokenizer.json" "$T/b/tokenizer.json"
	cmp <(sal-model inspect -q -m "$M" | jq -c 'select(.tensor)') <(sal-model inspect -q -m "$T/b" | jq -c 'select(.tensor)')
	sal-score -q -m "$T/b" --logprobs < "$T/in" | cmp - <(sal-score -q -m "$M" --logprobs < "$T/in")
}
@test "merge: an adapter of another model, a folder that is there half, a .gguf: one line, and nothing is written" {
	tiny "$T/other"
	jq '.num_hidden_layers = 1' "$M/config.json" > "$T/other/config.json"
	printf '{"prompt_tokens":[1],"response_tokens":[2,3]}\n' | sal-sft -q -m "$M" -o "$T/a" --lora-r 4 > /dev/null
	gguf 0 0 > "$T/x.gguf"
	run bash -c "sal-model merge -q -m '$T/x.gguf' -o '$T/m' 2> '$T/err'"
	grep -q "x.gguf: not a folder: the model that an adapter is merged into is one of Hugging Face's" "$T/err"
	for c in "-m $T/other -a $T/a" "-m $T/x.gguf" "-m $M/config.json" "-m $M -a $T/none"; do
		run bash -c "sal-model merge -q $c -o '$T/m' 2> '$T/err'"
		refused 1
		[ ! -e "$T/m" ]
	done
}
@test "merge: an output that is, or holds, the model or the adapter is refused, and both stay" {
	mkdir "$T/in"
	tiny "$T/in/m"
	printf '{"prompt_tokens":[1],"response_tokens":[2,3]}\n' | sal-sft -q -m "$M" -o "$T/in/a" --lora-r 4 > /dev/null
	for o in "$T/in/m" "$T/in/m/../m/" "$T/in" "$T/in/a"; do
		run bash -c "sal-model merge -q -m '$T/in/m' -a '$T/in/a' -o '$o' 2> '$T/err'"
		refused 1
		grep -q 'would take the place of' "$T/err"
		cmp "$M/model.safetensors" "$T/in/m/model.safetensors"
		[ -e "$T/in/a/adapter_config.json" ]
	done
	sal-model merge -q -m "$T/in/m" -o "$T/in/merged" > /dev/null
	[ "$(ls "$T/in" | tr '\n' ' ')" = "a m merged " ]
}

# A llama of one layer, 64 wide, of zeros; all seven projections of that type of element, of BYTES for 32, but down_proj: float
one_layer() { # TYPE BYTES
	local name n type bytes at=0
	num() { str "llama.$1"; le 4 4 "$2"; }
	gguf 8 11
	str general.architecture; le 4 8; str llama
	num embedding_length 64; num feed_forward_length 64; num block_count 1; num attention.head_count 2; num attention.head_count_kv 2; num context_length 64
	str llama.attention.layer_norm_rms_epsilon; le 4 6 925353388
	while read -r name n type bytes; do
		str "$name"
		if [ "$n" -eq 1 ]; then le 4 1; le 8 64; else le 4 2; le 8 64 "$n"; fi
		le 4 "$type"; le 8 $at
		at=$((at + 2 * n * bytes))
	done <<-END
		token_embd.weight 32 0 128
		blk.0.attn_q.weight 64 $1 $2
		blk.0.attn_k.weight 64 $1 $2
		blk.0.attn_v.weight 64 $1 $2
		blk.0.attn_output.weight 64 $1 $2
		blk.0.ffn_gate.weight 64 $1 $2
		blk.0.ffn_up.weight 64 $1 $2
		blk.0.ffn_down.weight 64 0 128
		blk.0.attn_norm.weight 1 0 128
		blk.0.ffn_norm.weight 1 0 128
		output_norm.weight 1 0 128
	END
	head -c $((at + 4096)) /dev/zero # and what aligns the first
}
@test "plan: of a CPU no time is told, unless its peaks are given" {
	sal-model plan -m "$M" -d cpu 2> "$T/err" | jq -e 'has("seconds") | not'
	grep -q '^time  *give --tflops and --bandwidth of this processor$' "$T/err"
	sal-model plan -q -m "$M" -d cpu --tflops 1 | jq -e 'has("seconds") | not'
	sal-model plan -q -m "$M" -d cpu --tflops 1 --bandwidth 20 | jq -e '.seconds > 0'
	[ "$(sal-model plan -q -m "$M")" = "$(sal-model plan -q -m "$M" --tflops 312 --bandwidth 2039)" ]
}
@test "plan: blocks of a .gguf file are counted as the loader holds them" {
	one_layer 0 128 > "$T/f32.gguf"
	one_layer 8 34 > "$T/q8_0.gguf"
	for f in f32 q8_0; do for d in cpu cuda; do sal-model plan -q -m "$T/$f.gguf" -d $d --stage score > "$T/$f.$d"; done; done
	jq -es '.[0].weights == .[1].weights' "$T/f32.cpu" "$T/q8_0.cpu" # decoded when they are loaded
	jq -es '.[0].weights - .[1].weights == 6 * 64 * (64 * 2 - 2 * 34)' "$T/f32.cuda" "$T/q8_0.cuda"
	# decoded before each use, also if not all are
	jq -es '.[0].workspace < .[1].workspace and .[0].seconds < .[1].seconds' "$T/f32.cuda" "$T/q8_0.cuda"
}
@test "merge: a tensor beside a projection is not the projection" {
	adapter "$T/a"
	tiny "$T/m"
	tensors "$T/m/more.safetensors" '{"model.layers.0.self_attn.q_proj.scales":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' 4
	n=$(od -An -tu8 -N8 "$M/model.safetensors")
	head -c $((8 + n)) "$M/model.safetensors" | tail -c +9 | jq '{weight_map: (del(.__metadata__) | map_values("model.safetensors") +
		{"model.layers.0.self_attn.q_proj.scales": "more.safetensors"})}' > "$T/m/model.safetensors.index.json"
	mv "$T/m/model.safetensors" "$T/m/one.safetensors"
	sed -i 's/"model.safetensors"/"one.safetensors"/' "$T/m/model.safetensors.index.json"
	sal-model merge -q -m "$M" -a "$T/a" -o "$T/x" | jq .tensors > "$T/n"
	sal-model merge -q -m "$T/m" -a "$T/a" -o "$T/y" | jq -e --argjson n "$(cat "$T/n")" '.tensors == $n + 1'
}
