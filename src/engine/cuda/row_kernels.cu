// SPDX-License-Identifier: Apache-2.0

// All of these are bound by memory: a 1,536-channel token of AddNorm moves 18 KB for 20 kflop. One
// CTA takes one row, reads it once in 16-byte vectors, keeps it in registers for the sums, and
// writes it once. Fusing the residual addition with the norm that follows it saves one read and
// one write of the float residual stream per norm.

#include <cuda_bf16.h>

#include "engine/cuda/cuda_check.hpp"
#include "engine/cuda/row_kernels.hpp"

namespace psa::engine {
namespace {

constexpr int kVector = static_cast<int>(kRowVector);
constexpr int kWarp = 32;
constexpr int kMaxThreads = 256;
constexpr int kSlots = 4;  // vectors per thread
static_assert(kSlots * kMaxThreads * kVector == kMaxRowDim);

using Row = float[kSlots][kVector];

cudaStream_t to_cuda(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

/// body(slot, channel) for each vector of a row that this thread holds.
template <typename Body>
__device__ __forceinline__ void for_each_vector(int dim, const Body& body) {
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int channel =
        (slot * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kVector;
    if (channel < dim) body(slot, channel);
  }
}

__device__ __forceinline__ void load(const float* from, float (&to)[kVector]) {
  const auto* const vectors = reinterpret_cast<const float4*>(from);
  const float4 low = vectors[0];
  const float4 high = vectors[1];
  to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
  to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}

__device__ __forceinline__ void load(const std::uint16_t* from, float (&to)[kVector]) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const unsigned int pairs[] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    to[2 * i] = __uint_as_float(pairs[i] << 16);
    to[2 * i + 1] = __uint_as_float(pairs[i] & 0xFFFF0000U);
  }
}

__device__ __forceinline__ void store(float* to, const float (&from)[kVector]) {
  auto* const vectors = reinterpret_cast<float4*>(to);
  vectors[0] = make_float4(from[0], from[1], from[2], from[3]);
  vectors[1] = make_float4(from[4], from[5], from[6], from[7]);
}

__device__ __forceinline__ unsigned int bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned int*>(&pair);
}

__device__ __forceinline__ void store(std::uint16_t* to, const float (&from)[kVector]) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(bf16_pair(from[0], from[1]), bf16_pair(from[2], from[3]),
                 bf16_pair(from[4], from[5]), bf16_pair(from[6], from[7]));
}

/// The sum over the CTA, with the same bits in all of its threads.
__device__ float cta_sum(float value) {
  __shared__ float of_warp[kMaxThreads / kWarp];
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFFU, value, distance);
  }
  __syncthreads();  // the sum before has been read
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0;
  for (unsigned int warp = 0; warp < blockDim.x / kWarp; ++warp) sum += of_warp[warp];
  return sum;
}

/// x += gate * y for this thread's part of a row.
__device__ __forceinline__ void add_gated(const AddNorm& call, index_t begin, Row& x) {
  for_each_vector(static_cast<int>(call.dim), [&](int slot, int channel) {
    float y[kVector];
    float gate[kVector] = {1, 1, 1, 1, 1, 1, 1, 1};
    load(call.y + begin + channel, y);
    if (call.gate != nullptr) load(call.gate + channel, gate);
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[slot][i] += y[i] * gate[i];
    store(call.x + begin + channel, x[slot]);
  });
}

/// Layer norm of a row; every thread of the CTA calls it.
__device__ __forceinline__ void normalise(const AddNorm& call, Row& x) {
  const int dim = static_cast<int>(call.dim);
  float sum = 0;
  for_each_vector(dim, [&](int slot, int) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum += x[slot][i];
  });
  const float mean = cta_sum(sum) / static_cast<float>(dim);
  float squares = 0;
  for_each_vector(dim, [&](int slot, int) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares += (x[slot][i] - mean) * (x[slot][i] - mean);
  });
  const float factor = 1.0F / sqrtf(cta_sum(squares) / static_cast<float>(dim) + call.eps);
  for_each_vector(dim, [&](int slot, int channel) {
    float scale[kVector];
    float shift[kVector];
    load(call.scale + channel, scale);
    load(call.shift + channel, shift);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      x[slot][i] = (x[slot][i] - mean) * factor * scale[i] + shift[i];
    }
  });
}

