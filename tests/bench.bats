# SPDX-License-Identifier: Apache-2.0
# make bench, at a small size and without peers; what the operations say of themselves.
load helper
bench() {
	command -v python3 > /dev/null || skip "there is no python3"
	"$ROOT/tests/bench/run" --build "$(dirname "$BIN")" --model "$M" --small --out "$T/out" --peers "$T/none" "$@"
}

@test "a row gives a figure a side, the peak before it, and names the peer that is missing" {
	bench --row logprobs > "$T/table" 2> "$T/log"
	jq -es 'map(select(.row == "logprobs" and .side == "salmon")) | length == 1 and (.[0] | .value > 0 and .unit == "tokens/s" and
		(.runs | length) == 1 and (.seconds | length) == 1 and .peak_rss_mib > 0 and (.busy | type) == "boolean" and .tokens == 192 and .gflops > 0)' "$T/out/results.jsonl"
	jq -es 'map(select(.row == "logprobs" and .peer)) | length == 1 and (.[0] | .side == "transformers" and (.failed | startswith("missing: ")))' "$T/out/results.jsonl"
	jq -es 'map(select(.row == "peak" and .peak == "f32")) | length >= 1 and all(.value > 0)' "$T/out/results.jsonl"
	grep -q '^ *transformers  *missing: ' "$T/table"
	grep -q '1 sides of peers are missing' "$T/table"
}
@test "what was taken is not taken again, but by its name; another build's figures are not ours" {
	bench --row growth-records > /dev/null 2>&1
	n=$(wc -l < "$T/out/results.jsonl")
	bench --row peak --row growth-records > /dev/null 2>&1
	[ "$(wc -l < "$T/out/results.jsonl")" -eq $((2 * n)) ]
	jq -c '.stamp = "other" | .value = 123456789' "$T/out/results.jsonl" > "$T/older"
	cat "$T/older" >> "$T/out/results.jsonl"
	bench --row growth-records > "$T/table" 2> "$T/log"
	[ "$(grep -c 'bench: peak' "$T/log")" -eq 0 ]
	[ "$(grep -c '1.235e+08' "$T/table")" -eq 0 ]
}
@test "a row of no name is a usage error" {
	run bench --row none
	[ "$status" -eq 2 ]
	[[ "$output" == *"no row none: peak, startup, "* ]]
}
@test "check_kernels --bench times operations whose results it has checked" {
	"$(dirname "$BIN")/tests/check_kernels" --bench --only bench_rows > "$T/o"
	[ "$(grep -c 'us .* GFLOP/s .* GB/s, best .* GFLOP/s$' "$T/o")" -eq 4 ]
	grep -q ': 2 passed, 0 failed' "$T/o"
}
@test "SAL_DEBUG=trace prints each operation with its rates, and what all calls of it took, the longest first" {
	prompts 2 | SAL_DEBUG=trace sal-generate -q -m "$M" --max-tokens 3 2> "$T/err" > "$T/traced"
	prompts 2 | sal-generate -q -m "$M" --max-tokens 3 | cmp - "$T/traced"
	grep -Eq '^sal: attention_forward .* ms [0-9.]+ GFLOP/s [0-9.]+ GB/s$' "$T/err"
	[ "$(grep -c '^sal: linear_forward ' "$T/err")" -eq "$(sed -nE 's/^sal: all linear_forward ([0-9]+) calls .*/\1/p' "$T/err")" ]
	sed -nE 's/^sal: all .* calls ([0-9.]+) ms .*/\1/p' "$T/err" > "$T/ms"
	[ "$(wc -l < "$T/ms")" -ge 8 ]
	sort -rgc "$T/ms"
}
