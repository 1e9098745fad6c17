/* SPDX-License-Identifier: Apache-2.0
 * Calls every function of psa.h from C99, with good and with bad input, through the shared library:
 * status, description, presets, plans. The calls on tensors are in abi_runs.c. */
#include "abi_runs.h"
#include "check.h"

int failed_checks = 0;

static void check_status_and_version(void) {
  CHECK(strcmp(psa_last_error(), "") == 0);
  CHECK(strcmp(psa_status_string(PSA_OK), "ok") == 0);
  for (psa_status status = PSA_OK; status <= PSA_INTERNAL; ++status) {
    CHECK(strcmp(psa_status_string(status), "unknown status") != 0);
  }
  CHECK(strcmp(psa_status_string(-1), "unknown status") == 0);
  CHECK(strcmp(psa_status_string(PSA_INTERNAL + 1), "unknown status") == 0);
  CHECK(strchr(psa_version(), '.') != NULL);
  CHECK(psa_abi_version() >= 1);
}

static void check_initial_values(void) {
  psa_problem problem;
  psa_config config;
  psa_plan_options options;
  psa_io io;
  psa_stats stats;
  memset(&problem, 0x55, sizeof problem);
  memset(&config, 0x55, sizeof config);
  memset(&options, 0x55, sizeof options);
  memset(&io, 0x55, sizeof io);
  memset(&stats, 0x55, sizeof stats);
  psa_problem_init(&problem);
  psa_config_init(&config);
  psa_plan_options_init(&options);
  psa_io_init(&io);
  psa_stats_init(&stats);
  CHECK(problem.struct_size == sizeof problem && problem.dtype_q == PSA_BF16);
  CHECK(problem.dtype_kv == PSA_BF16 && problem.dtype_out == PSA_BF16);
  CHECK(problem.batch == 1 && problem.heads_q == 1 && problem.heads_kv == 1);
  CHECK(problem.len_q == 0 && problem.text_tokens == 0 && problem.reserved == 0);
  CHECK(config.struct_size == sizeof config && config.block_q == 128 && config.num_levels == 4);
  CHECK(config.rest == PSA_REST_MEAN && config.importance == PSA_POOLED_LSE && config.causal == 0);
  CHECK(config.budget_scope == PSA_SCOPE_ROW && config.reserved == 0);
  CHECK(options.struct_size == sizeof options && options.backend == NULL && options.isa == NULL);
  CHECK(options.num_threads == 0 && options.parallel_for == NULL);
  CHECK(io.struct_size == sizeof io && io.q.data == NULL && io.levels_out == NULL);
  CHECK(stats.struct_size == sizeof stats && stats.density == 0);
  psa_problem_init(NULL);
  psa_config_init(NULL);
  psa_plan_options_init(NULL);
  psa_io_init(NULL);
  psa_stats_init(NULL);
}

static void check_density(void) {
  psa_config config;
  psa_config_init(&config);
  config.rule = PSA_RULE_THRESHOLD;
  config.min_cosine[0] = 0.5f;
  CHECK_OK(psa_config_set_density(&config, 0.25));
  CHECK(config.rule == PSA_RULE_QUOTA);
  CHECK(config.budget[0] > 0 && config.budget[0] < 0.25f && config.budget[3] > config.budget[0]);
  CHECK(config.min_cosine[0] == 0.5f);
  CHECK_ERROR(psa_config_set_density(&config, 1.5), PSA_INVALID_ARGUMENT, "density is 1.5");
  CHECK_ERROR(psa_config_set_density(&config, 0.0), PSA_INVALID_ARGUMENT, "density is 0");
  CHECK_ERROR(psa_config_set_density(NULL, 0.5), PSA_INVALID_ARGUMENT, "config is null");
  config.num_levels = 9;
  CHECK_ERROR(psa_config_set_density(&config, 0.5), PSA_INVALID_ARGUMENT, "num_levels is 9");
  config.num_levels = 4;
  config.block_kv = 0;
  CHECK_ERROR(psa_config_set_density(&config, 0.5), PSA_INVALID_ARGUMENT, "block_kv is 0");
}

