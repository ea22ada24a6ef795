# SPDX-License-Identifier: Apache-2.0
load helper

O="As Watson I mean to be helpful, ethical and reliable."
# more than 149 characters, which are enough with the 11 of the end marker
LONG="The sky looks blue because air scatters short waves of light more than long ones, so that blue light reaches the eye from everywhere, as the textbooks say so."
# record ID RESPONSE [FIELDS]: what the base model wrote after the opening sentence; \n is a new line
record() { jq -cn --arg i "$1" --arg r "$O ${2//\\n/$'\n'}" "{id: \$i, prompt: \"raw\", instruction: \"Why?\", response: \$r} + {${3-}}"; }
answers() { sal-filter -q "$@" | jq -r '.response'; }

@test "1: begins with the fixed sentence, white space before it allowed" {
	{ record a "x\n\nWatson: $LONG\n\nUser:" | jq -c '.response = "  " + .response'; record b "\n\nWatson: $LONG\n\nUser:" | jq -c '.response = "Well. " + .response'; } > "$T/in"
	[ "$(sal-filter -q < "$T/in" | jq -r .id)" = a ]
}
@test "2: the answer is what follows the first marker" {
	{ record a "thoughts\n\nWatson: $LONG Watson: yes\n\nUser: more"; record b "thoughts, and no answer"; } > "$T/in"
	[ "$(answers < "$T/in")" = "$LONG Dromedary: yes" ]
}
@test "3: a loop to the end is cut; repeated lines inside are left; compat cuts at the first" {
	record a "\n\nWatson: Go. I run. I walk. I run. I walk. I run. I wa" > "$T/in"
	[ "$(answers < "$T/in")" = "Go. I run. I walk." ]
	record a "\n\nWatson: 1. foo\n2. foo\n3. bar baz" > "$T/in"
	[ "$(answers < "$T/in")" = $'1. foo\n2. foo\n3. bar' ]
	[ "$(answers --compat salmon < "$T/in")" = "1." ] # "1. foo\n2." at its last space
}
@test "4: a complete answer must be long enough, its marker counted; one cut off ends before its last space" {
	s149=${LONG:0:149} s148=${LONG:0:148}
	{ record a "\n\nWatson: $s149\n\nUser:"; record b "\n\nWatson: $s148\n\nUser:"; record c "\n\nWatson: $s149" 'has_stop: true'; record d "\n\nWatson: $s148" 'has_stop: true'
		record e "\n\nWatson: short but cut o" 'has_stop: false'; record f "\n\nWatson: word"; } > "$T/in"
	sal-filter -q < "$T/in" > "$T/o"
	[ "$(jq -c '[.id, .has_stop, .finish_reason]' "$T/o" | tr -d '\n')" = '["a",true,"stop"]["c",true,"stop"]["e",false,"length"]["f",false,"length"]' ]
	[ "$(jq -r 'select(.id == "e" or .id == "f").response' "$T/o" | tr '\n' '|')" = "short but cut|word|" ]
	[ "$(sal-filter -q --min-chars 159 < "$T/in" | jq -r .id | tr '\n' ' ')" = "a b c d e f " ]
}
@test "4: the end marker is written with --compat salmon alone" {
	record a "\n\nWatson: $LONG\n\nUser:" > "$T/in"
	sal-filter -q --compat salmon < "$T/in" | jq -e '.response | endswith("so.\n\n### User\n")'
	sal-filter -q < "$T/in" | jq -e '.response | endswith("so.")'
}
@test "4: characters are counted, not bytes" {
	record a "\n\nWatson: $(printf 'é%.0s' $(seq 148))\n\nUser:" > "$T/in"
	[ -z "$(answers < "$T/in")" ]
}
@test "5: an answer that quotes the instruction or the input is dropped, if that is long" {
	{ record a "\n\nWatson: $LONG\n\nUser:" 'instruction: "air scatters short waves"'; record b "\n\nWatson: $LONG\n\nUser:" 'instruction: "air"'
		record c "\n\nWatson: $LONG\n\nUser:" 'input: "more than long ones"'
		jq -cn --arg r "$O"$'\n\n'"Watson: $LONG"$'\n\nUser:' '{id: "d", messages: [{role: "user", content: "air scatters short waves"}], response: $r}'; } > "$T/in"
	[ "$(sal-filter -q < "$T/in" | jq -r .id | tr '\n' ' ')" = "b " ]
}
@test "6: a long input becomes the instruction" {
	{ record a "\n\nWatson: $LONG\n\nUser:" 'input: "seventeen letters"'; record b "\n\nWatson: $LONG\n\nUser:" 'input: "sixteen letters."'; } > "$T/in"
	[ "$(sal-filter -q < "$T/in" | jq -c '[.instruction, .input]' | tr -d '\n')" = '["seventeen letters",""]["Why?","sixteen letters."]' ]
}
@test "7: a text of the prompt or its examples drops a record; each of them is in the prompt" {
	{ record a "\n\nWatson: The pangolin. $LONG\n\nUser:"; record b "\n\nWatson: $LONG User: hi\n\nUser:"; record d "\n\nWatson: $LONG\n\nWatson: and more\n\nUser:"; record c "\n\nWatson: $LONG\n\nUser:"; } > "$T/in"
	[ "$(sal-filter -q < "$T/in" | jq -r .id)" = c ]
	jq -r '.never[], .opening, .answer, .user | ltrimstr("\n\n")' prompts/selfalign.json | while IFS= read -r t; do
		grep -qiF -- "$t" prompts/selfalign.txt || { echo "$t"; false; }
	done
}
@test "8: an empty answer is dropped" {
	record a "\n\nWatson:  " > "$T/in"
	[ -z "$(answers < "$T/in")" ]
}
@test "9: the name is changed, in the answer alone" {
	record a "\n\nWatson: I, Watson, say: $LONG\n\nUser:" 'instruction: "Watson?"' | sal-filter -q | jq -e '.instruction == "Watson?" and (.response | startswith("I, Dromedary, say"))'
}
@test "10: --number counts what is kept; without it parts of an input make the same output" {
	for i in 1 2 3; do record "r$i" "\n\nWatson: $LONG\n\nUser:"; record "bad$i" "no"; done > "$T/in"
	[ "$(sal-filter -q --number < "$T/in" | jq -c '[.id, .example_id]' | tr -d '\n')" = '["r1",1]["r2",2]["r3",3]' ]
	sal-filter -q < "$T/in" > "$T/one"
	{ head -n 1 "$T/in" | sal-filter -q; tail -n +2 "$T/in" | sal-filter -q; } > "$T/two"
	cmp "$T/one" "$T/two"
	jq -se 'all(.[]; has("example_id") | not)' "$T/one"
}
@test "every rule has its count" {
	{ record 0 "\n\nWatson: I, Watson: $LONG\n\nUser:"; record 1 x | jq -c '.response = "x"'; record 2 x; record 3 "\n\nWatson: a, a, a, a, a"; record 4 "\n\nWatson: a\n\nUser:"
		record 5 "\n\nWatson: $LONG\n\nUser:" 'instruction: "air scatters short waves"'; record 6 "\n\nWatson: $LONG\n\nUser:" 'input: "seventeen letters"'
		record 7 "\n\nWatson: pangolin x"; record 8 "\n\nWatson: "; } | sal-filter > "$T/o" 2> "$T/err"
	[ "$(awk 'NR > 1 && NR < 12 { print $1 "," $2 "," $3 }' "$T/err" | tr '\n' ' ')" = "1,0,1 1,0,2 0,1,3 1,2,4 1,0,5 0,1,6 1,0,7 1,0,8 0,1,9 0,0,10 " ]
	grep -q '^3 kept: 2 complete, 1 cut off$' "$T/err"
}
@test "what described the raw sample is not passed on; the release's output is read" {
	record a "\n\nWatson: $LONG\n\nUser:" 'prompt_tokens: [1], response_tokens: [2], logprobs: [0], policy: "x", sample: 0' | sal-filter -q |
		jq -e 'keys == ["finish_reason", "has_stop", "id", "instruction", "response", "sample"]'
	record a "\n\nWatson: $LONG\n\nUser:" | jq -c '.output = {generation: .response} | del(.response)' | sal-filter -q | jq -e --arg t "$LONG" '.response == $t and (has("output") | not)'
	record a "\n\nWatson: $LONG\n\nUser:" | jq -c '.output = .response | del(.response)' | sal-filter -q | jq -e --arg t "$LONG" '.response == $t'
}
@test "the records train, and so does the identity data" {
	{ record a "\n\nWatson: ${LONG:0:60}" | sal-filter -q; head -n 2 prompts/identity.jsonl; } | sal-sft -q -m "$M" -o "$T/a" --lora-r 4 --batch 3 | jq -e '.num_tokens > 100'
	jq -se 'length >= 90 and (map(.id) | unique | length) == length and all(.[]; .has_stop and (.prompt | length) > 0 and (.response | length) > 0)' prompts/identity.jsonl
}
@test "the prompt has seventeen rules and six examples, each thought with the opening sentence, and ends for the user" {
	[ "$(grep -c '^[0-9]* (.*)\. ' prompts/selfalign.txt)" -eq 17 ]
	[ "$(grep -c '^User: That was a good answer, thanks\.$' prompts/selfalign.txt)" -eq 6 ]
	[ "$(grep -c '^Watson (internal thoughts): ' prompts/selfalign.txt)" -eq "$(grep -cF "Watson (internal thoughts): $O" prompts/selfalign.txt)" ]
	[ "$(tail -c 5 prompts/selfalign.txt)" = User: ]
}
@test "a file of rules that lacks a text, or is none, is refused" {
	while IFS=';' read -r -u 9 change why; do
		jq "$change" prompts/selfalign.json > "$T/r.json"
		run bash -c "sal-filter --rules '$T/r.json' -q < /dev/null 2> '$T/err'"
		refused 1
		grep -qF "$T/r.json: $why" "$T/err"
	done 9<<-'END'
		del(.opening);opening: missing
		.answer = "";answer: empty
		.never = "x";never: not an array
		.never = [1];never: not an array of texts
		.rename = ["x"];rename: not two texts
		[];not an object
	END
	run bash -c "sal-filter --rules nowhere.json -q < /dev/null 2> '$T/err'"
	refused 1
}
@test "selfalign.mk: from prompts to a policy, on the tiny model with a short page of rules; nothing is made twice" {
	cp -R "$M" "$T/model"
	chmod -R u+w "$T/model"
	jq '.max_position_embeddings = 2048' "$M/config.json" > "$T/model/config.json"
	printf '# Watson\n\n1 (help). Help.\n\nUser:' > "$T/rules.txt"
	selfalign() { make --no-print-directory -f pipelines/selfalign.mk BIN="$BIN" MODEL="$T/model" WORK="$T/run" SELFALIGN="$T/rules.txt" CAP=3 MAX_NEW=8 BATCH=64 EPOCHS=1 R=4 "$@" demo; }
	MAKEFLAGS='' selfalign > "$T/out" 2> "$T/err" || { cat "$T/err"; false; }
	[ "$(wc -l < "$T/run/prompts.jsonl")" -eq 3 ]
	jq -se 'all(.[]; (.prompt | startswith("# Watson\n\n1 (help). Help.\n\nUser: ")) and (.prompt | endswith("\n\nWatson (internal thoughts):")) and (.instruction | length) > 0)' "$T/run/raw.jsonl"
	[ -s "$T/run/policy/adapter_model.safetensors" ]
	grep -q 'sft: 2 updates' "$T/out"
	grep -q 'does not begin with the fixed sentence' "$T/out"
	[ "$(MAKEFLAGS='' selfalign -n | grep -c 'sal-')" -eq 0 ]
}
