// SPDX-License-Identifier: Apache-2.0

// Plain loops for the compiler to vectorise. `omp simd` only lets it reorder the sums; no OpenMP
// run time is involved (-fopenmp-simd).

#include "engine/blocks/rows.hpp"

#include <cmath>

#include "psa/half.hpp"

namespace psa::engine {

[[gnu::target_clones("avx512f", "avx2", "default")]] void layer_norm(const float* x, index_t dim,
                                                                     float eps, const float* scale,
                                                                     const float* shift,
                                                                     float* out) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (index_t i = 0; i < dim; ++i) sum += x[i];
  const float mean = sum / static_cast<float>(dim);
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (index_t i = 0; i < dim; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const float factor = 1.0F / std::sqrt(squares / static_cast<float>(dim) + eps);
#pragma omp simd
  for (index_t i = 0; i < dim; ++i) out[i] = (x[i] - mean) * factor * scale[i] + shift[i];
}

[[gnu::target_clones("avx512f", "avx2", "default")]] void rms_norm(float* x, index_t dim, float eps,
                                                                   const float* weight) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (index_t i = 0; i < dim; ++i) squares += x[i] * x[i];
  const float factor = 1.0F / std::sqrt(squares / static_cast<float>(dim) + eps);
#pragma omp simd
  for (index_t i = 0; i < dim; ++i) x[i] *= factor * weight[i];
}

[[gnu::target_clones("avx512f", "avx2", "default")]] void rotate_pairs(float* x, index_t heads,
                                                                       index_t pairs,
                                                                       const float* cosine,
                                                                       const float* sine) {
  for (index_t head = 0; head < heads; ++head) {
    float* const row = x + 2 * pairs * head;
#pragma omp simd
    for (index_t i = 0; i < pairs; ++i) {
      const float a = row[2 * i];
      const float b = row[2 * i + 1];
      row[2 * i] = a * cosine[i] - b * sine[i];
      row[2 * i + 1] = a * sine[i] + b * cosine[i];
    }
  }
}

[[gnu::target_clones("avx512f", "avx2", "default")]] void add_gated(float* x, const float* y,
                                                                    const float* gate,
                                                                    index_t count) {
#pragma omp simd
  for (index_t i = 0; i < count; ++i) x[i] += y[i] * gate[i];
}

[[gnu::target_clones("avx512f", "avx2", "default")]] void add(float* x, const float* y,
                                                              index_t count) {
#pragma omp simd
  for (index_t i = 0; i < count; ++i) x[i] += y[i];
}

[[gnu::target_clones("avx512f", "avx2", "default")]] void round_to_bf16(const float* x,
                                                                        index_t count,
                                                                        std::uint16_t* out) {
#pragma omp simd
  for (index_t i = 0; i < count; ++i) out[i] = bf16_from_float(x[i]);
}

}  // namespace psa::engine
