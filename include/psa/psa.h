/* SPDX-License-Identifier: Apache-2.0
 *
 * psa: Pyramid Sparse Attention. The C ABI (C99); the only symbols that the shared library exports.
 *
 * Life of a call: describe the problem -> psa_plan_create -> allocate psa_plan_workspace_size bytes
 * -> psa_forward as often as wanted -> psa_plan_destroy.
 *
 * Rules that hold everywhere
 *  - Every function that can fail returns psa_status; psa_last_error() then has the text. Outputs
 *    are unspecified after a failure, except that an argument error is found before any write.
 *  - Structs that may grow begin with `struct_size`, sizeof of the struct in the psa.h that the
 *    caller was compiled with; the psa_*_init functions set it. Smaller than the library's: the
 *    fields that the caller does not know count as 0. Larger: the fields that the library does not
 *    know must be 0 (else PSA_UNSUPPORTED) and are set to 0 in outputs. A field added later means,
 *    at 0, what the library did before.
 *  - A plan is immutable: any number of threads and streams may use one plan at once, each with its
 *    own workspace. psa_forward allocates nothing that grows with the input.
 *  - Enumerations are passed as int32_t. What each option means: docs/semantics.md (clause S-n).
 *  - Tensors are not owned, not copied and, but for outputs, not written.
 *
 * CUDA: a plan whose problem has device_type PSA_CUDA computes on device device_index
 *  - All pointers of psa_io, the workspace and what a stage writes point to that device's memory;
 *    tensors carry its type and index. The workspace is aligned to 256 bytes, as cudaMalloc does.
 *  - `stream` is a cudaStream_t; NULL is the default stream. psa_forward and the stages queue their
 *    work there and return: they allocate nothing, wait for nothing and read nothing back, so that
 *    a CUDA graph can capture them. Failures of the device itself appear where the caller waits.
 *  - With `stats` psa_forward does wait for the stream, after each stage, and reads the level map;
 *    while the stream is being captured that is PSA_INVALID_ARGUMENT.
 *  - The device that was current in the calling thread is current again afterwards.
 *  - What pointers point to cannot be checked. Key lengths below 0 or above len_kv count as 0 or
 *    len_kv, level codes that the plan does not have as skip. With reordered tokens, key lengths
 *    that cut more than text at the back give unspecified results.
 *  - psa_build_schedule and psa_measure_levels read and write host memory whatever the plan: copy a
 *    level map to the host first.
 *  - q, k, v and out are all f16 or all bf16; kmeans, hybrid and compat = official are computed on
 *    the CPU only. psa_plan_describe says which kernels were chosen, and why not better ones.
 */
#ifndef PSA_PSA_H_
#define PSA_PSA_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#  define PSA_API __declspec(dllexport)
#else
#  define PSA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status ---------------------------------------------------------------------------------- */

typedef int32_t psa_status;
enum {
  PSA_OK = 0,
  PSA_INVALID_ARGUMENT = 1, /* an argument is out of its documented range */
  PSA_UNSUPPORTED = 2,      /* valid, but no backend here computes it */
  PSA_OUT_OF_MEMORY = 3,    /* memory is exhausted, or the workspace is too small */
  PSA_IO = 4,               /* a file could not be read or written */
  PSA_INTERNAL = 5          /* a defect of psa */
};

/* Static text, never NULL; unknown values give "unknown status". */
PSA_API const char* psa_status_string(psa_status status);
/* Message of the last failed call of this thread ("" if none): names the argument, what was given
 * and what is allowed. Valid until the next failing call of this thread. */
PSA_API const char* psa_last_error(void);

PSA_API const char* psa_version(void); /* "major.minor.patch" of the API */
PSA_API int32_t psa_abi_version(void); /* rises when a caller must be recompiled */

/* ---- the problem ----------------------------------------------------------------------------- */

enum { PSA_F32 = 0, PSA_F16 = 1, PSA_BF16 = 2 }; /* psa dtype */
enum { PSA_CPU = 0, PSA_CUDA = 1 };              /* psa device type */
enum { PSA_TEXT_FRONT = 0, PSA_TEXT_BACK = 1 };  /* psa text side */

/* 4-D view with axes (batch, head, token, channel); strides in elements, >= 0, channel stride 1.
 * The layout of this struct is frozen. */
