# SPDX-License-Identifier: Apache-2.0
# Damaged and hostile files and records: one line that names the file or the line and the cause, exit 1, nothing written.
load helper

R='{"prompt_tokens":[1],"response_tokens":[2]}'
setup() { cp -r "$M" "$T/m"; chmod -R u+w "$T/m"; }
said() { # TEXT of the one line; no output
	[ "$status" -eq 1 ]
	[ "$(wc -l < "$T/err")" -eq 1 ] || { cat "$T/err"; return 1; }
	grep -qF -- "$1" "$T/err" || { cat "$T/err"; return 1; }
	[ -z "$output" ]
}
score() { run bash -c "echo '$R' | timeout 20 sal-score -q -m '$T/m' $* 2> '$T/err'"; }
json() { jq -c "$2" "$M/$1" > "$T/m/$1"; } # FILE FILTER: a member of the model, changed
# TYPE-OF-TYPES WIDTH TYPE-OF-SCORES WIDTH: a GGUF file of a tokenizer with three tokens and no tensors
tokens() {
	gguf 4 0
	str tokenizer.ggml.model; le 4 8; str llama
	str tokenizer.ggml.tokens; le 4 9 8; le 8 3; str '<unk>'; str '<s>'; str '</s>'
	str tokenizer.ggml.token_type; le 4 9 "$1"; le 8 3; le "$2" 2 3 3
	str tokenizer.ggml.scores; le 4 9 "$3"; le 8 3; le "$4" 0 0 0
}

