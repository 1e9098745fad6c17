// SPDX-License-Identifier: Apache-2.0

// Compiles the row kernels for each instruction set.

#include "cpu/rows.hpp"

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/processor.hpp"

// The same targets as tile.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rows.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Must follow highway.h.
#include "cpu/rows-inl.hpp"

#if HWY_ONCE
namespace psa::cpu {
namespace {

#  if HWY_TARGETS & HWY_EMU128
constexpr const RowKernels* kScalarTable = &N_EMU128::kRowTable;
#  elif HWY_TARGETS & HWY_SCALAR
constexpr const RowKernels* kScalarTable = &N_SCALAR::kRowTable;
#  else
constexpr const RowKernels* kScalarTable = nullptr;
#  endif

}  // namespace

const RowKernels* row_kernels([[maybe_unused]] const char* isa) {
  const RowKernels* found = kScalarTable;
#  if HWY_TARGETS & HWY_AVX2
  if (processor_has_avx2() && std::strcmp(isa, "avx2") == 0) found = &N_AVX2::kRowTable;
#  endif
#  if HWY_TARGETS & HWY_AVX3
  if (processor_has_avx512() && std::strncmp(isa, "avx512", 6) == 0) found = &N_AVX3::kRowTable;
#  endif
  return found;
}

}  // namespace psa::cpu
#endif  // HWY_ONCE
