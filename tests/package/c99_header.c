/* SPDX-License-Identifier: Apache-2.0
 * psa.h alone in a strict C99 file. */
#include <psa/psa.h>

int32_t abi_of_the_library(void);
int32_t abi_of_the_library(void) { return psa_abi_version(); }
