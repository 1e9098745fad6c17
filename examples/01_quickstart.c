/* SPDX-License-Identifier: Apache-2.0
 * Pyramid Sparse Attention from C99: the default configuration beside dense attention. */
#include <psa/psa.h>
#include <stdio.h>
#include <stdlib.h>

enum { HEADS = 2, TOKENS = 2048, DIM = 64, COUNT = HEADS * TOKENS * DIM };

static float q[COUNT], k[COUNT], v[COUNT], dense[COUNT], sparse[COUNT]; /* [1,H,L,D] */

/* A smooth wave of period 1 and height 1 (parabolas, so that no libm is needed). */
static float wave(float turns) {
  const float x = turns - (float)(int)turns;
  return x < 0.5f ? 16 * x * (0.5f - x) : -16 * (x - 0.5f) * (1 - x);
}

static psa_tensor view(float* data) {
  const psa_tensor tensor = {
      data, PSA_F32, PSA_CPU, 0, 0, {1, HEADS, TOKENS, DIM}, {COUNT, TOKENS * DIM, DIM, 1}};
  return tensor;
}

/* One call: plan, workspace, run. Keep plan and workspace when there are more calls. */
static psa_status attend(const psa_config* config, float* out, psa_stats* stats) {
  psa_problem problem;
  psa_problem_init(&problem);
  problem.dtype_q = problem.dtype_kv = problem.dtype_out = PSA_F32;
  problem.heads_q = problem.heads_kv = HEADS;
  problem.len_q = problem.len_kv = TOKENS;
  problem.head_dim = DIM;

  psa_plan* plan = NULL;
  psa_status status = psa_plan_create(&problem, config, NULL, &plan);
  if (status != PSA_OK) return status;
  size_t bytes = 0;
  psa_plan_workspace_size(plan, &bytes);
  char* memory = malloc(bytes + 63); /* room to align it to 64 bytes */
  if (memory == NULL) abort();
  void* workspace = memory + (64 - (uintptr_t)memory % 64) % 64;
  psa_io io;
  psa_io_init(&io);
  io.q = view(q), io.k = view(k), io.v = view(v), io.out = view(out);
  status = psa_forward(plan, &io, workspace, bytes, NULL, stats);
  free(memory);
  psa_plan_destroy(plan);
  return status;
}

int main(void) {
  for (int i = 0; i < COUNT; ++i) {
    const float phase = (float)(i / DIM % TOKENS) * (float)(i % DIM + 1) / (8.0f * TOKENS);
    q[i] = 1.5f * wave(phase), k[i] = 1.5f * wave(phase + 0.01f), v[i] = wave(phase + 0.3f);
  }
  psa_config config;
  psa_config_init(&config);
  psa_preset everything = {.struct_size = sizeof(psa_preset)};
  psa_stats stats;
  psa_stats_init(&stats);
  if (psa_preset_find("dense", &everything) != PSA_OK ||
      attend(&everything.config, dense, NULL) != PSA_OK ||
      attend(&config, sparse, &stats) != PSA_OK) {
    fprintf(stderr, "%s\n", psa_last_error());
    return 1;
  }
  double difference = 0, norm = 0;
  for (int i = 0; i < COUNT; ++i) {
    difference += (sparse[i] - dense[i]) * (sparse[i] - dense[i]);
    norm += dense[i] * dense[i];
  }
  printf("density %.3f, squared error relative to dense %.2g\n", stats.density, difference / norm);
  return difference < 1e-3 * norm ? 0 : 1;
}
