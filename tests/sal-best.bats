# SPDX-License-Identifier: Apache-2.0
load helper
scored() { printf '{"id":"a","prompt":"p","response":"x","reward":1}\n{"id":"a","prompt":"p","response":"y","reward":2}\n{"id":"b","prompt":"q","response":"z","reward":0}\n'; }

@test "the best of each id, in order" {
	[ "$(scored | sal-best -q | jq -r .response | tr '\n' ' ')" = "y z " ]
}
@test "pairs of best and worst" {
	scored | sal-best -q --pairs | jq -e '.chosen == "y" and .rejected == "x"'
}