typedef struct psa_tensor {
  void* data;
  int32_t dtype;
  int32_t device_type;
  int32_t device_index;
  int32_t reserved; /* 0 */
  int64_t shape[4];
  int64_t stride[4];
} psa_tensor;

/* Sizes of one call (S-1) and the layout of its tokens. heads_kv divides heads_q; all sizes >= 1,
 * head_dim <= 256. Grid and text: tokens, not pixels; all 0 when unknown. */
typedef struct psa_problem {
  uint32_t struct_size;
  int32_t dtype_q, dtype_kv, dtype_out;
  int64_t batch, heads_q, heads_kv, len_q, len_kv, head_dim;
  int64_t grid_frames, grid_height, grid_width;
  int64_t text_tokens;
  int32_t text_side;
  int32_t device_type, device_index;
  int32_t reserved; /* 0 */
} psa_problem;

enum { PSA_RULE_QUOTA = 0, PSA_RULE_THRESHOLD = 1 };
enum { PSA_SCOPE_ROW = 0, PSA_SCOPE_HEAD = 1 };
enum { PSA_REST_SKIP = 0, PSA_REST_MEAN = 1, PSA_REST_LINEAR = 2 };
enum {
  PSA_SAMPLED_MAX = 0,
  PSA_SAMPLED_MASS = 1,
  PSA_ANTIDIAGONAL = 2,
  PSA_POOLED_LSE = 3,
  PSA_USER_SCORES = 4
};
enum {
  PSA_REORDER_NONE = 0,
  PSA_REORDER_GILBERT = 1,
  PSA_REORDER_TILE3D = 2,
  PSA_REORDER_KMEANS = 3,
  PSA_REORDER_HYBRID = 4
};
enum { PSA_COMPAT_NONE = 0, PSA_COMPAT_OFFICIAL = 1 };
enum { PSA_MAX_LEVELS = 5, PSA_LEVEL_SKIP = 0, PSA_LEVEL_MEAN = 6, PSA_NUM_LEVEL_CODES = 7 };

/* Everything that decides what is computed; psa::Config of <psa/config.hpp> has the same fields
 * with their ranges. */
typedef struct psa_config {
  uint32_t struct_size;
  int32_t block_q, block_kv;
  int32_t rule;
  int32_t num_levels;
  float budget[5]; /* cumulative shares of levels 1..num_levels */
  int32_t rest;
  int32_t min_full_blocks;
  int32_t importance;
  int32_t samples_q, samples_kv;
  int32_t antidiagonal_stride;
  int32_t pooled_tokens;
  uint64_t seed;
  int32_t use_similarity_cap; /* 0 or 1 */
  float min_cosine[4];        /* of levels 2..5 */
  int32_t text_keys_full, text_queries_full;
  int32_t sink_blocks;
  int32_t share_group_map;
  int32_t reorder;
  int32_t tile[3]; /* frames, height, width */
  int32_t clusters_q, clusters_kv, kmeans_iterations;
  int32_t causal;
  float softmax_scale; /* 0: 1/sqrt(head_dim) */
  int32_t compat;
  /* NULL, or a density for each query head in place of `budget`: rule = quota, budget[0] < 1
   * (S-24). Read by the call that the struct is given to, in presets static. */
  const float* head_density;
  int64_t num_head_densities; /* 0, or heads_q */
  float rest_cutoff;          /* 0: every block mean is read (S-26) */
  int32_t weigh_values;       /* 0 or 1 (S-27) */
  int32_t budget_scope;       /* PSA_SCOPE_*: who shares a budget (S-28) */
  int32_t reserved;           /* 0 */
} psa_config;

/* Zeroes the struct, sets struct_size and the defaults (batch = heads = 1, bf16; density .15). */
PSA_API void psa_problem_init(psa_problem* problem);
PSA_API void psa_config_init(psa_config* config);

/* Sets rule = quota and the budget that reads about `density` of the columns (S-21), block means
 * included, in the default split over config->num_levels levels (S-24); rest, block_kv and
 * num_levels are those of *config. Holds for every head: head_density becomes NULL. Allowed:
 * 1/block_kv (rest = mean, linear) or 0 < density <= 1. */
PSA_API psa_status psa_config_set_density(psa_config* config, double density);

/* ---- presets --------------------------------------------------------------------------------- */

