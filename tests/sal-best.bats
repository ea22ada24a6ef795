# SPDX-License-Identifier: Apache-2.0
load helper
scored() { printf '{"id":"a","prompt":"p","response":"x","reward":1}\n{"id":"a","prompt":"p","response":"y","reward":2}\n{"id":"b","prompt":"q","response":"z","reward":0}\n'; }

@test "the best of each id, in order" {
	[ "$(scored | sal-best -q | jq -r .response | tr '\n' ' ')" = "y z " ]
}
@test "pairs of best and worst" {
	scored | sal-best -q --pairs | jq -e '.chosen == "y" and .rejected == "x"'
}
@test "an id that comes again after others is answered anew; ids that make no pair are counted on stderr, not with -q" {
	{ scored; scored; printf '{"id":"c","prompt":"p","response":"x","reward":1}\n{"id":"c","prompt":"p","response":"y","reward":1}\n'; } > "$T/in"
	[ "$(sal-best -q < "$T/in" | jq -r .id | tr -d '\n')" = ababc ]
	[ "$(sal-best --pairs < "$T/in" 2> "$T/err" | wc -l)" -eq 2 ]
	grep -qx 'sal-best: 2 preferences; 3 ids made none: one sample, or one reward' "$T/err"
	sal-best -q --pairs < "$T/in" > /dev/null 2> "$T/err"
	[ ! -s "$T/err" ]
}
@test "a bad sample takes the others of its id with it" {
	{ scored; echo '{"id":"b","prompt":"q","response":"w"}'; } > "$T/in"
	[ "$(sal-best -q --skip-bad --reject "$T/bad" < "$T/in" | jq -r .id)" = a ]
	[ "$(jq -r '.line' "$T/bad" | tr '\n' ' ')" = "3 4 " ]
	jq -se 'all(.[]; .error == "record 2 of its id: reward: missing")' "$T/bad"
}
@test "progress: a line that overwrites itself on a terminal; none with -q, in a log, or where the records go to the terminal" {
	command -v script > /dev/null || skip "no script(1)"
	script -qec true /dev/null > /dev/null 2>&1 || skip "no pseudo-terminal"
	echo 'for i in 1 2 3 4; do echo "{\"id\":\"r$i\",\"reward\":1}"; sleep 0.4; done' > "$T/slow"
	on_terminal() { script -qec "bash $T/slow | $1" "$T/log" < /dev/null > /dev/null; }
	shown() { grep -c $'sal-best: [0-9]* records, [0-9]* s\033\\[K\r' "$T/log"; }
	on_terminal "sal-best > $T/o"
	[ "$(shown)" -ge 1 ]
	[ "$(wc -l < "$T/o")" -eq 4 ]
	for c in "sal-best -q > $T/o" "sal-best" "sal-best > $T/o 2> $T/err"; do
		on_terminal "$c"
		[ "$(shown)" -eq 0 ]
	done
	[ "$(wc -l < "$T/err")" -eq 1 ]
}
@test "a tool that starts once more, to set how threads wait, keeps its name" {
	unset GOMP_SPINCOUNT OMP_WAIT_POLICY
	mkfifo "$T/in"
	sal-best -q < "$T/in" > /dev/null 3>&- &
	exec 4> "$T/in"
	for _ in $(seq 500); do
		tr '\0' '\n' < "/proc/$!/environ" | grep -qx GOMP_SPINCOUNT=5000 && break
		sleep 0.01
	done
	[ "$(cat "/proc/$!/comm")" = sal-best ]
	exec 4>&-
	wait $!
}
