// SPDX-License-Identifier: Apache-2.0
#include "cuda/importance/boxes.cuh"
#include "cuda/tensor_map.cuh"

namespace psa::cuda::estimation {
namespace {

bool make_map(const TensorView& tensor, int group_tokens, index_t tokens, index_t groups,
              int box_groups, CUtensorMap& map) {
  constexpr cuuint64_t kElementBytes = 2;
  const auto size = [](index_t n) { return static_cast<cuuint64_t>(n); };
  const auto bytes = [&](index_t elements) { return size(elements) * kElementBytes; };
  // A dimension of one element still needs a stride that the hardware accepts.
  const auto stride = [&](index_t count, index_t elements) {
    return bytes(count == 1 ? tensor.shape[3] : elements);
  };
  return encode_tensor_map({.data = tensor.data,
                            .sizes = {size(tensor.shape[3]), size(tokens), size(groups),
                                      size(tensor.shape[1]), size(tensor.shape[0])},
                            .stride_bytes = {stride(tokens, tensor.stride[2]),
                                             stride(groups, group_tokens * tensor.stride[2]),
                                             stride(tensor.shape[1], tensor.stride[1]),
                                             stride(tensor.shape[0], tensor.stride[0])},
                            .box = {64, 1, static_cast<cuuint32_t>(box_groups), 1, 1}},
                           tensor.dtype, map);
}

}  // namespace

bool make_probe_maps(const TensorView& tensor, int group_tokens, int box_groups, ProbeMaps& maps) {
  const index_t groups = tensor.shape[2] / group_tokens;
  const index_t rest = tensor.shape[2] % group_tokens;
  maps.partial_tokens = static_cast<int>(rest);
  if (groups == 0 ||
      !make_map(tensor, group_tokens, group_tokens, groups, box_groups, maps.whole)) {
    return false;
  }
  return rest == 0 || make_map(tensor, group_tokens, rest, groups + 1, box_groups, maps.partial);
}

}  // namespace psa::cuda::estimation
