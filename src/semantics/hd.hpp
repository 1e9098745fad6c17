// SPDX-License-Identifier: Apache-2.0
#pragma once

// Marks a function of the definition as callable on host and device; the only macro of this folder.
#if defined(__CUDACC__)
#  define PSA_HD __host__ __device__
#else
#  define PSA_HD
#endif
