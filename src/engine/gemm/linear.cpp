// SPDX-License-Identifier: Apache-2.0

// oneDNN is called from the engine's own threads, each with some rows of its own, and never starts
// a thread itself: one thread for one tile of rows keeps what follows a product in that core's
// cache, and measured no slower than oneDNN's own split of the whole matrix (Zen 4, 2 cores).

#include "engine/gemm/linear.hpp"

#include <algorithm>
#include <cstddef>
#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "psa/error.hpp"

#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
// Of the OpenMP run time that oneDNN was built with; omp.h belongs to a compiler, which may not be
// ours.
extern "C" {
int omp_get_max_threads();
void omp_set_num_threads(int threads);
}
#endif

namespace psa::engine {
namespace {

using dnnl::memory;

/// While it lives, oneDNN calls of this thread use this thread only.
class OneThread {
 public:
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
  OneThread() : before_(omp_get_max_threads()) {
    if (before_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (before_ != 1) omp_set_num_threads(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
#else
  OneThread() {}
#endif
};

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

/// The stream and the scratch memory of one thread.
struct ThreadState {
  dnnl::stream stream{cpu()};
  std::vector<std::byte> scratch;
};

ThreadState& this_thread() {
  thread_local ThreadState state;
  return state;
}

memory::data_type to_dnnl(DType dtype) {
  return dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
}

std::string shape_text(const LinearShape& shape) {
  return "a layer of " + std::to_string(shape.in) + " to " + std::to_string(shape.out) +
         " channels";
}

void check_arguments(const LinearShape& shape, std::span<const float> weight,
                     std::span<const float> bias, const LinearOptions& options) {
  const std::string layer = shape_text(shape);
  if (shape.in < 1 || shape.out < 1 || shape.in > INT32_MAX || shape.out > INT32_MAX) {
    throw Error(Status::kInvalidArgument, layer + ": both must be 1 to 2^31-1");
  }
  if (std::ssize(weight) != shape.in * shape.out) {
    throw Error(Status::kInvalidArgument, layer + " needs " + std::to_string(shape.in * shape.out) +
                                              " weights; given are " +
                                              std::to_string(weight.size()));
  }
  if (std::ssize(bias) != shape.out) {
    throw Error(Status::kInvalidArgument, layer + " needs " + std::to_string(shape.out) +
                                              " bias values; given are " +
                                              std::to_string(bias.size()));
  }
  if (options.compute == DType::kF16 ||
      (options.out != DType::kF32 && options.out != options.compute)) {
    throw Error(Status::kInvalidArgument,
                layer + ": computed are f32 and bf16, with results of f32 or of the same type");
  }
}

}  // namespace

bool has_bf16_products() {
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto bf16 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (isa & bf16) == bf16;
}

struct Linear::Impl {
  /// What runs one number of rows.
  struct Product {
    dnnl::matmul primitive;
    memory::desc x;
    memory::desc y;
    memory::desc scratch;
  };

  LinearShape shape;
  LinearOptions options;
  memory weight;  // in oneDNN's order
  memory bias;    // [1, out]
  mutable std::shared_mutex mutex;
  mutable std::map<index_t, Product> products;  // by rows; entries are never removed

  [[nodiscard]] dnnl::matmul::primitive_desc describe(index_t rows,
                                                      const memory::desc& weight_desc) const {
    const memory::data_type compute = to_dnnl(options.compute);
    const memory::desc x({rows, shape.in}, compute, memory::format_tag::ab);
    const memory::desc b({1, shape.out}, memory::data_type::f32, memory::format_tag::ab);
    const memory::desc y({rows, shape.out}, to_dnnl(options.out), memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::post_ops after;
#if DNNL_VERSION_MAJOR < 3
    if (options.activation == Activation::kGeluTanh) {
      after.append_eltwise(1.0F, dnnl::algorithm::eltwise_gelu_tanh, 0.0F, 0.0F);
    }
    attributes.set_post_ops(after);
    return {dnnl::matmul::desc(x, weight_desc, b, y), attributes, cpu()};
#else
    if (options.activation == Activation::kGeluTanh) {
      after.append_eltwise(dnnl::algorithm::eltwise_gelu_tanh, 0.0F, 0.0F);
    }
    attributes.set_post_ops(after);
    return {cpu(), x, weight_desc, b, y, attributes};
#endif
  }

  void pack(std::span<const float> weights, std::span<const float> biases) {
    // The order that oneDNN prefers does not depend on the number of rows.
    constexpr index_t kTypicalRows = 128;
    const memory::dims dims{shape.in, shape.out};
    const memory::desc any(dims, to_dnnl(options.compute), memory::format_tag::any);
    weight = memory(describe(kTypicalRows, any).weights_desc(), cpu());
    // [out, in] row-major is oneDNN's (in, out) in order "ba". The reorder only reads it.
    memory given({dims, memory::data_type::f32, memory::format_tag::ba}, cpu(),
                 const_cast<float*>(weights.data()));
    dnnl::stream& stream = this_thread().stream;
    dnnl::reorder(given, weight).execute(stream, given, weight);
    stream.wait();
    bias = memory({{1, shape.out}, memory::data_type::f32, memory::format_tag::ab}, cpu());
    std::copy(biases.begin(), biases.end(), static_cast<float*>(bias.get_data_handle()));
  }

  const Product& product(index_t rows) const {
    {
      const std::shared_lock lock(mutex);
      const auto found = products.find(rows);
      if (found != products.end()) return found->second;
    }
    const dnnl::matmul::primitive_desc description = describe(rows, weight.get_desc());
    Product made{dnnl::matmul(description), description.src_desc(), description.dst_desc(),
                 description.scratchpad_desc()};
    const std::unique_lock lock(mutex);
    return products.try_emplace(rows, std::move(made)).first->second;
  }
};

Linear::Linear(const LinearShape& shape, std::span<const float> weight, std::span<const float> bias,
               const LinearOptions& options)
    : impl_(std::make_unique<Impl>()) {
  check_arguments(shape, weight, bias, options);
  impl_->shape = shape;
  impl_->options = options;
  const OneThread one_thread;
  try {
    impl_->pack(weight, bias);
  } catch (const dnnl::error& error) {
    const std::string layer = shape_text(shape);
    throw Error(Status::kUnsupported,
                options.compute == DType::kBF16
                    ? "oneDNN cannot compute " + layer +
                          " in bf16, which needs a processor with AVX-512; use f32 (" +
                          error.what() + ")"
                    : "oneDNN cannot compute " + layer + " in f32: " + error.what());
  }
}

Linear::Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;
Linear::~Linear() = default;

const LinearShape& Linear::shape() const { return impl_->shape; }
const LinearOptions& Linear::options() const { return impl_->options; }

void Linear::run(const void* x, index_t rows, void* y) const {
  if (rows <= 0) return;
  const OneThread one_thread;
  try {
    const Impl::Product& product = impl_->product(rows);
    ThreadState& thread = this_thread();
    thread.scratch.resize(std::max(thread.scratch.size(), product.scratch.get_size()));
    const std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, memory(product.x, cpu(), const_cast<void*>(x))},
        {DNNL_ARG_WEIGHTS, impl_->weight},
        {DNNL_ARG_BIAS, impl_->bias},
        {DNNL_ARG_DST, memory(product.y, cpu(), y)},
        {DNNL_ARG_SCRATCHPAD, memory(product.scratch, cpu(), thread.scratch.data())}};
    product.primitive.execute(thread.stream, arguments);
    thread.stream.wait();
  } catch (const dnnl::error& error) {
    throw Error(Status::kInternal,
                "oneDNN failed in " + shape_text(impl_->shape) + ": " + error.what());
  }
}

}  // namespace psa::engine
