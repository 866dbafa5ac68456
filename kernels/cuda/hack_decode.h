// Decode attention over hack's tiles, where they lie in pages: for a batch of sequences of any
// lengths, one token each. The kernels' bodies; hack_decode.cu launches them.
//
// A sequence's closed tiles are cut into runs. A block attends one KV head's query rows, 8 at a
// time, to one run: its warps take neighbouring tiles of it, a part of a run each, and merge their
// states in order. Tile 0, where it has other bits, and the open tile are runs of their own. What
// blocks leave is merged in order of the runs by a second kernel. The cut depends on the sequence's
// length alone, so a row's answer depends on nothing beside it: neither on the batch, nor on the
// other rows.
#pragma once

#include "kernels/cuda/decode_rows.h"
#include "kernels/cuda/hack_cuda.h"
#include "kernels/cuda/hack_tile.h"

namespace kvferry::cuda {

// Runs of closed tiles, then tile 0 by itself, then the open tile, of the longest sequence.
KVF_HOST_DEVICE int decode_parts(int max_tiles) { return max_runs(max_tiles) + 2; }
template <int kDim>
KVF_HOST_DEVICE int decode_stage_bytes(const PagedKv& kv) {
  return TilePart<kDim>::bytes(kv.k_bits, kv.v_bits);
}
// Of a block: each warp's stages and weights, which tile 0 has to itself; later the warps' states.
template <int kDim>
KVF_HOST_DEVICE std::size_t decode_shared_bytes(const PagedKv& kv) {
  const int stages = kDecodeWarps * kStages * decode_stage_bytes<kDim>(kv);
  const int first = TilePart<kDim>::bytes(kv.first_k_bits, kv.first_v_bits);
  const int states = WarpStates<kDim>::kBytes;
  const int open = 4 * kRows * (kDim + kTileTokens);
  const int most = stages > first ? stages : first;
  const int other = states > open ? states : open;
  return static_cast<std::size_t>(kDecodeWarps * kWeightBytes<kDim> +
                                  (most > other ? most : other));
}

// ---- closed tiles ----

template <int kDim, class Lane>
KVF_DEVICE TilePart<kDim> tile_part(const PagedKv& kv, const BlockRows& rows, int tile) {
  const std::byte* base =
      kv.tiles[static_cast<std::size_t>(rows.sequence) * static_cast<std::size_t>(kv.max_tiles) +
               static_cast<std::size_t>(tile)];
  if (tile == 0) {
    return {base + static_cast<std::ptrdiff_t>(rows.kv_head) * kv.first_head_bytes, kv.first_k_bits,
            kv.first_v_bits};
  }
  return {base + static_cast<std::ptrdiff_t>(rows.kv_head) * kv.head_bytes, kv.k_bits, kv.v_bits};
}

// q[group][n]: value 64 group + 16 t + n of row g, zero for rows that are not there.
template <int kDim, class Lane>
KVF_DEVICE void load_queries(const Lane& lane, const PagedKv& kv, const DecodeQueries& queries,
                             const BlockRows& rows, float (&q)[kDim / 64][16]) {
  const int g = lane.lane() / 4, t = lane.lane() % 4;
  const bool there = g < rows.count;
  const float* row = queries.q + row_index(rows, there ? g : 0, kv.kv_heads, queries.group) * kDim;
  KVF_UNROLL
  for (int group = 0; group < kDim / 64; ++group) {
    KVF_UNROLL
    for (int n = 0; n < 16; n += 4) {
      const Words words = lane.load16(row + kGroup * group + 16 * t + n);
      KVF_UNROLL
      for (int i = 0; i < 4; ++i) q[group][n + i] = there ? Lane::as_float(words.w[i]) : 0.0f;
    }
  }
}

// Attends to tiles first .. first + count - 1, loading kStages ahead.
template <int kDim, class Lane>
KVF_DEVICE void attend_tiles(const Lane& lane, const PagedKv& kv, const BlockRows& rows,
                             const float (&q)[kDim / 64][16], int first, int count,
                             std::byte* stages, std::byte* weights, WarpState<kDim>& state) {
  const int stage_bytes = decode_stage_bytes<kDim>(kv);
  const auto ask = [&](int i) {
    if (i < count) {
      copy_part(lane, tile_part<kDim, Lane>(kv, rows, first + i),
                stages + i % kStages * stage_bytes);
    }
    lane.commit_copies();  // also an empty group, so that their number says which tile is there
  };
  for (int i = 0; i < kStages - 1; ++i) ask(i);
  for (int i = 0; i < count; ++i) {
    ask(i + kStages - 1);
    lane.template wait_copies<kStages - 1>();
    lane.sync_warp();
    const TilePart<kDim> part{stages + i % kStages * stage_bytes, kv.k_bits, kv.v_bits};
    attend_tile(lane, part, q, weights, state);  // ends with all lanes past this stage
  }
  lane.template wait_copies<0>();
}

template <int kDim, class Lane>
KVF_DEVICE void put_state(const Lane& lane, const WarpState<kDim>& state,
                          const WarpStates<kDim>& states) {
  const int g = lane.lane() / 4, t = lane.lane() % 4;
  KVF_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = 2 * t + r;
    states.m(lane.warp(), row) = state.m[r];  // of all g alike
    states.l(lane.warp(), row) = state.l[r];
    KVF_UNROLL
    for (int group = 0; group < kDim / 64; ++group) {
      KVF_UNROLL
      for (int n = 0; n < 8; ++n) {
        states.o(lane.warp(), row, 64 * group + 8 * g + n) = state.o[group][n / 2][2 * (n % 2) + r];
      }
    }
  }
}

