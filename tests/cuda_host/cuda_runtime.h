/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_runtime.h - the name under which kernels/cuda finds on_host.h. */
#include "on_host.h"
