# SPDX-License-Identifier: Apache-2.0
# The manual is true: its options are those of --help, and its examples run as they stand.
load helper

# What the examples take for granted: a model, adapters, a state, and records of each kind.  The model is the tiny one with a longer context.
setup_file() {
	cd "$BATS_FILE_TMPDIR"
	tiny model
	jq '.max_position_embeddings = 2048' "$M/config.json" > model/config.json
	head -n 4 "$ROOT/prompts/demo.jsonl" > prompts.jsonl
	sal-generate -q -m model -n 3 --max-tokens 24 < prompts.jsonl > samples.jsonl
	sal-synthpref -q -m model -p demo --judge contrast < samples.jsonl | sal-rmdata -q -p demo --passes 4 | head -n 36 > prefs.jsonl
	head -n 16 prefs.jsonl | sal-rmtrain -q -m model -o rm -p demo --lora-r 4 --batch 8 > /dev/null
	sal-score -q -m model -a rm --under Concise < samples.jsonl > scored.jsonl
	mkdir run
	sal-score -q -m model -a rm -p demo < prefs.jsonl > run/given.jsonl
	tee run/before.jsonl < scored.jsonl > run/after.jsonl
	sal-sft -q -m model -o policy --lora-r 4 < samples.jsonl > /dev/null
	sal-ppo-step -q --init -m model -a policy --value-from rm -o state0
	printf '{"chosen":"\\n\\nHuman: Hi\\n\\nAssistant: Hello.","rejected":"\\n\\nHuman: Hi\\n\\nAssistant: Go."}\n' | gzip > train.jsonl.gz
}

# example PAGE N: the N-th display of the page's EXAMPLES, as a reader sees it
example() {
	awk -v n="$2" '/^\.Sh/ { on = $2 == "EXAMPLES" } /^\.Bd/ { i += on; show = on && i == n; next } /^\.Ed/ { show = 0 } show' "$ROOT/man/$1.1" |
		sed 's/\\e/\\/g'
}
# Each in turn in one folder: exit 0, nothing on stderr but what the tools tell, and output, on stdout or in new files, none of them empty.
examples_of() {
	cp -R "$BATS_FILE_TMPDIR" "$T/work"
	cd "$T/work"
	n=0
	while [ -n "$(example "$1" $((n + 1)))" ]; do
		n=$((n + 1))
		example "$1" $n > ../example
		cat ../example
		find . -type f | sort > ../before
		bash -euo pipefail ../example > ../out 2> ../err || { cat ../err; false; }
		find . -type f | sort > ../after
		[ -s ../out ] || ! cmp -s ../before ../after
		[ -z "$(find . -type f -empty)" ]
	done
	[ $n -ge 2 ]
}

@test "the examples of sal-best(1) run as they stand" { examples_of sal-best; }
@test "the examples of sal-chat(1) run as they stand" { examples_of sal-chat; }
@test "the examples of sal-filter(1) run as they stand" { examples_of sal-filter; }
@test "the examples of sal-generate(1) run as they stand" { examples_of sal-generate; }
@test "the examples of sal-model(1) run as they stand" { examples_of sal-model; }
@test "the examples of sal-ppo-step(1) run as they stand" { examples_of sal-ppo-step; }
@test "the examples of sal-prompts(1) run as they stand" { examples_of sal-prompts; }
@test "the examples of sal-report(1) run as they stand" { command -v gnuplot > /dev/null || skip "no gnuplot"; examples_of sal-report; }
@test "the examples of sal-rmdata(1) run as they stand" { examples_of sal-rmdata; }
@test "the examples of sal-rmtrain(1) run as they stand" { examples_of sal-rmtrain; }
@test "the examples of sal-score(1) run as they stand" { examples_of sal-score; }
@test "the examples of sal-sft(1) run as they stand" { examples_of sal-sft; }
@test "the examples of sal-synthpref(1) run as they stand" { examples_of sal-synthpref; }
@test "the examples of sal-tokenize(1) run as they stand" { examples_of sal-tokenize; }

# Options as sorted lines "-m --model PATH [default]", of --help and of a page; a default ends its line, in brackets.
normal() { awk -F '\t' '{ print $1 (match($2, /\[[^][]*\]$/) ? " " substr($2, RSTART) : "") }' | sort; }
help_options() {
	"$1" --help | awk '/^ +(-., )?--/ { if (line) print line; line = $0; next } line { line = line $0 } END { print line }' |
		sed -E 's/^ +//; s/^(-.),/\1/; s/  +/\t/' | normal
}
page_options() {
	awk '/^\.Sh/ { on = $2 == "OPTIONS" } !on || /^\.(Bl|El|Sh)/ { next }
		/^\.It/ { if (line) print line; line = $0 "\t"; next } { line = line " " $0 } END { print line }' "$ROOT/man/$1.1" |
		sed -E 's/^\.It //; s/Fl -([a-z-]+)/--\1/; s/Fl (.) ,/-\1/; s/ Ar / /; s/ \| /|/g' | normal
}
@test "each tool's page has the options of its --help, with their letters, arguments and defaults, and no others" {
	for f in "$ROOT"/tools/*.c; do
		t=$(basename "$f" .c)
		help_options "$t" > "$T/help"
		page_options "$t" > "$T/page"
		[ "$(grep -c -- --help "$T/help")" -eq 1 ]
		diff "$T/help" "$T/page"
	done
}
@test "the pages are good mdoc" {
	command -v mandoc > /dev/null || skip "no mandoc"
	mandoc -T lint -W warning "$ROOT"/man/*
}
@test "every field that a tool writes is in sal-records(5)" {
	cd "$BATS_FILE_TMPDIR"
	{
		cat samples.jsonl prefs.jsonl scored.jsonl
		sal-generate -q -m model -p demo -a state0/policy --tokens --max-tokens 4 < prompts.jsonl | tee "$T/sampled"
		sal-score -q -m model --logprobs --entropy < "$T/sampled"
		sal-score -q -m model -a rm -p demo < prefs.jsonl
		sal-synthpref -q -m model -p demo --judge contrast < samples.jsonl
		sal-best -q --pairs < scored.jsonl
		sal-prompts -q < prompts.jsonl
		jq -c '.response = "As Watson I mean to be helpful, ethical and reliable.\n\nWatson: Yes."' samples.jsonl | sal-filter -q --number
		head -n 4 prefs.jsonl | sal-rmtrain -q -m model -p demo -o "$T/rm" --lora-r 4
		sal-model plan -q -m model --device-memory 1T
		sal-model inspect -q -m model
		sal-model merge -q -m model -o "$T/merged"
		echo x | sal-best -q --skip-bad --reject "$T/bad" 2> /dev/null || cat "$T/bad"
		jq -c '. + {reward: 1}' "$T/sampled" |
			sal-ppo-step -q -m model -s state0 -o "$T/s" --schedule constant --rollouts "$T/rollouts" | jq -c '., .updates[]'
		cat "$T/rollouts"
	} | jq -r 'keys[]' | sort -u > "$T/written"
	sed -nE 's/^\.(It )?Va //p' "$ROOT/man/sal-records.5" | sed 's/ , Va /\n/g' | sed 's/ .*//' | sort -u > "$T/told"
	[ "$(wc -l < "$T/written")" -ge 60 ]
	comm -23 "$T/written" "$T/told" | tee "$T/missing"
	[ ! -s "$T/missing" ]
}
