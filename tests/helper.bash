# SPDX-License-Identifier: Apache-2.0
# Shared by every .bats file: where the tools are, the tiny model, and the checks that each tool must pass.
ROOT=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
case ${BUILD:=build} in /*) BIN=$BUILD/bin ;; *) BIN=$ROOT/$BUILD/bin ;; esac
M=$ROOT/tests/data/tiny
export PATH=$BIN:$PATH SAL_PROMPTS=$ROOT/prompts
cd "$ROOT" || exit 1
T=$BATS_TEST_TMPDIR
unset SAL_CACHE

prompts() { # N short prompts
	for i in $(seq "$1"); do printf '{"id":"p%d","prompt":"hello the %d","keep":{"n":1.50}}\n' "$i" "$i"; done
}
tiny() { cp -R "$M" "$1" && chmod -R u+w "$1"; } # the tiny model at $1, to be changed
# one line on stderr, that status
refused() {
	[ "$status" -eq "$1" ]
	[ "$(wc -l < "$T/err")" -eq 1 ]
}
adapter() { # a reward adapter of the tiny model at $1, trained for one update
	printf '{"chosen_tokens":[1,2,3,4],"rejected_tokens":[5,6,7]}\n{"chosen_tokens":[9,8],"rejected_tokens":[7,7,7,1]}\n' |
		sal-rmtrain -q -m "$M" -o "$1" --lora-r 4 --learning-rate 1e-2 --schedule constant --warmup-steps 0 > /dev/null
}
principle() { # one principle, $T/p.json, and what the judge is asked, $T/t.txt
	printf '[{"dimension":"Short","definition":"be short","negative_definition":"be long"}]' > "$T/p.json"
	printf '{UserInstruction} {OutputA} {OutputB} {Dimension} Output (' > "$T/t.txt"
}
# Files by hand.
le() { # WIDTH NUMBER...: little-endian bytes
	local w=$1 n i
	shift
	for n; do for ((i = 0; i < w; i++)); do printf '%b' "\\x$(printf %02x $((n >> 8 * i & 255)))"; done; done
}
str() { le 8 ${#1}; printf %s "$1"; }
# NAME HEADER [BYTES]: a safetensors file
tensors() { { le 8 ${#2}; printf '%s' "$2"; head -c "${3:-0}" /dev/zero; } > "$1"; }
# KEYS TENSORS: the beginning of a GGUF file
gguf() { printf GGUF; le 4 3; le 8 "$2" "$1"; }
