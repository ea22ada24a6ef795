# SPDX-License-Identifier: Apache-2.0
# The Makefile's promises: help lists every target, install puts a working tree into PREFIX below DESTDIR.
load helper

@test "make help has a line for every target, and for nothing else" {
	make -s help | awk '{ print $1 }' | sort > "$T/help"
	sed -n 's/^\.PHONY: all/all/p' Makefile | tr ' ' '\n' | sort > "$T/targets"
	diff "$T/targets" "$T/help"
	[ "$(make -s help | awk 'NF < 3' | wc -l)" -eq 0 ]
}
# In a copy of the build, with the sanitizers if it has them.
setup() {
	SAN=$(ldd "$BIN/sal-best" | sed -nE 's/^\s*lib(a|ub|t)san\..*/\1/p' | sed 's/^a$/address/; s/^ub$/undefined/; s/^t$/thread/' | paste -sd,)
	export SAN
}
@test "what is installed runs from its PREFIX, and finds its prompts there, wherever it is moved" {
	cp -a "$(dirname "$BIN")" "$T/build"
	make -s BUILD="$T/build" PREFIX="$T/first" install > "$T/log" 2>&1 || { cat "$T/log"; false; }
	cd "$T"
	mv first opt
	unset SAL_PROMPTS
	printf '{"prompt":"hi","output_1":"a","output_2":"b"}\n' | opt/bin/sal-synthpref -q -m "$M" -p demo --judge contrast | jq -e '.judgements.Concise | length == 2'
	chmod -R u+w opt # the tree may be read-only
	rm -r opt/share/salmon
	run bash -c "opt/bin/sal-synthpref -q -m '$M' -p demo < /dev/null 2> '$T/err'"
	refused 1
	grep -q "^sal-synthpref: demo: no such file here" "$T/err"
}
@test "DESTDIR stands before PREFIX; tools, pages of all three sections, prompts and pipelines are there" {
	cp -a "$(dirname "$BIN")" "$T/build"
	make -s BUILD="$T/build" DESTDIR="$T/dest" PREFIX=/usr install > "$T/log" 2>&1 || { cat "$T/log"; false; }
	cd "$T/dest/usr"
	[ "$(ls "$T/dest")" = usr ]
	diff <(ls bin) <(basename -a -s .c "$ROOT"/tools/*.c)
	diff <(find share/man -type f -printf '%f\n' | sort) <(ls "$ROOT/man" | sort)
	[ -f share/man/man5/sal-records.5 ] && [ -f share/man/man7/salmon.7 ]
	diff -r share/salmon/prompts "$ROOT/prompts"
	diff -r share/salmon/pipelines "$ROOT/pipelines"
}
