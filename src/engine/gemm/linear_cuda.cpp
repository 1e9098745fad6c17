// SPDX-License-Identifier: Apache-2.0

// cuBLASLt counts columns first: our row-major weight [out, in] is its (in, out) matrix, read
// transposed, and rows [rows, in] are its (in, rows), so that y^T = W x^T needs no copy.

#include "engine/gemm/linear_cuda.hpp"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "psa/error.hpp"
#include "psa/half.hpp"

namespace psa::engine {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what Hopper's kernels ask for

/// The functions that are used, out of a library that is opened at run time.
struct Library {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetStatusString) status_text = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) find_algorithm = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
};

void* open_library() {
  std::string tried;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
    if (void* const library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    tried += (tried.empty() ? "" : ", ") + std::string(name);
  }
  const char* const reason = dlerror();
  throw Error(Status::kUnsupported, "models on CUDA need NVIDIA's cuBLASLt; none of " + tried +
                                        " can be loaded (put its folder into LD_LIBRARY_PATH): " +
                                        (reason == nullptr ? "no reason given" : reason));
}

template <typename Function>
void find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (function == nullptr) {
    throw Error(Status::kUnsupported, "the cuBLASLt of this machine has no " + std::string(name));
  }
}

Library load_library() {
  void* const opened = open_library();  // stays open: kernels of it may be running at exit
  Library library;
  find(opened, "cublasLtCreate", library.create);
  find(opened, "cublasLtDestroy", library.destroy);
  find(opened, "cublasLtGetStatusString", library.status_text);
  find(opened, "cublasLtMatmul", library.matmul);
  find(opened, "cublasLtMatmulAlgoGetHeuristic", library.find_algorithm);
  find(opened, "cublasLtMatmulDescCreate", library.desc_create);
  find(opened, "cublasLtMatmulDescDestroy", library.desc_destroy);
  find(opened, "cublasLtMatmulDescSetAttribute", library.desc_set);
  find(opened, "cublasLtMatrixLayoutCreate", library.layout_create);
  find(opened, "cublasLtMatrixLayoutDestroy", library.layout_destroy);
  find(opened, "cublasLtMatmulPreferenceCreate", library.preference_create);
  find(opened, "cublasLtMatmulPreferenceDestroy", library.preference_destroy);
  find(opened, "cublasLtMatmulPreferenceSetAttribute", library.preference_set);
  return library;
}

const Library& lib() {
  static const Library library = load_library();
  return library;
}

struct Destroy {
  void operator()(cublasLtHandle_t handle) const noexcept { lib().destroy(handle); }
  void operator()(cublasLtMatmulDesc_t desc) const noexcept { lib().desc_destroy(desc); }
  void operator()(cublasLtMatrixLayout_t layout) const noexcept { lib().layout_destroy(layout); }
  void operator()(cublasLtMatmulPreference_t preference) const noexcept {
    lib().preference_destroy(preference);
  }
};
template <typename Handle>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy>;

/// One algorithm serves all products of a kind.
struct Kind {
  index_t in = 0, out = 0, rows = 0;
  DType compute = DType::kF32, result = DType::kF32;
  Activation activation = Activation::kNone;
  auto operator<=>(const Kind&) const = default;
};

std::string text_of(const Kind& kind) {
  return "a product of " + std::to_string(kind.rows) + " rows, " + std::to_string(kind.in) +
         " to " + std::to_string(kind.out) + " channels, " +
         (kind.compute == DType::kBF16 ? "bf16" : "f32");
}

void check(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(status == CUBLAS_STATUS_NOT_SUPPORTED ? Status::kUnsupported : Status::kInternal,
              what + ": cuBLASLt says " + lib().status_text(status));
}

cudaDataType_t to_cuda(DType dtype) { return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F; }

template <typename Value>
void set(const Owned<cublasLtMatmulDesc_t>& desc, cublasLtMatmulDescAttributes_t attribute,
         const Value& value) {
  check(lib().desc_set(desc.get(), attribute, &value, sizeof(value)), "setting up a product");
}

Owned<cublasLtMatrixLayout_t> make_layout(DType dtype, index_t rows, index_t columns) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(lib().layout_create(&layout, to_cuda(dtype), static_cast<std::uint64_t>(rows),
                            static_cast<std::uint64_t>(columns), rows),
        "setting up a matrix");
  return Owned<cublasLtMatrixLayout_t>(layout);
}