// ---- the open tile ----

// Products of f32 and bf16, a token or a channel a thread: at most 64 tokens, hidden behind the
// other blocks.
template <int kDim, class Lane>
KVF_DEVICE void attend_open(const Lane& lane, const PagedKv& kv, const DecodeQueries& queries,
                            const BlockRows& rows, int tokens, float* scratch) {
  const std::size_t head = static_cast<std::size_t>(rows.kv_head) * kTileTokens * kDim;
  const std::byte* const k = kv.open[rows.sequence] + 2 * head;
  const std::byte* const v =
      kv.open[rows.sequence] +
      2 * (static_cast<std::size_t>(kv.kv_heads) * kTileTokens * kDim + head);
  float* const weights = scratch;  // [row][token]
  for (int i = lane.thread(); i < rows.count * kTileTokens; i += kDecodeThreads) {
    const int row = i / kTileTokens, token = i % kTileTokens;
    float score = 0.0f;
    const float* const q = queries.q + row_index(rows, row, kv.kv_heads, queries.group) * kDim;
    for (int d = 0; token < tokens && d < kDim; d += 8) {
      float values[8];
      load_bf16(lane,
                k + 2 * (static_cast<std::size_t>(token) * kDim + static_cast<std::size_t>(d)),
                values);
      for (int n = 0; n < 8; ++n) score = Lane::fma(q[d + n], values[n], score);
    }
    weights[i] = score;
  }
  lane.sync_block();
  // A warp has its rows to itself: two tokens a lane.
  for (int row = lane.warp(); row < rows.count; row += kDecodeWarps) {
    float* const s = weights + row * kTileTokens;
    const int first = lane.lane(), second = first + kWarp;
    // There is at least one token, so every lane has a score to begin with.
    float top = s[first < tokens ? first : 0];
    if (second < tokens) top = LargerOf()(top, s[second]);
    float* const to = partial_of<kDim>(rows, row, kv.kv_heads, queries);
    top = over_g(lane, over_t(lane, top, LargerOf()), LargerOf());
    s[first] = first < tokens ? Lane::exp2((s[first] - top) * kLog2E) : 0.0f;
    s[second] = second < tokens ? Lane::exp2((s[second] - top) * kLog2E) : 0.0f;
    const float l = over_g(lane, over_t(lane, s[first] + s[second], SumOf()), SumOf());
    if (lane.lane() == 0) {
      to[0] = top;
      to[1] = l;
    }
  }
  lane.sync_block();
  for (int i = lane.thread(); i < rows.count * kDim; i += kDecodeThreads) {
    const int row = i / kDim, channel = i % kDim;
    float o = 0.0f;
    for (int token = 0; token < tokens; ++token) {
      std::uint16_t value;
      __builtin_memcpy(&value, v + 2 * (token * kDim + channel), sizeof(value));
      o = Lane::fma(weights[row * kTileTokens + token],
                    Lane::as_float(static_cast<std::uint32_t>(value) << 16), o);
    }
    partial_of<kDim>(rows, row, kv.kv_heads, queries)[4 + channel] = o;
  }
}

