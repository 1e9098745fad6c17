// SPDX-License-Identifier: Apache-2.0

// Importance stage: how much each query block needs each KV block (S-9 to S-13).
//
//   in   q [B, Hq, Lq, D], k [B, Hkv, Lkv, D], f16 or bf16; pooled_lse: the pooled keys of its
//        sub-blocks
//   out  importance of a chunk; 0 where S-8 hides a block or no key is real
//
// Launches, in stream order:
//
//   sampled_*     draw_samples     a CTA per head: its offsets (S-9)
//                 copy_keys        on sm_90 the sampled keys of some heads, side by side; then the
//                                  estimate of these heads, and so on
//   estimators    estimate_kernel  persistent CTAs, one item of query blocks at a time, multiplied
//                                  by wgmma or mma.sync (kernel.cuh)
//                 stream_kernel    on sm_90 in its place where the antidiagonal takes q and k as
//                                  boxes (make_boxes(); stream_sm90.cuh)
//                 means_kernel     on sm_90 in its place where pooled_lse takes pooled keys as
//                 boxes
//                                  and rows of q are aligned (means_sm90.cuh)
//   user_scores   hide_kernel      a CTA per row of scores (S-8)
//   sharing       share_kernel     a CTA per row of a KV group (S-13)
//
// Nothing else is copied but what a tile of products needs, into shared memory: q and k are read
// where they lie, in their orders, K once for all heads of its group where L2 keeps it.
//
// Cost, in multiply-adds per logit: D for the samples, Lq·Lkv/16 logits by default; t·D for the
// antidiagonal, Lq·Lkv/t²; 3·D (bf16) or 2·D (f16) for sub-blocks, Lq·Lkv/g², whose queries are
// floats.
// Scratch: a slab of rows x Nk floats for each group of CTAs that runs, see lay_out(); 128 bytes
// per head for the samples, and copies of the sampled keys.

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "core/ledger.hpp"
#include "cuda/importance/estimate.cuh"
#include "cuda/launch.cuh"
#include "cuda/stages.hpp"
#include "psa/error.hpp"
#include "semantics/pooling.hpp"

namespace psa::cuda {
namespace {

using core::Geometry;
using core::ImportanceParams;
using estimation::DeviceLimits;
using estimation::kBoxRows;
using estimation::kTileColumns;
using estimation::make_probe_maps;
using estimation::Params;
using estimation::ProbeBoxes;
using estimation::Shape;
using estimation::TileSize;

constexpr std::size_t kScratchAlignment = 256;
constexpr index_t kResidentHeadDim = 128;
/// Shared memory of a CTA from which two stages of Shape::kStreamed fit, lists included.
constexpr int kStreamedBytes = 110 << 10;
/// Part of the workspace that slabs may take: this, and a tenth of K and V.
constexpr index_t kSlabBytes = index_t{32} << 20;
/// Part of that which copies of sampled keys may take: all heads of 12 with 75,600 tokens would
/// take 58 MB.
constexpr index_t kSampledBytes = index_t{16} << 20;

DeviceLimits device_limits() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
  };
  return {.sms = attribute(cudaDevAttrMultiProcessorCount),
          .shared_bytes_per_cta = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          .shared_bytes_per_sm = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
          .reserved_bytes_per_cta = attribute(cudaDevAttrReservedSharedMemoryPerBlock)};
}

// ---- probes -------------------------------------------------------------------------------------

bool takes_samples(const Config& config) {
  return config.importance == Importance::kSampledMax ||
         config.importance == Importance::kSampledMass;
}

/// How an estimator sees blocks (probes.cuh).
struct ProbeCounts {
  int group_tokens;
  int rows_per_block;
  int columns_per_block;
  int parts;
};

ProbeCounts probe_counts(const Config& config) {
  if (takes_samples(config)) return {1, config.samples_q, config.samples_kv, 1};
  const bool pooled = config.importance == Importance::kPooledLse;
  const int group = pooled ? config.pooled_tokens : config.antidiagonal_stride;
  return {group, config.block_q / group, config.block_kv / group, pooled ? 1 : group};
}

Shape choose_shape(const Geometry& g, const DeviceLimits& limits) {
  const bool is_wide = g.shape.head_dim > kResidentHeadDim;
  if (g.config.importance == Importance::kPooledLse) {
    return is_wide ? Shape::kWideMeans : Shape::kMeans;
  }
  if (takes_samples(g.config) && !is_wide) return Shape::kTokens;
  return limits.shared_bytes_per_cta < kStreamedBytes ? Shape::kStreamedSmall : Shape::kStreamed;
}

