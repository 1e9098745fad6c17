// SPDX-License-Identifier: Apache-2.0

// The two matrix products and the soft-max of tile.hpp. Included by tile.cpp once per ISA and
// compute type, after tile_rows-inl.hpp; it has no include guard for that reason.
//
// Both products are C[row][query] (+)= sum over steps of A[row][step] * B[step][query] with words
// of A broadcast: for scores rows are keys and steps are channel words of K, B is the query pack;
// for outputs rows are channels and steps are key words of V, B is P. A register tile of kRows x
// kRegs vectors of C stays in registers over all steps. Per step it costs kRegs loads, kRows
// broadcasts and kRows * kRegs multiply-adds; 6 x 4 leaves the load ports idle half of the time.

PSA_TILE_BEGIN

/// Logits at and below this count as hidden: a finite number, so that no difference is inf - inf.
inline constexpr float kHiddenLogit = -0x1p100F;

alignas(kTileAlignment) inline constexpr float kNoBias[kMaxTileKeys] = {};

enum class Start : std::uint8_t { kZero, kAdd, kRescale };

/// Turns dot products into logits where they leave the registers: dot * scale + bias[row].
struct LogitStep {
  float scale = 1.0F;
  const float* bias = kNoBias;  ///< [rows]
  float* max = nullptr;         ///< [width], raised to the largest logit
};

struct Product {
  const Word* a = nullptr;
  index_t a_row = 0;   ///< words from one row of C to the next
  index_t a_step = 0;  ///< words from one step to the next
  const Word* b = nullptr;
  float* c = nullptr;
  int width = 0;  ///< queries of the group: words per step of B, floats per row of C
  int rows = 0;
  int steps = 0;
  Start start = Start::kZero;
  const float* rescale = nullptr;  ///< [width], for kRescale
  LogitStep logits = {};
};

#if PSA_TILE_BF16
HWY_INLINE Floats multiply_add(hn::Vec<BitsTag> a, hn::Vec<BitsTag> b, Floats sum) {
  return Floats{_mm512_dpbf16_ps(sum.raw, reinterpret_cast<__m512bh>(a.raw),
                                 reinterpret_cast<__m512bh>(b.raw))};
}
#else
HWY_INLINE Floats multiply_add(Floats a, Floats b, Floats sum) { return hn::MulAdd(a, b, sum); }
#endif
using WordTag = hn::ScalableTag<Word>;
using Words = hn::Vec<WordTag>;

/// Rounded to float here, before the maximum is subtracted: a multiply-add with the maximum would
/// leave the rounding error of the largest logit, which is large for huge logits.
HWY_INLINE Floats bounded_logit(Floats dot, Floats scale, Floats bias) {
  return max_or_second(hn::Set(FloatTag(), kHiddenLogit), hn::MulAdd(dot, scale, bias));
}

/// Stores kRows x kRegs dot products.
template <int kRows, int kRegs>
HWY_INLINE void store_sums(const Product& p, float* c, const Floats (&sum)[kRows][kRegs]) {
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRegs; ++j) {
      hn::Store(sum[i][j], FloatTag(), c + i * p.width + j * kLanes);
    }
  }
}

/// Stores the logits of kRows x kRegs dot products.
template <int kRows, int kRegs>
HWY_INLINE void store_logits(const Product& p, int row, int column, float* c,
                             const Floats (&sum)[kRows][kRegs]) {
  const FloatTag df;
  const Floats scale = hn::Set(df, p.logits.scale);
  Floats max[kRegs];
  for (int j = 0; j < kRegs; ++j) max[j] = hn::Load(df, p.logits.max + column + j * kLanes);
  PSA_TILE_UNROLL
  for (int i = 0; i < kRows; ++i) {
    const Floats bias = hn::Set(df, p.logits.bias[row + i]);
    PSA_TILE_UNROLL
    for (int j = 0; j < kRegs; ++j) {
      const Floats logit = bounded_logit(sum[i][j], scale, bias);
      max[j] = max_or_second(logit, max[j]);
      hn::Store(logit, df, c + i * p.width + j * kLanes);
    }
  }
  for (int j = 0; j < kRegs; ++j) hn::Store(max[j], df, p.logits.max + column + j * kLanes);
}

