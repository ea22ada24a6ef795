/* SPDX-License-Identifier: Apache-2.0 */
/* sal-report - a run folder as one HTML page.  See sal-report(1). */
#include "lib/report.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int
main(int argc, char *argv[])
{
	struct sal_report_config g = { .samples = 8 };
	const struct sal_opt opts[] = {
		{ 'w', "work", SAL_OPT_STR, &g.work, 0, 0, "DIR", "folder of the run (required)" },
		{ 0, "base", SAL_OPT_STR, &g.base, 0, 0, "DIR", "folder of what -w lacks: samples, preferences and reward model that runs share" },
		{ 'n', "samples", SAL_OPT_INT, &g.samples, 0, 1 << 20, "N", "prompts whose answers are shown before and after [8]" },
		{ 0, "title", SAL_OPT_STR, &g.title, 0, 0, "TEXT", "title of the page [SALMON run and the folder's name]" },
		SAL_OPT_DRY(g.c),
		SAL_OPT_QUIET(g.c),
		SAL_OPT_END
	};
	struct sal_counts n = { .start = sal_now() };
	struct sal_buf html = { 0 };
	int status = EXIT_FAILURE;

	sal_opts_parse(argc, argv, opts, "sal-report -w DIR [options] > page.html", "Write a run folder as one HTML page with plots.");
	if (!g.work)
		sal_opts_fail("-w is required");

	if ((g.c.dry_run ? sal_dry_run(&g.c, sal_report_plan, &g) : sal_report_page(&g, &html, &n)) != 0) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	n.out = html.len > 0;
	if (fwrite(html.data ? html.data : "", 1, html.len, stdout) != html.len || fflush(stdout) != 0) {
		sal_warn("stdout: %s", strerror(errno));
		goto out;
	}
	status = EXIT_SUCCESS;

out:
	status = sal_finish(status, &g.c, &n, NULL);
	sal_buf_free(&html);
	return status;
}
