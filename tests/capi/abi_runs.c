/* SPDX-License-Identifier: Apache-2.0
 * Calls of psa.h that run a plan on tensors. */
#include "abi_runs.h"

#include <stdlib.h>

#include "check.h"

enum {
  COUNT = HEADS * TOKENS * DIM,
  MAP = HEADS * BLOCKS * BLOCKS,
  ROWS = HEADS * BLOCKS,
  PAIRS = (TOKENS + 1) / 2 /* rows of pyramid level 2 */
};

/* Tensors, results and an aligned workspace of one plan. */
typedef struct call {
  float q[COUNT], k[COUNT], v[COUNT], out[COUNT];
  float lse[HEADS * TOKENS], importance[MAP];
  uint8_t levels[MAP];
  psa_io io;
  char* memory;
  void* workspace;
  size_t bytes;
} call;

psa_problem small_problem(void) {
  psa_problem problem;
  psa_problem_init(&problem);
  problem.dtype_q = problem.dtype_kv = problem.dtype_out = PSA_F32;
  problem.heads_q = problem.heads_kv = HEADS;
  problem.len_q = problem.len_kv = TOKENS;
  problem.head_dim = DIM;
  return problem;
}

static psa_tensor view(float* data) {
  const psa_tensor tensor = {
      data, PSA_F32, PSA_CPU, 0, 0, {1, HEADS, TOKENS, DIM}, {COUNT, TOKENS * DIM, DIM, 1}};
  return tensor;
}