/* A named configuration; strings are static. Warm-up steps, divisors (pixels or frames per token)
 * and text tokens are what a model adapter needs beside `config`. */
typedef struct psa_preset {
  uint32_t struct_size;
  int32_t warmup_steps;
  const char* name;        /* e.g. "wan2.1-14b" */
  const char* description; /* one line */
  int32_t divisor_width, divisor_height, divisor_frames;
  int32_t text_tokens;
  psa_config config;
} psa_preset;

PSA_API int32_t psa_preset_count(void);
/* `preset->struct_size` must be set. */
PSA_API psa_status psa_preset_at(int32_t index, psa_preset* preset);
PSA_API psa_status psa_preset_find(const char* name, psa_preset* preset);

/* ---- plan ------------------------------------------------------------------------------------ */

/* A caller's own threads: must call task(task_arg, worker) once for every worker in 0..workers-1,
 * concurrently or one after another, and return when all have returned. */
typedef void (*psa_parallel_for)(void* context, int32_t workers,
                                 void (*task)(void* task_arg, int worker), void* task_arg);

typedef struct psa_plan_options {
  uint32_t struct_size;
  int32_t num_threads; /* 0: one per processor that the process may use; else 1..1024; on the CPU */
  /* "auto" (or NULL): the best for the problem's device; "cpu" and "reference" compute in host
   * memory, "cuda" on CUDA devices: a name that does not fit the device is an invalid argument */
  const char* backend;
  const char* isa; /* NULL: the best; else one that psa_backend_at lists: "avx2", "sm_90a", ... */
  psa_parallel_for parallel_for; /* NULL: psa's own threads */
  void* parallel_context;
} psa_plan_options;
PSA_API void psa_plan_options_init(psa_plan_options* options);

typedef struct psa_plan psa_plan;

/* Validates everything and decides everything that depends on shapes. `options` may be NULL. On
 * success *plan must be given to psa_plan_destroy. */
PSA_API psa_status psa_plan_create(const psa_problem* problem, const psa_config* config,
                                   const psa_plan_options* options, psa_plan** plan);
PSA_API void psa_plan_destroy(psa_plan* plan); /* NULL is allowed */

/* Bytes that each concurrent call needs; the workspace must be aligned to 64 bytes (CUDA: 256). */
PSA_API psa_status psa_plan_workspace_size(const psa_plan* plan, size_t* bytes);
/* Shape of a level map row: num_q_blocks = ceil(len_q/block_q), num_kv_blocks likewise. */
PSA_API psa_status psa_plan_blocks(const psa_plan* plan, int64_t* num_q_blocks,
                                   int64_t* num_kv_blocks);
/* What will run and why, as text. Writes at most `capacity` bytes with the final NUL; *length (may
 * be NULL) is the length without NUL that the whole text has. buffer may be NULL if capacity is 0.
 */
PSA_API psa_status psa_plan_describe(const psa_plan* plan, char* buffer, size_t capacity,
                                     size_t* length);
/* Static working order (S-19): order[w] = token at position w, len_q entries; the identity for
 * `none`. PSA_UNSUPPORTED for content-based orders. */
PSA_API psa_status psa_plan_token_order(const psa_plan* plan, int32_t* order);

/* ---- run ------------------------------------------------------------------------------------- */

/* The tensors of a call. Optional pointers may be NULL. Host pointers for CPU plans, pointers of
 * the plan's device for CUDA plans. */
typedef struct psa_io {
  uint32_t struct_size;
  int32_t reserved;          /* 0 */
  psa_tensor q;              /* [B,Hq,Lq,D] */
  psa_tensor k;              /* [B,Hkv,Lk,D] */
  psa_tensor v;              /* [B,Hkv,Lk,D] */
  psa_tensor out;            /* [B,Hq,Lq,D]; must not overlap an input */
  float* lse;                /* optional out: [B,Hq,Lq] contiguous, natural log, biases included */
  const int32_t* kv_lengths; /* optional: [B] valid keys of each batch element, 0..Lk */
  const float* scores;       /* [B,Hq,Nq,Nk]: needed for PSA_USER_SCORES, else ignored */
  const uint8_t* levels;     /* optional: bring your own level map [B,Hq,Nq,Nk]; no selection */
  uint8_t* levels_out;       /* optional out: the level map that was used */
} psa_io;
PSA_API void psa_io_init(psa_io* io);

