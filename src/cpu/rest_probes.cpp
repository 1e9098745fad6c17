// SPDX-License-Identifier: Apache-2.0
#include "cpu/rest_probes.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

namespace psa::cpu {
namespace {

using semantics::Range;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kLog2E = std::numbers::log2e_v<float>;

/// A pack of probe rows and what they meet. Row r is query 2 r, which meets all keys, and query
/// 2 r + 1, which meets those outside the rest set.
struct Pack {
  const Isa& isa;
  const core::Geometry& g;
  const core::AttentionParams& params;
  const RestProbeScratch& scratch;
  const MapScratch& map_scratch;
  index_t b;
  index_t h;
  index_t kv_length;
  int rows = 0;
  std::array<index_t, kProbePack> position{};  // of the working order, rising

  [[nodiscard]] int dim() const { return static_cast<int>(g.shape.head_dim); }
  [[nodiscard]] PackShape shape() const { return {2 * rows, dim()}; }
  [[nodiscard]] index_t head_kv() const { return h / g.heads_per_kv(); }
  [[nodiscard]] index_t position_of(int r) const {
    return position.at(static_cast<std::size_t>(r));
  }
  [[nodiscard]] index_t key_position(int r) const {
    return semantics::causal_position(position_of(r), g.shape.len_q, kv_length);
  }
  [[nodiscard]] index_t q_block(int r) const { return position_of(r) / g.config.block_q; }
  [[nodiscard]] const float* query(int r) const { return scratch.query_rows + 2 * r * dim(); }
  [[nodiscard]] float* logits(int r) const { return scratch.logits + r * g.num_kv_blocks; }
  [[nodiscard]] bool is_rest(int r, index_t kv_block) const { return logits(r)[kv_block] != -kInf; }
  [[nodiscard]] bool is_unread(int r, index_t kv_block) const {
    const LevelCode code = params.levels.row(b, h, q_block(r))[kv_block];
    return semantics::is_unread(code, is_rest(r, kv_block));
  }
};

/// Which rows of q the probes are.
InputRows list_rows(Pack& pack, index_t first) {
  const core::Inputs& in = pack.params.inputs;
  const index_t len_q = pack.g.shape.len_q;
  pack.rows =
      static_cast<int>(std::min<index_t>(kProbePack, semantics::probe_count(len_q) - first));
  const std::int32_t* order = in.q_order.of(pack.b, pack.h);
  for (int r = 0; r < pack.rows; ++r) {
    const index_t position = semantics::probe_row(first + r, len_q);
    pack.position.at(static_cast<std::size_t>(r)) = position;
    std::fill_n(pack.scratch.row + 2 * r, 2,
                order == nullptr ? static_cast<std::int32_t>(position) : order[position]);
  }
  InputRows rows = head_rows(in.q, {}, pack.b, pack.h, 0);
  rows.index = pack.scratch.row;
  return rows;
}

/// Biases of the block means that a row reads, in its logits. Returns whether there is any.
bool list_means(const Pack& pack, int r, const float* bias_log2) {
  const core::Geometry& g = pack.g;
  const LevelCode* codes = pack.params.levels.row(pack.b, pack.h, pack.q_block(r));
  const Range queries = semantics::block_range(pack.q_block(r), g.config.block_q, g.shape.len_q);
  bool any = false;
  for (index_t j = 0; j < g.num_kv_blocks; ++j) {
    float& logit = pack.logits(r)[j];
    logit = -kInf;
    if (!is_rest_block(g, codes, queries, j, pack.kv_length)) continue;
    const Range keys = semantics::block_range(j, g.config.block_kv, pack.kv_length);
    logit = std::log2(static_cast<float>(keys.size())) + bias_log2[j];
    any = true;
  }
  return any;
}

/// What the rows make of their rest sets: biases, maps and first-order terms. Returns whether any
/// row has one. `maps` are those of the pack.
bool read_rest(const Pack& pack, const BlockMoments& moments, float* maps) {
  const auto map_floats = static_cast<int>(output_floats(pack.dim(), pack.dim()));
  bool any = false;
  for (int first = 0; first < pack.rows; first += static_cast<int>(kMapRun)) {
    QueryBlocks blocks{pack.b, pack.h, {}, 0};
    const int end = std::min(first + static_cast<int>(kMapRun), pack.rows);
    for (int r = first; r < end; ++r) {
      blocks.tasks.at(blocks.count++) = {pack.q_block(r), maps + r * map_floats};
    }
    make_maps(pack.isa, pack.g, pack.params, blocks, moments, pack.map_scratch);
    for (int r = first; r < end; ++r) {
      const auto place = static_cast<std::size_t>(r - first);
      any |= list_means(pack, r, pack.map_scratch.bias_log2.at(place));
      multiply_map(pack.isa, pack.dim(), pack.query(r), blocks.tasks.at(place).map,
                   pack.scratch.terms + r * pack.dim());
    }
  }
  return any;
}

/// Hides keys of a tile from the first rows of a causal pack.
void hide_keys(const Pack& pack, Range keys, TileStep& step) {
  int row = 0;  // the first that sees the key; the last one sees all of the tile
  for (index_t key = keys.begin; key < keys.end; ++key) {
    while (!semantics::is_visible(true, key, pack.key_position(row))) ++row;
    pack.scratch.first_query[key - keys.begin] = 2 * row;
  }
  step.rule.first_query = row > 0 ? pack.scratch.first_query : nullptr;
}

/// Makes the scores of a tile -inf where a query leaves out what its row does not read.
void mask_unread(const Pack& pack, Range keys) {
  const index_t block_kv = pack.g.config.block_kv;
  const int width = padded_queries(2 * pack.rows);
  float* scores = pack.scratch.scores;
  for (index_t begin = keys.begin; begin < keys.end; begin += block_kv) {
    std::array<float, kGroupQueries> mask{};
    for (int r = 0; r < pack.rows; ++r) {
      if (pack.is_unread(r, begin / block_kv)) mask[2 * static_cast<std::size_t>(r) + 1] = -kInf;
    }
    const index_t end = std::min(begin + block_kv, keys.end);
    for (index_t key = begin; key < end; ++key, scores += width) {
      pack.isa.rows->add(mask.data(), width, scores);
    }
  }
}

/// out and lse of all queries of a pack.
void attend_exactly(const Pack& pack, const InputRows& queries) {
  const core::Inputs& in = pack.params.inputs;
  const RestProbeScratch& s = pack.scratch;
  const TileKernels& kernels = pack.isa.tiles(pack.g.shape.dtype_q, pack.g.shape.dtype_kv);
  const PackShape shape = pack.shape();
  kernels.pack_queries(shape, queries, s.queries);
  reset_output(shape, s.output, s.state);
  TileStep step;
  step.shape = shape;
  step.rule.scale_log2 = pack.g.scale * kLog2E;
  step.queries = s.queries;
  step.key_tile = s.keys;
  step.value_tile = s.values;
  step.scores = s.scores;
  step.output = s.output;
  step.state = s.state;
  const bool causal = pack.g.config.causal;
  const index_t end = causal ? pack.key_position(pack.rows - 1) + 1 : pack.kv_length;
  for (index_t begin = 0; begin < end; begin += kMaxTileKeys) {
    const Range keys{begin, std::min<index_t>(begin + kMaxTileKeys, end)};
    step.keys = static_cast<int>(keys.size());
    TileSlot slot{s.keys, shape.head_dim, 0, step.keys};
    kernels.load_keys(head_rows(in.k, in.kv_order, pack.b, pack.head_kv(), begin), slot);
    slot.tile = s.values;
    step.values_finite =
        kernels.load_values(head_rows(in.v, in.kv_order, pack.b, pack.head_kv(), begin), slot);
    if (causal) hide_keys(pack, keys, step);
    kernels.scores(step, /*accumulate=*/false);
    mask_unread(pack, keys);
    kernels.softmax(step);
    kernels.accumulate(step);
  }
  kernels.store_output(shape, s.output, s.state,
                       {.data = s.out, .stride = shape.head_dim, .lse = s.lse});
}

/// Calls visit(r, j, row) for each block mean of each rest set; `means` are the keys or values.
template <typename Visit>
void for_means(const Pack& pack, const void* means, const Visit& visit) {
  const index_t blocks = semantics::ceil_div(pack.kv_length, pack.g.config.block_kv);
  const index_t rows = pack.params.pyramid[kBlockMean].rows;
  InputRows from = pooled_head_rows(pack.g, rows, means, pack.b, pack.head_kv());
  float* loaded = pack.map_scratch.rows;
  for (; from.first < blocks; from.first += pack.g.config.block_q) {
    const index_t count = std::min<index_t>(pack.g.config.block_q, blocks - from.first);
    pack.isa.rows->load_floats(from, static_cast<int>(count), pack.dim(), loaded);
    for (int r = 0; r < pack.rows; ++r) {
      for (index_t j = 0; j < count; ++j) {
        if (pack.is_rest(r, from.first + j)) visit(r, from.first + j, loaded + j * pack.dim());
      }
    }
  }
}

/// Sums over the channels of row r, whose masses are there.
void sum_channels(const Pack& pack, int r, ProbeSums& sums) {
  const int dim = pack.dim();
  const float* out = pack.scratch.out + 2 * r * dim;  // over all keys, then without the rest set
  for (int c = 0; c < dim; ++c) {
    const float y = sums.read_mass * (out[c] - out[dim + c]);
    const float x1 = pack.scratch.mean_values[r * dim + c] - out[c] * sums.rest_mass;
    const float x2 = sums.rest_mass * pack.scratch.terms[r * dim + c];
    sums.add_channel(out[c], y, x1, x2);
  }
}

/// The sums of all rows, once attend_exactly has met the keys.
void sum_rows(const Pack& pack, ProbeSums* sums) {
  const RestProbeScratch& s = pack.scratch;
  const core::PyramidLevel& means = pack.params.pyramid[kBlockMean];
  const int dim = pack.dim();
  for_means(pack, means.k, [&](int r, index_t j, const float* key) {
    pack.logits(r)[j] += pack.g.scale * kLog2E * pack.isa.rows->dot(pack.query(r), key, dim);
  });
  std::array<float, kProbePack> reference{};
  for (int r = 0; r < pack.rows; ++r) {
    const float* logits = pack.logits(r);
    const float largest = *std::max_element(logits, logits + pack.g.num_kv_blocks);
    reference.at(static_cast<std::size_t>(r)) = std::max(largest, s.lse[2 * r] * kLog2E);
    sums[r] = {};
    sums[r].read_mass =
        std::exp2(s.lse[2 * r + 1] * kLog2E - reference.at(static_cast<std::size_t>(r)));
  }
  std::fill_n(s.mean_values, pack.rows * dim, 0.0F);
  for_means(pack, means.v, [&](int r, index_t j, const float* value) {
    const float mass = std::exp2(pack.logits(r)[j] - reference.at(static_cast<std::size_t>(r)));
    sums[r].rest_mass += mass;
    pack.isa.rows->add_scaled(value, mass, dim, s.mean_values + r * dim);
  });
  for (int r = 0; r < pack.rows; ++r) sum_channels(pack, r, sums[r]);
}

}  // namespace

RestProbes carve_rest_probes(Ledger& ledger, const core::Geometry& g) {
  const auto heads = static_cast<std::size_t>(g.shape.batch * g.shape.heads_q);
  const auto probes = static_cast<std::size_t>(semantics::probe_count(g.shape.len_q));
  const auto dim = static_cast<int>(g.shape.head_dim);
  RestProbes p;
  p.sums = ledger.take<ProbeSums>(heads * probes);
  p.factors = ledger.take<RestFactors>(heads * (probes + 1));
  p.maps = ledger.take<float>(heads * probes * output_floats(dim, dim));
  p.probe_of_block = ledger.take<std::int32_t>(static_cast<std::size_t>(g.num_q_blocks));
  return p;
}

void find_probes(const core::Geometry& g, const RestProbes& probes) {
  std::fill_n(probes.probe_of_block, g.num_q_blocks, -1);
  for (index_t p = 0; p < semantics::probe_count(g.shape.len_q); ++p) {
    const index_t q_block = semantics::probe_row(p, g.shape.len_q) / g.config.block_q;
    probes.probe_of_block[q_block] = static_cast<std::int32_t>(p);
  }
}

RestProbeScratch carve_rest_probe_scratch(Ledger& ledger, const core::Geometry& g,
                                          Compute compute) {
  constexpr int kQueries = 2 * kProbePack;
  const int dim = static_cast<int>(g.shape.head_dim);
  const std::size_t row_floats = output_floats(kProbePack, dim);
  RestProbeScratch s{};
  s.queries = ledger.take<std::byte>(query_pack_bytes(compute, kQueries, dim));
  s.keys = ledger.take<std::byte>(tile_bytes(compute, dim));
  s.values = ledger.take<std::byte>(tile_bytes(compute, dim));
  s.scores = ledger.take<float>(score_floats(kQueries));
  s.output = ledger.take<float>(output_floats(kQueries, dim));
  s.state = {ledger.take<float>(kQueries), ledger.take<float>(kQueries),
             ledger.take<float>(kQueries)};
  s.row = ledger.take<std::int32_t>(kQueries);
  s.first_query = ledger.take<std::int32_t>(kMaxTileKeys);
  s.query_rows = ledger.take<float>(2 * row_floats);
  s.terms = ledger.take<float>(row_floats);
  s.logits = ledger.take<float>(kProbePack * static_cast<std::size_t>(g.num_kv_blocks));
  s.out = ledger.take<float>(2 * row_floats);
  s.lse = ledger.take<float>(kQueries);
  s.mean_values = ledger.take<float>(row_floats);
  return s;
}

void probe_rest(const Isa& isa, const core::Geometry& g, const core::AttentionParams& params,
                const RestProbePack& item, const BlockMoments& moments,
                const RestProbeScratch& scratch, const MapScratch& map_scratch,
                const RestProbes& probes) {
  Pack pack{isa, g, params, scratch, map_scratch, item.b, item.h, params.inputs.kv_length(item.b)};
  const index_t first = item.pack * kProbePack;
  const InputRows queries = list_rows(pack, first);
  isa.rows->load_floats(queries, 2 * pack.rows, pack.dim(), scratch.query_rows);
  const index_t head = item.b * g.shape.heads_q + item.h;
  ProbeSums* sums = probes.sums + head * semantics::probe_count(g.shape.len_q) + first;
  if (!read_rest(pack, moments,
                 probe_map(g, probes, head, first))) {  // a row without a rest set says nothing
    std::fill_n(sums, pack.rows, ProbeSums{});
    return;
  }
  attend_exactly(pack, queries);
  sum_rows(pack, sums);
}

}  // namespace psa::cpu