/* Random q and k; v is 1 everywhere, so that every output is 1 whatever is read. */
static call* new_call(const psa_plan* plan) {
  call* c = calloc(1, sizeof *c);
  uint32_t state = 1;
  if (c == NULL) abort();
  for (int i = 0; i < COUNT; ++i) {
    state = state * 1664525u + 1013904223u;
    c->q[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
    state = state * 1664525u + 1013904223u;
    c->k[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
    c->v[i] = 1.0f;
  }
  psa_io_init(&c->io);
  c->io.q = view(c->q);
  c->io.k = view(c->k);
  c->io.v = view(c->v);
  c->io.out = view(c->out);
  CHECK_OK(psa_plan_workspace_size(plan, &c->bytes));
  c->memory = malloc(c->bytes + 63);
  if (c->memory == NULL) abort();
  c->workspace = c->memory + (64 - (uintptr_t)c->memory % 64) % 64;
  return c;
}

static void delete_call(call* c) {
  free(c->memory);
  free(c);
}

void check_forward(const psa_plan* plan) {
  call* c = new_call(plan);
  psa_stats stats;
  psa_stats_init(&stats);
  c->io.lse = c->lse;
  c->io.levels_out = c->levels;
  memset(c->levels, 0xFF, sizeof c->levels);
  CHECK_OK(psa_forward(plan, &c->io, c->workspace, c->bytes, NULL, &stats));
  for (int i = 0; i < COUNT; ++i) CHECK(c->out[i] > 0.9999f && c->out[i] < 1.0001f);
  for (int i = 0; i < HEADS * TOKENS; ++i) CHECK(c->lse[i] > 0.0f && c->lse[i] < 50.0f);
  int64_t blocks = 0;
  for (int code = 0; code < PSA_NUM_LEVEL_CODES; ++code) blocks += stats.blocks[code];
  CHECK(blocks == MAP && stats.blocks[1] > 0 && stats.blocks[PSA_LEVEL_MEAN] > 0);
  CHECK(stats.density > 0 && stats.density < 1 && stats.selection_cost > 0);
  CHECK(stats.attention_ms >= 0 && stats.struct_size == sizeof stats);
  for (int i = 0; i < MAP; ++i) CHECK(c->levels[i] < PSA_NUM_LEVEL_CODES);

  /* The map that was used gives the same call again. */
  float first[COUNT];
  memcpy(first, c->out, sizeof first);
  memset(c->out, 0, sizeof c->out);
  c->io.levels = c->levels;
  c->io.levels_out = NULL;
  CHECK_OK(psa_forward(plan, &c->io, c->workspace, c->bytes, NULL, NULL));
  CHECK(memcmp(first, c->out, sizeof first) == 0);
  delete_call(c);
}

static void check_bad_workspaces(const psa_plan* plan, call* c) {
  CHECK_ERROR(psa_forward(plan, &c->io, NULL, c->bytes, NULL, NULL), PSA_OUT_OF_MEMORY,
              "workspace");
  CHECK_ERROR(psa_forward(plan, &c->io, c->workspace, c->bytes - 1, NULL, NULL), PSA_OUT_OF_MEMORY,
              "this plan needs");
  CHECK_ERROR(psa_forward(plan, &c->io, (char*)c->workspace + 4, c->bytes, NULL, NULL),
              PSA_INVALID_ARGUMENT, "aligned to 64");
}

static void check_bad_structs(const psa_plan* plan, call* c) {
  psa_stats stats;
  psa_stats_init(&stats);
  CHECK_ERROR(psa_forward(NULL, &c->io, c->workspace, c->bytes, NULL, NULL), PSA_INVALID_ARGUMENT,
              "plan is null");
  CHECK_ERROR(psa_forward(plan, NULL, c->workspace, c->bytes, NULL, NULL), PSA_INVALID_ARGUMENT,
              "io is null");
  stats.struct_size = 5;
  CHECK_ERROR(psa_forward(plan, &c->io, c->workspace, c->bytes, NULL, &stats), PSA_INVALID_ARGUMENT,
              "stats.struct_size is 5");
  c->io.struct_size = 399;
  CHECK_ERROR(psa_forward(plan, &c->io, c->workspace, c->bytes, NULL, NULL), PSA_INVALID_ARGUMENT,
              "io.struct_size is 399");
  c->io.struct_size = sizeof c->io;
  c->io.reserved = 1;
  CHECK_ERROR(psa_forward(plan, &c->io, c->workspace, c->bytes, NULL, NULL), PSA_INVALID_ARGUMENT,
              "io.reserved is 1");
  c->io.reserved = 0;
  c->io.v.reserved = -1;
  CHECK_ERROR(psa_forward(plan, &c->io, c->workspace, c->bytes, NULL, NULL), PSA_INVALID_ARGUMENT,
              "v.reserved is -1");
  c->io.v.reserved = 0;
}

void check_bad_runs(const psa_plan* plan) {
  call* c = new_call(plan);
  memset(c->out, 0x55, sizeof c->out);
  check_bad_workspaces(plan, c);
  check_bad_structs(plan, c);
  c->io.q.shape[2] = TOKENS - 1;
  CHECK_ERROR(psa_forward(plan, &c->io, c->workspace, c->bytes, NULL, NULL), PSA_INVALID_ARGUMENT,
              "q.shape[2] (token) is 99");
  c->io.q = view(c->q);
  c->io.out = view(c->k);
  CHECK_ERROR(psa_forward(plan, &c->io, c->workspace, c->bytes, NULL, NULL), PSA_INVALID_ARGUMENT,
              "out overlaps k");
  c->io.out = view(c->out);
  memset(c->levels, 0, sizeof c->levels);
  c->levels[9] = PSA_NUM_LEVEL_CODES;
  c->io.levels = c->levels;
  CHECK_ERROR(psa_forward(plan, &c->io, c->workspace, c->bytes, NULL, NULL), PSA_INVALID_ARGUMENT,
              "levels[9] is 7");
  for (size_t i = 0; i < sizeof c->out; ++i) CHECK(((unsigned char*)c->out)[i] == 0x55);
  delete_call(c);
}

void check_stages(const psa_plan* plan) {
  call* c = new_call(plan);
  uint8_t selected[MAP];
  float k_pooled[HEADS * PAIRS * DIM], v_pooled[HEADS * PAIRS * DIM];
  void* ws = c->workspace;
  CHECK_OK(psa_estimate_importance(plan, &c->io, c->importance, ws, c->bytes, NULL));
  CHECK_ERROR(psa_estimate_importance(plan, &c->io, NULL, ws, c->bytes, NULL), PSA_INVALID_ARGUMENT,
              "importance is null");
  CHECK_OK(psa_assign_levels(plan, &c->io, c->importance, c->levels, ws, c->bytes, NULL));
  CHECK_ERROR(psa_assign_levels(plan, &c->io, NULL, c->levels, ws, c->bytes, NULL),
              PSA_INVALID_ARGUMENT, "importance is null");
  CHECK_ERROR(psa_assign_levels(plan, &c->io, c->importance, NULL, ws, c->bytes, NULL),
              PSA_INVALID_ARGUMENT, "levels is null");
  CHECK_OK(psa_select_levels(plan, &c->io, selected, ws, c->bytes, NULL));
  CHECK(memcmp(selected, c->levels, sizeof selected) == 0);
  CHECK_ERROR(psa_select_levels(plan, &c->io, NULL, ws, c->bytes, NULL), PSA_INVALID_ARGUMENT,
              "levels is null");
  CHECK_ERROR(psa_select_levels(plan, &c->io, selected, NULL, 0, NULL), PSA_OUT_OF_MEMORY,
              "workspace has 0 bytes");

  CHECK_OK(psa_build_pyramid(plan, &c->io, 2, k_pooled, v_pooled, ws, c->bytes, NULL));
  for (int i = 0; i < DIM; ++i) {
    const float difference = k_pooled[i] - 0.5f * (c->k[i] + c->k[DIM + i]);
    CHECK(difference > -1e-6f && difference < 1e-6f && v_pooled[i] == 1.0f);
  }
  CHECK_ERROR(psa_build_pyramid(plan, &c->io, 1, k_pooled, v_pooled, ws, c->bytes, NULL),
              PSA_INVALID_ARGUMENT, "level is 1");
  CHECK_ERROR(psa_build_pyramid(plan, &c->io, 2, NULL, v_pooled, ws, c->bytes, NULL),
              PSA_INVALID_ARGUMENT, "k_pooled is null");
  CHECK_ERROR(psa_build_pyramid(plan, &c->io, 2, k_pooled, NULL, ws, c->bytes, NULL),
              PSA_INVALID_ARGUMENT, "v_pooled is null");
  delete_call(c);
}

static void check_schedule(const psa_plan* plan, uint8_t* levels) {
  int64_t row_begin[ROWS + 1];
  psa_schedule_entry entries[MAP];
  CHECK_OK(psa_build_schedule(plan, levels, row_begin, NULL, 0));
  CHECK(row_begin[0] == 0 && row_begin[1] == 2 && row_begin[2] == 2 && row_begin[ROWS] == 3);
  CHECK_OK(psa_build_schedule(plan, levels, row_begin, entries, 3));
  CHECK(entries[0].kv_block == 5 && entries[0].level == 1);
  CHECK(entries[1].kv_block == 2 && entries[1].level == 3);
  CHECK(entries[2].kv_block == 0 && entries[2].level == PSA_LEVEL_MEAN);
  CHECK_ERROR(psa_build_schedule(plan, levels, row_begin, entries, 2), PSA_INVALID_ARGUMENT,
              "capacity is 2");
  CHECK_ERROR(psa_build_schedule(plan, NULL, row_begin, entries, 3), PSA_INVALID_ARGUMENT,
              "levels is null");
  CHECK_ERROR(psa_build_schedule(plan, levels, NULL, entries, 3), PSA_INVALID_ARGUMENT,
              "row_begin is null");
  levels[0] = 200;
  CHECK_ERROR(psa_build_schedule(plan, levels, row_begin, NULL, 0), PSA_INVALID_ARGUMENT,
              "levels[0] is 200");
  levels[0] = PSA_LEVEL_SKIP;
}

void check_level_maps(const psa_plan* plan) {
  uint8_t levels[MAP] = {PSA_LEVEL_SKIP};
  double rows[ROWS];
  psa_stats stats;
  int32_t kv_lengths[1] = {TOKENS + 1};
  levels[2] = 3;                         /* head 0, row 0: 4 of 16 columns */
  levels[5] = 1;                         /* all 16 columns */
  levels[MAP - BLOCKS] = PSA_LEVEL_MEAN; /* last head, last row: 1 column */
  check_schedule(plan, levels);

  psa_stats_init(&stats);
  CHECK_OK(psa_measure_levels(plan, levels, NULL, rows, &stats));
  CHECK(rows[0] > 0.1999 && rows[0] < 0.2001); /* 20 of 100 */
  CHECK(rows[1] == 0 && rows[ROWS - 1] > 0.0099 && rows[ROWS - 1] < 0.0101);
  CHECK(stats.blocks[0] == MAP - 3 && stats.blocks[1] == 1 && stats.blocks[3] == 1);
  CHECK(stats.density > 0.0161 && stats.density < 0.0163); /* (16*20 + 4*1) / (2*100*100) */
  CHECK_OK(psa_measure_levels(plan, levels, NULL, NULL, &stats));
  CHECK_ERROR(psa_measure_levels(plan, levels, kv_lengths, NULL, &stats), PSA_INVALID_ARGUMENT,
              "kv_lengths[0] is 101");
  CHECK_ERROR(psa_measure_levels(plan, NULL, NULL, NULL, &stats), PSA_INVALID_ARGUMENT,
              "levels is null");
  CHECK_ERROR(psa_measure_levels(plan, levels, NULL, NULL, NULL), PSA_INVALID_ARGUMENT,
              "stats is null");
  levels[1] = 5;
  CHECK_ERROR(psa_measure_levels(plan, levels, NULL, NULL, &stats), PSA_INVALID_ARGUMENT,
              "levels[1] is 5");
}
