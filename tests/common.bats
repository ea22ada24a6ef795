# SPDX-License-Identifier: Apache-2.0
# What every tool keeps.  Each line of the table is one way to call a tool; each test goes through the lines it is about.
load helper

# kind; command; a good record, the @-th; one that lacks what the tool needs
#   filter  answers each record as it comes      whole  reads all its input first      train  the same, writes OUT and a log
#   talk    answers lines of text      folder  reads no stdin: what it needs lies in a folder
table() {
	F=$BATS_FILE_TMPDIR
	cat <<-END
		filter;sal-best;{"id":"r@","reward":@};{"id":"x"}
		filter;sal-generate -m $M --max-tokens 3;{"id":"r@","prompt":"hi @"};{"id":"x"}
		filter;sal-tokenize -m $M;{"id":"r@","text":"hi @"};{"id":"x"}
		filter;sal-tokenize -m $M --decode;{"id":"r@","tokens":[1,@]};{"id":"x","tokens":[1.5]}
		filter;sal-score -m $M --logprobs;{"id":"r@","prompt_tokens":[1],"response_tokens":[2,@]};{"id":"x","prompt_tokens":[1]}
		filter;sal-score -m $M -a $F/rm;{"id":"r@","tokens":[1,2,@]};{"id":"x"}
		filter;sal-synthpref -m $M -p $F/p.json -b 1 --judge contrast;{"id":"r@","prompt":"hi","output_1":"a @","output_2":"b"};{"id":"x","output_1":"a"}
		filter;sal-synthpref -m $M -p $F/p.json -b 1 --template $F/t.txt;{"id":"r@","prompt":"hi","output_1":"a @","output_2":"b"};{"id":"x","prompt":"hi"}
		filter;sal-prompts;{"id":"r@","prompt":"hi @"};{"id":"x"}
		filter;sal-filter --rules $F/rules.json;{"id":"r@","prompt":"hi","response":"So. A: hello @ th"};{"id":"x","prompt":"hi"}
		whole;sal-prompts --cap 9 --near 1;{"id":"r@","problem":"text @"};{"id":"x"}
		talk;sal-chat -m $M --max-tokens 3;hi @;
		folder;sal-report -w $F/run;;
		folder;sal-model plan -m $M;;
		folder;sal-model inspect -m $M;;
		folder;sal-model merge -m $M -o OUT;;
		whole;sal-rmdata --passes 1;{"id":"r@","prompt":"hi","output_1":"a","output_2":"b","judgements":{"X":[@,1],"Y":[@,2]}};{"id":"x","prompt":"hi"}
		whole;sal-rmdata --from hh;{"id":"r@","chosen":"\n\nHuman: Hi\n\nAssistant: a @","rejected":"\n\nHuman: Hi\n\nAssistant: b"};{"id":"x","chosen":"a"}
		train;sal-sft -m $M -o OUT --lora-r 4;{"id":"r@","prompt_tokens":[1],"response_tokens":[2,@]};{"id":"x","prompt_tokens":[1]}
		train;sal-sft -m $M -o OUT --lora-r 4 --loss dpo;{"id":"r@","prompt":"hi","chosen":"a","rejected":"b @"};{"id":"x","prompt":"hi","chosen":"a"}
		train;sal-rmtrain -m $M -o OUT --lora-r 4;{"id":"r@","chosen_tokens":[2,@],"rejected_tokens":[3]};{"id":"x","chosen_tokens":[1]}
		train;sal-ppo-step -m $M -s $F/s0 -o OUT --schedule constant;{"id":"r@","prompt_tokens":[1],"response_tokens":[2,@],"reward":@};{"id":"x","prompt_tokens":[1],"response_tokens":[2]}
	END
}
setup_file() {
	cd "$BATS_FILE_TMPDIR"
	adapter rm
	echo '{"prompt_tokens":[1],"response_tokens":[2,3]}' | sal-sft -q -m "$M" -o policy --lora-r 4 > /dev/null
	sal-ppo-step -q --init -m "$M" -a policy -o s0
	echo '[{"dimension":"Short","definition":"be short","negative_definition":"be long"}]' > p.json
	mkdir run
	echo '{"id":"a","response":"b","reward":1}' | tee run/before.jsonl > run/after.jsonl
	echo '{UserInstruction} {OutputA} {OutputB} {Dimension} Output (' > t.txt
	echo '{"opening":"So.","answer":" A:","user":" B:","end":"!","delimiters":".","rename":["x","y"],"never":["z"]}' > rules.json
}

