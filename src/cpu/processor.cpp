// SPDX-License-Identifier: Apache-2.0
#include "cpu/processor.hpp"

#if defined(__x86_64__) || defined(__i386__)
#  include <cpuid.h>
#endif

namespace psa::cpu {

#if defined(__x86_64__) || defined(__i386__)
namespace {

/// The two extensions that clang 14 does not take as names of __builtin_cpu_supports.
bool has_f16c_and_lzcnt() {
  constexpr unsigned kLzcnt = 1U << 5U;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_F16C) == 0) return false;
  return __get_cpuid(0x80000001U, &eax, &ebx, &ecx, &edx) != 0 && (ecx & kLzcnt) != 0;
}

}  // namespace

bool processor_has_avx2() {
  // The builtin also asks whether the system saves the wide registers.
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                          __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") &&
                          has_f16c_and_lzcnt();
  return has;
}

bool processor_has_avx512() {
  static const bool has = processor_has_avx2() && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  return has;
}

bool processor_has_avx512_bf16() {
  return processor_has_avx512() && __builtin_cpu_supports("avx512bf16");
}

bool processor_is_slow_at_bf16() { return __builtin_cpu_is("intel"); }
#else
bool processor_has_avx2() { return false; }
bool processor_has_avx512() { return false; }
bool processor_has_avx512_bf16() { return false; }
bool processor_is_slow_at_bf16() { return false; }
#endif

}  // namespace psa::cpu