@test "a config.json without a key, with one twice, or with a value that no model has" {
	while IFS=';' read -r -u 9 change why; do
		json config.json "$change"
		score --logprobs
		said "$T/m/config.json: $why"
	done 9<<-'END'
		del(.hidden_size);missing "hidden_size"
		.num_attention_heads = 0;num_attention_heads: 0
		.num_hidden_layers = 2147483647;num_hidden_layers:
		.vocab_size = 4294967567;vocab_size:
		.max_position_embeddings = 1099511627776;max_position_embeddings:
		.rms_norm_eps = -1;rms_norm_eps
		.hidden_act = "relu6";hidden_act 'relu6'
		.model_type = "bert";architecture 'bert'
		.rope_scaling = {"type":"martian","factor":2};rope scaling of type 'martian'
		.attention_bias = "yes";"attention_bias"
	END
	sed 's/"hidden_size"/"hidden_size": 64, "hidden_size"/' "$M/config.json" > "$T/m/config.json"
	score --logprobs
	said 'twice'
}
@test "a config.json that does not fit the tensors, before anything is reserved for it" {
	while IFS=';' read -r -u 9 change why; do
		json config.json "$change"
		score --logprobs
		said "$T/m: tensor '$why"
	done 9<<-'END'
		.vocab_size = 272;model.embed_tokens.weight' has 2 dimensions [271, 64], expected [272, 64]
		.num_hidden_layers = 4096;model.layers.2.self_attn.q_proj.weight' is missing
		.num_hidden_layers = 1;model.layers.1.input_layernorm.weight' is there
		.num_attention_heads = 4096 | .num_key_value_heads = 4096 | .head_dim = 1024;model.layers.0.self_attn.q_proj.weight' has
		.attention_bias = true;model.layers.0.self_attn.q_proj.bias' is missing
		.tie_word_embeddings = false;lm_head.weight' is missing
	END
}
@test "an end token outside the vocabulary" {
	json config.json '.eos_token_id = [270, 271]'
	score --logprobs
	said "$T/m/config.json: eos_token_id"
	cp "$M/config.json" "$T/m/config.json"
	json generation_config.json '.eos_token_id = 271'
	score --logprobs
	said "$T/m/generation_config.json: eos_token_id"
}
@test "a safetensors file that is cut, or whose header lies" {
	f=$T/m/model.safetensors
	for n in 0 7 200 -1; do
		head -c "$n" "$M/model.safetensors" > "$f"
		score --logprobs
		said "$f: "
	done
	cp "$M/model.safetensors" "$f"
	printf x >> "$f"
	score --logprobs
	said "$f: the tensors end at byte"
	while IFS=';' read -r -u 9 bytes header why; do
		tensors "$f" "$header" "$bytes"
		score --logprobs
		said "$f: $why"
	done 9<<-'END'
		16;{"a":{"dtype":"F32","shape":[4],"data_offsets":[1000000,1000016]}};tensor 'a' ends outside the file
		16;{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}};tensor 'a': shape needs 16 bytes
		16;{"a":{"dtype":"F32","shape":[4194305,4194305,211106198978564],"data_offsets":[0,16]}};tensor 'a': the size does not fit
		16;{"a":{"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]}};the header has a number
		16;{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}};data_offsets leave a hole or overlap
		16;{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}};byte 109: key "a" twice
		0;{"a":[[[[[[[[[[[[]]]]]]]]]]]]};the header is nested too deeply
	END
}
@test "a shard whose name leaves the folder, or that is not there" {
	mv "$T/m/model.safetensors" "$T/m/model-1.safetensors"
	for name in ../m/model-1.safetensors /dev/stdin '' model.safetensors.index.json; do
		echo "{\"weight_map\":{\"model.norm.weight\":\"$name\"}}" > "$T/m/model.safetensors.index.json"
		score --logprobs
		said "$T/m/model.safetensors.index.json: '$name' is not the name of a shard"
	done
	echo '{"weight_map":{"model.norm.weight":"model-2.safetensors"}}' > "$T/m/model.safetensors.index.json"
	score --logprobs
	said "$T/m/model-2.safetensors: "
}
@test "weights that are not finite: the record is named, and nothing is trained" {
	n=$(od -An -tu8 -N8 "$M/model.safetensors") # model.norm.weight, BF16: NaN
	at=$(head -c $((8 + n)) "$M/model.safetensors" | tail -c +9 | jq '.["model.norm.weight"].data_offsets[0]')
	printf '\xc0\x7f' | dd of="$T/m/model.safetensors" bs=1 seek=$((8 + n + at)) conv=notrunc status=none
	score --logprobs
	said "stdin:1: "
	run bash -c "echo '{\"id\":\"p7\",\"prompt\":\"hi\"}' | sal-generate -q -m '$T/m' --max-tokens 2 2> '$T/err'"
	said "p7"
	for j in contrast "compare --template tests/data/reward.txt"; do
		run bash -c "echo '{\"prompt\":\"hi\",\"output_1\":\"a\",\"output_2\":\"b\"}' |
			sal-synthpref -q -m '$T/m' -p demo --judge $j 2> '$T/err'"
		said "stdin:1: a log-probability is not finite"
	done
	run bash -c "echo '$R' | sal-sft -q -m '$T/m' -o '$T/out' --lora-r 2 2> '$T/err'"
	said "stdin:1: a log-probability is not finite"
	[ ! -e "$T/out" ]
}
@test "a GGUF file that is cut, or whose counts, lengths and types lie" {
	g=$T/g.gguf
	refuse() { # WHY; the file on stdin
		cat > "$g"
		run bash -c "echo '{\"text\":\"a\"}' | timeout 20 sal-tokenize -q -m '$g' 2> '$T/err'"
		said "$g: $1"
	}
	tokens 5 4 6 4 > "$g"
	[ "$(echo '{"tokens":[0,1]}' | sal-tokenize -q -m "$g" --decode | jq -r .text)" = '<unk><s>' ]
	for n in 0 3 12 23 40 70 -1; do
		tokens 5 4 6 4 | head -c "$n" | refuse ''
	done
	printf 'GGUX' | refuse 'not a GGUF file'
	{ printf GGUF; le 4 50331648; le 8 0 0; } | refuse 'version 50331648 is not supported (a big-endian file?)'
	gguf -1 0 | refuse '0 tensors and 18446744073709551615 keys are more than the file holds'
	{ gguf 0 1000000000; head -c 4096 /dev/zero; } | refuse '1000000000 tensors'
	{ gguf 900000 0; head -c 14000000 /dev/zero; } | refuse '0 tensors and 900000 keys'
	{ gguf 1 0; le 8 -1; head -c 99 /dev/zero; } | refuse "metadata '': a string of 18446744073709551615 bytes"
	{ gguf 1 0; str x; le 4 9 10; le 8 2305843009213693953 0; } | refuse "metadata 'x': an array of 2305843009213693953 elements"
	{ gguf 1 0; str x; le 4 9 9; le 8 1 0; } | refuse "metadata 'x': an array of values of type 9"
	{ gguf 1 0; str general.alignment; le 4 4 0; } | refuse 'alignment 0'
	{ gguf 2 0; for i in 1 2; do str x; le 4 4 0; done; } | refuse "metadata 'x' stands twice"
	{ gguf 0 1; str t; le 4 5; head -c 99 /dev/zero; } | refuse "tensor 't': 5 dimensions"
	{ gguf 0 1; str t; le 4 2; le 8 4294967296 4294967296; le 4 0; le 8 0; } | refuse "tensor 't': the size does not fit"
	{ gguf 0 1; str t; le 4 1; le 8 32; le 4 0; le 8 1099511627776; } | refuse "tensor 't': offset 1099511627776"
	tokens 0 1 6 4 | refuse "metadata 'tokenizer.ggml.token_type' is not an array of i32"
	tokens 5 4 0 1 | refuse "metadata 'tokenizer.ggml.scores' is not an array of f32"
}
@test "a tokenizer.json that is ambiguous, explosive, or not what it says" {
	while IFS=';' read -r -u 9 change why; do
		json tokenizer.json "$change"
		run bash -c "echo '{\"text\":\"aaaa\"}' | timeout 20 sal-tokenize -q -m '$T/m' 2> '$T/err'"
		said "$T/m/tokenizer.json: $why"
	done 9<<-'END'
		.model.vocab.zz = 5;two tokens with id 5
		.model.vocab.zz = 1000000000;the id of "zz"
		.model.merges += [["q", "nothere"]];merge 12 joins
		.added_tokens[0].content = "";an added token without content
		.normalizer = {"type":"Precompiled"};normalizer "Precompiled"
		.pre_tokenizer = {"type":"Split","pattern":{"Regex":"(a+)+b"},"behavior":"Isolated"};the pre_tokenizer's pattern repeats
		.normalizer = {"type":"Sequence","normalizers":[range(32) | {"type":"Replace","pattern":{"String":"a"},"content":"aa"}]};a text of 4 bytes cannot be normalized
	END
}
@test "an adapter for another model, without its tensors, or that claims a rank" {
	adapter "$T/rm"
	c=$T/rm/adapter_config.json a="-a '$T/rm'"
	R='{"tokens":[1]}'
	cp "$c" "$T/c"
	while IFS=';' read -r -u 9 change why; do
		jq "$change" "$T/c" > "$c"
		score "$a"
		said "$T/rm/$why"
	done 9<<-'END'
		del(.r);adapter_config.json: r: missing
		.r = 0;adapter_config.json: r: 0
		.r = 4096;adapter_model.safetensors: tensor 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight' has shape [4, 64], expected [4096, 64]: an adapter for another model?
		.use_dora = true;adapter_config.json: "use_dora"
		.target_modules = ["q_proj"];adapter_model.safetensors: tensor 'base_model.model.model.layers.0.mlp.down_proj.lora_A.weight' has no place
		.peft_type = "IA3";adapter_config.json: peft_type 'IA3'
	END
	cp "$T/c" "$c"
	tensors "$T/rm/adapter_model.safetensors" '{"base_model.model.score.weight":{"dtype":"F32","shape":[1,64],"data_offsets":[0,256]}}' 256
	score "$a"
	said "$T/rm/adapter_model.safetensors: tensor 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight' is missing"
}
@test "records that are not JSON, not UTF-8, not finite, too deep, too many values, or without a field" {
	i=0
	while IFS=';' read -r -u 9 record why; do
		printf "$record\n" > "$T/in"
		run bash -c "timeout 20 sal-generate -q -m '$M' --max-tokens 1 < '$T/in' 2> '$T/err'"
		said "stdin:1: $why"
		i=$((i + 1))
	done 9<<-'END'
		{"prompt":"a";byte 14: ends
		{"prompt":"a"} {};byte 16: not the end
		{"prompt":"a","prompt":"b"};byte 27: key "prompt" twice
		{"prompt":"\xc3\x28"};byte 12: not UTF-8
		{"prompt":"\xed\xa0\x80"};byte 12: not UTF-8
		{"prompt":"\\ud800"};byte 12: lone surrogate
		{"prompt":"a\\u0000"};byte 13: NUL
		{"prompt":"a","x":NaN};byte 19: not a JSON value
		{"prompt":"a","x":1e999};byte 19: number too large
		{"prompt":7};prompt: not a string
		{"id":"a"};none of "prompt_tokens"
		["prompt"];not a JSON object
	END
	[ $i -eq 12 ]
	for r in "$(printf '[%.0s' {1..999})" "[$(yes 0, | head -n 4200000 | tr -d '\n')0]"; do
		echo "$r" > "$T/in"
		run bash -c "sal-generate -q -m '$M' < '$T/in' 2> '$T/err'"
		said "stdin:1: byte"
	done
}
@test "a prompt that leaves no room in the context, and one word of 300,000 letters" {
	run bash -c "jq -nc '{prompt_tokens:[range(256) | 1]}' | sal-generate -q -m '$M' 2> '$T/err'"
	said 'stdin:1: a prompt of 256 tokens leaves no room in the context of 256'
	run bash -c "jq -nc '{prompt:(\"a\" * 300000)}' | timeout 20 sal-generate -q -m '$M' 2> '$T/err'"
	said 'leaves no room in the context of 256'
	run bash -c "jq -nc '{prompt_tokens:[range(250) | 1], response_tokens:[range(7) | 1]}' | sal-score -q -m '$M' --logprobs 2> '$T/err'"
	said 'stdin:1: 257 tokens are more than the context of 256'
}
@test "a state with one file cut or changed is refused, and no new one is written" {
	echo "$R" | sal-sft -q -m "$M" -o "$T/p" --lora-r 2 > /dev/null
	sal-ppo-step -q --init -m "$M" -a "$T/p" -o "$T/s0"
	for f in policy/adapter_model.safetensors value/head.safetensors policy/optimizer.safetensors state.json; do
		cp -r "$T/s0" "$T/s"
		printf x | dd of="$T/s/$f" bs=1 seek=20 conv=notrunc status=none
		run bash -c "echo '{\"id\":\"a\",\"prompt_tokens\":[1],\"response_tokens\":[2],\"reward\":1}' |
			sal-ppo-step -q -m '$M' -s '$T/s' -o '$T/s1' --schedule constant 2> '$T/err'"
		said "$T/s/$f: "
		[ ! -e "$T/s1" ]
		rm -r "$T/s"
	done
}
