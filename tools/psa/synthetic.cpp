// SPDX-License-Identifier: Apache-2.0
#include "synthetic.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <thread>
#include <vector>

namespace psa::cli {
namespace {

enum class Role : std::uint64_t { kQuery = 1, kKey = 2, kValue = 3, kFrequencies = 4 };

/// Normal values from a seed and a place, independent of the order in which rows are made.
class NormalSource {
 public:
  NormalSource(std::uint64_t seed, Role role, index_t b, index_t h, index_t token)
      : state_(mix(mix(mix(mix(seed) + static_cast<std::uint64_t>(role)) +
                       static_cast<std::uint64_t>(b)) +
                   static_cast<std::uint64_t>(h)) +
               static_cast<std::uint64_t>(token)) {}

  float next() {
    if (has_second_) {
      has_second_ = false;
      return second_;
    }
    // Box-Muller on 24-bit uniforms; the first lies in (0, 1].
    const std::uint64_t bits = mix(state_ += kStep);
    const float u = static_cast<float>((bits >> 40) + 1) * 0x1p-24F;
    const float angle =
        static_cast<float>((bits >> 8) & 0xFFFFFFU) * (2 * std::numbers::pi_v<float> * 0x1p-24F);
    const float radius = std::sqrt(-2.0F * std::log(u));
    second_ = radius * std::sin(angle);
    has_second_ = true;
    return radius * std::cos(angle);
  }

 private:
  static constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15U;

  // The finalizer of splitmix64.
  static std::uint64_t mix(std::uint64_t x) {
    x += kStep;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
    return x ^ (x >> 31);
  }

  std::uint64_t state_;
  float second_ = 0;
  bool has_second_ = false;
};

/// Distance over which structured rows stay alike: frames, rows and columns of the grid, or tokens.
constexpr std::array<float, 3> kReach{2.0F, 4.0F, 4.0F};
constexpr float kReachWithoutGrid = 32.0F;
/// Logit of a token with itself, above that of far ones.
constexpr float kPeakLogit = 8.0F;
constexpr float kNoise = 0.3F;

/// Random Fourier features of the token's place p: channels cos(w·p), sin(w·p), so that the product
/// of two rows falls with their distance like a Gaussian.
class Features {
 public:
  Features(const Problem& problem, std::uint64_t seed, index_t b, index_t kv_head)
      : layout_(problem.layout), pairs_(problem.shape.head_dim / 2) {
    const auto head_dim = static_cast<float>(problem.shape.head_dim);
    amplitude_ = std::sqrt(2.0F * kPeakLogit / std::sqrt(head_dim));
    NormalSource random(seed, Role::kFrequencies, b, kv_head, 0);
    for (index_t pair = 0; pair < pairs_; ++pair) {
      const bool has_grid = layout_.grid.tokens() > 0;
      std::array<float, 3> w{};
      for (std::size_t axis = 0; axis < 3; ++axis) {
        w[axis] = random.next() / (has_grid ? kReach[axis] : kReachWithoutGrid);
      }
      frequencies_.push_back(w);
    }
  }

  /// Text tokens have no place and keep `row` as it is.
  void add(index_t token, std::vector<float>& row) const {
    const index_t first_video = layout_.text_side == TextSide::kFront ? layout_.text_tokens : 0;
    const index_t video = token - first_video;
    const VideoGrid& grid = layout_.grid;
    std::array<float, 3> place{0, 0, static_cast<float>(token)};
    if (grid.tokens() > 0) {
      if (video < 0 || video >= grid.tokens()) return;
      const index_t frame = video / (grid.height * grid.width);
      place = {static_cast<float>(frame), static_cast<float>(video / grid.width % grid.height),
               static_cast<float>(video % grid.width)};
    }
    for (index_t pair = 0; pair < pairs_; ++pair) {
      const auto& w = frequencies_[static_cast<std::size_t>(pair)];
      const float angle = w[0] * place[0] + w[1] * place[1] + w[2] * place[2];
      row[static_cast<std::size_t>(2 * pair)] += amplitude_ * std::cos(angle);
      row[static_cast<std::size_t>(2 * pair + 1)] += amplitude_ * std::sin(angle);
    }
  }

 private:
  TokenLayout layout_;
  index_t pairs_;
  float amplitude_ = 0;
  std::vector<std::array<float, 3>> frequencies_;
};

/// One tensor to fill.
struct Filling {
  const Problem& problem;
  SyntheticData kind;
  std::uint64_t seed;
  Role role;
  TensorView tensor;
};

void fill_head(const Filling& filling, index_t b, index_t h) {
  const TensorView& t = filling.tensor;
  const ProblemShape& shape = filling.problem.shape;
  const bool is_structured =
      filling.kind == SyntheticData::kStructured && filling.role != Role::kValue;
  const index_t kv_head = filling.role == Role::kQuery ? h / (shape.heads_q / shape.heads_kv) : h;
  const index_t shift = filling.role == Role::kQuery ? shape.len_kv - shape.len_q : 0;
  const Features features(filling.problem, filling.seed, b, kv_head);
  std::vector<float> row(static_cast<std::size_t>(shape.head_dim));
  for (index_t token = 0; token < t.shape[2]; ++token) {
    NormalSource random(filling.seed, filling.role, b, h, token);
    for (float& value : row) value = (is_structured ? kNoise : 1.0F) * random.next();
    if (is_structured) features.add(token + shift, row);
    const index_t first = b * t.stride[0] + h * t.stride[1] + token * t.stride[2];
    for (index_t d = 0; d < shape.head_dim; ++d) {
      store_element(t.data, t.dtype, first + d, row[static_cast<std::size_t>(d)]);
    }
  }
}

void fill(const Filling& filling, int threads) {
  const index_t heads = filling.tensor.shape[1];
  const index_t count = filling.tensor.shape[0] * heads;
  const auto work = [&](index_t first) {
    for (index_t i = first; i < count; i += threads) fill_head(filling, i / heads, i % heads);
  };
  std::vector<std::thread> others;
  for (index_t i = 1; i < std::min<index_t>(threads, count); ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& thread : others) thread.join();
}

}  // namespace

SyntheticInputs make_synthetic(const Problem& problem, SyntheticData kind, std::uint64_t seed,
                               int threads) {
  const ProblemShape& s = problem.shape;
  SyntheticInputs inputs{OwnedTensor({s.batch, s.heads_q, s.len_q, s.head_dim}, s.dtype_q),
                         OwnedTensor({s.batch, s.heads_kv, s.len_kv, s.head_dim}, s.dtype_kv),
                         OwnedTensor({s.batch, s.heads_kv, s.len_kv, s.head_dim}, s.dtype_kv)};
  fill({problem, kind, seed, Role::kQuery, inputs.q.view()}, threads);
  fill({problem, kind, seed, Role::kKey, inputs.k.view()}, threads);
  fill({problem, kind, seed, Role::kValue, inputs.v.view()}, threads);
  return inputs;
}

}  // namespace psa::cli
