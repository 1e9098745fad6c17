// SPDX-License-Identifier: Apache-2.0
#pragma once

// Working orders of the video tokens (docs/semantics.md S-19, S-20). Each function calls
// sink(token) once per token of the grid, in working order; token = (frame * height + row) * width
// + column.

#include <array>
#include <cstdint>

#include "semantics/blocks.hpp"
#include "semantics/importance.hpp"

namespace psa::semantics {

struct Grid {
  index_t frames;
  index_t height;
  index_t width;
};

/// Integer vector along (width, height, frames).
struct GridVector {
  index_t x;
  index_t y;
  index_t z;

  friend constexpr GridVector operator+(GridVector a, GridVector b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z};
  }
  friend constexpr GridVector operator-(GridVector a, GridVector b) {
    return {a.x - b.x, a.y - b.y, a.z - b.z};
  }
  friend constexpr GridVector operator-(GridVector a) { return {-a.x, -a.y, -a.z}; }
};

constexpr index_t sign_of(index_t v) { return (v > 0) - (v < 0); }
constexpr GridVector direction(GridVector v) { return {sign_of(v.x), sign_of(v.y), sign_of(v.z)}; }
/// Length of a vector along one axis.
constexpr index_t extent(GridVector v) {
  const index_t sum = v.x + v.y + v.z;
  return sum < 0 ? -sum : sum;
}
/// Half of a vector along one axis, rounded towards minus infinity.
constexpr index_t floor_half(index_t v) { return v >= 0 ? v / 2 : -((1 - v) / 2); }
/// The same, moved one step outward when that makes an odd half even (the curve turns more
/// smoothly on even lengths).
constexpr GridVector even_half(GridVector v, index_t length) {
  const GridVector half{floor_half(v.x), floor_half(v.y), floor_half(v.z)};
  return extent(half) % 2 != 0 && length > 2 ? half + direction(v) : half;
}

/// S-19. Generalised Hilbert ("Gilbert") curve through the box that the axis vectors a (main
/// direction), b and c span from `start`. After J. Cerveny's construction: split the box in two
/// along a very long a, else in three or five sub-boxes whose curves join end to start.
template <typename Sink>
void walk_gilbert_box(const Grid& grid, GridVector start, GridVector a, GridVector b, GridVector c,
                      Sink& sink) {
  const index_t w = extent(a);
  const index_t h = extent(b);
  const index_t d = extent(c);
  const GridVector da = direction(a);
  const GridVector db = direction(b);
  const GridVector dc = direction(c);
  const auto walk_line = [&](index_t length, GridVector step) {
    for (index_t i = 0; i < length; ++i, start = start + step) {
      sink((start.z * grid.height + start.y) * grid.width + start.x);
    }
  };
  if (h == 1 && d == 1) return walk_line(w, da);
  if (w == 1 && d == 1) return walk_line(h, db);
  if (w == 1 && h == 1) return walk_line(d, dc);

  const GridVector a2 = even_half(a, w);
  const GridVector b2 = even_half(b, h);
  const GridVector c2 = even_half(c, d);
  const auto walk = [&](GridVector p, GridVector u, GridVector v, GridVector t) {
    walk_gilbert_box(grid, p, u, v, t, sink);
  };
  if (2 * w > 3 * h && 2 * w > 3 * d) {  // long: two boxes along a
    walk(start, a2, b, c);
    walk(start + a2, a - a2, b, c);
  } else if (3 * h > 4 * d) {  // tall: split a and b, leave c whole
    walk(start, b2, c, a2);
    walk(start + b2, a, b - b2, c);
    walk(start + (a - da) + (b2 - db), -b2, c, -(a - a2));
  } else if (3 * d > 4 * h) {  // deep: split a and c, leave b whole
    walk(start, c2, a2, b);
    walk(start + c2, a, b, c - c2);
    walk(start + (a - da) + (c2 - dc), -c2, -(a - a2), b);
  } else {  // about cubic: split all three
    walk(start, b2, c2, a2);
    walk(start + b2, c, a2, b - b2);
    walk(start + (b2 - db) + (c - dc), a, -b2, -(c - c2));
    walk(start + (a - da) + b2 + (c - dc), -c, -(a - a2), b - b2);
    walk(start + (a - da) + (b2 - db), -b2, c2, -(a - a2));
  }
}

/// S-19. The main direction is the longest axis; ties go to width, then height.
template <typename Sink>
void walk_gilbert(const Grid& grid, Sink&& sink) {
  const GridVector w{grid.width, 0, 0};
  const GridVector h{0, grid.height, 0};
  const GridVector d{0, 0, grid.frames};
  const GridVector origin{0, 0, 0};
  if (grid.width >= grid.height && grid.width >= grid.frames) {
    walk_gilbert_box(grid, origin, w, h, d, sink);
  } else if (grid.height >= grid.width && grid.height >= grid.frames) {
    walk_gilbert_box(grid, origin, h, w, d, sink);
  } else {
    walk_gilbert_box(grid, origin, d, w, h, sink);
  }
}

/// S-19. Boxes of tile = {frames, height, width} tokens, row-major over the boxes and inside each;
/// boxes at the far faces are cut off where the tile does not divide the grid.
template <typename Sink>
void walk_tiles(const Grid& grid, const std::array<std::int32_t, 3>& tile, Sink&& sink) {
  for (index_t z0 = 0; z0 < grid.frames; z0 += tile[0]) {
    for (index_t y0 = 0; y0 < grid.height; y0 += tile[1]) {
      for (index_t x0 = 0; x0 < grid.width; x0 += tile[2]) {
        for (index_t z = z0; z < min_of(z0 + tile[0], grid.frames); ++z) {
          for (index_t y = y0; y < min_of(y0 + tile[1], grid.height); ++y) {
            for (index_t x = x0; x < min_of(x0 + tile[2], grid.width); ++x) {
              sink((z * grid.height + y) * grid.width + x);
            }
          }
        }
      }
    }
  }
}

/// S-20. Token that starts cluster `cluster` of `clusters` <= tokens: one random token of each of
/// `clusters` equal stretches.
PSA_HD constexpr index_t initial_centroid(index_t cluster, index_t clusters, index_t tokens,
                                          std::uint64_t hash) {
  const index_t begin = cluster * tokens / clusters;
  const index_t end = (cluster + 1) * tokens / clusters;
  return begin + static_cast<index_t>(hash % static_cast<std::uint64_t>(end - begin));
}

}  // namespace psa::semantics
