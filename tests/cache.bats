#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# SAL_CACHE: packed weights in files.
load helper
setup() { prompts 2 > "$T/in"; }
cached() { SAL_CACHE=$T/c "$@"; }
files() { find "$T/c" -name '*.packed' | wc -l; }
generate() { sal-generate -m "$M" --max-tokens 4 --tokens "$@" < "$T/in"; }

@test "weights are packed once for each way of packing, and later starts give the same bytes" {
	local n=0
	for way in "" "--dtype f32" "--quantize nf4" "--quantize int8"; do
		generate $way > "$T/want" 2> "$T/err"
		isa=$(sed -n 's/.*SAL_CPU=//p' "$T/err")
		SAL_DEBUG=trace cached generate $way > "$T/first" 2> "$T/err"
		grep -q 'sal: weight_' "$T/err"
		n=$((n + 1))
		[ "$(files)" -eq $n ]
		SAL_DEBUG=trace cached generate $way > "$T/second" 2> "$T/err"
		[ "$(grep -c 'sal: weight_' "$T/err")" -eq 0 ]
		[ "$(files)" -eq $n ]
		cmp "$T/want" "$T/first"
		cmp "$T/want" "$T/second"
	done
	[ "$isa" = portable ] || n=$((n + 1))
	SAL_CPU=portable generate > "$T/want" 2> /dev/null
	for i in 1 2; do
		SAL_CPU=portable cached generate -j $i > "$T/got" 2> /dev/null
		cmp "$T/want" "$T/got"
		[ "$(files)" -eq $n ]
	done
	sed 's/.*/{"tokens":[1,2,3]}/' "$T/in" > "$T/tokens"
	adapter "$T/rm"
	SAL_CPU=portable cached sal-score -q -m "$M" -a "$T/rm" < "$T/tokens" > "$T/got"
	[ "$(files)" -eq $n ]
	[ "$(ls "$T/c" | grep -vc '^[0-9a-f]\{16\}\.packed$')" -eq 0 ]
}

@test "what is trained through mapped weights is the same" {
	printf '{"prompt_tokens":[1,2,3],"response_tokens":[4,5]}\n' > "$T/sal-sft"
	printf '{"chosen_tokens":[1,2,3],"rejected_tokens":[4,5]}\n' > "$T/sal-rmtrain"
	local n=0
	for tool in sal-sft sal-rmtrain "sal-sft --quantize nf4"; do
		train() { SAL_DEBUG=trace $tool -m "$M" --lora-r 4 --epochs 2 -o "$T/out/$1" < "$T/${tool%% *}" 2> "$T/err.$1"; }
		rm -rf "$T/out"
		mkdir "$T/out"
		train a > "$T/want"
		cached train b > "$T/first"
		cached train c > "$T/second"
		cmp "$T/want" "$T/first"
		cmp "$T/want" "$T/second"
		cmp "$T/out/a/adapter_model.safetensors" "$T/out/b/adapter_model.safetensors"
		cmp "$T/out/a/adapter_model.safetensors" "$T/out/c/adapter_model.safetensors"
		n=$((n + 1))
		[ "$(files)" -eq $n ]
		packed() { grep -c 'sal: weight_' "$T/err.$1"; } # an adapter's are packed after each update
		[ "$(packed a)" -eq "$(packed b)" ]
		[ "$(packed c)" -lt "$(packed b)" ]
	done
}

@test "a model that has changed is packed anew" {
	tiny "$T/m"
	cached sal-generate -q -m "$T/m" --max-tokens 4 < "$T/in" > "$T/old"
	sed -i 's/"rope_theta": *[0-9.]*/"rope_theta": 77.0/' "$T/m/config.json"
	grep -q 77.0 "$T/m/config.json"
	sal-generate -q -m "$T/m" --max-tokens 4 < "$T/in" > "$T/want"
	cached sal-generate -q -m "$T/m" --max-tokens 4 < "$T/in" > "$T/got"
	cmp "$T/want" "$T/got"
	[ "$(files)" -eq 2 ]
	printf '\x5a' | dd of="$T/m/model.safetensors" bs=1 seek=$(($(stat -c %s "$T/m/model.safetensors") - 3)) conv=notrunc status=none
	sal-generate -q -m "$T/m" --max-tokens 4 < "$T/in" > "$T/want"
	cached sal-generate -q -m "$T/m" --max-tokens 4 < "$T/in" > "$T/got"
	cmp "$T/want" "$T/got"
	[ "$(files)" -eq 3 ]
}

