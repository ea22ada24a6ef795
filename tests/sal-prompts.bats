# SPDX-License-Identifier: Apache-2.0
load helper

texts() { jq -r .prompt | tr '\n' '|'; } # of prompt records
# FIELDS...: one conversation of ShareGPT
share() { jq -cn --arg t "$1" '{conversations: [{from: "human", value: $t}, {from: "gpt", value: "Fine."}]}'; }
count() { grep -F -- "$1" "$T/err" | awk '{ print $1 }'; } # of the rule with that text

@test "oasst1: roots with a reply, where their first reply stands, in any order of the messages" {
	cat > "$T/in" <<-'END'
		{"message_id":"a","parent_id":null,"text":"no reply"}
		{"message_id":"b","parent_id":null,"text":"first","lang":"en"}
		{"message_id":"c","parent_id":null,"text":"second"}
		{"message_id":"c1","parent_id":"c","text":"x"}
		{"message_id":"b1","parent_id":"b","text":"y"}
		{"message_id":"b2","parent_id":"b1","text":"z"}
		{"message_id":"b3","parent_id":"b","text":"z"}
		{"message_id":"d1","parent_id":"d","text":"early"}
		{"message_id":"d","parent_id":null,"text":"third"}
	END
	sal-prompts < "$T/in" > "$T/o" 2> "$T/err"
	[ "$(texts < "$T/o")" = "second|first|third|" ]
	[ "$(jq -r .id "$T/o" | tr '\n' ' ')" = "c b d " ]
	jq -se '.[1] == {lang: "en", id: "b", prompt: "first", source: "oasst1", question_type: 0, length_bonus: 1}' "$T/o"
	[ "$(count 'a message below a root')" -eq 5 ]
	[ "$(count 'a root without a reply')" -eq 1 ]
}
@test "oasst1: whole trees" {
	printf '%s\n' '{"message_tree_id":"a","prompt":{"message_id":"a","text":"alone","replies":[]}}' \
		'{"message_tree_id":"b","prompt":{"message_id":"b","text":"root","replies":[{"message_id":"c","text":"r","replies":[]}]}}' > "$T/in"
	sal-prompts -q < "$T/in" | jq -se '. == [{message_tree_id: "b", id: "b", prompt: "root", source: "oasst1", question_type: 0, length_bonus: 1}]'
}
@test "oasst1: many roots wait for replies that come later, in another order" {
	for i in $(seq 500); do echo "{\"message_id\":\"m$i\",\"parent_id\":null,\"text\":\"root $i\"}"; done > "$T/in"
	for i in $(seq 1 3 500) $(seq 2 3 500); do echo "{\"message_id\":\"r$i\",\"parent_id\":\"m$i\",\"text\":\"x\"}"; done >> "$T/in"
	[ "$(sal-prompts -q < "$T/in" | jq -r .prompt)" = "$(for i in $(seq 1 3 500) $(seq 2 3 500); do echo "root $i"; done)" ]
}
@test "dolly: five categories, no context" {
	for k in creative_writing brainstorming open_qa general_qa classification closed_qa information_extraction summarization; do
		echo "{\"instruction\":\"do $k\",\"context\":\"\",\"response\":\"x\",\"category\":\"$k\"}"
	done > "$T/in"
	echo '{"instruction":"with","context":"c","response":"x","category":"open_qa"}' >> "$T/in"
	sal-prompts < "$T/in" > "$T/o" 2> "$T/err"
	[ "$(texts < "$T/o")" = "do creative_writing|do brainstorming|do open_qa|do general_qa|do classification|" ]
	[ "$(count 'dolly:')" -eq 4 ]
	jq -e 'has("response") or has("instruction") or has("context") | not' "$T/o"
}
@test "sharegpt: the first turn, a person's, of two or more; value, markdown and <human>:" {
	cat > "$T/in" <<-'END'
		{"id":"x1","conversations":[{"from":"human","value":"by value"},{"from":"gpt","value":"a"},{"from":"human","value":"b"}]}
		{"id":"x2","conversations":[{"from":"human","markdown":"by markdown","text":"t"},{"from":"gpt","markdown":"a"}]}
		{"id":"x3","conversations":[{"from":"gpt","value":"no"},{"from":"human","value":"b"}]}
		{"id":"x4","conversations":[{"from":"human","value":"alone"}]}
		{"id":"x5","conversations":[]}
		{"text":"<human>: by mark <bot>: yes <human>: more"}
	END
	sal-prompts < "$T/in" > "$T/o" 2> "$T/err"
	[ "$(texts < "$T/o")" = "by value|by markdown|by mark|" ]
	[ "$(count 'sharegpt:')" -eq 3 ]
}
@test "openorca: the question, its part by the id, no inference; math: the problem; both are reasoning" {
	cat > "$T/in" <<-'END'
		{"id":"niv.1","system_prompt":"s","question":"one","response":"r"}
		{"id":"flan.2","system_prompt":"s","question":"Premise: a. Does it follow?","response":"r"}
		{"id":"t0.3","system_prompt":"s","question":"Say whether it is not possible to tell.","response":"r"}
		{"id":"cot.4","system_prompt":"s","question":"four","response":"r"}
		{"id":"z.5","question":"five"}
		{"problem":"six","level":"Level 1","type":"Algebra","solution":"6"}
	END
	sal-prompts < "$T/in" > "$T/o" 2> "$T/err"
	[ "$(jq -r '[.prompt, .source, .question_type, .length_bonus] | join(",")' "$T/o" | tr '\n' ' ')" = \
		"one,openorca.niv,1,-0.4 four,openorca.cot,1,-0.4 five,openorca.other,1,-0.4 six,math,1,-0.4 " ]
	[ "$(count 'openorca:')" -eq 2 ]
	jq -e 'has("system_prompt") or has("response") or has("solution") | not' "$T/o"
}
@test "alpaca and self-instruct: the instruction and its input" {
	cat > "$T/in" <<-'END'
		{"instruction":"Name one.","input":"","output":"x"}
		{"instruction":"Translate","input":"Guten Tag","output":"x"}
		{"id":"seed_1","instruction":"Sort","instances":[{"input":"3 1","output":"1 3"},{"input":"2","output":"2"}]}
	END
	[ "$(sal-prompts -q < "$T/in" | jq -c '[.prompt, .source]' | tr -d '\n')" = '["Name one.","alpaca"]["Translate\n\nGuten Tag","alpaca"]["Sort\n\n3 1","alpaca"]' ]
}
@test "messages of TRL and OpenAI: the first turn of the user" {
	cat > "$T/in" <<-'END'
		{"messages":[{"role":"system","content":"s"},{"role":"user","content":"one"},{"role":"assistant","content":"a"}],"n":1}
		{"prompt":[{"role":"user","content":"two"}],"chosen":[],"rejected":[]}
		{"custom_id":"c3","method":"POST","url":"/v1","body":{"messages":[{"role":"user","content":[{"type":"text","text":"thr"},{"type":"text","text":"ee"}]}]}}
		{"input":{"messages":[{"role":"user","content":"four"}]},"preferred_output":[],"non_preferred_output":[]}
		{"messages":[{"role":"assistant","content":"a"}]}
	END
	sal-prompts -q < "$T/in" > "$T/o"
	[ "$(texts < "$T/o")" = "one|two|three|four|" ]
	[ "$(jq -c keys_unsorted "$T/o" | tr -d '\n')" = '["n","id","prompt","source","question_type","length_bonus"]["id","prompt","source","question_type","length_bonus"]["id","prompt","source","question_type","length_bonus"]["id","prompt","source","question_type","length_bonus"]' ]
	[ "$(sed -n 3p "$T/o" | jq -r .id)" = c3 ]
}
@test "prompt records keep their fields; without an id they get that of their text" {
	printf '%s\n' '{"id":7,"prompt":" hi ","prompt_tokens":[1],"question_type":2,"keep":1.50}' '{"prompt":"what","length_bonus":0.5,"source":"mine"}' | sal-prompts -q > "$T/o"
	[ "$(sed -n 1p "$T/o")" = '{"id":7,"question_type":2,"keep":1.50,"prompt":"hi","source":"prompt","length_bonus":0}' ]
	jq -se '.[1].source == "mine" and .[1].length_bonus == 0.5 and (.[1].id | test("^[0-9a-f]{16}$"))' "$T/o"
	echo '{"prompt":"what"}' | sal-generate -q -m "$M" --max-tokens 1 | jq -e --arg i "$(sed -n 2p "$T/o" | jq -r .id)" '.id == $i'
}
@test "--from takes the records for what it says; a record that is none is named" {
	echo '{"prompt":"p","problem":"q"}' | sal-prompts -q --from math | jq -e '.prompt == "q" and .source == "math"'
	echo '{"prompt":"p","problem":"q"}' | sal-prompts -q | jq -e '.prompt == "p" and .source == "prompt"'
	while IFS=';' read -r -u 9 from record why; do
		run bash -c "echo '$record' | sal-prompts -q --from $from 2> '$T/err'"
		refused 1
		grep -qF "sal-prompts: stdin:1: $why" "$T/err"
	done 9<<-'END'
		auto;{"answer":"x"};a record of no known source
		math;{"prompt":"x"};problem: missing
		dolly;{"instruction":"x"};category: missing
		sharegpt;{"conversations":"x"};conversations: not an array
		sharegpt;{"conversations":[1,2]};conversations[0]
		oasst1;{"message_id":"x"};text: missing
		oasst1;{"message_id":"x","text":"t","parent_id":1};parent_id: not a string
		messages;{"messages":[{"role":"user"}]};content: neither a string
		prompt;{"prompt":"x","id":[1]};id: neither a string
		prompt;{"prompt":"x","question_type":"hard"};question_type: not a number
		prompt;{"prompt":"x","length_bonus":"long"};length_bonus: not a number
	END
	printf '%s\n' '{"message_id":"x","text":"t"}' '{"message_id":"x","text":"t"}' > "$T/in"
	run bash -c "sal-prompts -q < '$T/in' 2> '$T/err'"
	refused 1
	grep -q 'stdin:2: message_id: given to two roots' "$T/err"
}
@test "cleaning: fractions stay, with --compat salmon they go; the other vectors are the same" {
	for t in "1 / 1Write a poem" "What is 3/4" "Hello Translate nowLanguage: Thai" "a 1 / 1 b 1 / 1 c"; do share "$t"; done > "$T/in"
	[ "$(sal-prompts -q < "$T/in" | texts)" = "Write a poem|What is 3/4|Hello Translate now|b 1 / 1 c|" ]
	[ "$(sal-prompts -q --compat salmon < "$T/in" | texts)" = "Write a poem|What is|Hello Translate now|b 1 / 1 c|" ]
}
@test "token limits count BOS; without -m they cannot be set" {
	k=$(echo '{"prompt":"hello the cat"}' | sal-generate -q -m "$M" --format none --tokens --max-tokens 1 | jq '.prompt_tokens | length')
	printf '%s\n' '{"prompt":"hello the cat"}' '{"prompt":"hello the cat sat on"}' > "$T/in"
	[ "$(sal-prompts -q -m "$M" --max-tokens "$k" < "$T/in" | texts)" = "hello the cat|" ]
	[ -z "$(sal-prompts -q -m "$M" --max-tokens $((k - 1)) < "$T/in")" ]
	[ "$(sal-prompts -q -m "$M" --min-tokens $((k + 1)) < "$T/in" | texts)" = "hello the cat sat on|" ]
	echo '{"prompt":"x"}' | sal-prompts -q -m "$M" | jq -e '.prompt == "x"'
	jq -cn '{prompt: ("ab" * 400)}' | sal-prompts -m "$M" 2> "$T/err" | wc -l | grep -qx 0
	[ "$(count 'more tokens')" -eq 1 ]
	cp -R "$M" "$T/bos"
	chmod -R u+w "$T/bos"
	jq '.add_bos_token = true' "$M/tokenizer_config.json" > "$T/bos/tokenizer_config.json"
	[ -z "$(sal-prompts -q -m "$T/bos" --max-tokens "$k" < "$T/in")" ]
	[ "$(sal-prompts -q -m "$T/bos" --max-tokens $((k + 1)) < "$T/in" | texts)" = "hello the cat|" ]
	run bash -c "sal-prompts --max-tokens 5 < /dev/null 2> '$T/err'"
	refused 2
	run bash -c "sal-prompts -m '$M' --max-tokens 5 --min-tokens 6 < /dev/null 2> '$T/err'"
	refused 2
}
@test "the same text once: the first wins, with its type; after cleaning, whatever the source" {
	{ share "1 / 1the question"; echo '{"problem":"the question"}'; echo '{"prompt":" the question "}'; echo '{"prompt":"the Question"}'; echo '{"prompt":"  "}'; } > "$T/in"
	sal-prompts < "$T/in" > "$T/o" 2> "$T/err"
	[ "$(jq -r '[.prompt, .source] | join(",")' "$T/o" | tr '\n' '|')" = "the question,sharegpt|the Question,prompt|" ]
	[ "$(count 'same text')" -eq 2 ]
	[ "$(count 'empty')" -eq 1 ]
}
@test "--near drops what differs in little, and keeps the rest" {
	for t in "Write a short poem about the sea in winter, please." "Write a short poem about the sea in winter, please!!" "write a short poem about the SEA in winter please" \
		"Write a short poem about the sea in the winter, please." "Explain how a bill becomes a law." "Erkläre, wie ein Gesetz entsteht."; do jq -cn --arg t "$t" '{prompt: $t}'; done > "$T/in"
	sal-prompts --near 0.6 < "$T/in" > "$T/o" 2> "$T/err"
	[ "$(jq -r '.prompt[:7]' "$T/o" | tr '\n' '|')" = "Write a|Explain|Erkläre|" ]
	[ "$(count 'nearly the same')" -eq 3 ]
	[ "$(sal-prompts -q < "$T/in" | wc -l)" -eq 6 ]
}
@test "--cap draws by seed and id, whatever the order of the records, and keeps that order" {
	for i in $(seq 300); do echo "{\"id\":\"p$i\",\"prompt\":\"text $i\",\"source\":\"$([ $((i % 3)) = 0 ] && echo a.x || echo b)\"}"; done > "$T/in"
	sal-prompts --cap 20 --seed 1 < "$T/in" > "$T/o" 2> "$T/err"
	[ "$(jq -r .source "$T/o" | sort | uniq -c | tr -s ' \n' ' ')" = " 20 a.x 20 b " ]
	[ "$(count 'not drawn')" -eq 260 ]
	[ "$(jq -r .id "$T/o")" = "$(jq -r .id "$T/o" | sort -t p -k 2n)" ]
	tac "$T/in" | sal-prompts -q --cap 20 --seed 1 | tac | cmp "$T/o" -
	sal-prompts -q --cap 20 --seed 2 < "$T/in" | cmp -s "$T/o" - && false
	[ "$(sal-prompts -q --cap a=5 < "$T/in" | jq -r .source | sort | uniq -c | tr -s ' \n' ' ')" = " 5 a.x 200 b " ]
	[ "$(sal-prompts -q --cap 5 --cap b=0 --cap a.x=1000 < "$T/in" | wc -l)" -eq 100 ]
	[ "$(sal-prompts -q --cap 300 < "$T/in")" = "$(sal-prompts -q < "$T/in")" ]
	sal-prompts --cap c=5 < "$T/in" 2>&1 > /dev/null | grep -q '^ *0 *0  c, which has a cap$'
	for o in "--cap x" "--cap =3" "--cap -1" "--length-bonus 1,2" "--length-bonus 1,2,3,4" "--length-bonus 1,2,x"; do
		run bash -c "sal-prompts $o < /dev/null 2> '$T/err'"
		refused 2
	done
}
@test "the draw of a cap is fair" {
	for i in $(seq 2000); do echo "{\"id\":\"p$i\",\"prompt\":\"text $i\"}"; done > "$T/in"
	# of 500 drawn 250 are of the first half: 4 standard deviations are 39
	n=$(sal-prompts -q --cap 500 --seed 3 < "$T/in" | jq -r .id | sed 's/p//' | awk '$1 <= 1000' | wc -l)
	[ "$n" -ge 211 ] && [ "$n" -le 289 ]
}
@test "--question-type and --length-bonus" {
	printf '%s\n' '{"prompt":"a","question_type":1}' '{"problem":"b"}' > "$T/in"
	[ "$(sal-prompts -q --length-bonus 2,3,4 < "$T/in" | jq -c '[.question_type, .length_bonus]' | tr -d '\n')" = "[1,3][1,3]" ]
	[ "$(sal-prompts -q --question-type red-team --length-bonus 2,3,4 < "$T/in" | jq -c '[.question_type, .length_bonus]' | tr -d '\n')" = "[2,4][2,4]" ]
}
@test "twice through makes the same" {
	{ share "1 / 1Write a poem"; echo '{"id":"niv.1","question":"one"}'; echo '{"problem":"six"}'; } | sal-prompts -q > "$T/one"
	sal-prompts -q < "$T/one" > "$T/two"
	diff <(jq -cS . "$T/one") <(jq -cS . "$T/two")
}
@test "one file or the same lines as ten files: the same output; memory does not grow with the records but for the hashes" {
	for i in $(seq 20000); do echo "{\"message_id\":\"m$i\",\"parent_id\":null,\"text\":\"root $((i % 15000))\"}"; echo "{\"message_id\":\"r$i\",\"parent_id\":\"m$i\",\"text\":\"answer\"}"; done > "$T/in"
	split -n l/10 "$T/in" "$T/part."
	sal-prompts -q < "$T/in" > "$T/one"
	[ "$(wc -l < "$T/one")" -eq 15000 ]
	cat "$T"/part.* | sal-prompts -q | cmp "$T/one" -
	cat "$T"/part.* | sal-prompts -q --near 0.9 --cap 100 --seed 5 > "$T/three"
	sal-prompts --near 0.9 --cap 100 --seed 5 < "$T/in" 2> "$T/err" | cmp "$T/three" -
	sal-prompts < "$T/in" 2>&1 > /dev/null | grep -o '[0-9]* MiB' > "$T/mib"
	ldd "$BIN/sal-prompts" | grep -q libasan || [ "$(grep -o '[0-9]*' "$T/mib")" -le 12 ]
}
@test "20,000 synthetic messages and conversations: time, memory, one file and ten" {
	! ldd "$BIN/sal-prompts" | grep -q libasan || skip "memory under a sanitizer says nothing"
	BUILD=${BIN%/bin} tests/scale 20000
}
@test "a temporary file that cannot grow is reported, and nothing is written" {
	for i in $(seq 500); do echo "{\"prompt\":\"text number $i\"}"; done > "$T/in"
	run bash -c "ulimit -f 2; sal-prompts -q --cap 400 < '$T/in' 2>&1 | cat"
	[[ "$output" == "sal-prompts: temporary file: "* ]]
	[ "${#lines[@]}" -eq 1 ]
}