# every KINDS TEST: the function TEST for each line of the table that is of one of the kinds, with $kind $cmd $tool $good $bad $out
every() {
	local n=0
	while IFS=';' read -r -u 9 kind cmd good bad; do
		[[ " $1 " == *" $kind "* ]] || continue
		n=$((n + 1)) tool=${cmd%% *} out=$T/out$n
		cmd="${cmd//OUT/$out} -q"
		echo "# $cmd"
		"$2"
	done 9< <(table)
	[ $n -gt 0 ]
}
records() { for i in $(seq "$1"); do echo "${good//@/$i}"; done; } # N good ones
said() { # STATUS TEXT: the command before ended so, with one line on stderr that has TEXT
	[ "$status" -eq "$1" ]
	[ "$(wc -l < "$T/err")" -eq 1 ]
	grep -q "^$tool: $2" "$T/err"
}

@test "--help and --version print on stdout and succeed" {
	each() {
		$tool --help > "$T/o" 2> "$T/err"
		grep -q "^usage: $tool " "$T/o"
		[ "$($tool --version 2>> "$T/err")" = "$tool $(sed -n 's/^VERSION *:= *//p' Makefile)" ]
		[ ! -s "$T/err" ]
	}
	every "filter whole train talk folder" each
}
@test "an unknown option, one without its argument and an operand are usage errors of one line" {
	each() {
		for o in "$cmd --no-such" "$cmd --reject" "$cmd -%" "$cmd x"; do
			run bash -c "$o 2> '$T/err' < /dev/null"
			said 2 ""
			[ -z "$output" ]
		done
	}
	every "filter whole train talk folder" each
}
@test "good records: exit 0, JSON on stdout, nothing on stderr with -q, without it a closing line" {
	each() {
		records 3 | $cmd > "$T/o" 2> "$T/err"
		[ ! -s "$T/err" ]
		jq -es 'all(.[]; type == "object")' "$T/o" > /dev/null
		[ "$kind" != train ] || { [ -s "$T/o" ] && [ -d "$out" ] && rm -r "$out"; }
		records 3 | ${cmd% -q} > "$T/o2" 2> "$T/err"
		cmp "$T/o" "$T/o2"
		tail -n 1 "$T/err" | grep -q "^$tool: 3 records, .* s, .*MiB peak"
	}
	every "filter whole train" each
}
@test "--dry-run reads nothing and writes nothing but its plan, of which -q leaves nothing" {
	each() {
		# a folder, which cannot be read, and a model that is not there
		${cmd% -q} --dry-run < . > "$T/o" 2> "$T/err"
		[ ! -s "$T/o" ] && [ ! -e "$out" ]
		grep -q "^$tool: plan: " "$T/err"
		[ "$(grep -vc "^$tool: plan: " "$T/err")" -eq 0 ]
		[[ "$cmd" != *" -m "* ]] || grep -q "$M" "$T/err"
		[ -z "$($cmd --dry-run < . 2>&1)" ]
		[[ "$cmd" == *" -m "* ]] || return 0
		run bash -c "${cmd/-m $M/-m $T/none} --dry-run 2> '$T/err' < ."
		said 1 "$T/none"
	}
	every "filter whole train talk folder" each
}
@test "order and unknown fields are kept, letter for letter" {
	each() {
		good="${good%?},\"keep\":{\"n\":1.50,\"u\":\"\\u00e9\"}}"
		records 9 | $cmd > "$T/o"
		[ "$(jq -r .id "$T/o" | uniq | tr '\n' ' ')" = "r1 r2 r3 r4 r5 r6 r7 r8 r9 " ]
		[ "$(grep -cF '"keep":{"n":1.50,"u":"\u00e9"}' "$T/o")" -eq 9 ]
	}
	every "filter whole" each
}
@test "no input: no output and exit 0; a training tool says that it has no records" {
	each() {
		run bash -c "$cmd < /dev/null 2> '$T/err'"
		[ -z "$output" ]
		if [ "$kind" = train ]; then said 1 "stdin: "; [ ! -e "$out" ]; else [ "$status" -eq 0 ] && [ ! -s "$T/err" ]; fi
	}
	every "filter whole train talk" each
}
@test "a last line without newline is a record" {
	each() {
		records 2 | $cmd > "$T/o1"
		[ ! -d "$out" ] || rm -r "$out"
		printf %s "$(records 2)" | $cmd > "$T/o2"
		cmp "$T/o1" "$T/o2"
	}
	every "filter whole train talk" each
}
@test "a line that is not JSON is named; a filter has answered those before" {
	each() {
		{ records 2; echo hello; records 1; } > "$T/in"
		run bash -c "$cmd < '$T/in' > '$T/o' 2> '$T/err'"
		said 1 "stdin:3: "
		[ "$kind" != filter ] || [ "$(wc -l < "$T/o")" -eq 2 ]
		[ "$kind" = filter ] || [ ! -s "$T/o" ]
		[ ! -e "$out" ]
	}
	every "filter whole train" each
}
@test "a record that lacks what the tool needs is named" {
	each() {
		{ records 1; echo "$bad"; } > "$T/in"
		run bash -c "$cmd < '$T/in' > '$T/o' 2> '$T/err'"
		said 1 "stdin:2: "
		[ ! -e "$out" ]
	}
	every "filter whole train" each
}
@test "--skip-bad sets bad records aside and answers the others; none good is a failure" {
	each() {
		records 2 | $cmd > "$T/o1"
		[ ! -d "$out" ] || rm -r "$out"
		{ records 1; echo hello; records 2 | tail -n 1; echo "$bad"; } | $cmd --skip-bad --reject "$T/bad" > "$T/o2"
		cmp "$T/o1" "$T/o2"
		[ "$(jq -c '[.line, (.error | length > 0)]' "$T/bad" | tr -d '\n')" = "[2,true][4,true]" ]
		[ ! -d "$out" ] || rm -r "$out"
		run bash -c "echo hello | $cmd --skip-bad 2> '$T/err'"
		[ "$status" -eq 1 ]
		[ ! -e "$out" ]
	}
	every "filter whole train" each
}
@test "a reader that leaves ends a tool without a word" {
	each() {
		[ "$kind" != folder ] || command -v gnuplot > /dev/null || return 0
		records 3 > "$T/in"
		exec 8> >(:)
		wait $!
		run bash -c "$cmd < '$T/in' 2> '$T/err' >&8"
		exec 8>&-
		[ "$status" -eq 141 ] # SIGPIPE
		[ ! -s "$T/err" ]
	}
	every "filter whole train talk folder" each
}
@test "a full disk and an input that cannot be read are reported" {
	each() {
		[ "$kind" != folder ] || command -v gnuplot > /dev/null || return 0
		records 2 > "$T/in"
		run bash -c "$cmd < '$T/in' 2> '$T/err' > /dev/full"
		said 1 "stdout: "
		grep -q 'No space left on device\|cannot be written' "$T/err"
		[ ! -d "$out" ] || rm -r "$out"
		[ "$kind" != folder ] || return 0
		run bash -c "$cmd < . 2> '$T/err'"
		said 1 "stdin: "
		[ ! -e "$out" ]
	}
	every "filter whole train talk folder" each
}

