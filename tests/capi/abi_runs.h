/* SPDX-License-Identifier: Apache-2.0
 * The part of the C99 program that runs plans. */
#ifndef PSA_TESTS_CAPI_ABI_RUNS_H_
#define PSA_TESTS_CAPI_ABI_RUNS_H_

#include <psa/psa.h>

enum { HEADS = 2, TOKENS = 100, DIM = 16, BLOCKS = 7 }; /* blocks of 16 tokens */

/* q, k, v and out f32 [1,HEADS,TOKENS,DIM]. */
psa_problem small_problem(void);

/* The functions below need a plan of small_problem() with the default configuration and blocks of
 * 16 tokens. */
void check_forward(const psa_plan* plan);
void check_bad_runs(const psa_plan* plan);
void check_stages(const psa_plan* plan);
void check_level_maps(const psa_plan* plan);

#endif /* PSA_TESTS_CAPI_ABI_RUNS_H_ */
