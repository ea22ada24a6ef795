# SPDX-License-Identifier: Apache-2.0
load helper

# A run of 24 prompts with what every stage leaves, figures that are easy to check, and names that are hard to write.
NAME="It's \`touch pwned\` \"a\" <b>&"
setup_file() {
	mkdir -p "$BATS_FILE_TMPDIR/run/rm" "$BATS_FILE_TMPDIR/run/state2"
	cd "$BATS_FILE_TMPDIR/run"
	jq -cn --arg x "$NAME" 'range(48) as $i | {id: "p\($i % 24)", prompt: "Ask \($i)", chosen: ("c" * ($i % 7 + 1)), rejected: "rrrr",
		principles: [{dimension: (["Concise", $x][$i % 2]), negated: false}], deciding: (["Concise", $x][$i % 2]),
		reward_chosen: ($i % 5), reward_rejected: 1.5}' > given.jsonl
	jq -c '.principles[0].negated = true | .reward_rejected = 2.5' given.jsonl > negated.jsonl
	jq -cn 'range(1; 127) | {step: ., loss: (0.7 - . / 1000), accuracy: 0.5, margin: (. / 100), mean_reward: 0}' > rm.jsonl
	jq -cn --arg x "$NAME" 'range(20) as $i | {id: "p\($i)", prompt: "Ask", output_1: "a", output_2: "b", deciding: (["Concise", $x][$i % 2]),
		judgements: {"Concise": [($i - 3.5), 1], ($x): [1, -2]}}' > judged.jsonl
	for i in 1 2; do
		jq -cn --argjson i $i '{step: $i, lr: 1e-4, records: 4, tokens: 40, reward: $i, reward_std: 2, kl: ($i / 10), no_stop: 1,
			updates: [range(3) | {policy_loss: ., value_loss: 8, grad_norm: 1, approx_kl: 0.1, clip_fraction: 0.25, entropy: (2 - . / 10)}]}' > ppo$i.jsonl
		jq -cn 'range(4) | {id: "p\(.)", prompt: "Ask", response: "a", reward: 1, logprobs: [-1, -2]}' > ppo$i.rollouts
	done
	for f in before after; do
		jq -cn --arg f $f --arg x "$NAME" 'range(24) as $i | {id: "p\($i)", prompt: "What is 1 < 2 & 3?", response: "\($f) \($i) <script>alert(1)</script>\u001b[2J é",
			has_stop: true, reward: ($i % 3 + (if $f == "after" then 1 + $i % 2 else 0 end)), logprobs: [-1, -1],
			principles: [{dimension: $x, negated: ($i % 2 == 1)}]}' > $f.jsonl
	done
	jq -c '.logprobs = [-2, -1.5]' after.jsonl > reference.jsonl
	jq -cn 'range(40) | {id: "p\(.)", response: ("a" * (. + 1)), reward: -., principles: [{dimension: "Concise", negated: false}]}' > concise.jsonl
	jq -cn 'range(8) as $i | {id: "p\($i)", response: "aaa", has_stop: ($i < 2), sampled_under: {dimension: "Concise", negated: false}}' > held+.jsonl
	echo '{"step":126,"seed":"42"}' > rm/state.json
	echo '{"step":2,"flags":{"kl_coef":0.10000000000000001},"files":{"a":"b"}}' > state2/state.json
	printf 'sal-score: 24 records, 1.0 s\n' > after.jsonl.log
	printf 'make: x\nsal-generate -m M \\\n  -n 2 < a > b\n+ cat a | sal-score -m <M>\nsal-score: 24 records, 1.0 s\n' > make.out
}
setup() {
	cd "$BATS_FILE_TMPDIR"
	[[ "$BATS_TEST_DESCRIPTION" == *"needs none"* ]] || command -v gnuplot > /dev/null || skip "no gnuplot"
}
fact() { sed -nE "s|^<tr><th scope=\"row\">$1</th><td>(.*)</td></tr>|\1|p" "$T/page"; }

