// How decode attention is spread over blocks, whatever the KV is: a block has up to 8 query rows of
// a KV head and one part of its sequence; the parts' states are merged by a second kernel.
#pragma once

#include <cstddef>

#include "kernels/cuda/cuda_types.h"
#include "kernels/cuda/warp_ops.h"

namespace kvferry::cuda {

constexpr int kDecodeWarps = 4;
constexpr int kDecodeThreads = kDecodeWarps * kWarp;
constexpr int kStages = 3;    // tiles of a warp that are loaded at once or attended to
constexpr int kMaxRuns = 64;  // of closed tiles, of one sequence

// Tiles of a run: at most kMaxRuns runs, of at least one tile a warp, a power of two.
KVF_HOST_DEVICE int run_tiles(int closed_tiles) {
  int tiles = kDecodeWarps;
  while (tiles * kMaxRuns < closed_tiles) tiles *= 2;
  return tiles;
}
// Runs of a sequence of at most max_tiles tiles: a shorter one may have more of them, of half as
// many tiles each.
KVF_HOST_DEVICE int max_runs(int max_tiles) {
  const int tiles = run_tiles(max_tiles);
  return tiles == kDecodeWarps ? (max_tiles + tiles - 1) / tiles : kMaxRuns;
}

// Of one row and part: m, l, two of padding, o.
KVF_HOST_DEVICE std::size_t partial_floats(int head_dim) {
  return static_cast<std::size_t>(head_dim) + 4;
}
KVF_HOST_DEVICE std::size_t partial_bytes(int head_dim, int kv_heads, int parts,
                                          const DecodeQueries& queries) {
  return sizeof(float) * partial_floats(head_dim) * static_cast<std::size_t>(parts) *
         static_cast<std::size_t>(queries.sequences * kv_heads * queries.group);
}
KVF_HOST_DEVICE int row_blocks(int group) { return (group + kRows - 1) / kRows; }

// Which rows a block has, and where their results go.
struct BlockRows {
  int sequence, kv_head, first, count;  // rows of the KV head's group
  int part, parts;
};

// Of a grid of parts x kv_heads * row_blocks() x sequences.
template <class Lane>
KVF_DEVICE BlockRows block_rows(const Lane& lane, int group, int parts) {
  const int blocks = row_blocks(group);
  BlockRows rows;
  rows.part = static_cast<int>(lane.block_x());
  rows.parts = parts;
  rows.kv_head = static_cast<int>(lane.block_y()) / blocks;
  rows.sequence = static_cast<int>(lane.block_z());
  rows.first = static_cast<int>(lane.block_y()) % blocks * kRows;
  rows.count = group - rows.first < kRows ? group - rows.first : kRows;
  return rows;
}

// Of the block's row among the rows of all sequences.
KVF_DEVICE std::size_t row_index(const BlockRows& rows, int row, int kv_heads, int group) {
  return static_cast<std::size_t>((rows.sequence * kv_heads + rows.kv_head) * group + rows.first +
                                  row);
}
template <int kDim>
KVF_DEVICE float* partial_of(const BlockRows& rows, int row, int kv_heads,
                             const DecodeQueries& queries) {
  const std::size_t index =
      row_index(rows, row, kv_heads, queries.group) * static_cast<std::size_t>(rows.parts) +
      static_cast<std::size_t>(rows.part);
  return queries.partial + index * partial_floats(kDim);
}

// Shared memory in which the warps of a block leave their states.
template <int kDim>
class WarpStates {
 public:
  static constexpr int kBytes = 4 * kDecodeWarps * kRows * (kDim + 2);

  KVF_DEVICE explicit WarpStates(std::byte* shared)
      : ml_(reinterpret_cast<float*>(shared)), o_(ml_ + 2 * kDecodeWarps * kRows) {}
  KVF_DEVICE float& m(int warp, int row) const { return ml_[2 * (warp * kRows + row)]; }
  KVF_DEVICE float& l(int warp, int row) const { return ml_[2 * (warp * kRows + row) + 1]; }
  KVF_DEVICE float& o(int warp, int row, int channel) const {
    return o_[(warp * kRows + row) * kDim + channel];
  }

 private:
  float* ml_;
  float* o_;
};

// Merges the warps' states, in their order, into the block's place of queries.partial. Some warp
// has attended to something.
template <int kDim, class Lane>
KVF_DEVICE void leave_partial(const Lane& lane, const BlockRows& rows, int kv_heads,
                              const DecodeQueries& queries, const WarpStates<kDim>& states) {
  lane.sync_block();
  for (int i = lane.thread(); i < rows.count * kDim; i += kDecodeThreads) {
    const int row = i / kDim, channel = i % kDim;
    float top = states.m(0, row);
    for (int w = 1; w < kDecodeWarps; ++w) top = LargerOf()(top, states.m(w, row));
    float l = 0.0f, o = 0.0f;
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float factor = Lane::exp2((states.m(w, row) - top) * kLog2E);
      l = Lane::fma(states.l(w, row), factor, l);
      o = Lane::fma(states.o(w, row, channel), factor, o);
    }
    float* const to = partial_of<kDim>(rows, row, kv_heads, queries);
    if (channel == 0) {
      to[0] = top;
      to[1] = l;
    }
    to[4 + channel] = o;
  }
}

// Merges the parts of row `row` of all that each_part(call) names, in its order: it calls
// call(part) for each. A thread has a channel.
template <int kDim, class Lane, class EachPart>
KVF_DEVICE void merge_parts(const Lane& lane, const DecodeQueries& queries, int row, int parts,
                            EachPart each_part) {
  const int channel = lane.thread();
  const float* const all = queries.partial + static_cast<std::size_t>(row) *
                                                 static_cast<std::size_t>(parts) *
                                                 partial_floats(kDim);
  const auto at = [&](int part) {
    return all + static_cast<std::size_t>(part) * partial_floats(kDim);
  };
  float top = Lane::as_float(0xff800000u), l = 0.0f, o = 0.0f;
  each_part([&](int part) { top = LargerOf()(top, at(part)[0]); });
  each_part([&](int part) {
    const float factor = Lane::exp2((at(part)[0] - top) * kLog2E);
    l = Lane::fma(at(part)[1], factor, l);
    o = Lane::fma(at(part)[4 + channel], factor, o);
  });
  queries.out[static_cast<std::size_t>(row) * kDim + static_cast<std::size_t>(channel)] =
      l > 0.0f ? o / l : 0.0f;
}

}  // namespace kvferry::cuda