struct Product {
  Owned<cublasLtMatmulDesc_t> desc;
  Owned<cublasLtMatrixLayout_t> weight, x, y;
  cublasLtMatmulAlgo_t algorithm{};
};

Owned<cublasLtMatmulDesc_t> make_desc(const Kind& kind) {
  cublasLtMatmulDesc_t made = nullptr;
  check(lib().desc_create(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "setting up a product");
  Owned<cublasLtMatmulDesc_t> desc(made);
  set(desc, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  // GELU is the one by tanh there.
  set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
      kind.activation == Activation::kGeluTanh ? CUBLASLT_EPILOGUE_GELU_BIAS
                                               : CUBLASLT_EPILOGUE_BIAS);
  return desc;
}

/// `bias` is that of one of the layers; it only has the alignment of the others.
Product make_product(cublasLtHandle_t handle, const Kind& kind, const void* bias) {
  Product product{make_desc(kind), make_layout(kind.compute, kind.in, kind.out),
                  make_layout(kind.compute, kind.in, kind.rows),
                  make_layout(kind.result, kind.out, kind.rows)};
  set(product.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  cublasLtMatmulPreference_t made = nullptr;
  check(lib().preference_create(&made), "setting up a product");
  const Owned<cublasLtMatmulPreference_t> preference(made);
  check(lib().preference_set(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                             sizeof(kWorkspaceBytes)),
        "setting up a product");
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  check(lib().find_algorithm(handle, product.desc.get(), product.weight.get(), product.x.get(),
                             product.y.get(), product.y.get(), made, 1, &found, &count),
        text_of(kind));
  if (count == 0) throw Error(Status::kUnsupported, "cuBLASLt has no way for " + text_of(kind));
  product.algorithm = found.algo;
  return product;
}

DeviceBuffer upload(const DeviceStream& stream, std::span<const float> values, DType dtype) {
  if (dtype == DType::kF32) return stream.upload(values);
  std::vector<std::uint16_t> rounded(values.size());
  std::transform(values.begin(), values.end(), rounded.begin(), bf16_from_float);
  return stream.upload(std::span<const std::uint16_t>(rounded));
}

}  // namespace

struct CublasLt::Impl {
  const DeviceStream* stream;
  Owned<cublasLtHandle_t> handle;
  DeviceBuffer workspace;
  std::map<Kind, Product> products;
};

CublasLt::CublasLt(const DeviceStream& stream) {
  cublasLtHandle_t handle = nullptr;
  check(lib().create(&handle), "starting cuBLASLt");
  impl_ = std::make_unique<Impl>(
      Impl{&stream, Owned<cublasLtHandle_t>(handle), DeviceBuffer(kWorkspaceBytes), {}});
}

CublasLt::~CublasLt() = default;

LinearCuda::LinearCuda(CublasLt& library, const LinearShape& shape, std::span<const float> weight,
                       std::span<const float> bias, const LinearOptions& options)
    : library_(&library),
      shape_(shape),
      options_(options),
      weight_(upload(*library.impl_->stream, weight, options.compute)),
      bias_(upload(*library.impl_->stream, bias, options.out)) {
  if (!std::cmp_equal(weight.size(), shape.in * shape.out) ||
      !std::cmp_equal(bias.size(), shape.out)) {
    throw Error(Status::kInvalidArgument,
                "weight has " + std::to_string(weight.size()) + " values, bias " +
                    std::to_string(bias.size()) + "; the layer has " + std::to_string(shape.in) +
                    " inputs and " + std::to_string(shape.out) + " outputs");
  }
}

void LinearCuda::run(const void* x, index_t rows, void* y) const {
  CublasLt::Impl& library = *library_->impl_;
  const Kind kind{shape_.in, shape_.out, rows, options_.compute, options_.out, options_.activation};
  const void* const bias = bias_.as<void>();
  auto found = library.products.find(kind);
  if (found == library.products.end()) {
    found = library.products.emplace(kind, make_product(library.handle.get(), kind, bias)).first;
  }
  const Product& product = found->second;
  set(product.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  constexpr float kOne = 1;
  constexpr float kZero = 0;
  check(lib().matmul(library.handle.get(), product.desc.get(), &kOne, weight_.as<void>(),
                     product.weight.get(), x, product.x.get(), &kZero, y, product.y.get(), y,
                     product.y.get(), &product.algorithm, library.workspace.as<void>(),
                     kWorkspaceBytes, static_cast<cudaStream_t>(library.stream->handle().handle)),
        text_of(kind));
}

}  // namespace psa::engine
