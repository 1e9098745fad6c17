// SPDX-License-Identifier: Apache-2.0

// The row kernels of rows.hpp. Included by rows.cpp once per instruction set; it has no include
// guard for that reason.

#include "cpu/lanes-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace psa::cpu::HWY_NAMESPACE {

using FloatTag = hn::ScalableTag<float>;
using OneLane = hn::CappedTag<float, 1>;
inline constexpr int kLanes = static_cast<int>(hn::MaxLanes(FloatTag()));

/// Channels of an absent row.
HWY_ALIGN inline constexpr float kZeroRow[256] = {};

/// Calls body(tag, channel) for whole vectors of channels, then for the single ones that are left.
template <typename Body>
HWY_INLINE void for_channels(int head_dim, const Body& body) {
  int c = 0;
  for (; c + kLanes <= head_dim; c += kLanes) body(FloatTag(), c);
  for (; c < head_dim; ++c) body(OneLane(), c);
}

template <typename T>
HWY_INLINE const T* row_at(const InputRows& rows, int r) {
  const index_t at = rows.first + r;
  const index_t row = rows.index == nullptr ? at : static_cast<index_t>(rows.index[at]);
  return static_cast<const T*>(rows.data) + row * rows.stride;
}

/// Calls body with a null pointer of the element type.
template <typename Body>
HWY_INLINE void for_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body(static_cast<const float*>(nullptr));
    case DType::kF16:
      return body(static_cast<const hwy::float16_t*>(nullptr));
    case DType::kBF16:
      return body(static_cast<const hwy::bfloat16_t*>(nullptr));
  }
}

/// Replaces 2 * kGroups means by the kGroups means of neighbours and stores them. Absent rows count
/// as zeros, which the quotient makes good. Halves are added, not numbers: they cannot overflow,
/// and a factor of a power of two rounds nothing.
template <int kGroups, typename To, class D>
HWY_INLINE void pool_step(D d, const PoolTask& task, int count, void* means, int c,
                          hn::Vec<D>* mean) {
  constexpr int kFactor = kPoolRows / kGroups;
  const auto half = hn::Set(d, 0.5F);
  for (int g = 0; g < kGroups; ++g) {
    mean[g] = hn::MulAdd(mean[2 * g], half, hn::Mul(mean[2 * g + 1], half));
  }
  if (means == nullptr) return;
  To* to = static_cast<To*>(means) + c;
  for (int g = 0; g < kGroups && g * kFactor < count; ++g, to += task.head_dim) {
    const int weight = HWY_MIN(kFactor, count - g * kFactor);
    if (weight == kFactor) {
      store_lanes(d, mean[g], to);
    } else {
      const float share = static_cast<float>(weight) / static_cast<float>(kFactor);
      store_lanes(d, hn::Div(mean[g], hn::Set(d, share)), to);
    }
  }
}

template <typename From, typename To>
void pool_rows(const PoolTask& task) {
  const From* rows[kPoolRows];
  for (int r = 0; r < kPoolRows; ++r) {
    rows[r] = r < task.count ? row_at<From>(task.rows, r) : reinterpret_cast<const From*>(kZeroRow);
  }
  for_channels(task.head_dim, [&](auto d, int c) {
    hn::Vec<decltype(d)> means[kPoolRows];
    for (int r = 0; r < kPoolRows; ++r) means[r] = load_lanes(d, rows[r] + c);
    // A constant count lets the compiler drop the tests of the common case.
    if (task.count == kPoolRows) {
      pool_step<8, To>(d, task, kPoolRows, task.means[0], c, means);
      pool_step<4, To>(d, task, kPoolRows, task.means[1], c, means);
      pool_step<2, To>(d, task, kPoolRows, task.means[2], c, means);
      pool_step<1, To>(d, task, kPoolRows, task.means[3], c, means);
    } else {
      pool_step<8, To>(d, task, task.count, task.means[0], c, means);
      pool_step<4, To>(d, task, task.count, task.means[1], c, means);
      pool_step<2, To>(d, task, task.count, task.means[2], c, means);
      pool_step<1, To>(d, task, task.count, task.means[3], c, means);
    }
    if (task.part != nullptr) {
      const auto sum = hn::LoadU(d, task.part + c);
      hn::StoreU(hn::MulAdd(means[0], hn::Set(d, kPartOfMean), sum), d, task.part + c);
    }
  });
}