// ---- the kernels ----

// The runs of a sequence, and whether tile 0 and the open tile are parts of their own.
struct Runs {
  int first_tile, tiles, count;
  bool has_first, has_open;
};
KVF_DEVICE Runs runs_of(const PagedKv& kv, int sequence) {
  const int closed = kv.closed_tiles[sequence];
  Runs runs;
  const bool differs = kv.first_k_bits != kv.k_bits || kv.first_v_bits != kv.v_bits;
  runs.has_first = differs && closed > 0;
  runs.first_tile = runs.has_first ? 1 : 0;
  runs.tiles = run_tiles(closed);
  runs.count = (closed - runs.first_tile + runs.tiles - 1) / runs.tiles;
  runs.has_open = kv.open_tokens[sequence] > 0;
  return runs;
}

// Grid: decode_parts() x kv_heads * row_blocks() x sequences, of kDecodeThreads.
template <int kDim, class Lane>
KVF_DEVICE void hack_decode(const Lane& lane, const PagedKv& kv, const DecodeQueries& queries) {
  const BlockRows rows = block_rows(lane, queries.group, decode_parts(kv.max_tiles));
  const Runs runs = runs_of(kv, rows.sequence);
  std::byte* const weights = lane.shared() + lane.warp() * kWeightBytes<kDim>;
  std::byte* const stages = lane.shared() + kDecodeWarps * kWeightBytes<kDim>;
  if (rows.part == rows.parts - 1) {
    if (runs.has_open) {
      attend_open<kDim>(lane, kv, queries, rows, kv.open_tokens[rows.sequence],
                        reinterpret_cast<float*>(stages));
    }
    return;
  }
  const bool first_tile = rows.part == rows.parts - 2;
  if (first_tile ? !runs.has_first : rows.part >= runs.count) return;
  WarpState<kDim> state;
  state.clear(Lane::as_float(0xff800000u));
  float q[kDim / 64][16];
  load_queries<kDim>(lane, kv, queries, rows, q);
  if (first_tile) {
    if (lane.warp() == 0) {
      const TilePart<kDim> part = tile_part<kDim, Lane>(kv, rows, 0);
      copy_part(lane, part, stages);
      lane.commit_copies();
      lane.template wait_copies<0>();
      lane.sync_warp();
      attend_tile(lane, {stages, part.k_bits, part.v_bits}, q, weights, state);
    }
  } else {
    const int each = runs.tiles / kDecodeWarps;
    const int first = runs.first_tile + rows.part * runs.tiles + lane.warp() * each;
    const int left = kv.closed_tiles[rows.sequence] - first;
    attend_tiles(lane, kv, rows, q, first, left < each ? left : each,
                 stages + lane.warp() * kStages * decode_stage_bytes<kDim>(kv), weights, state);
  }
  lane.sync_block();  // the stages become room for states
  put_state<kDim>(lane, state, WarpStates<kDim>(stages));
  leave_partial(lane, rows, kv.kv_heads, queries, WarpStates<kDim>(stages));
}

// Merges a row's parts, in their order. Grid: rows of all sequences x 1 x 1, of kDim threads.
template <int kDim, class Lane>
KVF_DEVICE void merge_decode(const Lane& lane, const PagedKv& kv, const DecodeQueries& queries) {
  const int row = static_cast<int>(lane.block_x()), parts = decode_parts(kv.max_tiles);
  const Runs runs = runs_of(kv, row / (kv.kv_heads * queries.group));
  merge_parts<kDim>(lane, queries, row, parts, [&](auto call) {
    for (int run = 0; run < runs.count; ++run) call(run);
    if (runs.has_first) call(parts - 2);
    if (runs.has_open) call(parts - 1);
  });
}

}  // namespace kvferry::cuda
