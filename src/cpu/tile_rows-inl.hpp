// SPDX-License-Identifier: Apache-2.0

// Rows of tensors to and from the layouts of tile.hpp: type conversion, transposition of query
// packs and outputs, pairing of value rows. Included by tile.cpp once per ISA and compute type
// (PSA_TILE_BF16); it has no include guard for that reason.
//
// A "word" is 32 bits of a matrix operand: one float, or two bf16 that are consecutive along the
// inner dimension of the product. Both compute types share all code that moves words.

PSA_TILE_BEGIN

#if PSA_TILE_BF16
using Word = std::uint32_t;
using Element = hwy::bfloat16_t;
inline constexpr Compute kCompute = Compute::kBF16;
inline constexpr DType kElementType = DType::kBF16;
#else
using Word = float;
using Element = float;
inline constexpr Compute kCompute = Compute::kF32;
inline constexpr DType kElementType = DType::kF32;
#endif
inline constexpr int kWordElements = static_cast<int>(sizeof(Word) / sizeof(Element));

using FloatTag = hn::ScalableTag<float>;
using BitsTag = hn::RebindToUnsigned<FloatTag>;
using Floats = hn::Vec<FloatTag>;
inline constexpr int kLanes = static_cast<int>(hn::MaxLanes(FloatTag()));

HWY_INLINE constexpr int word_count(int channels) {
  return (channels + kWordElements - 1) / kWordElements;
}

HWY_INLINE constexpr int group_width(int queries, int group_begin) {
  return HWY_MIN(kGroupQueries, queries - group_begin);
}

template <typename Rows>
HWY_INLINE index_t row_number(const Rows& rows, int r) {
  const index_t at = rows.first + r;
  return rows.index == nullptr ? at : static_cast<index_t>(rows.index[at]);
}

HWY_INLINE const std::byte* row_bytes(const InputRows& rows, int r) {
  return static_cast<const std::byte*>(rows.data) +
         row_number(rows, r) * rows.stride * static_cast<index_t>(size_of(rows.dtype));
}

HWY_INLINE std::byte* row_bytes(const OutputRows& rows, int r) {
  return static_cast<std::byte*>(rows.data) +
         row_number(rows, r) * rows.stride * static_cast<index_t>(size_of(rows.dtype));
}

/// `count` numbers from one type to another, through float.
template <typename From, typename To>
HWY_INLINE void convert(const From* from, int count, To* to) {
  const FloatTag df;
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) store_lanes(df, load_lanes(df, from + i), to + i);
  if (i >= count) return;
  From in[kLanes] = {};
  To out[kLanes];
  std::memcpy(in, from + i, static_cast<std::size_t>(count - i) * sizeof(From));
  store_lanes(df, load_lanes(df, in), out);
  std::memcpy(to + i, out, static_cast<std::size_t>(count - i) * sizeof(To));
}

/// A library call costs as much as copying a row.
HWY_INLINE void copy(const Element* from, int count, Element* to) {
  const hn::ScalableTag<Element> d;
  constexpr int kStep = static_cast<int>(hn::MaxLanes(hn::ScalableTag<Element>()));
  int i = 0;
  for (; i + kStep <= count; i += kStep) hn::StoreU(hn::LoadU(d, from + i), d, to + i);
  for (; i < count; ++i) to[i] = from[i];
}

/// `count` channels of a row, starting at `channel`, as elements of the compute type.
HWY_INLINE void load_channels(const std::byte* row, DType dtype, int channel, int count,
                              Element* to) {
  const std::byte* from = row + static_cast<std::size_t>(channel) * size_of(dtype);
  if (dtype == kElementType) {
    copy(reinterpret_cast<const Element*>(from), count, to);
  } else if (dtype == DType::kF16) {
    convert(reinterpret_cast<const hwy::float16_t*>(from), count, to);
  } else if (dtype == DType::kBF16) {
    convert(reinterpret_cast<const hwy::bfloat16_t*>(from), count, to);
  } else {
    convert(reinterpret_cast<const float*>(from), count, to);
  }
}

/// Channels like load_channels, as words; a last odd channel is paired with zero.
HWY_INLINE void load_words(const std::byte* row, DType dtype, int channel, int count, Word* to) {
  if (count % kWordElements != 0) to[count / kWordElements] = Word{0};
  load_channels(row, dtype, channel, count, reinterpret_cast<Element*>(to));
}