void pool(const PoolTask& task) {
  for_type(task.rows.dtype, [&](const auto* element) {
    using From = std::remove_cv_t<std::remove_pointer_t<decltype(element)>>;
    if (task.to == DType::kF32) {
      pool_rows<From, float>(task);
    } else {
      pool_rows<From, From>(task);
    }
  });
}

void store_mean(const float* sum, float weight, int head_dim, DType dtype, void* to) {
  for_type(dtype, [&](const auto* element) {
    using To = std::remove_cv_t<std::remove_pointer_t<decltype(element)>>;
    for_channels(head_dim, [&](auto d, int c) {
      const auto mean = hn::Div(hn::LoadU(d, sum + c), hn::Set(d, weight));
      store_lanes(d, mean, static_cast<To*>(to) + c);
    });
  });
}

void load_floats(const InputRows& rows, int count, int head_dim, float* to) {
  for_type(rows.dtype, [&](const auto* element) {
    using From = std::remove_cv_t<std::remove_pointer_t<decltype(element)>>;
    for (int r = 0; r < count; ++r, to += head_dim) {
      const From* row = row_at<From>(rows, r);
      for_channels(head_dim, [&](auto d, int c) { hn::StoreU(load_lanes(d, row + c), d, to + c); });
    }
  });
}

float dot(const float* a, const float* b, int head_dim) {
  const FloatTag d;
  auto sums = hn::Zero(d);
  int c = 0;
  for (; c + kLanes <= head_dim; c += kLanes) {
    sums = hn::MulAdd(hn::LoadU(d, a + c), hn::LoadU(d, b + c), sums);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (; c < head_dim; ++c) sum += a[c] * b[c];
  return sum;
}

void add(const float* row, int head_dim, float* sum) {
  for_channels(head_dim, [&](auto d, int c) {
    hn::StoreU(hn::Add(hn::LoadU(d, sum + c), hn::LoadU(d, row + c)), d, sum + c);
  });
}

void add_scaled(const float* row, float factor, int count, float* sum) {
  for_channels(count, [&](auto d, int c) {
    hn::StoreU(hn::MulAdd(hn::LoadU(d, row + c), hn::Set(d, factor), hn::LoadU(d, sum + c)), d,
               sum + c);
  });
}

void add_scaled_rows(const ScaledRows& rows, int count, float* sum) {
  for_channels(count, [&](auto d, int c) {
    auto total = hn::LoadU(d, sum + c);
    for (int r = 0; r < ScaledRows::kCount; ++r) {
      total = hn::MulAdd(hn::LoadU(d, rows.row[r] + c), hn::Set(d, rows.factor[r]), total);
    }
    hn::StoreU(total, d, sum + c);
  });
}

/// Largest logit of kLanes queries over all blocks.
HWY_INLINE hn::Vec<FloatTag> query_max(const MassTask& task, int column) {
  const FloatTag d;
  auto max = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int j = 0; j < task.blocks; ++j) {
    max =
        max_or_second(hn::LoadU(d, task.max + static_cast<index_t>(j) * task.lanes + column), max);
  }
  return max;
}

void masses(const MassTask& task) {
  const FloatTag d;
  for (int column = 0; column < task.lanes; column += kLanes) {
    const auto max = query_max(task, column);
    const auto blind = hn::Eq(max, hn::Set(d, -std::numeric_limits<float>::infinity()));
    const auto reference = hn::IfThenZeroElse(blind, max);
    auto total = hn::Zero(d);
    for (int j = 0; j < task.blocks; ++j) {
      const index_t at = static_cast<index_t>(j) * task.lanes + column;
      const auto factor = exp2_bounded(d, hn::Sub(hn::LoadU(d, task.max + at), reference));
      auto sum = hn::Mul(hn::LoadU(d, task.sum + at), factor);
      if (task.weight != nullptr) sum = hn::Mul(sum, hn::Set(d, task.weight[j]));
      total = hn::Add(total, sum);
      hn::StoreU(sum, d, task.sum + at);
    }
    const auto inverse = hn::IfThenZeroElse(blind, hn::Div(hn::Set(d, 1.0F), total));
    for (int j = 0; j < task.blocks; ++j) {
      const index_t at = static_cast<index_t>(j) * task.lanes + column;
      hn::StoreU(hn::Mul(hn::LoadU(d, task.sum + at), inverse), d, task.sum + at);
    }
    hn::StoreU(hn::IfThenZeroElse(blind, total), d, task.total + column);
  }
}

