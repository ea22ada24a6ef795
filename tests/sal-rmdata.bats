# SPDX-License-Identifier: Apache-2.0
load helper

@test "samples under a principle and its negation: the label is known" {
	printf '{"id":"a","prompt":"p","response":"x","sampled_under":{"dimension":"Concise","negated":false}}\n{"id":"a","prompt":"p","response":"yy","sampled_under":{"dimension":"Concise","negated":true}}\n' > "$T/in"
	sal-rmdata -q --from contrast-samples --negate 0 < "$T/in" > "$T/out"
	jq -e '.chosen == "x" and .rejected == "yy" and .deciding == "Concise"' "$T/out"
	sal-rmdata -q --from contrast-samples --negate 1 < "$T/in" | jq -e '.chosen == "yy" and .principles[0].negated'
}
@test "judged pairs: the same bytes for the same seed" {
	for i in 1 2 3 4 5 6; do printf '{"id":"j%d","prompt":"p","output_1":"a","output_2":"b","judgements":{"X":[%d,1.5],"Y":[-1,-%d.5]}}\n' $i $i $i; done > "$T/in"
	cmp <(sal-rmdata -q --seed 3 < "$T/in") <(sal-rmdata -q --seed 3 < "$T/in")
	sal-rmdata -q --seed 3 < "$T/in" | jq -e '.chosen and .rejected and (.principles | length > 0)' > /dev/null
}
