/* SPDX-License-Identifier: Apache-2.0 */
/*
 * packed.h - a model's packed weights in a file, which later starts map instead of packing them again.
 *
 * The file is the image of an arena with a seal behind it: what the image was made of, and its hash, which is looked at
 * whenever the file is opened.  One that is cut, damaged or of something else is as good as none.
 */
#ifndef SAL_PACKED_H
#define SAL_PACKED_H
#include "lib/util.h"

#define SAL_PACKED_SEAL 64 /* bytes behind the image */

struct sal_packed {
	size_t room;   /* bytes of the image, a multiple of 64 */
	int threads;   /* for its hash */
	uint64_t key;  /* hash of all that the image depends on */
	char *path;    /* of the file, malloc'd */
	struct sal_map *map; /* the caller's to close; NULL: to be packed */
	bool unusable; /* there is a file, but sal_errmsg() says why it is not used */
};

bool sal_packed_wanted(void); /* SAL_CACHE names a folder */
/*
 * Find the file in that folder, and check it.  p: room and threads in, the rest out.  of: what the image is made of, as text; the
 * version and the code that packs are added.  -1: out of memory.
 */
int sal_packed_open(struct sal_packed *p, const char *of) SAL_USE_RESULT;
/*
 * Write the image, whose seal is put into the SAL_PACKED_SEAL bytes behind it; makes the folder.  A file that another process is
 * writing is left to that one.
 */
int sal_packed_write(const struct sal_packed *p, void *image) SAL_USE_RESULT;
#endif
