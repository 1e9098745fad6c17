// SPDX-License-Identifier: Apache-2.0
#include "support/stage_runner.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>

#include "semantics/pooling.hpp"

namespace psa::testing {
namespace {

template <typename T>
std::vector<T> contents(GuardedBuffer& buffer) {
  const T* first = buffer.as<T>();
  return {first, first + buffer.size() / sizeof(T)};
}

std::size_t bytes_for(index_t count, std::size_t element_bytes) {
  return static_cast<std::size_t>(count) * element_bytes;
}

}  // namespace

Pyramid::Pyramid(const core::Geometry& geometry) {
  const ProblemShape& s = geometry.shape;
  for (int code = 2; code < kNumLevelCodes; ++code) {
    if (!semantics::is_level_code(code, geometry.config.block_kv)) continue;
    const Shape shape{s.batch, s.heads_kv, core::pyramid_rows(geometry, code), s.head_dim};
    k_.at(static_cast<std::size_t>(code)).emplace(shape, s.dtype_kv);
    v_.at(static_cast<std::size_t>(code)).emplace(shape, s.dtype_kv);
  }
}

core::KvPyramid Pyramid::levels() {
  core::KvPyramid levels{};
  for (std::size_t code = 0; code < levels.size(); ++code) {
    if (!k_.at(code).has_value()) continue;
    levels.at(code) = {k_.at(code)->view().data, v_.at(code)->view().data, k_.at(code)->shape()[2]};
  }
  return levels;
}

bool Pyramid::is_intact() const {
  const auto intact = [](const std::optional<Tensor>& tensor) {
    return !tensor.has_value() || tensor->buffer().is_intact();
  };
  return std::all_of(k_.begin(), k_.end(), intact) && std::all_of(v_.begin(), v_.end(), intact);
}

StageRunner::StageRunner(const core::Backend& backend, const core::Geometry& geometry,
                         const RunOptions& options)
    : backend_(backend),
      geometry_(geometry),
      options_(options),
      executor_(backend.memory->is_host() ? options.threads : 1) {
  EXPECT_STREQ(backend.why_not(geometry, {backend.memory->type, 0}), nullptr);
}

template <typename Stage>
void StageRunner::run(const Stage& stage) const {
  const core::CurrentDevice current(*backend_.memory, 0);
  const auto workers = static_cast<std::size_t>(executor_.workers());
  const std::size_t piece = backend_.scratch_bytes(geometry_);
  EXPECT_EQ(piece % 64, 0U);
  GuardedBuffer scratch(workers * piece);
  DeviceCopies copies(*backend_.memory);
  std::byte* pieces = copies.out(scratch.data(), static_cast<index_t>(scratch.size()));
  stage(core::StageContext{geometry_, executor_, pieces, piece}, copies);
  copies.finish();
  EXPECT_TRUE(scratch.is_intact()) << "written outside the scratch memory";
}

core::KvPyramid StageRunner::on_device(DeviceCopies& copies, const core::KvPyramid& host,
                                       bool is_output) const {
  const ProblemShape& s = geometry_.shape;
  const auto copy_of = [&](void* data, index_t rows) -> void* {
    const index_t bytes =
        s.batch * s.heads_kv * rows * s.head_dim * static_cast<index_t>(size_of(s.dtype_kv));
    auto* first = static_cast<std::byte*>(data);
    return is_output ? copies.out(first, bytes) : const_cast<std::byte*>(copies.in(first, bytes));
  };
  core::KvPyramid device{};
  for (std::size_t code = 0; code < host.size(); ++code) {
    const core::PyramidLevel& level = host.at(code);
    device.at(code) = {copy_of(level.k, level.rows), copy_of(level.v, level.rows), level.rows};
  }
  return device;
}

std::vector<core::RowChunk> StageRunner::chunks() const {
  const index_t step = options_.chunk_q_blocks;
  if (step == 0) return {{0, geometry_.shape.batch, 0, geometry_.num_q_blocks}};
  std::vector<core::RowChunk> chunks;
  for (index_t b = 0; b < geometry_.shape.batch; ++b) {
    for (index_t i = 0; i < geometry_.num_q_blocks; i += step) {
      chunks.push_back({b, b + 1, i, std::min(i + step, geometry_.num_q_blocks)});
    }
  }
  return chunks;
}

index_t StageRunner::first_row(const core::RowChunk& chunk, index_t head) const {
  return (chunk.batch_begin * geometry_.shape.heads_q + head) * geometry_.num_q_blocks +
         chunk.q_block_begin;
}

ClusterResult StageRunner::cluster(const core::Inputs& inputs, bool with_queries) const {
  const ProblemShape& s = geometry_.shape;
  GuardedBuffer q_index(bytes_for(with_queries ? s.batch * s.heads_q * s.len_q : 0, 4));
  GuardedBuffer kv_index(bytes_for(s.batch * s.heads_kv * s.len_kv, 4));
  const std::size_t piece = backend_.cluster_bytes(geometry_);
  GuardedBuffer work(static_cast<std::size_t>(executor_.workers()) * piece);
  run([&](const core::StageContext& context, DeviceCopies& copies) {
    std::int32_t* q_order = with_queries ? q_index.as<std::int32_t>() : nullptr;
    backend_.cluster(context,
                     {copies.in(inputs, s), copies.out(q_order, s.batch * s.heads_q * s.len_q),
                      copies.out(kv_index.as<std::int32_t>(), s.batch * s.heads_kv * s.len_kv),
                      copies.out(work.data(), static_cast<index_t>(work.size()))});
  });
  EXPECT_TRUE(q_index.is_intact() && kv_index.is_intact() && work.is_intact());
  return {contents<std::int32_t>(q_index), contents<std::int32_t>(kv_index)};
}

Pyramid StageRunner::pyramid(const core::Inputs& inputs) const {
  Pyramid pyramid(geometry_);
  run([&](const core::StageContext& context, DeviceCopies& copies) {
    backend_.pyramid(context, {copies.in(inputs, geometry_.shape),
                               on_device(copies, pyramid.levels(), /*is_output=*/true)});
  });
  EXPECT_TRUE(pyramid.is_intact()) << "written outside the pyramid";
  return pyramid;
}

std::vector<std::uint8_t> StageRunner::similarity(const core::Inputs& inputs) const {
  const ProblemShape& s = geometry_.shape;
  GuardedBuffer caps(bytes_for(s.batch * s.heads_kv * geometry_.num_kv_blocks, 1));
  run([&](const core::StageContext& context, DeviceCopies& copies) {
    backend_.similarity(context,
                        {copies.in(inputs, s),
                         copies.out(caps.as<std::uint8_t>(), static_cast<index_t>(caps.size()))});
  });
  EXPECT_TRUE(caps.is_intact()) << "written outside the caps";
  return contents<std::uint8_t>(caps);
}

std::vector<float> StageRunner::value_weights(const core::Inputs& inputs) const {
  const ProblemShape& s = geometry_.shape;
  const index_t count = s.batch * s.heads_kv * geometry_.num_kv_blocks;
  GuardedBuffer weights(bytes_for(count, sizeof(float)));
  run([&](const core::StageContext& context, DeviceCopies& copies) {
    backend_.value_weights(context, {copies.in(inputs, s), copies.out(weights.as<float>(), count)});
  });
  EXPECT_TRUE(weights.is_intact()) << "written outside the weights";
  return contents<float>(weights);
}

std::vector<float> StageRunner::importance(const core::Inputs& inputs, Pyramid& pyramid,
                                           const std::vector<float>& scores) const {
  const ProblemShape& s = geometry_.shape;
  const index_t row_floats = geometry_.num_kv_blocks;
  std::vector<float> all(
      static_cast<std::size_t>(s.batch * s.heads_q * geometry_.num_q_blocks * row_floats));
  for (const core::RowChunk& chunk : chunks()) {
    const index_t heads = chunk.batches() * s.heads_q;
    const index_t chunk_floats = chunk.q_blocks() * row_floats;
    GuardedBuffer buffer(bytes_for(heads * chunk_floats, sizeof(float)));
    const auto offset_of = [&](index_t h) { return first_row(chunk, h) * row_floats; };
    for (index_t h = 0; !scores.empty() && h < heads; ++h) {
      std::copy_n(scores.begin() + offset_of(h), chunk_floats,
                  buffer.as<float>() + h * chunk_floats);
    }
    run([&](const core::StageContext& context, DeviceCopies& copies) {
      backend_.importance(
          context, {copies.in(inputs, s), on_device(copies, pyramid.levels(), /*is_output=*/false),
                    chunk, copies.out(buffer.as<float>(), heads * chunk_floats)});
    });
    EXPECT_TRUE(buffer.is_intact()) << "written outside the importance";
    for (index_t h = 0; h < heads; ++h) {
      std::copy_n(buffer.as<float>() + h * chunk_floats, chunk_floats, all.begin() + offset_of(h));
    }
  }
  return all;
}

std::vector<LevelCode> StageRunner::levels(const std::vector<std::int32_t>& kv_lengths,
                                           const std::vector<float>& importance,
                                           const std::vector<std::uint8_t>& caps,
                                           const std::vector<float>& weights) const {
  const ProblemShape& s = geometry_.shape;
  const index_t row_floats = geometry_.num_kv_blocks;
  core::Inputs inputs;  // only the key lengths
  inputs.k.shape[2] = s.len_kv;
  if (!kv_lengths.empty()) inputs.kv_lengths = kv_lengths.data();
  GuardedBuffer map(bytes_for(s.batch * s.heads_q * geometry_.num_q_blocks * row_floats, 1));
  const LevelMapView view{map.as<LevelCode>(), s.batch, s.heads_q, geometry_.num_q_blocks,
                          row_floats};
  for (const core::RowChunk& chunk : chunks()) {
    std::vector<float> rows;
    for (index_t h = 0; !importance.empty() && h < chunk.batches() * s.heads_q; ++h) {
      const auto first = importance.begin() + first_row(chunk, h) * row_floats;
      rows.insert(rows.end(), first, first + chunk.q_blocks() * row_floats);
    }
    run([&](const core::StageContext& context, DeviceCopies& copies) {
      LevelMapView device_view = view;
      device_view.data = copies.out(view.data, view.size());
      backend_.levels(
          context,
          {copies.in(inputs, s), chunk,
           copies.in(rows.empty() ? nullptr : rows.data(), static_cast<index_t>(rows.size())),
           copies.in(weights.empty() ? nullptr : weights.data(), std::ssize(weights)),
           copies.in(caps.empty() ? nullptr : caps.data(), static_cast<index_t>(caps.size())),
           device_view,
           copies.in(geometry_.head_budgets.empty() ? nullptr : geometry_.head_budgets.data(),
                     std::ssize(geometry_.head_budgets))});
    });
  }
  EXPECT_TRUE(map.is_intact()) << "written outside the level map";
  return contents<LevelCode>(map);
}

AttentionResult StageRunner::attention(const core::Inputs& inputs, Pyramid& pyramid,
                                       const std::vector<LevelCode>& levels) const {
  const ProblemShape& s = geometry_.shape;
  std::vector<LevelCode> map = levels;
  AttentionResult result{
      Tensor({s.batch, s.heads_q, s.len_q, s.head_dim}, s.dtype_out, options_.out_layout), {}};
  GuardedBuffer lse(bytes_for(s.batch * s.heads_q * s.len_q, sizeof(float)));
  GuardedBuffer work(backend_.attention_bytes(geometry_));
  const LevelMapView view{map.data(), s.batch, s.heads_q, geometry_.num_q_blocks,
                          geometry_.num_kv_blocks};
  run([&](const core::StageContext& context, DeviceCopies& copies) {
    LevelMapView device_view = view;
    device_view.data = const_cast<LevelCode*>(copies.in(view.data, view.size()));
    backend_.attention(
        context, {copies.in(inputs, s), on_device(copies, pyramid.levels(), /*is_output=*/false),
                  device_view, copies.out(result.out.view()),
                  copies.out(lse.as<float>(), s.batch * s.heads_q * s.len_q),
                  copies.out(work.data(), static_cast<index_t>(work.size()))});
  });
  EXPECT_TRUE(result.out.buffer().is_intact()) << "written outside out";
  EXPECT_TRUE(result.out.has_untouched_gaps()) << "written between the rows of out";
  EXPECT_TRUE(lse.is_intact()) << "written outside lse";
  EXPECT_TRUE(work.is_intact()) << "written outside the work memory";
  EXPECT_TRUE(pyramid.is_intact()) << "written outside the pyramid";
  EXPECT_EQ(map, levels) << "the level map was modified";
  result.lse = contents<float>(lse);
  return result;
}

}  // namespace psa::testing