/// Query blocks that a CTA takes at a time.
int blocks_per_item(const Geometry& g, const TileSize& tile) {
  return tile.rows / probe_counts(g.config).rows_per_block;
}

int log2_columns(const Config& config) {
  return std::bit_width(static_cast<unsigned>(probe_counts(config).columns_per_block) - 1U);
}

/// Columns of a head, the last ones of a block included that its probes do not fill.
index_t columns_per_head(const Geometry& g) { return g.num_kv_blocks << log2_columns(g.config); }

// ---- scratch ------------------------------------------------------------------------------------

/// Floats of a row of the slab: one per piece of every column tile.
index_t slab_width(const Geometry& g) {
  const index_t tiles = semantics::ceil_div(columns_per_head(g), kTileColumns);
  return tiles * kTileColumns >> std::min(log2_columns(g.config), estimation::kMaxLog2Piece);
}

/// Bytes of the sampled keys of a head.
index_t sampled_bytes(const Geometry& g) {
  return columns_per_head(g) * g.shape.head_dim * static_cast<index_t>(size_of(g.shape.dtype_kv));
}

/// KV heads whose sampled keys are copied at a time: in as few parts as fit, one at least.
index_t sampled_heads(const Geometry& g) {
  const index_t most = std::max<index_t>(1, kSampledBytes / sampled_bytes(g));
  const index_t heads = g.shape.batch * g.shape.heads_kv;
  return semantics::ceil_div(heads, semantics::ceil_div(heads, most));
}

/// What a kind of device makes of an estimate.
struct Layout {
  Shape shape;
  index_t groups;         // of CTAs that get slabs, and so can run
  index_t slabs;          // of a group
  index_t sampled_heads;  // KV heads whose sampled keys are copied at a time; 0: none are
};

/// As many slabs as the device runs groups at a time and a call has items for, unless they would
/// take too much of the workspace: 40 MB for pooled_lse with 12 heads of 75,600 tokens on an H100.
Layout lay_out(const Geometry& g, const DeviceLimits& limits, bool takes_boxes) {
  const ProblemShape& s = g.shape;
  Layout layout{.shape = choose_shape(g, limits), .groups = 1, .slabs = 1, .sampled_heads = 0};
  const TileSize tile = estimation::tile_size(layout.shape);
  const bool copies_keys = takes_boxes && layout.shape == Shape::kTokens;
  if (copies_keys) layout.sampled_heads = sampled_heads(g);
  const index_t kv_bytes =
      2 * s.batch * s.heads_kv * s.len_kv * s.head_dim * static_cast<index_t>(size_of(s.dtype_kv));
  if (takes_boxes && layout.shape == Shape::kMeans) layout.slabs = estimation::kMeansSlabs;
  const auto slab_bytes =
      static_cast<index_t>(sizeof(float)) * layout.slabs * tile.rows * slab_width(g);
  const index_t copied = copies_keys ? layout.sampled_heads * sampled_bytes(g) : 0;
  const index_t room = std::max<index_t>(0, kSlabBytes + kv_bytes / 10 - copied);
  const index_t ctas = takes_boxes ? estimation::sm90_group_ctas(layout.shape) : 1;
  const index_t running =
      semantics::ceil_div(static_cast<index_t>(limits.sms) * tile.ctas_per_sm, ctas * layout.slabs);
  const index_t items =
      s.batch * s.heads_q * semantics::ceil_div(g.num_q_blocks, blocks_per_item(g, tile));
  layout.groups = std::max<index_t>(1, std::min({room / slab_bytes, running, items}));
  return layout;
}

struct EstimateScratch {
  float* slab;
  std::uint8_t* q_offsets;
  std::uint8_t* kv_offsets;
  estimation::Bits* sampled_keys;
};

EstimateScratch carve(core::Ledger& ledger, const Geometry& g, const Layout& layout) {
  const auto offsets = [&](index_t heads) {
    const index_t bytes = takes_samples(g.config) ? heads * estimation::kMaxBlock : 0;
    return ledger.take<std::uint8_t>(static_cast<std::size_t>(bytes));
  };
  const int rows = estimation::tile_size(layout.shape).rows;
  EstimateScratch scratch{};
  scratch.slab = ledger.take<float>(
      static_cast<std::size_t>(layout.groups * layout.slabs * rows * slab_width(g)));
  scratch.q_offsets = offsets(g.shape.batch * g.shape.heads_q);
  scratch.kv_offsets = offsets(g.shape.batch * g.shape.heads_kv);
  scratch.sampled_keys = reinterpret_cast<estimation::Bits*>(
      ledger.take<std::byte>(static_cast<std::size_t>(layout.sampled_heads * sampled_bytes(g))));
  return scratch;
}