#if PSA_TILE_X86_VECTORS
/// out[j * out_stride + i] = in[i][j] for 8 x 8 words; `in` has rows of 16 words.
template <typename T>
HWY_INLINE void transpose_8x8(const T* in, T* out, index_t out_stride) {
  const hn::CappedTag<T, 8> d;
  const hn::Repartition<std::uint64_t, decltype(d)> d64;
  using V = hn::Vec<decltype(d)>;
  V row[8];
  for (int i = 0; i < 8; ++i) row[i] = hn::Load(d, in + i * kLaneQueries);
  V pair[8];  // blocks of 128 bits: channels 0, 1 (even) or 2, 3 (odd) of two rows
  for (int i = 0; i < 4; ++i) {
    pair[2 * i] = hn::InterleaveLower(d, row[2 * i], row[2 * i + 1]);
    pair[2 * i + 1] = hn::InterleaveUpper(d, row[2 * i], row[2 * i + 1]);
  }
  for (int j = 0; j < 4; ++j) {  // channels j and j + 4 of four rows each
    const auto a = hn::BitCast(d64, pair[j / 2]), b = hn::BitCast(d64, pair[2 + j / 2]);
    const auto e = hn::BitCast(d64, pair[4 + j / 2]), f = hn::BitCast(d64, pair[6 + j / 2]);
    const V low = hn::BitCast(
        d, j % 2 == 0 ? hn::InterleaveLower(d64, a, b) : hn::InterleaveUpper(d64, a, b));
    const V high = hn::BitCast(
        d, j % 2 == 0 ? hn::InterleaveLower(d64, e, f) : hn::InterleaveUpper(d64, e, f));
    hn::StoreU(hn::ConcatLowerLower(d, high, low), d, out + j * out_stride);
    hn::StoreU(hn::ConcatUpperUpper(d, high, low), d, out + (j + 4) * out_stride);
  }
}
#endif

/// out[j * out_stride + i] = in[i][j] for 16 rows and `columns` (at most 16) columns of words.
template <typename T>
HWY_INLINE void transpose(const T (*in)[kLaneQueries], int columns, T* out, index_t out_stride) {
  int j = 0;
#if PSA_TILE_X86_VECTORS
  for (; j + 8 <= columns; j += 8) {
    transpose_8x8(&in[0][j], out + j * out_stride, out_stride);
    transpose_8x8(&in[8][j], out + j * out_stride + 8, out_stride);
  }
#endif
  for (; j < columns; ++j) {
    for (int i = 0; i < kLaneQueries; ++i) out[j * out_stride + i] = in[i][j];
  }
}

void pack_queries(const PackShape& shape, const InputRows& rows, void* queries) {
  constexpr int kChunk = kLaneQueries * kWordElements;  // channels of 16 words
  const int words = word_count(shape.head_dim);
  const int padded = padded_queries(shape.rows);
  alignas(kTileAlignment) Word chunk[kLaneQueries][kLaneQueries];
  for (int q = 0; q < padded; q += kLaneQueries) {
    const int begin = q / kGroupQueries * kGroupQueries;
    const int width = group_width(padded, begin);
    Word* out = static_cast<Word*>(queries) + begin * words + (q - begin);
    const int real = HWY_MIN(kLaneQueries, shape.rows - q);
    for (int c = 0; c < shape.head_dim; c += kChunk) {
      const int count = HWY_MIN(kChunk, shape.head_dim - c);
      if (real < kLaneQueries) std::memset(chunk, 0, sizeof(chunk));
      for (int r = 0; r < real; ++r) {
        load_words(row_bytes(rows, q + r), rows.dtype, c, count, chunk[r]);
      }
      transpose(chunk, word_count(count), out + c / kWordElements * width, width);
    }
  }
}

void load_keys(const InputRows& rows, const TileSlot& slot) {
  const int words = word_count(slot.head_dim);
  Word* to = static_cast<Word*>(slot.tile) + slot.at * words;
  if (slot.count > 0 && rows.index == nullptr && rows.stride == slot.head_dim &&
      slot.head_dim % kWordElements == 0) {  // one long row
    load_words(row_bytes(rows, 0), rows.dtype, 0, slot.count * slot.head_dim, to);
    return;
  }
  for (int r = 0; r < slot.count; ++r, to += words) {
    load_words(row_bytes(rows, r), rows.dtype, 0, slot.head_dim, to);
  }
}

