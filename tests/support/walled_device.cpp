// SPDX-License-Identifier: Apache-2.0
#include "support/walled_device.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/io_checks.hpp"
#include "reference/backend.hpp"

namespace psa::testing {
namespace {

constexpr std::size_t kPage = 4096;

thread_local std::int32_t current_device = 0;

struct WalledDevice {
  std::mutex mutex;
  std::map<void*, std::size_t> blocks;
  std::deque<std::function<void()>> queue;
  WalledCounts counts;
};

WalledDevice& device() {
  static WalledDevice walled;
  return walled;
}

void protect(const WalledDevice& walled, int access) {
  for (const auto& [block, bytes] : walled.blocks) {
    if (mprotect(block, bytes, access) != 0) throw std::bad_alloc();
  }
}

void enqueue(std::function<void()> work) {
  const std::lock_guard lock(device().mutex);
  device().queue.push_back(std::move(work));
}

void enqueue_stage(std::function<void()> work) {
  enqueue(std::move(work));
  const std::lock_guard lock(device().mutex);
  device().counts.last_stage_on = current_device;
}

std::int32_t set_current(std::int32_t index) { return std::exchange(current_device, index); }

void* allocate(std::size_t bytes) {
  WalledDevice& walled = device();
  const std::lock_guard lock(walled.mutex);
  const std::size_t whole = (bytes / kPage + 1) * kPage;
  void* block = mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw std::bad_alloc();
  walled.blocks.emplace(block, whole);
  ++walled.counts.allocations;
  return block;
}

void synchronize(Stream /*stream*/) {
  WalledDevice& walled = device();
  const std::lock_guard lock(walled.mutex);
  ++walled.counts.waits;
  protect(walled, PROT_READ | PROT_WRITE);
  while (!walled.queue.empty()) {
    const std::function<void()> work = std::move(walled.queue.front());
    walled.queue.pop_front();
    work();
  }
  protect(walled, PROT_NONE);
}

void release(void* block) {
  if (block == nullptr) return;
  synchronize(Stream{});  // as cudaFree does
  WalledDevice& walled = device();
  const std::lock_guard lock(walled.mutex);
  const auto found = walled.blocks.find(block);
  munmap(block, found->second);
  walled.blocks.erase(found);
}

void copy(const core::RowCopy& rows, Stream stream) {
  enqueue([=] { core::kHostMemory.copy(rows, stream); });
}

void fill(void* to, std::uint8_t byte, std::size_t bytes, Stream stream) {
  enqueue([=] { core::kHostMemory.fill(to, byte, bytes, stream); });
}

using Clock = std::chrono::steady_clock;
using Mark = std::shared_ptr<Clock::time_point>;  // may be forgotten before the queue reaches it

void* mark(Stream /*stream*/) {
  auto time = std::make_shared<Clock::time_point>();
  enqueue([time] { *time = Clock::now(); });
  return new Mark(std::move(time));
}

double milliseconds(void* from, void* to) {
  synchronize(Stream{});
  const Clock::duration passed = **static_cast<Mark*>(to) - **static_cast<Mark*>(from);
  return std::chrono::duration<double, std::milli>(passed).count();
}

void forget(void* mark) { delete static_cast<Mark*>(mark); }

constexpr core::DeviceMemory kMemory{.type = DeviceType::kCuda,
                                     .alignment = 256,
                                     .set_current = set_current,
                                     .allocate = allocate,
                                     .release = release,
                                     .copy = copy,
                                     .fill = fill,
                                     .synchronize = synchronize,
                                     .mark = mark,
                                     .milliseconds = milliseconds,
                                     .forget = forget};

// ---- stages: the reference's, later ------------------------------------------------------------

/// What every device backend does with lengths that nobody could check.
class ClampedLengths {
 public:
  ClampedLengths(const core::Geometry& g, core::Inputs* inputs) {
    if (inputs->kv_lengths == nullptr) return;
    lengths_.assign(inputs->kv_lengths, inputs->kv_lengths + g.shape.batch);
    core::clamp_kv_lengths(g, lengths_);
    inputs->kv_lengths = lengths_.data();
  }