void peak_ratios(const MassTask& task) {
  const FloatTag d;
  for (int column = 0; column < task.lanes; column += kLanes) {
    const auto max = query_max(task, column);
    const auto blind = hn::Eq(max, hn::Set(d, -std::numeric_limits<float>::infinity()));
    const auto reference = hn::IfThenZeroElse(blind, max);
    for (int j = 0; j < task.blocks; ++j) {
      const index_t at = static_cast<index_t>(j) * task.lanes + column;
      hn::StoreU(hn::Sub(hn::LoadU(d, task.max + at), reference), d, task.sum + at);
    }
    hn::StoreU(hn::IfThenZeroElse(blind, hn::Set(d, 1.0F)), d, task.total + column);
  }
}

void nearest(const NearestTask& task) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const auto minus_two = hn::Set(d, -2.0F);
  for (int column = 0; column < padded_queries(task.shape.rows); column += kLanes) {
    auto best = hn::LoadU(d, task.distance + column);
    auto label = hn::LoadU(di, task.label + column);
    for (int c = 0; c < task.count; ++c) {
      const auto product = hn::LoadU(d, task.scores + score_at(task.shape.rows, c, column));
      const auto distance = hn::MulAdd(product, minus_two, hn::Set(d, task.norm[c]));
      const auto nearer = hn::Lt(distance, best);  // false for NaN
      best = hn::IfThenElse(nearer, distance, best);
      label = hn::IfThenElse(hn::RebindMask(di, nearer), hn::Set(di, task.first + c), label);
    }
    hn::StoreU(best, d, task.distance + column);
    hn::StoreU(label, di, task.label + column);
  }
}

/// Terms of kLanes queries from `query` on, one channel after another.
class Terms {
 public:
  Terms(const TermTask& task, int query)
      : task_(task), query_(query), share_(hn::LoadU(FloatTag(), task.share + query)) {}

  HWY_INLINE hn::Vec<FloatTag> at(int channel) const {
    const auto tile = static_cast<std::size_t>(channel / kMaxTileKeys);
    const std::size_t at = tile * score_floats(task_.shape.rows) +
                           score_at(task_.shape.rows, channel % kMaxTileKeys, query_);
    return hn::Mul(hn::LoadU(FloatTag(), task_.terms + at), share_);
  }

 private:
  const TermTask& task_;
  int query_;
  hn::Vec<FloatTag> share_;
};

void add_terms(const TermTask& task) {
  const FloatTag d;
  const int padded = padded_queries(task.shape.rows);
  for (int query = 0; query < padded; query += kLanes) {
    const int begin = query / kGroupQueries * kGroupQueries;
    const int width = HWY_MIN(kGroupQueries, padded - begin);
    float* output = task.output + begin * task.shape.head_dim + (query - begin);
    const Terms terms(task, query);
    for (int c = 0; c < task.shape.head_dim; ++c, output += width) {
      auto term = terms.at(c);
      term = hn::IfThenElseZero(hn::IsFinite(term), term);
      hn::StoreU(hn::Add(hn::LoadU(d, output), term), d, output);
    }
  }
}

#if HWY_TARGET == HWY_AVX3
inline constexpr const char* kRowIsa = "avx512";
#elif HWY_TARGET == HWY_AVX2
inline constexpr const char* kRowIsa = "avx2";
#else
inline constexpr const char* kRowIsa = "scalar";
#endif

extern const RowKernels kRowTable = {
    .isa = kRowIsa,
    .pool = pool,
    .store_mean = store_mean,
    .load_floats = load_floats,
    .dot = dot,
    .add = add,
    .add_scaled = add_scaled,
    .add_scaled_rows = add_scaled_rows,
    .masses = masses,
    .peak_ratios = peak_ratios,
    .nearest = nearest,
    .add_terms = add_terms,
};

}  // namespace psa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