// ---- parameters ---------------------------------------------------------------------------------

/// ln of a column's weight for a number of tokens that it stands for: the tokens of its row (S-12),
/// or the share of a sample in those of its block (S-10).
double column_bias(const Config& config, int tokens) {
  switch (config.importance) {
    case Importance::kPooledLse:
      return semantics::pooled_bias(tokens);
    case Importance::kSampledMass:
      return std::log(static_cast<double>(tokens) / config.samples_kv);
    default:
      return 0.0;
  }
}

/// Keys that were made for the estimate as a tensor [batch, heads, rows, D].
TensorView keys_at(const Geometry& g, void* data, index_t batch, index_t heads, index_t rows) {
  const index_t d = g.shape.head_dim;
  return {.data = data,
          .dtype = g.shape.dtype_kv,
          .device = {},
          .shape = {batch, heads, rows, d},
          .stride = {heads * rows * d, rows * d, d, 1}};
}

/// Rows of the pyramid level whose pool factor is the sub-block of pooled_lse.
TensorView pooled_keys(const Geometry& g, const core::KvPyramid& pyramid) {
  int code = semantics::kFinestLevel;
  while (semantics::pool_factor(code, g.config.block_kv) != g.config.pooled_tokens) ++code;
  const core::PyramidLevel& level = pyramid.at(static_cast<std::size_t>(code));
  return keys_at(g, level.k, g.shape.batch, g.shape.heads_kv, level.rows);
}

void set_probes(const Geometry& g, Params& p) {
  const ProbeCounts counts = probe_counts(g.config);
  p.group_tokens = counts.group_tokens;
  p.rows_per_block = counts.rows_per_block;
  p.columns_per_block = counts.columns_per_block;
  p.log2_columns = log2_columns(g.config);
  p.parts = counts.parts;
  p.chunks = static_cast<int>(semantics::ceil_div(g.shape.head_dim, estimation::kChunkChannels));
  constexpr double kLog2E = std::numbers::log2e;
  p.scale_log2 = static_cast<float>(static_cast<double>(g.scale) / counts.parts * kLog2E);
  for (int tokens = 1; tokens <= estimation::kMaxBlock; ++tokens) {
    p.bias_log2[tokens] = static_cast<float>(column_bias(g.config, tokens) * kLog2E);
  }
}

void set_inputs(const Geometry& g, const ImportanceParams& call, Params& p) {
  const bool pooled = g.config.importance == Importance::kPooledLse;
  const TensorView keys = pooled ? pooled_keys(g, call.pyramid) : call.inputs.k;
  p.q = kv_rows<estimation::Bits>(call.inputs.q, call.inputs.q_order);
  p.k = kv_rows<estimation::Bits>(keys, pooled ? core::TokenOrder{} : call.inputs.kv_order);
  p.has_aligned_rows = has_aligned_rows(call.inputs.q) && has_aligned_rows(keys);
  p.estimator = g.config.importance;
  p.is_causal = g.config.causal;
  p.batch_begin = static_cast<int>(call.chunk.batch_begin);
  p.heads_q = static_cast<int>(g.shape.heads_q);
  p.heads_per_kv = static_cast<int>(g.heads_per_kv());
  p.len_q = static_cast<int>(g.shape.len_q);
  p.len_kv = static_cast<int>(g.shape.len_kv);
  p.head_dim = static_cast<int>(g.shape.head_dim);
  p.block_q = g.config.block_q;
  p.block_kv = g.config.block_kv;
  p.num_kv_blocks = static_cast<int>(g.num_kv_blocks);
  p.q_block_begin = static_cast<int>(call.chunk.q_block_begin);
  p.q_block_end = static_cast<int>(call.chunk.q_block_end);
  p.kv_lengths = call.inputs.kv_lengths;
  p.importance = call.importance;
}

/// The copies of sampled keys as a tensor of one batch element.
TensorView sampled_keys(const Geometry& g, const Params& p) {
  return keys_at(g, p.sampled_keys, 1, p.heads / p.heads_per_kv, columns_per_head(g));
}