/// Largest magnitude of any element so far, as bits: exponent all ones means Inf or NaN.
class FiniteCheck {
 public:
  // Signed, because magnitudes fit and x86 before AVX-512 compares signed numbers only.
  using Bits = std::conditional_t<kWordElements == 2, std::int16_t, std::int32_t>;
  using Tag = hn::ScalableTag<Bits>;

  FiniteCheck() : largest_(hn::Zero(Tag())) {}  // implicit ones are compiled for the baseline ISA

  HWY_INLINE void add(hn::Vec<Tag> bits) {
    largest_ = hn::Max(largest_, hn::And(bits, hn::Set(Tag(), kMagnitude)));
  }
  [[nodiscard]] HWY_INLINE bool all_finite() const {
    return hn::AllTrue(Tag(), hn::Lt(largest_, hn::Set(Tag(), kInf)));
  }

 private:
  static constexpr Bits kMagnitude = kWordElements == 2 ? 0x7FFF : 0x7FFFFFFF;
  static constexpr Bits kInf = static_cast<Bits>(kWordElements == 2 ? 0x7F80 : 0x7F800000);

  hn::Vec<Tag> largest_;
};

#if PSA_TILE_BF16
/// Interleaves two value rows to words; the even key is in the low half.
HWY_INLINE void pair_rows(const std::uint16_t* even, const std::uint16_t* odd, int count,
                          std::uint32_t* to, FiniteCheck& finite) {
  const hn::ScalableTag<std::uint16_t> d;
  constexpr int kStep = static_cast<int>(hn::MaxLanes(hn::ScalableTag<std::uint16_t>()));
  auto* out = reinterpret_cast<std::uint16_t*>(to);
  const auto low = hn::Iota(d, 0);
  const auto first =
      hn::OddEven(hn::Add(hn::ShiftRight<1>(low), hn::Set(d, kStep)), hn::ShiftRight<1>(low));
  const auto second = hn::Add(first, hn::Set(d, kStep / 2));
  for (int c = 0; c < count; c += kStep) {
    const auto mask = hn::FirstN(d, static_cast<std::size_t>(HWY_MIN(count - c, kStep)));
    const auto a = hn::MaskedLoad(mask, d, even + c);
    const auto b = hn::MaskedLoad(mask, d, odd + c);
    finite.add(hn::BitCast(FiniteCheck::Tag(), a));
    finite.add(hn::BitCast(FiniteCheck::Tag(), b));
    const hn::Vec<decltype(d)> pairs[2] = {{_mm512_permutex2var_epi16(a.raw, first.raw, b.raw)},
                                           {_mm512_permutex2var_epi16(a.raw, second.raw, b.raw)}};
    const int left = 2 * (count - c);
    if (left >= 2 * kStep) {
      hn::StoreU(pairs[0], d, out + 2 * c);
      hn::StoreU(pairs[1], d, out + 2 * c + kStep);
    } else {
      hn::BlendedStore(pairs[0], hn::FirstN(d, static_cast<std::size_t>(HWY_MIN(left, kStep))), d,
                       out + 2 * c);
      hn::BlendedStore(pairs[1], hn::FirstN(d, static_cast<std::size_t>(HWY_MAX(left - kStep, 0))),
                       d, out + 2 * c + kStep);
    }
  }
}

/// One value row as bf16, converted into `row` unless it lies in memory like that.
HWY_INLINE const std::uint16_t* value_row(const InputRows& rows, int r, int head_dim,
                                          Element* row) {
  const std::byte* from = row_bytes(rows, r);
  if (rows.dtype == kElementType) return reinterpret_cast<const std::uint16_t*>(from);
  load_channels(from, rows.dtype, 0, head_dim, row);
  return reinterpret_cast<const std::uint16_t*>(row);
}