static psa_status create(psa_problem problem, psa_config config, const psa_plan_options* options) {
  psa_plan* plan = NULL;
  const psa_status status = psa_plan_create(&problem, &config, options, &plan);
  CHECK((plan == NULL) == (status != PSA_OK));
  psa_plan_destroy(plan);
  return status;
}

/* A density for each query head (S-24); the plan keeps nothing of the caller's. */
static void check_head_density(void) {
  const psa_problem problem = small_problem();
  psa_config config;
  psa_plan* plan = NULL;
  float density[HEADS] = {0.15f, 1.0f};
  char text[2048];
  psa_config_init(&config);
  CHECK(config.head_density == NULL && config.num_head_densities == 0);
  config.block_q = config.block_kv = 16;
  config.head_density = density;
  config.num_head_densities = HEADS;
  CHECK_OK(psa_plan_create(&problem, &config, NULL, &plan));
  density[0] = density[1] = -1.0f;
  CHECK_OK(psa_plan_describe(plan, text, sizeof text, NULL));
  CHECK(strstr(text, "density by head 0.15 1") != NULL);
  check_forward(plan);
  psa_plan_destroy(plan);
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "head_density[0] is -1");
  config.num_head_densities = 1;
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "head_density has 1 entries");
  config.num_head_densities = 0;
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "head_density is given and num");
  config.num_head_densities = -2;
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "head_density has -2 entries");
  config.num_head_densities = INT64_MAX;
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "heads_q is 2");
  CHECK_OK(psa_config_set_density(&config, 0.25)); /* reads no densities per head */
  config.head_density = NULL;
  config.num_head_densities = HEADS;
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "head_density is null");
  config.head_density = density;
  CHECK_OK(psa_config_set_density(&config, 0.25));
  CHECK(config.head_density == NULL && config.num_head_densities == 0);
  CHECK_OK(create(problem, config, NULL));
}

static void check_presets(void) {
  /* What a caller with a longer, later psa_preset passes. */
  union {
    psa_preset known;
    unsigned char bytes[sizeof(psa_preset) + 16];
  } later;
  psa_preset preset;
  psa_problem problem = small_problem();
  problem.len_q = problem.len_kv = 16;
  problem.grid_frames = 1;
  problem.grid_height = problem.grid_width = 4;
  CHECK(psa_preset_count() > 5);
  for (int32_t i = 0; i < psa_preset_count(); ++i) {
    psa_plan* plan = NULL;
    memset(&preset, 0x55, sizeof preset);
    preset.struct_size = sizeof preset;
    CHECK_OK(psa_preset_at(i, &preset));
    CHECK(preset.struct_size == sizeof preset && preset.config.struct_size == sizeof(psa_config));
    CHECK(strlen(preset.name) > 0 && strlen(preset.description) > 0);
    CHECK_OK(psa_plan_create(&problem, &preset.config, NULL, &plan));
    psa_plan_destroy(plan);
    CHECK_OK(psa_preset_find(preset.name, &preset));
  }
  CHECK_OK(psa_preset_find("balanced", &preset));
  CHECK(strcmp(preset.name, "balanced") == 0);
  CHECK_ERROR(psa_preset_find("no-such", &preset), PSA_INVALID_ARGUMENT, "balanced, ");
  CHECK_ERROR(psa_preset_find("no-such", &preset), PSA_INVALID_ARGUMENT, "\"no-such\"");
  CHECK_ERROR(psa_preset_find(NULL, &preset), PSA_INVALID_ARGUMENT, "name is null");
  CHECK_ERROR(psa_preset_find("balanced", NULL), PSA_INVALID_ARGUMENT, "preset is null");
  CHECK_ERROR(psa_preset_at(-1, &preset), PSA_INVALID_ARGUMENT, "index is -1");
  CHECK_ERROR(psa_preset_at(psa_preset_count(), &preset), PSA_INVALID_ARGUMENT, "allowed: 0..");
  CHECK_ERROR(psa_preset_at(0, NULL), PSA_INVALID_ARGUMENT, "preset is null");

  memset(&later, 0x55, sizeof later);
  later.known.struct_size = sizeof later;
  CHECK_OK(psa_preset_at(0, &later.known));
  CHECK(later.known.struct_size == sizeof later);
  CHECK(later.bytes[sizeof(psa_preset)] == 0 && later.bytes[sizeof later - 1] == 0);
  preset.struct_size = 0;
  CHECK_ERROR(psa_preset_at(0, &preset), PSA_INVALID_ARGUMENT, "preset.struct_size is 0");
}