/// kRows x kRegs vectors of C at (row, column), over all steps.
template <bool kLogits, int kRows, int kRegs>
HWY_INLINE void multiply_tile(const Product& p, int row, int column) {
  const FloatTag df;
  const WordTag dw;
  const Word* a = p.a + row * p.a_row;
  const Word* b = p.b + column;
  float* c = p.c + row * p.width + column;
  Floats sum[kRows][kRegs];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRegs; ++j) {
      sum[i][j] =
          p.start == Start::kZero ? hn::Zero(df) : hn::Load(df, c + i * p.width + j * kLanes);
    }
  }
  if (p.start == Start::kRescale) {
    for (int j = 0; j < kRegs; ++j) {
      const Floats factor = hn::Load(df, p.rescale + column + j * kLanes);
      for (int i = 0; i < kRows; ++i) sum[i][j] = hn::Mul(sum[i][j], factor);
    }
  }
  for (int step = 0; step < p.steps; ++step) {
    Words right[kRegs];
    for (int j = 0; j < kRegs; ++j) right[j] = hn::Load(dw, b + j * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const Words left = hn::Set(dw, a[i * p.a_row]);
      for (int j = 0; j < kRegs; ++j) sum[i][j] = multiply_add(left, right[j], sum[i][j]);
    }
    a += p.a_step;
    b += p.width;
  }
  if constexpr (kLogits) {
    store_logits(p, row, column, c, sum);
  } else {
    store_sums(p, c, sum);
  }
}

/// All columns of a group for kRows rows from `row` on.
template <bool kLogits, int kRows, int kRegs>
void multiply_rows(const Product& p, int row) {
  for (int column = 0; column < p.width; column += kRegs * kLanes) {
    multiply_tile<kLogits, kRows, kRegs>(p, row, column);
  }
}

/// All rows, in tiles of kRows and then of 4, 2 and 1.
template <bool kLogits, int kRows, int kRegs>
void multiply_columns(const Product& p) {
  int row = 0;
  for (; row + kRows <= p.rows; row += kRows) multiply_rows<kLogits, kRows, kRegs>(p, row);
  for (; row + 4 <= p.rows; row += 4) multiply_rows<kLogits, 4, kRegs>(p, row);
  if (row + 2 <= p.rows) {
    multiply_rows<kLogits, 2, kRegs>(p, row);
    row += 2;
  }
  if (row < p.rows) multiply_rows<kLogits, 1, kRegs>(p, row);
}

template <bool kLogits>
HWY_INLINE void multiply(const Product& p) {
#if HWY_TARGET == HWY_AVX3
  switch (p.width / kLanes) {
    case 4:
      return multiply_columns<kLogits, 6, 4>(p);
    case 3:
      return multiply_columns<kLogits, 8, 3>(p);
    case 2:
      return multiply_columns<kLogits, 12, 2>(p);
    default:
      return multiply_columns<kLogits, 12, 1>(p);
  }
#elif HWY_TARGET == HWY_AVX2
  multiply_columns<kLogits, 6, 2>(p);
#else
  multiply_columns<kLogits, 4, HWY_MIN(4, kLaneQueries / kLanes)>(p);
#endif
}

/// One group of queries of a step: where its parts begin.
struct Group {
  int begin = 0;
  int width = 0;
  float* scores = nullptr;  ///< [key][width]; probabilities after soft-max: words [key word][width]
};

HWY_INLINE Group group_at(const TileStep& step, int begin) {
  return {.begin = begin,
          .width = group_width(padded_queries(step.shape.rows), begin),
          .scores = step.scores + static_cast<index_t>(begin) * kMaxTileKeys};
}

HWY_INLINE Product score_product(const TileStep& step, const Group& g) {
  const int words = word_count(step.shape.head_dim);
  return {.a = static_cast<const Word*>(step.key_tile),
          .a_row = words,
          .a_step = 1,
          .b = static_cast<const Word*>(step.queries) + static_cast<index_t>(g.begin) * words,
          .c = g.scores,
          .width = g.width,
          .rows = step.keys,
          .steps = words};
}