 private:
  std::vector<std::int32_t> lengths_;
};

/// A real device would fault on a host pointer, this one would read it.
void expect_walled(const void* data, const char* name) {
  if (data == nullptr) return;
  WalledDevice& walled = device();
  const std::lock_guard lock(walled.mutex);
  const auto behind = walled.blocks.upper_bound(const_cast<void*>(data));
  const bool is_inside =
      behind != walled.blocks.begin() &&
      static_cast<const std::byte*>(data) <
          static_cast<const std::byte*>(std::prev(behind)->first) + std::prev(behind)->second;
  EXPECT_TRUE(is_inside) << name << " is not in the memory of the device";
}

void expect_walled(const core::Inputs& inputs) {
  expect_walled(inputs.q.data, "q");
  expect_walled(inputs.k.data, "k");
  expect_walled(inputs.v.data, "v");
  expect_walled(inputs.q_order.index, "q_order");
  expect_walled(inputs.kv_order.index, "kv_order");
  expect_walled(inputs.kv_lengths, "kv_lengths");
}

template <auto kStage, typename Params>
void run_later(const core::StageContext& context, const Params& params) {
  expect_walled(params.inputs);
  expect_walled(context.scratch, "scratch");
  if constexpr (std::is_same_v<Params, core::LevelsParams>) {
    expect_walled(params.head_budgets, "head_budgets");
  }
  enqueue_stage([context, params] {
    Params readable = params;
    const ClampedLengths lengths(context.geometry, &readable.inputs);
    (reference::backend().*kStage)(context, readable);
  });
}

/// The same with codes.
void attention(const core::StageContext& context, const core::AttentionParams& params) {
  expect_walled(params.inputs);
  expect_walled(params.levels.data, "levels");
  enqueue_stage([context, params] {
    core::AttentionParams readable = params;
    const ClampedLengths lengths(context.geometry, &readable.inputs);
    std::vector<LevelCode> known(params.levels.data, params.levels.data + params.levels.size());
    std::replace_if(
        known.begin(), known.end(),
        [&](LevelCode code) {
          return code >= kNumLevelCodes || (code > 1 && params.pyramid.at(code).v == nullptr);
        },
        kSkip);
    readable.levels.data = known.data();
    reference::backend().attention(context, readable);
  });
}

const char* why_not(const core::Geometry& /*geometry*/, Device device) {
  return device.index < 0 || device.index > 1 ? "there are devices 0 and 1" : nullptr;
}

std::size_t no_bytes(const core::Geometry& /*geometry*/) { return 0; }

}  // namespace

const core::Backend& walled_backend() {
  using core::Backend;
  static constexpr Backend kBackend{
      .name = "walled",
      .isa = "",
      .memory = &kMemory,
      .why_not = why_not,
      .chunk_bytes = 64,  // a chunk for each query block of most tests
      .scratch_bytes = no_bytes,
      .cluster_bytes = no_bytes,
      .attention_bytes = no_bytes,
      .cluster = run_later<&Backend::cluster, core::ClusterParams>,
      .pyramid = run_later<&Backend::pyramid, core::PyramidParams>,
      .similarity = run_later<&Backend::similarity, core::SimilarityParams>,
      .value_weights = run_later<&Backend::value_weights, core::ValueWeightsParams>,
      .importance = run_later<&Backend::importance, core::ImportanceParams>,
      .levels = run_later<&Backend::levels, core::LevelsParams>,
      .attention = attention,
  };
  return kBackend;
}

WalledCounts walled_counts() {
  WalledDevice& walled = device();
  const std::lock_guard lock(walled.mutex);
  WalledCounts counts = walled.counts;
  counts.live_blocks = static_cast<int>(walled.blocks.size());
  counts.current = current_device;
  return counts;
}

}  // namespace psa::testing