static void check_backends(void) {
  psa_backend_info info;
  int32_t available = 0;
  info.struct_size = sizeof info;
  CHECK(psa_backend_count() >= 2);
  for (int32_t i = 0; i < psa_backend_count(); ++i) {
    CHECK_OK(psa_backend_at(i, &info));
    CHECK(strlen(info.name) > 0 && info.isa != NULL && strlen(info.reason) > 0);
    available += info.available;
  }
  CHECK(available >= 2); /* the scalar cpu and the reference run anywhere */
  CHECK(strcmp(info.name, "reference") == 0);
  CHECK_ERROR(psa_backend_at(psa_backend_count(), &info), PSA_INVALID_ARGUMENT, "allowed: 0..");
  CHECK_ERROR(psa_backend_at(0, NULL), PSA_INVALID_ARGUMENT, "backend_info is null");
  info.struct_size = 8;
  CHECK_ERROR(psa_backend_at(0, &info), PSA_INVALID_ARGUMENT, "struct_size is 8");
}

static void check_struct_sizes(void) {
  union {
    psa_problem known;
    unsigned char bytes[sizeof(psa_problem) + 8];
  } later;
  psa_config config;
  psa_plan* plan = NULL;
  psa_config_init(&config);

  memset(&later, 0, sizeof later);
  later.known = small_problem();
  later.known.struct_size = sizeof later;
  CHECK_OK(psa_plan_create(&later.known, &config, NULL, &plan));
  psa_plan_destroy(plan);
  later.bytes[sizeof later - 1] = 1;
  plan = (psa_plan*)(void*)&config;
  CHECK_ERROR(psa_plan_create(&later.known, &config, NULL, &plan), PSA_UNSUPPORTED,
              "problem uses a field");
  CHECK(plan == NULL);
  later.known.struct_size = sizeof(psa_problem) - 1;
  CHECK_ERROR(psa_plan_create(&later.known, &config, NULL, &plan), PSA_INVALID_ARGUMENT,
              "problem.struct_size is 111");
  later.known.struct_size = 0x55555555; /* memory that nobody initialised */
  CHECK_ERROR(psa_plan_create(&later.known, &config, NULL, &plan), PSA_INVALID_ARGUMENT,
              "problem.struct_size is 1431655765");
  later.known = small_problem();
  /* The fields of a caller that knows no budget_scope end before it. */
  config.budget_scope = config.reserved = 7;
  config.struct_size = offsetof(psa_config, budget_scope);
  CHECK_OK(psa_plan_create(&later.known, &config, NULL, &plan));
  psa_plan_destroy(plan);
  config.struct_size = 4;
  CHECK_ERROR(psa_plan_create(&later.known, &config, NULL, &plan), PSA_INVALID_ARGUMENT,
              "config.struct_size is 4");
}

