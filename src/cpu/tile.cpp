// SPDX-License-Identifier: Apache-2.0

// Compiles the tile kernels for each ISA and chooses among them at run time.

#include "cpu/tile.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <type_traits>

#include "cpu/processor.hpp"
#include "psa/half.hpp"

// Between scalar and AVX2 no x86 machine is worth its compile time; AVX3_DL adds nothing we use.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/tile.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Must follow highway.h.
#include "cpu/lanes-inl.hpp"

#undef PSA_TILE_BEGIN
#undef PSA_TILE_END
#undef PSA_TILE_BF16
#undef PSA_TILE_X86_VECTORS
#define PSA_TILE_X86_VECTORS (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3)

// GCC leaves an array of vectors in memory where it unrolls the loop over it late.
#if HWY_COMPILER_CLANG
#  define PSA_TILE_UNROLL
#else
#  define PSA_TILE_UNROLL _Pragma("GCC unroll 16")
#endif

#define PSA_TILE_BF16 0
#define PSA_TILE_BEGIN    \
  HWY_BEFORE_NAMESPACE(); \
  namespace psa::cpu::HWY_NAMESPACE::f32 {
#define PSA_TILE_END \
  }                  \
  HWY_AFTER_NAMESPACE();
#include "cpu/tile_rows-inl.hpp"
// Must follow tile_rows-inl.hpp.
#include "cpu/tile-inl.hpp"

#if HWY_TARGET == HWY_AVX3
#  undef PSA_TILE_BEGIN
#  undef PSA_TILE_END
#  undef PSA_TILE_BF16
#  define PSA_TILE_BF16 1
// Highway 1.0.3 has no target with the bf16 dot product, so this one extends its AVX-512 target.
#  define PSA_TILE_BEGIN                              \
    HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512bf16") \
    namespace psa::cpu::HWY_NAMESPACE::bf16 {
#  define PSA_TILE_END \
    }                  \
    HWY_POP_ATTRIBUTES
#  include "cpu/tile_rows-inl.hpp"
// Must follow tile_rows-inl.hpp.
#  include "cpu/tile-inl.hpp"
#endif

#if HWY_ONCE
namespace psa::cpu {
namespace {

struct SupportedTables {
  std::array<const TileKernels*, 4> table{};
  std::size_t count = 0;

  void add(const TileKernels& kernels) { table[count++] = &kernels; }
};

SupportedTables detect() {
  SupportedTables result;
#  if HWY_TARGETS & HWY_SCALAR
  result.add(N_SCALAR::f32::kTable);
#  endif
#  if HWY_TARGETS & HWY_EMU128
  result.add(N_EMU128::f32::kTable);
#  endif
#  if HWY_TARGETS & HWY_AVX2
  if (processor_has_avx2()) result.add(N_AVX2::f32::kTable);
#  endif
#  if HWY_TARGETS & HWY_AVX3
  if (processor_has_avx512()) {
    result.add(N_AVX3::f32::kTable);
    if (processor_has_avx512_bf16()) result.add(N_AVX3::bf16::kTable);
  }
#  endif
  return result;
}

const SupportedTables& tables() {
  static const SupportedTables supported = detect();
  return supported;
}

}  // namespace

std::span<const TileKernels* const> all_supported() {
  return {tables().table.data(), tables().count};
}

}  // namespace psa::cpu
#endif  // HWY_ONCE
