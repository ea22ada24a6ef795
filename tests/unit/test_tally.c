/* SPDX-License-Identifier: Apache-2.0 */
/* test_tally - means with errors between prompts, correlation, characters. */
#include "lib/tally.h"
#include <math.h>

static int n, failed;

static void
ok(bool good, const char *what)
{
	n++;
	failed += !good;
	printf("%sok %d - %s\n", good ? "" : "not ", n, what);
}

static bool
near(double a, double b)
{
	return fabs(a - b) < 1e-12;
}

int
main(void)
{
	struct sal_tally t = { 0 };
	struct sal_mean m = sal_tally_mean(&t);

	ok(isnan(m.mean) && isnan(m.error) && m.n == 0 && m.ids == 0, "nothing has no mean");
	sal_tally_add(&t, "a", 1);
	m = sal_tally_mean(&t);
	ok(m.mean == 1 && isnan(m.error) && m.n == 1 && m.ids == 1, "one prompt has no error");
	sal_tally_add(&t, "b", 0);
	sal_tally_add(&t, "a", 1);
	sal_tally_add(&t, "c", 1);
	m = sal_tally_mean(&t); /* deviations 1/4 + 1/4, -3/4, 1/4 */
	ok(near(m.mean, 0.75) && near(m.error, sqrt(0.25 + 0.5625 + 0.0625) / 4) && m.n == 4 && m.ids == 3, "numbers of one prompt hang together");
	sal_tally_free(&t);
	for (int i = 0; i < 1000; i++) {
		char id[16];
		snprintf(id, sizeof id, "p%d", i);
		sal_tally_add(&t, id, i % 2);
	}
	m = sal_tally_mean(&t);
	ok(near(m.mean, 0.5) && near(m.error, sqrt(250.0) / 1000) && m.ids == 1000, "alone in its prompt each: the usual error");
	sal_tally_free(&t);

	const double x[] = { 1, 2, 3, 4 }, y[] = { 8, 6, 4, 2 }, z[] = { 0.1, 0.1, 0.1, 0.1 };
	ok(near(sal_correlation(x, y, 4), -1) && near(sal_correlation(x, x, 4), 1), "correlations of lines");
	ok(isnan(sal_correlation(x, z, 4)), "what does not vary has none");
	ok(sal_characters("") == 0 && sal_characters("a\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x90\x9f") == 4, "characters, not bytes");
	printf("1..%d\n", n);
	return failed != 0;
}
