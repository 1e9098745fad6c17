/* SPDX-License-Identifier: Apache-2.0
 * The binary layout of psa.h on 64-bit machines. A line that no longer compiles means that programs
 * built against an earlier psa.h break: append fields instead, or raise PSA_ABI_VERSION. */
#include <psa/psa.h>

#define PIN_SIZE(type, size) typedef char type##_size[sizeof(type) == (size) ? 1 : -1]
#define PIN(type, field, at) typedef char type##_##field[offsetof(type, field) == (at) ? 1 : -1]
#define PIN_VALUE(name, value) typedef char name##_value[(name) == (value) ? 1 : -1]

PIN_SIZE(psa_status, 4);
PIN_VALUE(PSA_OK, 0);
PIN_VALUE(PSA_INVALID_ARGUMENT, 1);
PIN_VALUE(PSA_UNSUPPORTED, 2);
PIN_VALUE(PSA_OUT_OF_MEMORY, 3);
PIN_VALUE(PSA_IO, 4);
PIN_VALUE(PSA_INTERNAL, 5);

PIN_VALUE(PSA_F32, 0);
PIN_VALUE(PSA_F16, 1);
PIN_VALUE(PSA_BF16, 2);
PIN_VALUE(PSA_CPU, 0);
PIN_VALUE(PSA_CUDA, 1);
PIN_VALUE(PSA_TEXT_FRONT, 0);
PIN_VALUE(PSA_TEXT_BACK, 1);
PIN_VALUE(PSA_RULE_QUOTA, 0);
PIN_VALUE(PSA_RULE_THRESHOLD, 1);
PIN_VALUE(PSA_SCOPE_ROW, 0);
PIN_VALUE(PSA_SCOPE_HEAD, 1);
PIN_VALUE(PSA_REST_SKIP, 0);
PIN_VALUE(PSA_REST_MEAN, 1);
PIN_VALUE(PSA_REST_LINEAR, 2);
PIN_VALUE(PSA_SAMPLED_MAX, 0);
PIN_VALUE(PSA_SAMPLED_MASS, 1);
PIN_VALUE(PSA_ANTIDIAGONAL, 2);
PIN_VALUE(PSA_POOLED_LSE, 3);
PIN_VALUE(PSA_USER_SCORES, 4);
PIN_VALUE(PSA_REORDER_NONE, 0);
PIN_VALUE(PSA_REORDER_GILBERT, 1);
PIN_VALUE(PSA_REORDER_TILE3D, 2);
PIN_VALUE(PSA_REORDER_KMEANS, 3);
PIN_VALUE(PSA_REORDER_HYBRID, 4);
PIN_VALUE(PSA_COMPAT_NONE, 0);
PIN_VALUE(PSA_COMPAT_OFFICIAL, 1);
PIN_VALUE(PSA_MAX_LEVELS, 5);
PIN_VALUE(PSA_LEVEL_SKIP, 0);
PIN_VALUE(PSA_LEVEL_MEAN, 6);
PIN_VALUE(PSA_NUM_LEVEL_CODES, 7);

PIN_SIZE(psa_tensor, 88);
PIN(psa_tensor, data, 0);
PIN(psa_tensor, dtype, 8);
PIN(psa_tensor, device_type, 12);
PIN(psa_tensor, device_index, 16);
PIN(psa_tensor, reserved, 20);
PIN(psa_tensor, shape, 24);
PIN(psa_tensor, stride, 56);

PIN_SIZE(psa_problem, 112);
PIN(psa_problem, struct_size, 0);
PIN(psa_problem, dtype_q, 4);
PIN(psa_problem, dtype_kv, 8);
PIN(psa_problem, dtype_out, 12);
PIN(psa_problem, batch, 16);
PIN(psa_problem, heads_q, 24);
PIN(psa_problem, heads_kv, 32);
PIN(psa_problem, len_q, 40);
PIN(psa_problem, len_kv, 48);
PIN(psa_problem, head_dim, 56);
PIN(psa_problem, grid_frames, 64);
PIN(psa_problem, grid_height, 72);
PIN(psa_problem, grid_width, 80);
PIN(psa_problem, text_tokens, 88);
PIN(psa_problem, text_side, 96);
PIN(psa_problem, device_type, 100);
PIN(psa_problem, device_index, 104);
PIN(psa_problem, reserved, 108);