HWY_INLINE const float* bias_of(const TileStep& step) {
  return step.rule.bias_log2 == nullptr ? kNoBias : step.rule.bias_log2;
}

/// Scores of a group become logits and raise `max` [width]; what multiply<true> does at once.
HWY_NOINLINE void scores_to_logits(const TileStep& step, const Group& g, float* max) {
  const FloatTag df;
  const float* bias = bias_of(step);
  for (int column = 0; column < g.width; column += kLanes) {
    Floats largest = hn::Load(df, max + column);
    for (int key = 0; key < step.keys; ++key) {
      float* at = g.scores + key * g.width + column;
      const Floats logit = bounded_logit(hn::Load(df, at), hn::Set(df, step.rule.scale_log2),
                                         hn::Set(df, bias[key]));
      largest = max_or_second(logit, largest);
      hn::Store(logit, df, at);
    }
    hn::Store(largest, df, max + column);
  }
}

HWY_INLINE bool hides_keys(const TileStep& step, const Group& g) {
  if (step.rule.first_query == nullptr) return false;
  for (int key = 0; key < step.keys; ++key) {
    if (step.rule.first_query[key] > g.begin) return true;
  }
  return false;
}

/// Keys of the tile but for the last ones that no query of the group sees.
HWY_INLINE int visible_keys(const TileStep& step, const Group& g) {
  if (step.rule.first_query == nullptr) return step.keys;
  int keys = step.keys;
  while (keys > 0 && step.rule.first_query[keys - 1] >= g.begin + g.width) --keys;
  return keys;
}

/// Overwrites the logits of hidden keys and finds `max` anew.
HWY_NOINLINE void hide_logits(const TileStep& step, const Group& g, float* max) {
  const FloatTag df;
  const hn::RebindToSigned<FloatTag> di;
  const Floats hidden_logit = hn::Set(df, kHiddenLogit);
  for (int column = 0; column < g.width; column += kLanes) {
    const auto queries = hn::Iota(di, g.begin + column);
    Floats largest = hidden_logit;
    for (int key = 0; key < step.keys; ++key) {
      float* at = g.scores + key * g.width + column;
      const auto hidden = hn::Lt(queries, hn::Set(di, step.rule.first_query[key]));
      const Floats logit =
          hn::IfThenElse(hn::RebindMask(df, hidden), hidden_logit, hn::Load(df, at));
      largest = max_or_second(logit, largest);
      hn::Store(logit, df, at);
    }
    hn::Store(largest, df, max + column);
  }
}

/// What exponents are taken relative to: 0 instead of -inf, which would give inf - inf.
HWY_INLINE Floats finite_reference(Floats max) {
  const FloatTag df;
  const Floats none = hn::Set(df, -std::numeric_limits<float>::infinity());
  return hn::IfThenElse(hn::Eq(max, none), hn::Zero(df), max);
}

