// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which of our targets this processor and its system run, and which it runs well. Highway answers
// the former too, but its answer is the only thing that would need Highway's shared library.

namespace psa::cpu {

/// Everything that Highway's AVX2 code may use.
bool processor_has_avx2();
/// Everything that Highway's AVX3 code may use.
bool processor_has_avx512();
bool processor_has_avx512_bf16();
/// Whether a bf16 dot product, where there is one, takes longer than the two f32 multiply-adds that
/// it stands for. It does on Intel's processors (measured: family 6, model 207, where dense
/// attention takes 1.7 times as long); on AMD's Zen 4 and 5 it takes as long as one.
bool processor_is_slow_at_bf16();

}  // namespace psa::cpu