/// Where probes lie as the copy engine takes them: side by side, or in the tokens' own order, every
/// token real.
ProbeBoxes make_boxes(const Geometry& g, const ImportanceParams& call, Shape shape,
                      const Params& p) {
  ProbeBoxes boxes{};
  if (shape == Shape::kMeans) {
    boxes.in_use = make_probe_maps(pooled_keys(g, call.pyramid), 1, kTileColumns, boxes.columns);
  } else if (shape == Shape::kTokens) {
    boxes.in_use = make_probe_maps(sampled_keys(g, p), 1, kTileColumns, boxes.columns);
    if (!boxes.in_use) throw Error(Status::kInternal, "sampled keys have no tensor map");
  } else if (shape == Shape::kStreamed && call.inputs.q_order.index == nullptr &&
             call.inputs.kv_order.index == nullptr && call.inputs.kv_lengths == nullptr) {
    const int group = g.config.antidiagonal_stride;
    boxes.in_use = make_probe_maps(call.inputs.q, group, kBoxRows, boxes.rows) &&
                   make_probe_maps(call.inputs.k, group, kTileColumns, boxes.columns);
  }
  return boxes;
}

/// The kernels of one multiplier.
struct Estimates {
  decltype(&estimation::estimate_sm80_f16) of_f16;
  decltype(&estimation::estimate_sm80_bf16) of_bf16;
  bool take_boxes;
};

void estimate(const StageContext& context, const ImportanceParams& call, const Estimates& estimates,
              cudaStream_t stream) {
  const Geometry& g = context.geometry;
  const DeviceLimits limits = device_limits();
  const Layout layout = lay_out(g, limits, estimates.take_boxes);
  core::Ledger ledger(context.scratch, kScratchAlignment);
  const EstimateScratch scratch = carve(ledger, g, layout);
  Params p{};
  set_inputs(g, call, p);
  set_probes(g, p);
  p.q_offsets = scratch.q_offsets;
  p.kv_offsets = scratch.kv_offsets;
  p.sampled_keys = layout.sampled_heads > 0 ? scratch.sampled_keys : nullptr;
  p.slab = scratch.slab;
  p.slab_width = static_cast<int>(slab_width(g));
  p.blocks_per_item = blocks_per_item(g, estimation::tile_size(layout.shape));
  p.items_per_head =
      static_cast<int>(semantics::ceil_div(call.chunk.q_blocks(), p.blocks_per_item));
  if (takes_samples(g.config)) {
    estimation::draw_samples(g, call.chunk, scratch.q_offsets, scratch.kv_offsets, stream);
  }
  const bool is_f16 = g.shape.dtype_kv == DType::kF16;
  const index_t kv_heads = call.chunk.batches() * g.shape.heads_kv;
  const index_t at_a_time = layout.sampled_heads > 0 ? layout.sampled_heads : kv_heads;
  for (index_t done = 0; done < kv_heads; done += at_a_time) {
    p.first_head = static_cast<int>(done * g.heads_per_kv());
    p.heads = static_cast<int>(std::min(at_a_time, kv_heads - done) * g.heads_per_kv());
    p.items = index_t{p.heads} * p.items_per_head;
    if (p.sampled_keys != nullptr) estimation::copy_sampled_keys(p, stream);
    if (estimates.take_boxes) p.boxes = make_boxes(g, call, layout.shape, p);
    const auto groups = static_cast<unsigned int>(std::min(layout.groups, p.items));
    (is_f16 ? estimates.of_f16 : estimates.of_bf16)(layout.shape, limits, p, groups, stream);
  }
}

std::size_t scratch_bytes(const Geometry& geometry, bool takes_boxes) {
  if (geometry.config.importance == Importance::kUserScores) return 0;
  core::Ledger ledger(nullptr, kScratchAlignment);
  carve(ledger, geometry, lay_out(geometry, device_limits(), takes_boxes));
  return ledger.bytes();
}

void importance(const StageContext& context, const ImportanceParams& params,
                const Estimates& estimates) {
  const Geometry& g = context.geometry;
  const cudaStream_t stream = stream_of(context.stream);
  if (g.config.importance == Importance::kUserScores) {
    estimation::hide_scores(g, params, stream);
  } else {
    estimate(context, params, estimates, stream);
  }
  if (g.config.share_group_map) {
    estimation::share_scores(g, params.chunk, params.importance, stream);
  }
}

}  // namespace

void importance_sm90(const StageContext& context, const ImportanceParams& params) {
  importance(context, params,
             {estimation::estimate_sm90_f16, estimation::estimate_sm90_bf16,
              /*take_boxes=*/true});
}

void importance_sm80(const StageContext& context, const ImportanceParams& params) {
  importance(context, params,
             {estimation::estimate_sm80_f16, estimation::estimate_sm80_bf16,
              /*take_boxes=*/false});
}

std::size_t importance_scratch_sm90(const Geometry& geometry) {
  return scratch_bytes(geometry, /*takes_boxes=*/true);
}

std::size_t importance_scratch_sm80(const Geometry& geometry) {
  return scratch_bytes(geometry, /*takes_boxes=*/false);
}

}  // namespace psa::cuda
