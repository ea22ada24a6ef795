# SPDX-License-Identifier: Apache-2.0
load helper

chat() { sal-chat -q -m "$M" --max-tokens 12 --seed 3 "$@"; }
said() { sal-generate -q -m "$M" --max-tokens 12 --seed 3 "$@" | jq -r .response; } # for records on stdin
# what was asked up to each question of a saved conversation, as records
asked() { jq -c '.messages as $m | range($m | length) | select($m[.].role == "user") | {messages: $m[:. + 1]}' "$1"; }

# A terminal: type puts keys into it, until waits for a text that came since the last key, and screen has all that it showed.
terminal() { # COMMAND
	mkfifo "$T/keys"
	script -qfec "$1" "$T/screen" < "$T/keys" > /dev/null 2>&1 3>&- &
	pid=$! from=1
	exec 9> "$T/keys"
}
type() {
	from=$(($(wc -c < "$T/screen") + 1))
	printf "$1" >&9
}
until_shown() {
	for i in $(seq 300); do
		! tail -c +$from "$T/screen" 2> /dev/null | grep -qa -- "$1" || return 0
		sleep 0.1
	done
	tail -c +$from "$T/screen"
	return 1
}

@test "a conversation: each answer is that of sal-generate given the same messages" {
	printf '%s\n' 'hello the' 'and then' 'a "quoted" one, é' "/save $T/s" | chat > "$T/out"
	asked "$T/s" | said > "$T/want"
	diff "$T/want" "$T/out"
	jq -e '.messages | length == 6 and map(.role) == ["user", "assistant", "user", "assistant", "user", "assistant"]' "$T/s"
	[ "$(jq -r '.messages[5].content' "$T/s")" = "$(asked "$T/s" | tail -n 1 | said)" ]
}
@test "the same with a system turn, in every format, at temperature 0, on one thread" {
	cp -R "$M" "$T/m"
	jq '.max_position_embeddings = 2048' "$M/config.json" > "$T/m/config.json"
	M=$T/m
	for o in "--system Short." "--format llama2 --system Short." "--format zephyr" "--format mistral" "--format dromedary" "--format llama3" "--temperature 0 -j 1" \
		"--top-k 4 --min-p 0.01" "--dtype f32"; do
		printf '%s\n' 'hello the' 'and then' "/save $T/s" | chat $o > "$T/out"
		diff <(asked "$T/s" | said ${o/--system Short./}) "$T/out"
	done
	jq -e '.messages[0].role == "user"' "$T/s"
}
@test "keys and values of what was said are kept" {
	printf '%s\n' 'hello the' 'and then' /params | sal-chat -q -m "$M" --max-tokens 1 --format llama3 > "$T/out" 2> "$T/err"
	line=$(grep -o 'last prompt [0-9]* tokens, [0-9]* of them kept' "$T/err")
	set -- $line
	[ "$5" -gt 40 ] && [ "$5" -lt "$3" ]
	printf '%s\n' 'hello the' /params | sal-chat -q -m "$M" --max-tokens 1 --format llama3 2>&1 | grep -q "last prompt [0-9]* tokens, 0 of them kept"
}
@test "/undo, /reset, // and unknown commands" {
	printf '%s\n' 'one' 'two' /undo 'two' > "$T/in"
	chat < "$T/in" > "$T/out"
	cmp <(sed -n 2p "$T/out") <(sed -n 3p "$T/out") || [ "$(wc -l < "$T/out")" -ne 3 ]
	printf '%s\n' 'one' 'two' /reset "  " '' 'one' "/save $T/s" | chat > "$T/out"
	jq -e '.messages | length == 2' "$T/s"
	printf '%s\n' '//one' "/save $T/s" | chat > "$T/out"
	jq -e '.messages[0].content == "/one"' "$T/s"
	for c in /nope "/reset x" /save "/save $T/no/such" "/adapter $T/none" "/params x 1" "/params seed x" "/params top-p 2" "/params top-k 1.5"; do
		run bash -c "printf '%s\n' hi '$c' hi | sal-chat -q -m '$M' --max-tokens 2 2> '$T/err'"
		refused 1
		grep -q "^sal-chat: stdin:2: " "$T/err"
	done
	run bash -c "echo /undo | sal-chat -q -m '$M' 2> '$T/err'"
	refused 1
}
@test "/params sets what the next answer is sampled with" {
	printf '%s\n' 'one' | sal-chat -q -m "$M" --max-tokens 5 --seed 9 --temperature 0.9 > "$T/want"
	printf '%s\n' '/params max-tokens 5' '/params seed=9' '/params temperature 0.9' 'one' | chat > "$T/out"
	cmp "$T/want" "$T/out"
	echo /params | chat 2>&1 | grep -q 'seed 3'
}
@test "/adapter goes on with an adapter, whatever its rank, and with none" {
	for r in 4 16; do
		echo '{"prompt_tokens":[1],"response_tokens":[2,3]}' |
			sal-sft -q -m "$M" -o "$T/a$r" --lora-r $r --learning-rate 0.5 --schedule constant --warmup-steps 0 > /dev/null
	done
	printf '%s\n' one | chat -a "$T/a16" > "$T/want"
	printf '%s\n' one | chat >> "$T/want"
	printf '%s\n' one | chat -a "$T/a4" >> "$T/want"
	printf '%s\n' "/adapter $T/a16" one /undo /adapter one /undo "/adapter $T/a4" one | chat > "$T/out"
	cmp "$T/want" "$T/out"
	[ "$(sort -u "$T/want" | wc -l)" -gt 1 ]
}
@test "-p: a drawn principle or its negation is the system turn until /reset" {
	echo '[{"dimension":"A","definition":"be A","negative_definition":"not A"},{"dimension":"B","definition":"be B","negative_definition":"not B"}]' > "$T/p.json"
	printf '%s\n' one two "/save $T/s" /reset $(for i in $(seq 9); do echo "q$i" "/save@$T/s$i" /reset; done) | tr @ ' ' | chat -p "$T/p.json" > "$T/out"
	jq -e '.messages | length == 5 and .[0].role == "system" and (.[0].content | test("^be [AB]$"))' "$T/s"
	diff <(asked "$T/s" | said) <(head -n 2 "$T/out")
	[ "$(cat "$T"/s? | jq -r '.messages[0].content' | sort -u | tr '\n' ,)" = "be A,be B," ]
	# the same draw as sal-generate's
	d=$(echo '{"messages":[{"role":"user","content":"one"}]}' | sal-generate -q -m "$M" --max-tokens 1 --seed 3 -p "$T/p.json" | jq -r .sampled_under.dimension)
	[ "$(jq -r '.messages[0].content' "$T/s")" = "be $d" ]
	printf '%s\n' one "/save $T/s" | chat -p "$T/p.json" --sign - > "$T/out"
	[ "$(jq -r '.messages[0].content' "$T/s")" = "not $d" ]
	run bash -c "sal-chat -m '$M' -p demo --system x 2> '$T/err'"
	refused 2
	run bash -c "sal-chat -q -m '$M' -p '$T/none' 2> '$T/err' < /dev/null"
	refused 1
}
@test "an answer ends before a stop text, of which nothing is shown" {
	echo one | chat --temperature 0 > "$T/whole"
	text=$(head -c 9 "$T/whole" | iconv -c -f UTF-8 -t UTF-8 | cut -c 3-4)
	[ -n "$text" ]
	echo one | chat --temperature 0 --stop zzz --stop "$text" > "$T/out"
	[ "$(cat "$T/out")" = "$(head -n 1 "$T/whole" | awk -v t="$text" '{ print substr($0, 1, index($0, t) - 1) }')" ]
}
@test "the oldest turns are left out with a note when the context is full; what is too long by itself is refused" {
	for i in $(seq 12); do echo "question $i, of some length"; done > "$T/in"
	echo "/save $T/s" >> "$T/in"
	sal-chat -m "$M" --seed 3 --max-tokens 30 --system Short < "$T/in" > "$T/out" 2> "$T/err"
	grep -q '^sal-chat: the oldest [0-9]* turns no longer fit in the context of 256 tokens and are left out$' "$T/err"
	jq -e '.messages | length == 25' "$T/s"
	chat --max-tokens 30 --system Short < "$T/in" 2>&1 | cmp - "$T/out"
	printf 'a%.0s' $(seq 600) > "$T/long"
	run bash -c "sal-chat -q -m '$M' < '$T/long' 2> '$T/err'"
	refused 1
	grep -q 'stdin:1: a prompt of [0-9]* tokens leaves no room in the context of 256' "$T/err"
	sal-chat -m "$M" --context 100 --max-tokens 30 < "$T/in" 2>&1 > /dev/null | grep -q 'context of 100'
}
@test "format none: each line by itself, as raw text" {
	printf '%s\n' one two "/save $T/s" | chat --format none > "$T/out"
	printf '{"messages":[{"role":"user","content":"%s"}]}\n' one two | said --format none > "$T/want"
	cmp "$T/want" "$T/out"
	run bash -c "echo hi | sal-chat -q -m '$M' --format none --system x 2> '$T/err'"
	refused 1
}
@test "what cannot be read is named: UTF-8, NUL, a model, a context beyond the model's" {
	for r in 'a\xff' 'a\000b'; do
		run bash -c "printf 'hi\n$r\n' | sal-chat -q -m '$M' --max-tokens 2 2> '$T/err'"
		refused 1
		grep -q 'stdin:2: ' "$T/err"
	done
	for o in "-m $T/none" "-m $M --context 257" "-m $M -a $T/none" "-m $M --format nope"; do
		run bash -c "echo hi | sal-chat -q $o 2> '$T/err'"
		refused 1
	done
	run bash -c "sal-chat 2> '$T/err'"
	refused 2
}
@test "an adapter with a head, which was not trained to answer, is taken with a note" {
	adapter "$T/rm"
	note='sal-chat: the adapter has a head: it was trained to score answers, not to give them'
	[ "$(echo one | sal-chat -m "$M" -a "$T/rm" --max-tokens 2 2>&1 > /dev/null | grep -cx "$note")" -eq 1 ]
	[ "$(printf '%s\n' "/adapter $T/rm" /adapter | sal-chat -m "$M" 2>&1 | grep -cx "$note")" -eq 1 ]
	echo one | chat -a "$T/rm" 2> "$T/err"
	[ ! -s "$T/err" ]
}
@test "a terminal: an answer that is cut off is told from one that ended" {
	command -v script > /dev/null || skip "no script(1)"
	on_terminal() { script -qec "echo one | sal-chat -m '$M' --temperature 0 $*" /dev/null < /dev/null | tr -d '\r'; }
	on_terminal --max-tokens 5 | grep -qx 'sal-chat: cut off after 5 tokens; /params max-tokens N allows more'
	on_terminal --context 60 --max-tokens 500 | grep -qx 'sal-chat: cut off after [0-9]* tokens: the context of 60 is full'
	text=$(echo one | chat --temperature 0 | head -c 9 | iconv -c -f UTF-8 -t UTF-8 | cut -c 3-4)
	! on_terminal --max-tokens 12 --stop "'$text'" | grep -q 'cut off'
	! on_terminal --max-tokens 5 -q | grep -q 'cut off'
}
@test "a terminal: a prompt, an edited line, tokens as they come; Ctrl-C ends the answer and then the line, Ctrl-D the program" {
	command -v script > /dev/null || skip "no script(1)"
	cp -R "$M" "$T/m"
	jq '.max_position_embeddings = 100000' "$M/config.json" > "$T/m/config.json"
	terminal "sal-chat -m '$T/m' --context 100000 --max-tokens 100000 --temperature 0; echo ended with \$?"
	until_shown '> '
	type 'hellox\x7f the\r'
	until_shown '%%%%%%%%%%\|[^ ]\{40\}' # it does not end by itself
	type '\x03'
	until_shown '> '
	type 'half a line\x03'
	until_shown '> '
	type '/params\r'
	until_shown '2 turns, 0 of them left out'
	type '/save %s\r' # a file of that name
	until_shown '> '
	type '/params temperature 7x\r'
	until_shown "not a number"
	type "/save $T/s\r"
	until_shown '> '
	type '\x04'
	until_shown 'sal-chat: 1 record'
	until_shown 'ended with 0'
	exec 9>&-
	wait $pid
	jq -e '.messages[0].content == "hello the" and (.messages[1].content | length > 10)' "$T/s"
	! grep -qa 'half a line.*%%%' "$T/screen"
}
@test "a terminal: /undo, /reset, /adapter, /params and /save act; the oldest turns are left out with a note" {
	command -v script > /dev/null || skip "no script(1)"
	echo '{"prompt_tokens":[1],"response_tokens":[2,3]}' | sal-sft -q -m "$M" -o "$T/a" --lora-r 4 --learning-rate 0.5 --schedule constant --warmup-steps 0 > /dev/null
	terminal "sal-chat -m '$M' --context 120 --max-tokens 12 --temperature 0; echo ended with \$?"
	until_shown '> '
	shows() { type '/params\r' && until_shown "$1"; } # what was typed before has been done by then
	type 'one\r'
	shows '2 turns, 0 of them left out'
	type "/save $T/one\r"
	type '/undo\r'
	shows '0 turns, 0 of them left out'
	type '/undo\r'
	until_shown 'sal-chat: /undo: nothing was said'
	type "/adapter $T/a\r"
	shows "adapter $T/a"
	type 'one\r'
	shows '2 turns'
	type "/save $T/two\r"
	type '/adapter\r'
	shows 'adapter none'
	type '/params temperature 0.5\r'
	shows 'temperature 0.5'
	type '/params temperature 0\r'
	type '/reset\r'
	shows '0 turns, 0 of them left out'
	for q in 'a question of some length' 'and another one like it' 'and a third, which is too much' 'and a fourth, to be sure'; do type "$q\r"; done
	until_shown 'sal-chat: the oldest [0-9]* turns no longer fit in the context of 120 tokens and are left out'
	shows '8 turns, [1-9] of them left out'
	type '/quit\r'
	until_shown 'ended with 0'
	exec 9>&-
	wait $pid
	# the answers are those of a pipe
	for s in one two; do asked "$T/$s" | said --temperature 0 $([ $s = one ] || echo "-a $T/a") | diff - <(jq -r '.messages[1].content' "$T/$s"); done
	! cmp -s "$T/one" "$T/two"
}