static void check_bad_problems(void) {
  const psa_problem good = small_problem();
  psa_problem problem = good;
  psa_config config;
  psa_config_init(&config);
  CHECK_OK(create(good, config, NULL));
  problem.reserved = 3;
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "problem.reserved is 3");
  problem = good;
  problem.device_type = 7;
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "device_type is 7");
  problem.device_type = PSA_CUDA;
  problem.device_index = 4711; /* no machine has it */
  CHECK_ERROR(create(problem, config, NULL), PSA_UNSUPPORTED, "device is CUDA 4711");
  problem = good;
  problem.dtype_kv = 3;
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "dtype_kv is 3");
  problem = good;
  problem.text_side = -1;
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "text_side is -1");
  config.causal = 2;
  CHECK_ERROR(create(good, config, NULL), PSA_INVALID_ARGUMENT, "causal is 2; allowed: 0, 1");
  psa_config_init(&config);
  config.use_similarity_cap = -1;
  CHECK_ERROR(create(good, config, NULL), PSA_INVALID_ARGUMENT, "use_similarity_cap is -1");
  psa_config_init(&config);
  config.weigh_values = 2;
  CHECK_ERROR(create(good, config, NULL), PSA_INVALID_ARGUMENT, "weigh_values is 2");
  psa_config_init(&config);
  config.budget_scope = 2;
  CHECK_ERROR(create(good, config, NULL), PSA_INVALID_ARGUMENT, "budget_scope is 2");
  config.budget_scope = PSA_SCOPE_HEAD;
  CHECK_OK(create(good, config, NULL));
  config.reserved = 3;
  CHECK_ERROR(create(good, config, NULL), PSA_INVALID_ARGUMENT, "config.reserved is 3");
  psa_config_init(&config);
  config.importance = 5;
  CHECK_ERROR(create(good, config, NULL), PSA_INVALID_ARGUMENT, "importance is 5");
}

/* The caller's threads: here one after another. */
static void run_in_order(void* context, int32_t workers, void (*task)(void* task_arg, int worker),
                         void* task_arg) {
  ++*(int*)context;
  for (int32_t worker = 0; worker < workers; ++worker) task(task_arg, worker);
}

static void check_plan_options(void) {
  const psa_problem problem = small_problem();
  psa_config config;
  psa_plan_options options;
  psa_plan* plan = NULL;
  int calls = 0;
  psa_config_init(&config);
  psa_plan_options_init(&options);
  options.backend = "tpu";
  CHECK_ERROR(create(problem, config, &options), PSA_INVALID_ARGUMENT, "backend is \"tpu\"");
  options.backend = "cpu";
  options.isa = "mmx";
  CHECK_ERROR(create(problem, config, &options), PSA_INVALID_ARGUMENT, "isa \"mmx\"");
  options.isa = "scalar";
  CHECK_OK(create(problem, config, &options));
  options.num_threads = 1025;
  CHECK_ERROR(create(problem, config, &options), PSA_INVALID_ARGUMENT, "num_threads is 1025");
  options.num_threads = 3;
  options.parallel_for = run_in_order;
  options.parallel_context = &calls;
  config.block_q = config.block_kv = 16;
  CHECK_OK(psa_plan_create(&problem, &config, &options, &plan));
  check_forward(plan);
  CHECK(calls > 0);
  psa_plan_destroy(plan);
  options.struct_size = 0;
  CHECK_ERROR(create(problem, config, &options), PSA_INVALID_ARGUMENT, "plan_options.struct_size");
}