@test "one page: every section, the figures, nothing fetched from elsewhere" {
	sal-report -w run > "$T/page" 2> "$T/err"
	grep -q '^sal-report: [0-9]* records, .*MiB peak$' "$T/err"
	head -n 1 "$T/page" | grep -qx '<!DOCTYPE html>'
	tail -n 1 "$T/page" | grep -qx '</html>'
	for f in Reward "Length of an answer" "Entropy at each update" "Clip fraction of each update" "Value error of each update" "Approximate KL of each update" Calibration; do
		grep -q "<figcaption>$f" "$T/page" || { echo "no $f"; false; }
	done
	for s in ppo reward judge sampled after provenance; do grep -q "<section id=\"$s\">" "$T/page"; done
	[ "$(grep -c '<figure>' "$T/page")" -eq "$(grep -c '</figure>' "$T/page")" ]
	[ "$(grep -c '<figcaption>' "$T/page")" -ge 20 ]
	[ "$(grep -o '<svg' "$T/page" | wc -l)" -eq $(($(grep -c '<figcaption>' "$T/page") + 1)) ]
	[ -z "$(grep -oE '(src|href)="?(https?:|//|[a-z]+\.)[^ >]*' "$T/page")" ]
	[ -z "$(grep -nE '<(script|link|img|iframe|object)|@import|url\(' "$T/page")" ]
	[ -z "$(grep -n $'\x01\|\x1b' "$T/page")" ]
	[ "$(grep -c '<title>' "$T/page")" -eq 1 ]
}
@test "it is valid HTML, each id once" {
	sal-report -q -w run > "$T/page"
	[ -z "$(grep -oE ' id="[^"]*"' "$T/page" | sort | uniq -d)" ]
	command -v tidy > /dev/null || skip "no tidy"
	tidy -q -e "$T/page" 2>&1 | tee "$T/tidy"
	[ ! -s "$T/tidy" ]
}
@test "figures with their errors are those that jq computes" {
	sal-report -q -w run > "$T/page"
	stats='def mean: add / length; def r: . * 1000 | round / 1000 | tostring | if test("[.]") then . else . + "." end | . + "000" | sub("(?<a>[.][0-9]{3}).*"; "\(.a)");
		def clustered(f): (map(f) | mean) as $m | length as $n
			| "\($m | r) ± \([group_by(.id)[] | map(f - $m) | add | . * .] | add | sqrt / $n | r) (\($n) held-out pairs of \(map(.id) | unique | length) prompts)";'
	[ "$(fact 'Reward model: accuracy, principle as given')" = "$(jq -rs "$stats"' clustered(if .reward_chosen > .reward_rejected then 1 else 0 end)' run/given.jsonl)" ]
	[ "$(fact 'Reward model: accuracy, principle negated' | sed 's/; .*/)/')" = "$(jq -rs "$stats"' clustered(if .reward_chosen < .reward_rejected then 1 else 0 end)' run/negated.jsonl)" ]
	[ "$(fact 'Reward model: accuracy, principle negated' | sed 's/.*given order: //')" = "$(jq -rs "$stats"' map(if .reward_chosen > .reward_rejected then 1 else 0 end) | mean | r' run/negated.jsonl))" ]
	[ "$(fact 'Held-out prompts: gain of reward, prompt by prompt')" = "1.500 ± 0.102 (24 answers of 24 prompts)" ]
	[ "$(fact 'Held-out prompts: KL an answer from the model before, nats')" = "1.500 ± 0.000 (24 answers of 24 prompts)" ]
	[ "$(fact 'Reward model: loss, first and last tenth')" = "0.693, 0.580 (126 updates)" ]
	[ "$(fact 'Correlation of reward and length, under Concise')" = "-1.000 ± 0.000 (40 answers of 40 prompts)" ]
	[ "$(fact 'PPO: reward of the rollouts, first and last step')" = "1.000, 2.000" ]
	# Concise decides 10 pairs, and [i - 3.5, 1] is for the first answer from i = 3 on: 8 of 0, 2, .. 18
	[ "$(fact 'Judge: agreement with the label')" = "0.400 ± 0.110 (20 pairs of 20 prompts)" ]
	grep -q '<td>Concise</td><td class="n">20</td>.*<td class="n">10</td><td class="n">0.800 ± 0.126</td><td class="n">0.800 ± 0.089</td>' "$T/page"
}
@test "text is text: markup, quotes and control characters of records; gnuplot runs nothing" {
	sal-report -q -w run -n 24 --title 'A <b> & "c"' > "$T/page"
	[ ! -e pwned ] && [ ! -e run/pwned ]
	[ "$(grep -c '<article>' "$T/page")" -eq 24 ]
	grep -q '&lt;script&gt;alert(1)&lt;/script&gt;�\[2J é' "$T/page"
	grep -q "under It's \`touch pwned\` &quot;a&quot; &lt;b&gt;&amp; negated" "$T/page"
	grep -q '<title>A &lt;b&gt; &amp; &quot;c&quot;</title>' "$T/page"
	grep -q "<tspan[^>]*> *It's \`touch" "$T/page" || grep -q "<text>.*It's \`touch" "$T/page"
}
@test "text is text: names that are formats to gnuplot, and characters that turn the direction of writing" {
	mkdir "$T/r"
	jq -c '.deciding |= sub("Concise"; "100% honest %s")' run/given.jsonl > "$T/r/given.jsonl"
	for f in before after; do jq -c '.response = "a \u202eb\u202c \u2066c\u2069 \u200fd"' run/$f.jsonl > "$T/r/$f.jsonl"; done
	sal-report -q -w "$T/r" > "$T/page"
	grep -q '<text>.*100% honest %s' "$T/page"
	x=$'\xef\xbf\xbd' # U+FFFD in bytes, as U+200F: what \u gives depends on the locale
	[ "$(grep -c ">a ${x}b$x ${x}c$x "$'\xe2\x80\x8f'"d<" "$T/page")" -eq 16 ]
}
@test "before and after that answer other prompts, or under other principles, are not compared: a note says so" {
	for change in 'select(.id != "p3")' '.principles[0].dimension = "Other"'; do
		rm -rf "$T/r"
		cp -R run "$T/r"
		jq -c "$change" run/before.jsonl > "$T/r/before.jsonl"
		sal-report -q -w "$T/r" > "$T/page"
		grep -q 'Here before.jsonl and after.jsonl do not answer the same prompts' "$T/page"
		[ -n "$(fact 'Held-out prompts: reward before')" ]
		[ -z "$(fact 'Held-out prompts: gain of reward, prompt by prompt')" ]
		! grep -q 'Answers side by side' "$T/page"
	done
	sal-report -q -w run > "$T/page"
	! grep -q 'Here before.jsonl' "$T/page"
}
@test "provenance: sizes, hashes, last words, settings and commands" {
	sal-report -q -w run > "$T/page"
	for f in given.jsonl rm/state.json ppo1.rollouts; do
		h=$(sed -nE "s|^<tr><td><code>$f</code></td><td class=\"n\">$(stat -c %s run/$f)</td><td><code>([0-9a-f]{16})</code>.*|\1|p" "$T/page")
		[ -n "$h" ]
		! command -v xxh3sum > /dev/null || [ "$(xxh3sum run/$f | sed 's/.*= //')" = "$h" ]
	done
	grep -q '<code>after.jsonl</code>.*<td>sal-score: 24 records, 1.0 s</td>' "$T/page"
	grep -q 'kl_coef = 0.1;' "$T/page"
	grep -A 9 'Commands, from the logs' "$T/page" | head -n 4 > "$T/commands"
	diff "$T/commands" - <<-'END'
		<h3>Commands, from the logs</h3>
		<pre>sal-generate -m M \
		  -n 2 &lt; a &gt; b
		cat a | sal-score -m &lt;M&gt;
	END
}
@test "the same bytes twice, from elsewhere, and with the page itself in the folder" {
	sal-report -q -w run > "$T/a"
	(cd run && sal-report -q -w "$BATS_FILE_TMPDIR/run/" > ../page.html)
	cmp "$T/a" page.html
	cp -R run "$T/run"
	sal-report -q -w "$T/run" > "$T/run/report.html"
	cmp "$T/a" "$T/run/report.html"
}
@test "--base: what the run lacks is taken from another folder, and both are listed" {
	mkdir "$T/steer"
	cp run/ppo*.jsonl run/before.jsonl run/after.jsonl "$T/steer"
	sal-report -q -w "$T/steer" --base run > "$T/page"
	[ -n "$(fact 'Reward model: accuracy, principle as given')" ]
	grep -q '<code>given.jsonl</code>' "$T/page"
	[ "$(grep -c '<code>after.jsonl</code>' "$T/page")" -eq 2 ]
	run bash -c "sal-report -q -w run --base '$T/none' 2> '$T/err'"
	refused 1
}
@test "a run that has not ended: what is not there is left out" {
	mkdir "$T/ppo"
	cp run/ppo1.jsonl "$T/ppo"
	sal-report -q -w "$T/ppo" > "$T/page"
	[ "$(grep -oE '(section id|a href)="[^"]*"' "$T/page" | tr '\n' ' ')" = 'a href="#ppo" a href="#provenance" section id="ppo" section id="provenance" ' ]
	[ "$(grep -c '<section' "$T/page")" -eq "$(grep -c '</section>' "$T/page")" ]
	for f in rm.jsonl given.jsonl negated.jsonl judged.jsonl ppo1.jsonl before.jsonl after.jsonl concise.jsonl held+.jsonl; do
		rm -rf "$T/part"
		mkdir "$T/part"
		cp run/$f "$T/part"
		sal-report -q -w "$T/part" > "$T/page"
		grep -q '</html>' "$T/page"
	done
	head -n 2 run/given.jsonl > "$T/part/given.jsonl"
	head -n 1 run/rm.jsonl > "$T/part/rm.jsonl"
	sal-report -q -w "$T/part" > "$T/page"
	[ -z "$(sed -n '/<main>/,$p' "$T/page" | grep -wE 'nan|-nan|inf')" ]
}
@test "odd values make no odd page: huge numbers, an array of judgements, all the same" {
	cp -R run "$T/r"
	echo '{"id":"x","prompt":"Ask","output_1":"a","output_2":"b","judgements":[1,2]}' >> "$T/r/judged.jsonl"
	echo '{"step":127,"loss":1e308,"accuracy":-1e308,"margin":0,"mean_reward":1e308}' >> "$T/r/rm.jsonl"
	jq -c '.reward_chosen = 1e308 | .reward_rejected = -1e308' run/given.jsonl > "$T/r/given.jsonl"
	jq -c '.reward = 2' run/concise.jsonl > "$T/r/concise.jsonl"
	sal-report -q -w "$T/r" > "$T/page" 2> "$T/err"
	[ ! -s "$T/err" ]
	[ "$(fact 'Correlation of reward and length, under Concise')" = "none (0 answers of 0 prompts)" ]
}
@test "bad records, folders and disks are one line each, and no half of a page" {
	for bad in 'hello' '{"id":"x"}' '{"id":"x","chosen":"a","rejected":"b","deciding":"C","reward_chosen":"1","reward_rejected":1}'; do
		rm -rf "$T/r"
		cp -R run "$T/r"
		echo "$bad" >> "$T/r/given.jsonl"
		run bash -c "sal-report -q -w '$T/r' 2> '$T/err'"
		refused 1
		[ -z "$output" ]
		grep -q "^sal-report: $T/r/given.jsonl:49: " "$T/err"
	done
	mkdir "$T/empty"
	for d in "$T/empty" "$T/none" run/given.jsonl; do
		run bash -c "sal-report -q -w '$d' 2> '$T/err'"
		refused 1
		grep -q "^sal-report: $d: " "$T/err"
	done
	run bash -c "sal-report -q -w run 2> '$T/err' > /dev/full"
	refused 1
	grep -qx 'sal-report: stdout: No space left on device' "$T/err"
	run bash -c "sal-report 2> '$T/err'"
	refused 2
}
@test "without gnuplot, or with one that fails: one line, no page (needs none)" {
	mkdir -p "$T/bin"
	for f in bash sal-report; do ln -s "$(command -v $f)" "$T/bin"; done
	run env PATH="$T/bin" bash -c "sal-report -q -w run 2> '$T/err'"
	refused 1
	[ -z "$output" ]
	grep -q '^sal-report: gnuplot: not found; it draws the plots' "$T/err"
	printf '#!%s\necho "line 0: warning: no" >&2\nexit 3\n' "$(command -v bash)" > "$T/bin/gnuplot"
	chmod +x "$T/bin/gnuplot"
	run env PATH="$T/bin" bash -c "sal-report -q -w run 2> '$T/err'"
	refused 1
	grep -q '^sal-report: gnuplot: failed: line 0: warning: no' "$T/err"
}
