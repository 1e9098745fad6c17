// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "engine/cuda/device.hpp"
#include "engine/gemm/linear.hpp"

namespace psa::engine {

/// cuBLASLt, found when the first of these is made (docs/adr/0015), with what the layers of one
/// model share: a queue, a workspace, and one chosen algorithm per kind of product.
class CublasLt {
 public:
  /// Products run in `stream`, which must outlive this object. Throws Error(kUnsupported) that
  /// names the files that were tried.
  explicit CublasLt(const DeviceStream& stream);
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;
  ~CublasLt();

 private:
  friend class LinearCuda;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Linear on a CUDA device. A result of kBF16 takes its bias rounded to bf16.
class LinearCuda {
 public:
  LinearCuda() = default;  ///< of no use but to be assigned to
  /// `weight` [out, in] row-major and `bias` [out], in host memory, are copied in the compute type.
  /// `library` must outlive this object. Throws Error(kInvalidArgument) as Linear does.
  LinearCuda(CublasLt& library, const LinearShape& shape, std::span<const float> weight,
             std::span<const float> bias, const LinearOptions& options);

  [[nodiscard]] const LinearShape& shape() const { return shape_; }

  /// Queues x [rows, in] of options.compute -> y [rows, out] of options.out, both contiguous on the
  /// device. The first call for a row count chooses its algorithm; Error(kUnsupported) if cuBLASLt
  /// has none.
  void run(const void* x, index_t rows, void* y) const;

 private:
  CublasLt* library_ = nullptr;
  LinearShape shape_;
  LinearOptions options_;
  DeviceBuffer weight_;  // [out, in] of options_.compute
  DeviceBuffer bias_;    // [out] of options_.out
};

}  // namespace psa::engine