__global__ void __launch_bounds__(kMaxThreads) add_norm_kernel(const AddNorm call) {
  const int dim = static_cast<int>(call.dim);
  const index_t begin = static_cast<index_t>(blockIdx.x) * call.dim;
  Row x;
  for_each_vector(dim, [&](int slot, int channel) { load(call.x + begin + channel, x[slot]); });
  if (call.y != nullptr) add_gated(call, begin, x);
  if (call.scale != nullptr) normalise(call, x);
  for_each_vector(dim, [&](int slot, int channel) {
    if (call.out_dtype == DType::kF32) {
      store(static_cast<float*>(call.out) + begin + channel, x[slot]);
    } else {
      store(static_cast<std::uint16_t*>(call.out) + begin + channel, x[slot]);
    }
  });
}

/// Turns the four pairs from `channel` on. They belong to two heads where head_dim is no multiple
/// of kVector; a head has at least three pairs.
__device__ __forceinline__ void rotate(const float2* angles, int channel, int head_dim,
                                       float (&x)[kVector]) {
  const int first = channel % head_dim / 2;
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    const int pair = first + i;
    const float2 angle = angles[pair < head_dim / 2 ? pair : pair - head_dim / 2];
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = a * angle.x - b * angle.y;
    x[2 * i + 1] = a * angle.y + b * angle.x;
  }
}

__global__ void __launch_bounds__(kMaxThreads) norm_rotate_kernel(const NormRotate call) {
  const int dim = static_cast<int>(call.dim);
  const int head_dim = static_cast<int>(call.head_dim);
  const index_t row = blockIdx.x;
  const index_t part = static_cast<index_t>(blockIdx.y) * call.dim;
  std::uint16_t* const at = call.x + row * call.row_stride + part;
  const auto* const angles = reinterpret_cast<const float2*>(call.rotation) + row * (head_dim / 2);
  Row x;
  float squares = 0;
  for_each_vector(dim, [&](int slot, int channel) {
    load(at + channel, x[slot]);
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares += x[slot][i] * x[slot][i];
  });
  const float factor = 1.0F / sqrtf(cta_sum(squares) / static_cast<float>(dim) + call.eps);
  for_each_vector(dim, [&](int slot, int channel) {
    float weight[kVector];
    load(call.weight + part + channel, weight);
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[slot][i] *= factor * weight[i];
    if (call.rotation != nullptr) rotate(angles, channel, head_dim, x[slot]);
    store(at + channel, x[slot]);
  });
}

__global__ void __launch_bounds__(kMaxThreads) modulate_kernel(const Modulation call) {
  const index_t index = static_cast<index_t>(blockIdx.x) * kMaxThreads + threadIdx.x;
  if (index >= call.rows * call.dim) return;
  const index_t row = index / call.dim;
  const index_t source = row % call.condition_rows * call.dim + index % call.dim;
  call.out[index] = call.table[index] + call.condition[source] + (row % 3 == 1 ? 1.0F : 0.0F);
}

__global__ void __launch_bounds__(kMaxThreads)
    silu_kernel(const float* x, index_t count, float* out) {
  const index_t index = static_cast<index_t>(blockIdx.x) * kMaxThreads + threadIdx.x;
  if (index < count) out[index] = x[index] / (1.0F + expf(-x[index]));
}

__global__ void __launch_bounds__(kMaxThreads)
    to_bf16_kernel(const float* x, index_t count, std::uint16_t* out) {
  const index_t index = static_cast<index_t>(blockIdx.x) * kMaxThreads + threadIdx.x;
  if (index < count) out[index] = __bfloat16_as_ushort(__float2bfloat16_rn(x[index]));
}

/// Position in the latent of a voxel (frames, height, width) of a token's patch.
__device__ index_t latent_offset(const PatchLayout& layout, index_t channel, index_t token,
                                 index_t voxel) {
  const VideoGrid& grid = layout.grid;
  const index_t frames = layout.patch[0];
  const index_t height = layout.patch[1];
  const index_t width = layout.patch[2];
  const index_t row = token / grid.width;
  const index_t frame = row / grid.height * frames + voxel / (height * width);
  const index_t y = row % grid.height * height + voxel / width % height;
  const index_t x = token % grid.width * width + voxel % width;
  return ((channel * grid.frames * frames + frame) * grid.height * height + y) * grid.width *
             width +
         x;
}