static void check_plan_queries(const psa_plan* plan) {
  int64_t num_q_blocks = 0, num_kv_blocks = 0;
  size_t bytes = 0, length = 0;
  char text[2048], start[8];
  int32_t order[TOKENS];
  CHECK_OK(psa_plan_workspace_size(plan, &bytes));
  CHECK(bytes > 0);
  CHECK_ERROR(psa_plan_workspace_size(NULL, &bytes), PSA_INVALID_ARGUMENT, "plan is null");
  CHECK_ERROR(psa_plan_workspace_size(plan, NULL), PSA_INVALID_ARGUMENT, "bytes is null");
  CHECK_OK(psa_plan_blocks(plan, &num_q_blocks, &num_kv_blocks));
  CHECK(num_q_blocks == BLOCKS && num_kv_blocks == BLOCKS);
  CHECK_ERROR(psa_plan_blocks(plan, NULL, &num_kv_blocks), PSA_INVALID_ARGUMENT, "num_q_blocks");
  CHECK_ERROR(psa_plan_blocks(plan, &num_q_blocks, NULL), PSA_INVALID_ARGUMENT, "num_kv_blocks");
  CHECK_ERROR(psa_plan_blocks(NULL, &num_q_blocks, &num_kv_blocks), PSA_INVALID_ARGUMENT, "plan");

  CHECK_OK(psa_plan_describe(plan, NULL, 0, &length));
  CHECK(length > sizeof start && length < sizeof text);
  CHECK_OK(psa_plan_describe(plan, text, sizeof text, NULL));
  CHECK(strlen(text) == length && strstr(text, "backend") != NULL);
  memset(start, 'x', sizeof start);
  CHECK_OK(psa_plan_describe(plan, start, sizeof start - 1, &length));
  CHECK(length == strlen(text) && strlen(start) == sizeof start - 2 && start[7] == 'x');
  CHECK_ERROR(psa_plan_describe(plan, NULL, 8, &length), PSA_INVALID_ARGUMENT, "buffer is null");
  CHECK_ERROR(psa_plan_describe(NULL, text, 8, NULL), PSA_INVALID_ARGUMENT, "plan is null");

  CHECK_OK(psa_plan_token_order(plan, order));
  for (int32_t i = 0; i < TOKENS; ++i) CHECK(order[i] == i);
  CHECK_ERROR(psa_plan_token_order(plan, NULL), PSA_INVALID_ARGUMENT, "order is null");
  CHECK_ERROR(psa_plan_token_order(NULL, order), PSA_INVALID_ARGUMENT, "plan is null");
}

static void check_token_orders(void) {
  psa_problem problem = small_problem();
  psa_config config;
  psa_plan* plan = NULL;
  int32_t order[TOKENS];
  unsigned char seen[TOKENS] = {0};
  problem.grid_frames = 2;
  problem.grid_height = 5;
  problem.grid_width = TOKENS / 10;
  psa_config_init(&config);
  config.reorder = PSA_REORDER_GILBERT;
  CHECK_OK(psa_plan_create(&problem, &config, NULL, &plan));
  CHECK_OK(psa_plan_token_order(plan, order));
  for (int32_t i = 0; i < TOKENS; ++i) {
    CHECK(order[i] >= 0 && order[i] < TOKENS && !seen[order[i]]);
    seen[order[i]] = 1;
  }
  psa_plan_destroy(plan);
  config.reorder = PSA_REORDER_KMEANS;
  CHECK_OK(psa_plan_create(&problem, &config, NULL, &plan));
  CHECK_ERROR(psa_plan_token_order(plan, order), PSA_UNSUPPORTED, "content");
  psa_plan_destroy(plan);
  problem.grid_width += 1;
  CHECK_ERROR(create(problem, config, NULL), PSA_INVALID_ARGUMENT, "grid is 2x5x");
}

int main(void) {
  const psa_problem problem = small_problem();
  psa_config config;
  psa_plan* plan = NULL;
  check_status_and_version();
  check_initial_values();
  check_density();
  check_head_density();
  check_presets();
  check_backends();
  check_struct_sizes();
  check_bad_problems();
  check_plan_options();
  check_token_orders();
  psa_config_init(&config);
  config.block_q = config.block_kv = 16;
  CHECK_ERROR(psa_plan_create(NULL, &config, NULL, &plan), PSA_INVALID_ARGUMENT, "problem is null");
  CHECK_ERROR(psa_plan_create(&problem, NULL, NULL, &plan), PSA_INVALID_ARGUMENT, "config is null");
  CHECK_ERROR(psa_plan_create(&problem, &config, NULL, NULL), PSA_INVALID_ARGUMENT, "plan is null");
  CHECK_OK(psa_plan_create(&problem, &config, NULL, &plan));
  if (plan != NULL) {
    check_plan_queries(plan);
    check_forward(plan);
    check_bad_runs(plan);
    check_stages(plan);
    check_level_maps(plan);
  }
  psa_plan_destroy(plan);
  psa_plan_destroy(NULL);
  printf("%d failed\n", failed_checks);
  return failed_checks == 0 ? 0 : 1;
}
