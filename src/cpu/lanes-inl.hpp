// SPDX-License-Identifier: Apache-2.0

// Lanes of floats to and from the storage types, and their exponential. Per-ISA code: included
// inside a foreach_target loop, with a guard per target.

#if defined(PSA_CPU_LANES_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#  ifdef PSA_CPU_LANES_INL_HPP_
#    undef PSA_CPU_LANES_INL_HPP_
#  else
#    define PSA_CPU_LANES_INL_HPP_
#  endif

#  include <cstdint>

#  include "hwy/highway.h"
#  include "psa/half.hpp"

HWY_BEFORE_NAMESPACE();
namespace psa::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Highway's emulated vectors truncate when they narrow to f16 and turn an f16 Inf into 65536.
#  if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
#    define PSA_EMULATED_F16 1
#  else
#    define PSA_EMULATED_F16 0
#  endif

template <class D>
HWY_INLINE hn::Vec<D> load_lanes(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> load_lanes(D d, const hwy::bfloat16_t* from) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::bfloat16_t, D>(), from));
}

template <class D>
HWY_INLINE hn::Vec<D> load_lanes(D d, const hwy::float16_t* from) {
#  if PSA_EMULATED_F16
  HWY_ALIGN float lanes[hn::MaxLanes(D())];
  const auto* bits = reinterpret_cast<const std::uint16_t*>(from);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = float_from_f16(bits[i]);
  return hn::Load(d, lanes);
#  else
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::float16_t, D>(), from));
#  endif
}

template <class D>
HWY_INLINE void store_lanes(D d, hn::Vec<D> value, float* to) {
  hn::StoreU(value, d, to);
}

/// Rounds to nearest even; a NaN stays a NaN.
template <class D>
HWY_INLINE void store_lanes(D /*d*/, hn::Vec<D> value, hwy::bfloat16_t* to) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<std::uint16_t, D> d16;
  const auto bits = hn::BitCast(du, value);
  const auto high = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(high, hn::Set(du, 1U));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFU))));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(value));
  const auto kept = hn::IfThenElse(is_nan, hn::Or(high, hn::Set(du, 0x40U)), rounded);
  hn::StoreU(hn::TruncateTo(d16, kept), d16, reinterpret_cast<std::uint16_t*>(to));
}

template <class D>
HWY_INLINE void store_lanes(D d, hn::Vec<D> value, hwy::float16_t* to) {
#  if PSA_EMULATED_F16
  HWY_ALIGN float lanes[hn::MaxLanes(D())];
  hn::Store(value, d, lanes);
  auto* bits = reinterpret_cast<std::uint16_t*>(to);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) bits[i] = f16_from_float(lanes[i]);
#  else
  const hn::Rebind<hwy::float16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, value), d16, to);
#  endif
}

#  undef PSA_EMULATED_F16

/// The larger, or `b` if either is NaN.
template <class V>
HWY_INLINE V max_or_second(V a, V b) {
#  if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
  return hn::IfThenElse(hn::Gt(a, b), a, b);
#  else
  return hn::Max(a, b);  // x86: the second operand wins if they are unordered
#  endif
}

/// 2^r for |r| <= 1/2, relative error < 2e-7, exact at 0.
template <class D>
HWY_INLINE hn::Vec<D> exp2_fraction(D d, hn::Vec<D> r) {
  auto y = hn::Set(d, 1.3264727e-3F);
  y = hn::MulAdd(y, r, hn::Set(d, 9.6715126e-3F));
  y = hn::MulAdd(y, r, hn::Set(d, 5.5507337e-2F));
  y = hn::MulAdd(y, r, hn::Set(d, 2.4022242e-1F));
  y = hn::MulAdd(y, r, hn::Set(d, 6.9314698e-1F));
  return hn::MulAdd(y, r, hn::Set(d, 1.0F));
}

/// 2^x for x <= 127.5, relative error < 2e-7; 0 for x <= -127, NaN for NaN. x = n + r with |r| <=
/// 1/2; adding 1.5 * 2^23 + 127 rounds x to n and leaves n + 127, the exponent of 2^n, in the low
/// bits. The scale is multiplied in, not added to the exponent bits, because the latter would turn
/// some NaN into numbers.
template <class D>
HWY_INLINE hn::Vec<D> exp2_bounded(D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto shift = hn::Set(d, 12583039.0F);
  x = max_or_second(hn::Set(d, -127.0F), x);
  const auto shifted = hn::Add(x, shift);
  const auto r = hn::Sub(x, hn::Sub(shifted, shift));
  const auto scale = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(du, shifted)));
  return hn::Mul(exp2_fraction(d, r), scale);
}

}  // namespace psa::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // PSA_CPU_LANES_INL_HPP_
