// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which of our targets this processor and its system run. Highway answers that too, but its answer
// is the only thing that would need Highway's shared library.

namespace psa::cpu {

/// Everything that Highway's AVX2 code may use.
bool processor_has_avx2();
/// Everything that Highway's AVX3 code may use.
bool processor_has_avx512();
bool processor_has_avx512_bf16();

}  // namespace psa::cpu