/// 2^x for any x but -inf: 0 below -150 and Inf from 128 on, NaN for NaN.
HWY_INLINE Floats exp2_of_finite(Floats x) {
  const FloatTag df;
#if HWY_TARGET == HWY_AVX3
  const Floats n{_mm512_roundscale_ps(x.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  // A multiply-add by 1, because the adders have more to do here.
  const Floats r = hn::NegMulAdd(n, hn::Set(df, 1.0F), x);
  return Floats{_mm512_scalef_ps(exp2_fraction(df, r).raw, n.raw)};
#else
  const Floats limit = hn::Set(df, 128.0F);
  return exp2_bounded(df, hn::IfThenElse(hn::Gt(x, limit), limit, x));
#endif
}

/// 2^x for x <= 0 that is not -inf.
HWY_INLINE Floats probability(Floats x) {
#if HWY_TARGET == HWY_AVX3
  return exp2_of_finite(x);
#else
  return exp2_bounded(FloatTag(), x);
#endif
}

#if PSA_TILE_BF16
/// Rounds the probabilities of two keys and interleaves them to words.
HWY_INLINE Words pair_probabilities(Floats even, Floats odd) {
  const hn::ScalableTag<std::uint16_t> d16;
  const auto lane = hn::ShiftRight<1>(hn::Iota(d16, 0));
  const auto order = hn::OddEven(hn::Add(lane, hn::Set(d16, kLanes)), lane);
  const __m512bh both = _mm512_cvtne2ps_pbh(odd.raw, even.raw);  // [even | odd]
  return {_mm512_permutexvar_epi16(order.raw, reinterpret_cast<__m512i>(both))};
}
#endif

/// Replaces the logits of kLanes queries by probabilities; returns their sum. Probabilities never
/// overtake the logits that they overwrite: they are stored in the same or in half the space.
HWY_INLINE Floats exponentiate(const Group& g, int column, int keys, Floats reference) {
  const FloatTag df;
  Floats sum = hn::Zero(df);
  const float* from = g.scores + column;
#if PSA_TILE_BF16
  Word* to = reinterpret_cast<Word*>(g.scores) + column;
  for (int key = 0; key < keys; key += 2, from += 2 * g.width, to += g.width) {
    const Floats even = probability(hn::Sub(hn::Load(df, from), reference));
    Floats odd = hn::Zero(df);
    if (key + 1 < keys) odd = probability(hn::Sub(hn::Load(df, from + g.width), reference));
    sum = hn::Add(sum, hn::Add(even, odd));
    hn::Store(pair_probabilities(even, odd), WordTag(), to);
  }
#else
  for (int key = 0; key < keys; ++key, from += g.width) {
    const Floats p = probability(hn::Sub(hn::Load(df, from), reference));
    sum = hn::Add(sum, p);
    hn::Store(p, df, g.scores + key * g.width + column);
  }
#endif
  return sum;
}

/// Logits of a group become probabilities; `max` [width] are the maxima of the tile.
HWY_INLINE void softmax_of_logits(const TileStep& step, const Group& g, const float* max) {
  const FloatTag df;
  for (int column = 0; column < g.width; column += kLanes) {
    const int query = g.begin + column;
    const Floats tile_max = hn::Load(df, max + column);
    const Floats old_max = hn::Load(df, step.state.max_log2 + query);
    const auto rises = hn::Gt(tile_max, max_or_second(hn::Set(df, kHiddenLogit), old_max));
    const Floats new_max = hn::IfThenElse(rises, tile_max, old_max);
    const Floats reference = finite_reference(new_max);
    const Floats rescale =
        hn::IfThenElse(rises, exp2_bounded(df, hn::Sub(old_max, reference)), hn::Set(df, 1.0F));
    const Floats sum = exponentiate(g, column, step.keys, reference);
    hn::Store(new_max, df, step.state.max_log2 + query);
    hn::Store(rescale, df, step.state.rescale + query);
    hn::Store(hn::MulAdd(hn::Load(df, step.state.sum + query), rescale, sum), df,
              step.state.sum + query);
  }
}

HWY_INLINE bool any_rescale(const float* rescale, int width) {
  const FloatTag df;
  auto same = hn::Eq(hn::Load(df, rescale), hn::Set(df, 1.0F));
  for (int column = kLanes; column < width; column += kLanes) {
    same = hn::And(same, hn::Eq(hn::Load(df, rescale + column), hn::Set(df, 1.0F)));
  }
  return !hn::AllTrue(df, same);
}

/// Probability of kLanes queries at one key, and value of one channel at one key.
HWY_INLINE Floats probability_at(const Group& g, int column, int key) {
  const FloatTag df;
#if PSA_TILE_BF16
  const BitsTag du;
  const auto pair =
      hn::Load(du, reinterpret_cast<const Word*>(g.scores) + key / 2 * g.width + column);
  return hn::BitCast(
      df, key % 2 == 0 ? hn::ShiftLeft<16>(pair) : hn::And(pair, hn::Set(du, 0xFFFF0000U)));
#else
  return hn::Load(df, g.scores + key * g.width + column);
#endif
}

HWY_INLINE float value_at(const TileStep& step, int key, int channel) {
#if PSA_TILE_BF16
  const Word pair =
      static_cast<const Word*>(step.value_tile)[key / 2 * step.shape.head_dim + channel];
  return float_from_bf16(static_cast<std::uint16_t>(key % 2 == 0 ? pair : pair >> 16));
#else
  return static_cast<const Word*>(step.value_tile)[key * step.shape.head_dim + channel];
#endif
}

/// The product for tiles where some keys are hidden and some values are not finite: a hidden key is
/// left out by selection, because 0 * NaN would spread. Rare, so it is not blocked.
HWY_NOINLINE void accumulate_visible(const TileStep& step, const Group& g, float* output) {
  const FloatTag df;
  const hn::RebindToSigned<FloatTag> di;
  for (int column = 0; column < g.width; column += kLanes) {
    const int query = g.begin + column;
    const auto queries = hn::Iota(di, query);
    const Floats rescale = hn::Load(df, step.state.rescale + query);
    for (int channel = 0; channel < step.shape.head_dim; ++channel) {
      float* at = output + channel * g.width + column;
      Floats sum = hn::Mul(hn::Load(df, at), rescale);
      for (int key = 0; key < step.keys; ++key) {
        const auto hidden =
            hn::RebindMask(df, hn::Lt(queries, hn::Set(di, step.rule.first_query[key])));
        const Floats more = hn::MulAdd(probability_at(g, column, key),
                                       hn::Set(df, value_at(step, key, channel)), sum);
        sum = hn::IfThenElse(hidden, sum, more);
      }
      hn::Store(sum, df, at);
    }
  }
}

HWY_INLINE void group_accumulate(const TileStep& step, const Group& g) {
  float* output = step.output + static_cast<index_t>(g.begin) * step.shape.head_dim;
  const float* rescale = step.state.rescale + g.begin;
  if (!step.values_finite && step.rule.first_query != nullptr) {
    accumulate_visible(step, g, output);
    return;
  }
  multiply<false>({.a = static_cast<const Word*>(step.value_tile),
                   .a_row = 1,
                   .a_step = step.shape.head_dim,
                   .b = reinterpret_cast<const Word*>(g.scores),
                   .c = output,
                   .width = g.width,
                   .rows = step.shape.head_dim,
                   .steps = word_count(step.keys),
                   .start = any_rescale(rescale, g.width) ? Start::kRescale : Start::kAdd,
                   .rescale = rescale});
}

/// Logits of a group, with their maxima, become probabilities.
HWY_INLINE void group_softmax(const TileStep& step, const Group& g, float* max) {
  if (hides_keys(step, g)) hide_logits(step, g, max);
  softmax_of_logits(step, g, max);
}

HWY_INLINE void reset_max(float* max) {
  for (int i = 0; i < kGroupQueries; ++i) max[i] = kHiddenLogit;
}

void scores(const TileStep& step, bool accumulate) {
  for (int q = 0; q < padded_queries(step.shape.rows); q += kGroupQueries) {
    Product p = score_product(step, group_at(step, q));
    if (accumulate) p.start = Start::kAdd;
    multiply<false>(p);
  }
}

void softmax(const TileStep& step) {
  alignas(kTileAlignment) float max[kGroupQueries];
  for (int q = 0; q < padded_queries(step.shape.rows); q += kGroupQueries) {
    const Group g = group_at(step, q);
    reset_max(max);
    scores_to_logits(step, g, max);
    group_softmax(step, g, max);
  }
}

void accumulate(const TileStep& step) {
  for (int q = 0; q < padded_queries(step.shape.rows); q += kGroupQueries) {
    group_accumulate(step, group_at(step, q));
  }
}

void attend(const TileStep& step) {
  alignas(kTileAlignment) float max[kGroupQueries];
  TileStep part = step;
  for (int q = 0; q < padded_queries(step.shape.rows); q += kGroupQueries) {
    const Group g = group_at(step, q);
    part.keys = visible_keys(step, g);
    if (part.keys == 0) continue;
    reset_max(max);
    Product p = score_product(part, g);
    p.logits = {.scale = step.rule.scale_log2, .bias = bias_of(step), .max = max};
    multiply<true>(p);
    group_softmax(part, g, max);
    group_accumulate(part, g);
  }
}

/// Logits of kLanes queries of a group, from `column` on, at one key.
class Logits {
 public:
  Logits(const TileStep& step, const Group& g, int column)
      : scores_(g.scores + column),
        width_(g.width),
        scale_(hn::Set(FloatTag(), step.rule.scale_log2)),
        bias_(bias_of(step)),
        first_query_(step.rule.first_query),
        queries_(hn::Iota(SignedTag(), g.begin + column)) {}

  HWY_INLINE Floats at(int key) const {
    const FloatTag df;
    const Floats dot = hn::Load(df, scores_ + key * width_);
    const Floats logit = bounded_logit(dot, scale_, hn::Set(df, bias_[key]));
    if (first_query_ == nullptr) return logit;
    const auto hidden = hn::Lt(queries_, hn::Set(SignedTag(), first_query_[key]));
    return hn::IfThenElse(hn::RebindMask(df, hidden), hn::Set(df, kHiddenLogit), logit);
  }

 private:
  using SignedTag = hn::RebindToSigned<FloatTag>;
  const float* scores_;
  int width_;
  Floats scale_;
  const float* bias_;
  const std::int32_t* first_query_;
  hn::Vec<SignedTag> queries_;
};

struct BlockMax {
  static HWY_INLINE Floats reduce(const Logits& logits, int begin, int end,
                                  const KeyBlocks& /*blocks*/, index_t /*reference_at*/) {
    const FloatTag df;
    const Floats hidden = hn::Set(df, kHiddenLogit);
    Floats max = hidden;
    for (int key = begin; key < end; ++key) max = max_or_second(logits.at(key), max);
    const Floats none = hn::Set(df, -std::numeric_limits<float>::infinity());
    return hn::IfThenElse(hn::Eq(max, hidden), none, max);
  }
};

struct BlockSumExp {
  static HWY_INLINE Floats reduce(const Logits& logits, int begin, int end, const KeyBlocks& blocks,
                                  index_t reference_at) {
    const FloatTag df;
    const Floats zero_at = finite_reference(hn::LoadU(df, blocks.reference + reference_at));
    Floats sum = hn::Zero(df);
    for (int key = begin; key < end; ++key) {
      sum = hn::Add(sum, exp2_of_finite(hn::Sub(logits.at(key), zero_at)));
    }
    return sum;
  }
};

template <typename Reduction>
void reduce_blocks(const TileStep& step, const KeyBlocks& blocks) {
  const int padded = padded_queries(step.shape.rows);
  for (int query = 0; query < padded; query += kLanes) {
    const Group g = group_at(step, query / kGroupQueries * kGroupQueries);
    const Logits logits(step, g, query - g.begin);
    for (int block = 0, key = 0; key < step.keys; ++block, key += blocks.block_keys) {
      const int end = HWY_MIN(step.keys, key + blocks.block_keys);
      const index_t reference_at = block * blocks.reference_stride + query;
      hn::StoreU(Reduction::reduce(logits, key, end, blocks, reference_at), FloatTag(),
                 blocks.result + block * padded + query);
    }
  }
}

#if PSA_TILE_BF16
inline constexpr const char* kIsa = "avx512_bf16";
#elif HWY_TARGET == HWY_AVX3
inline constexpr const char* kIsa = "avx512";
#elif HWY_TARGET == HWY_AVX2
inline constexpr const char* kIsa = "avx2";
#else
inline constexpr const char* kIsa = "scalar";
#endif

extern const TileKernels kTable = {
    .isa = kIsa,
    .compute = kCompute,
    .native_bf16 = kCompute == Compute::kBF16,
    .pack_queries = pack_queries,
    .load_keys = load_keys,
    .load_values = load_values,
    .scores = scores,
    .softmax = softmax,
    .accumulate = accumulate,
    .attend = attend,
    .store_output = store_output,
    .block_max = reduce_blocks<BlockMax>,
    .block_sum_exp = reduce_blocks<BlockSumExp>,
};

PSA_TILE_END