/// Patches are [token, channel, voxel] on the way in and [token, voxel, channel] on the way out.
template <bool kGathers>
__global__ void __launch_bounds__(kMaxThreads)
    patch_kernel(const PatchLayout layout, index_t channels, const float* from, float* to) {
  const index_t volume = layout.patch_volume();
  const index_t index = static_cast<index_t>(blockIdx.x) * kMaxThreads + threadIdx.x;
  if (index >= layout.grid.tokens() * channels * volume) return;
  const index_t token = index / (channels * volume);
  const index_t value = index % (channels * volume);
  if constexpr (kGathers) {
    to[index] = from[latent_offset(layout, value / volume, token, value % volume)];
  } else {
    to[latent_offset(layout, value % channels, token, value / channels)] = from[index];
  }
}

unsigned int ctas_for(index_t values) {
  return static_cast<unsigned int>((values + kMaxThreads - 1) / kMaxThreads);
}

/// Threads that hold a row: whole warps.
unsigned int threads_for(index_t dim) {
  const index_t vectors = dim / kRowVector;
  const index_t threads = (vectors + kWarp - 1) / kWarp * kWarp;
  return static_cast<unsigned int>(threads < kMaxThreads ? threads : kMaxThreads);
}

void check_dim(index_t dim) {
  if (dim > 0 && dim <= kMaxRowDim && dim % kRowVector == 0) return;
  throw Error(Status::kUnsupported, "rows of " + std::to_string(dim) +
                                        " channels; the CUDA engine takes multiples of 8 up to " +
                                        std::to_string(kMaxRowDim));
}

void check_launch(const char* kernel) { check_cuda(cudaGetLastError(), kernel); }

}  // namespace

void add_norm(const AddNorm& call, Stream stream) {
  check_dim(call.dim);
  add_norm_kernel<<<static_cast<unsigned int>(call.rows), threads_for(call.dim), 0,
                    to_cuda(stream)>>>(call);
  check_launch("add_norm");
}

void norm_rotate(const NormRotate& call, Stream stream) {
  check_dim(call.dim);
  const dim3 ctas(static_cast<unsigned int>(call.rows), static_cast<unsigned int>(call.parts));
  norm_rotate_kernel<<<ctas, threads_for(call.dim), 0, to_cuda(stream)>>>(call);
  check_launch("norm_rotate");
}

void modulate(const Modulation& call, Stream stream) {
  modulate_kernel<<<ctas_for(call.rows * call.dim), kMaxThreads, 0, to_cuda(stream)>>>(call);
  check_launch("modulate");
}

void silu(const float* x, index_t count, float* out, Stream stream) {
  silu_kernel<<<ctas_for(count), kMaxThreads, 0, to_cuda(stream)>>>(x, count, out);
  check_launch("silu");
}

void to_bf16(const float* x, index_t count, std::uint16_t* out, Stream stream) {
  to_bf16_kernel<<<ctas_for(count), kMaxThreads, 0, to_cuda(stream)>>>(x, count, out);
  check_launch("to_bf16");
}

void gather_patches(const PatchLayout& layout, index_t channels, const float* latent,
                    float* patches, Stream stream) {
  const index_t values = layout.grid.tokens() * channels * layout.patch_volume();
  patch_kernel<true>
      <<<ctas_for(values), kMaxThreads, 0, to_cuda(stream)>>>(layout, channels, latent, patches);
  check_launch("gather_patches");
}

void scatter_patches(const PatchLayout& layout, index_t channels, const float* patches,
                     float* latent, Stream stream) {
  const index_t values = layout.grid.tokens() * channels * layout.patch_volume();
  patch_kernel<false>
      <<<ctas_for(values), kMaxThreads, 0, to_cuda(stream)>>>(layout, channels, patches, latent);
  check_launch("scatter_patches");
}

}  // namespace psa::engine