bool load_values(const InputRows& rows, const TileSlot& slot) {
  constexpr int kMaxChannels = 256;
  const int dim = slot.head_dim;
  alignas(kTileAlignment) Element row[2][kMaxChannels];
  alignas(kTileAlignment) static constexpr std::uint16_t kZeros[kMaxChannels] = {};
  FiniteCheck finite;
  Word* to = static_cast<Word*>(slot.tile) + slot.at / 2 * dim;
  int r = 0;
  if (slot.at % 2 != 0 && slot.count > 0) {  // its pair's even key is in the tile already
    std::uint16_t even[kMaxChannels];
    for (int c = 0; c < dim; ++c) even[c] = static_cast<std::uint16_t>(to[c]);
    pair_rows(even, value_row(rows, 0, dim, row[1]), dim, to, finite);
    to += dim;
    r = 1;
  }
  for (; r + 2 <= slot.count; r += 2, to += dim) {
    const std::uint16_t* even = value_row(rows, r, dim, row[0]);
    pair_rows(even, value_row(rows, r + 1, dim, row[1]), dim, to, finite);
  }
  if (r < slot.count) pair_rows(value_row(rows, r, dim, row[0]), kZeros, dim, to, finite);
  return finite.all_finite();
}
#else
bool load_values(const InputRows& rows, const TileSlot& slot) {
  load_keys(rows, slot);
  const FloatTag df;
  FiniteCheck finite;
  const float* from = static_cast<const float*>(slot.tile) + slot.at * slot.head_dim;
  const int count = slot.count * slot.head_dim;
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    finite.add(hn::BitCast(FiniteCheck::Tag(), hn::LoadU(df, from + i)));
  }
  for (; i < count; ++i) finite.add(hn::BitCast(FiniteCheck::Tag(), hn::Set(df, from[i])));
  return finite.all_finite();
}
#endif

/// Floats of one row to the caller's type.
HWY_INLINE void store_channels(const float* from, DType dtype, int channel, int count,
                               std::byte* row) {
  std::byte* to = row + static_cast<std::size_t>(channel) * size_of(dtype);
  if (dtype == DType::kF32) {
    convert(from, count, reinterpret_cast<float*>(to));
  } else if (dtype == DType::kBF16) {
    convert(from, count, reinterpret_cast<hwy::bfloat16_t*>(to));
  } else {
    convert(from, count, reinterpret_cast<hwy::float16_t*>(to));
  }
}

void store_lse(const PackShape& shape, const SoftmaxState& state, const OutputRows& rows) {
  for (int r = 0; r < shape.rows; ++r) {
    const float sum = state.sum[r];
    rows.lse[row_number(rows, r)] =
        sum == 0.0F ? -std::numeric_limits<float>::infinity()
                    : (state.max_log2[r] + std::log2(sum)) * std::numbers::ln2_v<float>;
  }
}

/// rows[j][i] = O^T[channel + j][query + i] / sum[i] for 16 queries; 0 where the sum is 0.
HWY_INLINE void normalise(const float* output, int width, const float* sum, int channels,
                          float (*rows)[kLaneQueries]) {
  const FloatTag df;
  for (int i = 0; i < kLaneQueries; i += kLanes) {
    const Floats total = hn::Load(df, sum + i);
    const auto nothing = hn::Eq(total, hn::Zero(df));
    const Floats inverse = hn::Div(hn::Set(df, 1.0F), total);
    for (int j = 0; j < channels; ++j) {
      const Floats o = hn::Mul(hn::Load(df, output + j * width + i), inverse);
      hn::Store(hn::IfThenZeroElse(nothing, o), df, rows[j] + i);
    }
  }
}

void store_output(const PackShape& shape, const float* output, const SoftmaxState& state,
                  const OutputRows& rows) {
  const int padded = padded_queries(shape.rows);
  alignas(kTileAlignment) float columns[kLaneQueries][kLaneQueries] = {};
  alignas(kTileAlignment) float chunk[kLaneQueries][kLaneQueries];
  for (int q = 0; q < padded; q += kLaneQueries) {
    const int begin = q / kGroupQueries * kGroupQueries;
    const int width = group_width(padded, begin);
    const float* from = output + begin * shape.head_dim + (q - begin);
    const int real = HWY_MIN(kLaneQueries, shape.rows - q);
    for (int c = 0; c < shape.head_dim; c += kLaneQueries) {
      const int count = HWY_MIN(kLaneQueries, shape.head_dim - c);
      normalise(from + c * width, width, state.sum + q, count, columns);
      transpose(columns, kLaneQueries, &chunk[0][0], kLaneQueries);
      for (int r = 0; r < real; ++r) {
        store_channels(chunk[r], rows.dtype, c, count, row_bytes(rows, q + r));
      }
    }
  }
  if (rows.lse != nullptr) store_lse(shape, state, rows);
}

PSA_TILE_END