@test "a file that is cut, damaged, empty or no file is told, and made again where it can be" {
	cached generate > "$T/want" 2> /dev/null
	f=$(echo "$T"/c/*.packed)
	cp "$f" "$T/good"
	size=$(stat -c %s "$f")
	damage() {
		case $1 in
		cut) truncate -s $((size - 1)) "$f" ;;
		longer) echo >> "$f" ;;
		empty) : > "$f" ;;
		seal) printf 'X' | dd of="$f" bs=1 seek=$((size - 64)) conv=notrunc status=none ;;
		*) printf '\x55\xaa' | dd of="$f" bs=1 seek="$1" conv=notrunc status=none ;;
		esac
	}
	for how in cut longer empty seal 0 1000 $((size - 90)); do
		damage "$how"
		cached generate -q > "$T/got" 2> "$T/err"
		cmp "$T/want" "$T/got"
		[ "$(wc -l < "$T/err")" -eq 1 ]
		grep -q "^sal-generate: $f: cut or damaged: the weights are packed again$" "$T/err"
		cached generate -q > "$T/got" 2> "$T/err"
		[ ! -s "$T/err" ]
		cmp "$T/want" "$T/got"
	done
	rm "$f"
	mkdir "$f"
	cached generate -q > "$T/got" 2> "$T/err"
	cmp "$T/want" "$T/got"
	[ "$(wc -l < "$T/err")" -eq 2 ]
	[ -d "$f" ]
}

@test "a folder that cannot be made, and a disk that is full, are told in one line, and cost nothing else" {
	generate > "$T/want" 2> /dev/null
	for where in /dev/null/c "$T/in"; do
		SAL_CACHE=$where generate -q > "$T/got" 2> "$T/err"
		cmp "$T/want" "$T/got"
		[ "$(wc -l < "$T/err")" -eq 1 ]
		grep -q "^sal-generate: $where.*: .*: the next start packs the weights again$" "$T/err"
	done
	(ulimit -f 8; cached generate -q > "$T/got" 2> "$T/err")
	cmp "$T/want" "$T/got"
	[ "$(wc -l < "$T/err")" -eq 1 ]
	grep -q 'the next start packs' "$T/err"
	[ -z "$(ls "$T/c")" ]
	SAL_CACHE= generate -q > "$T/got" 2> "$T/err"
	[ ! -s "$T/err" ]
	SAL_CACHE=$T/none/a/b generate -q > "$T/got" 2> "$T/err"
	[ ! -s "$T/err" ]
	cmp "$T/want" "$T/got"
	[ "$(ls "$T/none/a/b" | wc -l)" -eq 1 ]
}

@test "starts at the same time get along: one writes, and what a killed one left is taken over" {
	generate > "$T/want" 2> /dev/null
	mkdir "$T/c"
	for i in 1 2 3 4 5 6; do cached generate -q > "$T/got.$i" 2> "$T/err.$i" & done
	wait
	for i in 1 2 3 4 5 6; do
		cmp "$T/want" "$T/got.$i"
		[ ! -s "$T/err.$i" ]
	done
	[ "$(ls "$T/c" | wc -l)" -eq 1 ]
	f=$(echo "$T"/c/*.packed)
	cp "$f" "$T/good"
	mv "$f" "$f.tmp"
	echo more >> "$f.tmp"
	export -f generate
	export M T
	SAL_CACHE=$T/c flock "$f.tmp" bash -c 'generate -q' > "$T/got"
	cmp "$T/want" "$T/got"
	[ ! -e "$f" ]
	cached generate -q > "$T/got"
	cmp "$T/want" "$T/got"
	[ "$(ls "$T/c" | wc -l)" -eq 1 ]
	cmp "$f" "$T/good"
}

@test "a mapped file that is cut short ends the tool in one line" {
	cached generate -q > /dev/null
	mkfifo "$T/pipe"
	SAL_CACHE=$T/c sal-chat -q -m "$M" --format none --max-tokens 2 < "$T/pipe" > "$T/out" 2> "$T/err" &
	exec 9> "$T/pipe"
	echo hello >&9
	for i in $(seq 100); do
		[ -s "$T/out" ] && break
		sleep 0.1
	done
	[ -s "$T/out" ]
	: > "$(echo "$T"/c/*.packed)"
	echo hello >&9
	exec 9>&-
	rc=0
	wait $! || rc=$?
	[ "$rc" -eq 1 ]
	[ "$(cat "$T/err")" = "sal-chat: a file was cut short while it was mapped" ]
}