/* What a call did. Filled only when asked for; costs one pass over the level map and, on CUDA,
 * waits for the stream. */
typedef struct psa_stats {
  uint32_t struct_size;
  int32_t reserved;
  double density;        /* S-21 */
  double selection_cost; /* S-21, in the unit of density */
  int64_t blocks[7];     /* entries of the level map by code */
  double reorder_ms, pyramid_ms, importance_ms, levels_ms, attention_ms;
} psa_stats;
PSA_API void psa_stats_init(psa_stats* stats);

/* The whole pipeline: reorder, pyramid, importance, levels, attention. `stream` is the caller's
 * cudaStream_t on CUDA, ignored on the CPU; `stats` may be NULL. */
PSA_API psa_status psa_forward(const psa_plan* plan, const psa_io* io, void* workspace,
                               size_t workspace_bytes, void* stream, psa_stats* stats);

/* ---- stages, for study, own selection methods and plans kept over denoising steps --------------
 */

/* S-9 to S-13. Reads io->q, io->k (and
 * kv_lengths, scores); importance [B,Hq,Nq,Nk]. PSA_UNSUPPORTED when budget[0] is 1 in every
 * head: such a plan estimates nothing. */
PSA_API psa_status psa_estimate_importance(const psa_plan* plan, const psa_io* io,
                                           float* importance, void* workspace,
                                           size_t workspace_bytes, void* stream);
/* S-13 to S-18. Reads kv_lengths, io->k when the plan has a similarity cap and io->v when it weighs
 * values; levels [B,Hq,Nq,Nk]. */
PSA_API psa_status psa_assign_levels(const psa_plan* plan, const psa_io* io,
                                     const float* importance, uint8_t* levels, void* workspace,
                                     size_t workspace_bytes, void* stream);
/* Both of the above without keeping the importance: a level map to give to later calls as
 * io->levels. Reads io->v when the plan weighs values. */
PSA_API psa_status psa_select_levels(const psa_plan* plan, const psa_io* io, uint8_t* levels,
                                     void* workspace, size_t workspace_bytes, void* stream);
/* S-4. One level (code 2..6) of the pyramid of io->k and io->v in working order: contiguous
 * [B,Hkv,ceil(Lk/factor),D] of dtype_kv (compat = official: rows of whole blocks); rows of tokens
 * that do not exist are zero. */
PSA_API psa_status psa_build_pyramid(const psa_plan* plan, const psa_io* io, int32_t level,
                                     void* k_pooled, void* v_pooled, void* workspace,
                                     size_t workspace_bytes, void* stream);

/* Work list of a level map, both in host memory: entries of row r (batch, head, query block,
 * row-major) are [row_begin[r], row_begin[r+1]), by rising level code, then rising KV block;
 * skipped blocks do not appear. */
typedef struct psa_schedule_entry {
  int32_t kv_block;
  int32_t level;
} psa_schedule_entry;
/* row_begin has B*Hq*Nq+1 places. With entries == NULL only row_begin is written, whose last value
 * is the capacity that the entries need. */
PSA_API psa_status psa_build_schedule(const psa_plan* plan, const uint8_t* levels,
                                      int64_t* row_begin, psa_schedule_entry* entries,
                                      int64_t capacity);
/* S-21. Density of a level map in host memory; row_density (optional) is [B,Hq,Nq]. Only density,
 * selection_cost and blocks of `stats` are set. kv_lengths may be NULL. */
PSA_API psa_status psa_measure_levels(const psa_plan* plan, const uint8_t* levels,
                                      const int32_t* kv_lengths, double* row_density,
                                      psa_stats* stats);

/* ---- what this machine offers -----------------------------------------------------------------
 */

typedef struct psa_backend_info {
  uint32_t struct_size;
  int32_t available;  /* 0 or 1 */
  const char* name;   /* "cpu", "cuda" */
  const char* isa;    /* "avx512_bf16", "sm_90a"; "" where there is no choice */
  const char* reason; /* why it is not available, or what it is chosen for; never NULL */
} psa_backend_info;
/* Devices before the host, best first; the reference is last. Asks the drivers of this machine. */
PSA_API int32_t psa_backend_count(void);
PSA_API psa_status psa_backend_at(int32_t index, psa_backend_info* info);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* PSA_PSA_H_ */