@test "-o: a folder that is no earlier output is refused at once and stays; an empty one and an earlier one are replaced" {
	printf '{"prompt_tokens":[1],"response_tokens":[2]}\n' > "$T/sft"
	printf '{"chosen_tokens":[1,2],"rejected_tokens":[3]}\n' > "$T/pairs"
	check() { # MARK INPUT COMMAND...
		local mark=$1 in=$2
		shift 2
		mkdir -p "$T/mine" "$T/out/deep"
		touch "$T/mine/thesis"
		run bash -c '"$@" < /dev/null > "$0/stdout" 2> "$0/err"' "$T" "$@" -o "$T/mine"
		refused 1
		grep -q "mine: exists and is no earlier output, it has no $mark" "$T/err"
		[ -e "$T/mine/thesis" ] && [ ! -s "$T/stdout" ]
		run bash -c '"$@" < /dev/null 2> "$0/err"' "$T" "$@" -o "$T/none/out"
		refused 1
		rm -r "$T/out/deep"
		for i in 1 2; do "$@" -q -o "$T/out" < "$in" > /dev/null; done
		[ -e "$T/out/$mark" ]
		rm -r "$T/out"
	}
	check adapter_config.json "$T/sft" sal-sft -m "$M"
	check adapter_config.json "$T/pairs" sal-rmtrain -m "$M"
	check config.json /dev/null sal-model merge -m "$M"
	check state.json /dev/null sal-ppo-step --init -m "$M"
	sal-ppo-step -q --init -m "$M" -o "$T/s"
	printf '{"id":"a","prompt_tokens":[1],"response_tokens":[2],"reward":1}\n' > "$T/ppo"
	check state.json "$T/ppo" sal-ppo-step -m "$M" -s "$T/s" --schedule constant
	tiny "$T/m" # the model itself
	run bash -c 'sal-sft -m "$0/m" -o "$0/m" < "$0/sft" 2> "$0/err"' "$T"
	refused 1
	[ -e "$T/m/config.json" ]
}

