// SPDX-License-Identifier: Apache-2.0
#include "support/problem_cases.hpp"

#include <random>

#include "semantics/pooling.hpp"

namespace psa::testing {
namespace {

struct Sizes {
  index_t batch, heads_q, heads_kv, len_q, len_kv, head_dim;
};

struct Blocks {
  std::int32_t q = 16;
  std::int32_t kv = 16;
  bool causal = false;
};

struct Types {
  DType q = DType::kF32;
  DType kv = DType::kF32;
  DType out = DType::kF32;
};

Problem make_problem(const Sizes& sizes, const Blocks& blocks, const Types& types = {}) {
  Problem problem;
  problem.shape = {sizes.batch,    sizes.heads_q, sizes.heads_kv, sizes.len_q, sizes.len_kv,
                   sizes.head_dim, types.q,       types.kv,       types.out};
  problem.config.block_q = blocks.q;
  problem.config.block_kv = blocks.kv;
  problem.config.causal = blocks.causal;
  return problem;
}

constexpr DType kF32 = DType::kF32;
constexpr DType kF16 = DType::kF16;
constexpr DType kBf16 = DType::kBF16;

std::size_t map_size(const core::Geometry& g) {
  return static_cast<std::size_t>(g.shape.batch * g.shape.heads_q * g.num_q_blocks *
                                  g.num_kv_blocks);
}

}  // namespace

QkvTensors ProblemCase::make_inputs(std::uint64_t seed) const {
  const ProblemShape& s = problem.shape;
  QkvTensors tensors = random_qkv(problem, seed, layout);
  tensors.kv_lengths = kv_lengths;
  if (reordered) {
    tensors.q_index = random_orders(s.batch * s.heads_q, s.len_q, seed + 1);
    tensors.kv_index = random_orders(s.batch * s.heads_kv, s.len_kv, seed + 2);
  }
  return tensors;
}

std::vector<ProblemCase> problem_cases() {
  constexpr auto kBlhd = MemoryLayout::kBlhd;
  constexpr auto kPadded = MemoryLayout::kPadded;
  return {
      {"OneToken", make_problem({1, 1, 1, 1, 1, 1}, {}), {}},
      {"LessThanABlock", make_problem({1, 2, 1, 5, 7, 3}, {}), {}},
      {"BlockLessOne", make_problem({1, 1, 1, 31, 63, 16}, {32, 64}, {kBf16, kBf16, kBf16}), {}},
      {"BlockAndOne", make_problem({1, 1, 1, 17, 17, 16}, {16, 16}, {kF16, kF16, kF16}), {}},
      {"WholeBlocks", make_problem({2, 2, 2, 64, 128, 32}, {32, 32}), {}},
      {"RaggedGrouped",
       make_problem({1, 4, 2, 77, 203, 24}, {32, 64}, {kBf16, kBf16, kBf16}),
       {},
       false,
       kBlhd},
      {"MixedTypes", make_problem({1, 1, 1, 200, 300, 40}, {128, 128}, {kBf16, kF32, kF16}), {}},
      {"HalfKeys",
       make_problem({1, 2, 1, 50, 70, 80}, {64, 32}, {kF32, kF16, kBf16}),
       {},
       false,
       kPadded},
      {"CausalSquare", make_problem({1, 2, 2, 100, 100, 16}, {16, 16, true}), {}},
      {"CausalPrefill", make_problem({1, 6, 2, 33, 150, 16}, {32, 16, true}), {}, false, kBlhd},
      {"CausalMoreQueriesThanKeys", make_problem({1, 1, 1, 90, 41, 16}, {16, 32, true}), {}},
      {"CausalLargeBlocks",
       make_problem({1, 1, 1, 150, 210, 16}, {128, 64, true}, {kBf16, kBf16, kF32}),
       {}},
      {"KeyLengths", make_problem({4, 2, 1, 40, 120, 16}, {16, 32}), {0, 1, 120, 75}},
      {"CausalKeyLengths", make_problem({4, 2, 2, 40, 60, 16}, {16, 16, true}), {0, 17, 39, 60}},
      {"OrdersPerHead", make_problem({2, 4, 2, 90, 90, 16}, {32, 16}), {}, true, kPadded},
      {"OrdersOfHalfTypes",
       make_problem({1, 2, 2, 65, 65, 12}, {16, 64}, {kF16, kBf16, kF32}),
       {},
       true},
      {"WidestHead", make_problem({1, 1, 1, 20, 40, 256}, {16, 16}), {}},
      {"TallBlocks", make_problem({1, 2, 1, 140, 50, 8}, {128, 16}), {}},
      {"WideBlocks", make_problem({1, 2, 2, 40, 270, 8}, {16, 128}), {}},
  };
}

std::vector<ProblemCase> probed_cases() {
  std::vector<ProblemCase> cases = {
      {"FewestProbes", make_problem({1, 1, 1, 1024, 512, 16}, {16, 16}), {}},
      {"MostProbes", make_problem({1, 1, 1, 8200, 72, 8}, {128, 16}), {}},
      {"RaggedGroupedProbes",
       make_problem({1, 4, 2, 1100, 403, 24}, {32, 64}, {kBf16, kBf16, kBf16}),
       {},
       false,
       MemoryLayout::kBlhd},
      {"CausalProbes",
       make_problem({1, 2, 1, 1130, 1500, 32}, {64, 32, true}, {kF16, kF16, kF16}),
       {}},
      {"CausalPrefixesOfProbes", make_problem({1, 1, 1, 2300, 2400, 16}, {32, 64, true}), {}},
      {"CausalMoreQueriesProbes", make_problem({1, 1, 1, 2100, 600, 16}, {16, 16, true}), {}},
      {"KeyLengthsOfProbes", make_problem({4, 1, 1, 1040, 300, 16}, {16, 32}), {300, 0, 37, 64}},
      {"ReorderedProbes",
       make_problem({1, 2, 2, 1152, 512, 64}, {128, 128}, {kBf16, kBf16, kF32}),
       {},
       true},
      {"WideHeadProbes",
       make_problem({1, 1, 1, 1024, 256, 200}, {128, 64}, {kF32, kF16, kF32}),
       {}},
  };
  for (ProblemCase& c : cases) c.problem.config.rest = Rest::kLinear;
  return cases;
}

std::vector<LevelCode> random_levels(const core::Geometry& geometry, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<LevelCode> levels(map_size(geometry));
  for (LevelCode& code : levels) code = static_cast<LevelCode>(generator() % kNumLevelCodes);
  return levels;
}

std::vector<LevelCode> uniform_levels(const core::Geometry& geometry, LevelCode code) {
  return std::vector<LevelCode>(map_size(geometry), code);
}

}  // namespace psa::testing
