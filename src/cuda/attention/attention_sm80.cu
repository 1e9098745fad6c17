// SPDX-License-Identifier: Apache-2.0

// Chooses and launches the variant of kernel_sm80.cuh for a call: by storage type, head_dim and
// block_q.

#include <cstdint>
#include <limits>
#include <string>

#include "cuda/attention/kernel_sm80.cuh"
#include "cuda/attention/launches.hpp"
#include "cuda/attention/params.hpp"
#include "cuda/launch.cuh"
#include "cuda/stages.hpp"

namespace psa::cuda {
namespace {

bool is_multiple_of_16(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

/// Whether every row of the tensor is made of whole, aligned pieces of 16 bytes.
bool has_aligned_rows(const TokenRows& rows) {
  return is_multiple_of_16(rows.data) && rows.batch_stride % 8 == 0 && rows.head_stride % 8 == 0 &&
         rows.token_stride % 8 == 0;
}

bool has_aligned_rows(const AttentionParams& p) {
  bool is_aligned = p.head_dim % 8 == 0;
  for (const TokenRows& rows : {p.q, p.k, p.v, p.out}) is_aligned &= has_aligned_rows(rows);
  for (int code = 0; code < kNumLevelCodes; ++code) {
    is_aligned &= is_multiple_of_16(p.pooled_k[code]) && is_multiple_of_16(p.pooled_v[code]);
  }
  return is_aligned;
}

template <typename Variant>
void launch(const StageContext& context, const AttentionParams& params) {
  const index_t parts = semantics::ceil_div(params.block_q, Variant::kRows);
  const int group = params.heads_q / params.heads_kv;
  const index_t ctas = index_t{params.heads.count} * group * params.num_q_blocks * parts;
  if (ctas > std::numeric_limits<std::int32_t>::max()) {
    throw Error(Status::kUnsupported, "batch * heads_q * query blocks is " +
                                          std::to_string(ctas / parts) +
                                          "; the cuda backend serves fewer than 2^31");
  }
  constexpr std::size_t kSharedBytes = sizeof(sm80::SharedMemory<Variant>);
  static_assert(kSharedBytes <= 99 * 1024, "must fit devices with 100 KB per SM");
  allow_shared_memory(sm80::attention_kernel<Variant>, kSharedBytes);
  sm80::attention_kernel<Variant>
      <<<static_cast<unsigned>(ctas), Variant::kThreads, kSharedBytes, stream_of(context.stream)>>>(
          {params, has_aligned_rows(params)});
  check_launch("attention (sm_80)");
}

template <typename Element, bool kFirstOrder>
void launch_for_shape(const StageContext& context, const AttentionParams& params) {
  const bool is_tall = params.block_q > 64;
  if (params.head_dim > 128) {
    launch<sm80::Variant<Element, 256, 64, kFirstOrder>>(context, params);
  } else if (params.head_dim > 64) {
    if (is_tall) {
      launch<sm80::Variant<Element, 128, 128, kFirstOrder>>(context, params);
    } else {
      launch<sm80::Variant<Element, 128, 64, kFirstOrder>>(context, params);
    }
  } else if (is_tall) {
    launch<sm80::Variant<Element, 64, 128, kFirstOrder>>(context, params);
  } else {
    launch<sm80::Variant<Element, 64, 64, kFirstOrder>>(context, params);
  }
}

template <typename Element>
void launch_for_rest(const StageContext& context, const AttentionParams& params) {
  if (params.map != nullptr) {
    launch_for_shape<Element, true>(context, params);
  } else {
    launch_for_shape<Element, false>(context, params);
  }
}

}  // namespace

void attention_sm80(const StageContext& context, const core::AttentionParams& call) {
  const DType dtype = context.geometry.shape.dtype_q;
  if (dtype == DType::kF32) {
    throw Error(Status::kUnsupported, "q is f32; the cuda backend reads f16 and bf16");
  }
  for_each_launch(context, call, {sum_covariances, meet_probe_keys},
                  [&](const AttentionParams& params) {
                    if (dtype == DType::kF16) {
                      launch_for_rest<__half>(context, params);
                    } else {
                      launch_for_rest<__nv_bfloat16>(context, params);
                    }
                  });
}

}  // namespace psa::cuda