@test "an option that has no meaning without another is a usage error" {
	while read -r command; do
		run bash -c "$command 2> '$T/err' < /dev/null"
		refused 2
		grep -q ': --[a-z-]*: only with\|exclude each other' "$T/err"
	done <<-END
		sal-tokenize -m $M --reject $T/x
		sal-generate -m $M --sign -
		sal-generate -m $M --system Hm -p demo
		sal-chat -m $M --sign -
		sal-sft -m $M -o $T/o --beta 0.2
		sal-score -m $M --logprobs --under Concise
		sal-score -m $M --logprobs --draw 3
		sal-score -m $M --logprobs --negate
		sal-score -m $M --logprobs -p demo
		sal-score -m $M -a $T/a --entropy
		sal-score -m $M -a $T/a --temperature 0.7
		sal-score -m $M -a $T/a --under Concise --draw 3
		sal-synthpref -m $M --format chatml
		sal-synthpref -m $M --judge contrast --template judge.txt
		sal-rmdata --from hh --passes 2
		sal-model plan -m $M -a $T/a
		sal-model inspect -m $M --batch 4
		sal-model inspect -m $M --dtype f32
		sal-model merge -m $M -o $T/o -d cpu
		sal-ppo-step -m $M -s $T/s -o $T/o --schedule constant --lora-r 4
		sal-ppo-step -m $M -s $T/s -o $T/o --schedule constant --advantage rloo --whiten-rewards
		sal-ppo-step -m $M -s $T/s -o $T/o --schedule constant --advantage grpo --whiten-rewards
		sal-ppo-step -m $M -s $T/s -o $T/o --schedule constant --advantage grpo --whiten none
		sal-ppo-step --init -m $M -o $T/o --rollouts $T/x
		sal-ppo-step --init -m $M -o $T/o -r $T/a
	END
}