PIN_SIZE(psa_config, 192);
PIN(psa_config, struct_size, 0);
PIN(psa_config, block_q, 4);
PIN(psa_config, block_kv, 8);
PIN(psa_config, rule, 12);
PIN(psa_config, num_levels, 16);
PIN(psa_config, budget, 20);
PIN(psa_config, rest, 40);
PIN(psa_config, min_full_blocks, 44);
PIN(psa_config, importance, 48);
PIN(psa_config, samples_q, 52);
PIN(psa_config, samples_kv, 56);
PIN(psa_config, antidiagonal_stride, 60);
PIN(psa_config, pooled_tokens, 64);
PIN(psa_config, seed, 72);
PIN(psa_config, use_similarity_cap, 80);
PIN(psa_config, min_cosine, 84);
PIN(psa_config, text_keys_full, 100);
PIN(psa_config, text_queries_full, 104);
PIN(psa_config, sink_blocks, 108);
PIN(psa_config, share_group_map, 112);
PIN(psa_config, reorder, 116);
PIN(psa_config, tile, 120);
PIN(psa_config, clusters_q, 132);
PIN(psa_config, clusters_kv, 136);
PIN(psa_config, kmeans_iterations, 140);
PIN(psa_config, causal, 144);
PIN(psa_config, softmax_scale, 148);
PIN(psa_config, compat, 152);
PIN(psa_config, head_density, 160);
PIN(psa_config, num_head_densities, 168);
PIN(psa_config, rest_cutoff, 176);
PIN(psa_config, weigh_values, 180);
PIN(psa_config, budget_scope, 184);
PIN(psa_config, reserved, 188);

PIN_SIZE(psa_preset, 232);
PIN(psa_preset, struct_size, 0);
PIN(psa_preset, warmup_steps, 4);
PIN(psa_preset, name, 8);
PIN(psa_preset, description, 16);
PIN(psa_preset, divisor_width, 24);
PIN(psa_preset, divisor_height, 28);
PIN(psa_preset, divisor_frames, 32);
PIN(psa_preset, text_tokens, 36);
PIN(psa_preset, config, 40);

PIN_SIZE(psa_plan_options, 40);
PIN(psa_plan_options, struct_size, 0);
PIN(psa_plan_options, num_threads, 4);
PIN(psa_plan_options, backend, 8);
PIN(psa_plan_options, isa, 16);
PIN(psa_plan_options, parallel_for, 24);
PIN(psa_plan_options, parallel_context, 32);

PIN_SIZE(psa_io, 400);
PIN(psa_io, struct_size, 0);
PIN(psa_io, reserved, 4);
PIN(psa_io, q, 8);
PIN(psa_io, k, 96);
PIN(psa_io, v, 184);
PIN(psa_io, out, 272);
PIN(psa_io, lse, 360);
PIN(psa_io, kv_lengths, 368);
PIN(psa_io, scores, 376);
PIN(psa_io, levels, 384);
PIN(psa_io, levels_out, 392);

PIN_SIZE(psa_stats, 120);
PIN(psa_stats, struct_size, 0);
PIN(psa_stats, reserved, 4);
PIN(psa_stats, density, 8);
PIN(psa_stats, selection_cost, 16);
PIN(psa_stats, blocks, 24);
PIN(psa_stats, reorder_ms, 80);
PIN(psa_stats, pyramid_ms, 88);
PIN(psa_stats, importance_ms, 96);
PIN(psa_stats, levels_ms, 104);
PIN(psa_stats, attention_ms, 112);

PIN_SIZE(psa_schedule_entry, 8);
PIN(psa_schedule_entry, kv_block, 0);
PIN(psa_schedule_entry, level, 4);

PIN_SIZE(psa_backend_info, 32);
PIN(psa_backend_info, struct_size, 0);
PIN(psa_backend_info, available, 4);
PIN(psa_backend_info, name, 8);
PIN(psa_backend_info, isa, 16);
PIN(psa_backend_info, reason, 24);
