// Decode attention over bf16 KV in pages, for a batch of sequences of any lengths, one token each:
// what attention on codes is measured against. dense_decode.cu launches it.
//
// As in hack_decode.h a sequence is cut into runs of tiles by its length alone, and a block attends
// 8 query rows of one KV head to one run. Of each tile every warp takes 16 tokens, on the tensor
// cores: K as it lies, V transposed on its way out of shared memory. q and p enter as sums of two
// bf16, so that they lose nothing that f32 would keep but the last bits.
#pragma once

#include "kernels/cuda/decode_rows.h"
#include "kernels/cuda/dense_cuda.h"

namespace kvferry::cuda {

constexpr int kSliceTokens = 16;  // of a tile, a warp's

template <int kDim>
struct DenseSlice {
  static constexpr int kStages = kDim == 256 ? 2 : 3;  // 128 KiB a block at the most
  static constexpr int kRowPieces = 2 * kDim / 16;     // of a token
  static constexpr int kMatrixBytes = kSliceTokens * 2 * kDim;
  static constexpr int kBytes = 2 * kMatrixBytes;  // K, V
};

// Where a 16-byte piece of a row lies in shared memory. K: 8 lanes that are served together read 4
// neighbouring pieces of two rows. V: the same piece of 8 rows.
KVF_DEVICE int exchanged_key(int piece, int row) { return piece ^ ((row & 1) << 2); }
KVF_DEVICE int exchanged_value(int piece, int row) { return piece ^ (row & 7); }

// The two bf16 whose sum is v, but for its last bits: hi is v cut off, lo what is left.
struct SplitPair {
  std::uint32_t hi, lo;  // of two values
};
template <class Lane>
KVF_DEVICE SplitPair split(float a, float b) {
  const std::uint32_t high_a = Lane::bits(a) & 0xffff0000u, high_b = Lane::bits(b) & 0xffff0000u;
  const std::uint32_t low_a = Lane::bits(a - Lane::as_float(high_a));
  const std::uint32_t low_b = Lane::bits(b - Lane::as_float(high_b));
  return {(high_a >> 16) | high_b, (low_a >> 16) | (low_b & 0xffff0000u)};
}

// Row g of the queries as operands: lane 4 g + t holds pieces t, t + 4, ... of 8 channels.
template <int kDim>
struct DenseQuery {
  SplitPair pair[kDim / 32][4];
};

template <int kDim, class Lane>
KVF_DEVICE void load_dense_query(const Lane& lane, const float* row, bool there,
                                 DenseQuery<kDim>& query) {
  const int t = lane.lane() % 4;
  KVF_UNROLL
  for (int i = 0; i < kDim / 32; ++i) {
    const float* const from = row + 8 * (4 * i + t);
    KVF_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Words words = lane.load16(from + 4 * half);
      float v[4];
      KVF_UNROLL
      for (int n = 0; n < 4; ++n) v[n] = there ? Lane::as_float(words.w[n]) : 0.0f;
      query.pair[i][2 * half] = split<Lane>(v[0], v[1]);
      query.pair[i][2 * half + 1] = split<Lane>(v[2], v[3]);
    }
  }
}

// A slice's K and V to shared memory; tokens from `tokens` on become zeros.
template <int kDim, class Lane>
KVF_DEVICE void copy_slice(const Lane& lane, const std::byte* k, const std::byte* v, int tokens,
                           std::byte* to) {
  using Slice = DenseSlice<kDim>;
  for (int i = lane.lane(); i < kSliceTokens * Slice::kRowPieces; i += kWarp) {
    const int row = i / Slice::kRowPieces, piece = i % Slice::kRowPieces;
    const bool there = row < tokens;
    std::byte* const at = to + 16 * row * Slice::kRowPieces;
    lane.copy_async_or_zero(at + 16 * exchanged_key(piece, row), k + 16 * i, there);
    lane.copy_async_or_zero(at + Slice::kMatrixBytes + 16 * exchanged_value(piece, row), v + 16 * i,
                            there);
  }
}

// A warp's state of its 8 rows. m is the same in all lanes that share t, l is each lane's own sum.
// o[i][2 h + r]: channel 16 i + g + 8 h of row 2 t + r.
template <int kDim>
struct DenseState {
  float m[2], l[2];
  float o[kDim / 16][4];
};

// s[2 h + r] = score of token g + 8 h and row 2 t + r.
template <int kDim, class Lane>
KVF_DEVICE void score_slice(const Lane& lane, const DenseQuery<kDim>& query, const std::byte* k,
                            float (&s)[4]) {
  const int g = lane.lane() / 4, t = lane.lane() % 4;
  KVF_UNROLL
  for (float& value : s) value = 0.0f;
  KVF_UNROLL
  for (int i = 0; i < kDim / 32; ++i) {
    Words rows[2];
    KVF_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int row = g + 8 * h;
      rows[h] = lane.load16(k + row * 2 * kDim + 16 * exchanged_key(4 * i + t, row));
    }
    KVF_UNROLL
    for (int n = 0; n < 4; n += 2) {
      const std::uint32_t a[4] = {rows[0].w[n], rows[1].w[n], rows[0].w[n + 1], rows[1].w[n + 1]};
      const SplitPair& first = query.pair[i][n];
      const SplitPair& second = query.pair[i][n + 1];
      lane.dots_bf16(s, a, first.hi, second.hi);
      lane.dots_bf16(s, a, first.lo, second.lo);
    }
  }
}

// Attends to a slice of which the first `tokens` count, at least one.
template <int kDim, class Lane>
KVF_DEVICE void attend_slice(const Lane& lane, const DenseQuery<kDim>& query,
                             const std::byte* slice, int tokens, DenseState<kDim>& state) {
  const int g = lane.lane() / 4;
  float p[4];
  score_slice<kDim>(lane, query, slice, p);
  const bool there[2] = {g < tokens, g + 8 < tokens};
  float before[2];
  KVF_UNROLL
  for (int r = 0; r < 2; ++r) {
    float top = there[0] ? p[r] : state.m[r];
    if (there[1]) top = LargerOf()(top, p[2 + r]);
    top = LargerOf()(over_g(lane, top, LargerOf()), state.m[r]);
    before[r] = Lane::exp2((state.m[r] - top) * kLog2E);
    state.m[r] = top;
    state.l[r] *= before[r];
    KVF_UNROLL
    for (int h = 0; h < 2; ++h) {
      float& value = p[2 * h + r];
      value = there[h] ? Lane::exp2((value - top) * kLog2E) : 0.0f;
      state.l[r] += value;
    }
  }
  // Weights of rows 2 t, 2 t + 1 of one token to those of tokens 2 t, 2 t + 1 of row g.
  SplitPair weights[2];
  KVF_UNROLL
  for (int h = 0; h < 2; ++h) {
    const SplitPair split_weights = split<Lane>(p[2 * h], p[2 * h + 1]);
    weights[h] = {lane.transpose(split_weights.hi), lane.transpose(split_weights.lo)};
  }
  const std::byte* const v = slice + DenseSlice<kDim>::kMatrixBytes;
  const int row = lane.lane() % 16, next = lane.lane() / 16;  // which row of V this lane points to
  KVF_UNROLL
  for (int i = 0; i < kDim / 16; ++i) {
    std::uint32_t a[4];
    lane.load_transposed(v + row * 2 * kDim + 16 * exchanged_value(2 * i + next, row), a);
    KVF_UNROLL
    for (int n = 0; n < 4; ++n) state.o[i][n] *= before[n % 2];
    // As they come: tokens 0-7 and 8-15 of channels 0-7, then of channels 8-15.
    const std::uint32_t of_channels[4] = {a[0], a[2], a[1], a[3]};
    lane.dots_bf16(state.o[i], of_channels, weights[0].hi, weights[1].hi);
    lane.dots_bf16(state.o[i], of_channels, weights[0].lo, weights[1].lo);
  }
}

template <int kDim>
KVF_HOST_DEVICE std::size_t dense_shared_bytes() {
  const int stages = kDecodeWarps * DenseSlice<kDim>::kStages * DenseSlice<kDim>::kBytes;
  const int states = WarpStates<kDim>::kBytes;
  return static_cast<std::size_t>(stages > states ? stages : states);
}

// Grid: dense_parts() x kv_heads * row_blocks() x sequences, of kDecodeThreads.
template <int kDim, class Lane>
KVF_DEVICE void dense_decode(const Lane& lane, const DensePages& kv, const DecodeQueries& queries) {
  using Slice = DenseSlice<kDim>;
  const BlockRows rows = block_rows(lane, queries.group, max_runs(kv.max_tiles));
  const int tokens = kv.tokens[rows.sequence];
  const int tiles = (tokens + kTileTokens - 1) / kTileTokens;
  const int each = run_tiles(tiles), first = rows.part * each;
  if (first >= tiles) return;
  const int count = tiles - first < each ? tiles - first : each;
  const std::size_t head = static_cast<std::size_t>(rows.kv_head) * kTileTokens * kDim * 2;
  const std::size_t values = static_cast<std::size_t>(kv.kv_heads) * kTileTokens * kDim * 2;
  std::byte* const stages = lane.shared() + lane.warp() * Slice::kStages * Slice::kBytes;
  const int slice_first = lane.warp() * kSliceTokens;
  const auto left = [&](int i) {  // tokens of this warp's slice of the run's i-th tile
    const int from = (first + i) * kTileTokens + slice_first;
    return tokens - from < kSliceTokens ? tokens - from : kSliceTokens;
  };
  const auto ask = [&](int i) {
    if (i < count && left(i) > 0) {
      const std::byte* const k = kv.tiles[static_cast<std::size_t>(rows.sequence) *
                                              static_cast<std::size_t>(kv.max_tiles) +
                                          static_cast<std::size_t>(first + i)] +
                                 head + 2 * static_cast<std::size_t>(slice_first) * kDim;
      copy_slice<kDim>(lane, k, k + values, left(i), stages + i % Slice::kStages * Slice::kBytes);
    }
    lane.commit_copies();
  };
  DenseQuery<kDim> query;
  const int g = lane.lane() / 4;
  load_dense_query<kDim>(
      lane, queries.q + row_index(rows, g < rows.count ? g : 0, kv.kv_heads, queries.group) * kDim,
      g < rows.count, query);
  DenseState<kDim> state{};
  state.m[0] = state.m[1] = Lane::as_float(0xff800000u);
  for (int i = 0; i < Slice::kStages - 1; ++i) ask(i);
  for (int i = 0; i < count; ++i) {
    ask(i + Slice::kStages - 1);
    lane.template wait_copies<Slice::kStages - 1>();
    lane.sync_warp();
    if (left(i) > 0) {
      attend_slice<kDim>(lane, query, stages + i % Slice::kStages * Slice::kBytes, left(i), state);
    }
    lane.sync_warp();
  }
  lane.template wait_copies<0>();
  KVF_UNROLL
  for (float& l : state.l) l = over_g(lane, l, SumOf());
  lane.sync_block();  // the stages become scratch
  const WarpStates<kDim> states(lane.shared());
  const int t = lane.lane() % 4;
  KVF_UNROLL
  for (int r = 0; r < 2; ++r) {
    states.m(lane.warp(), 2 * t + r) = state.m[r];
    states.l(lane.warp(), 2 * t + r) = state.l[r];
    KVF_UNROLL
    for (int i = 0; i < kDim / 16; ++i) {
      KVF_UNROLL
      for (int h = 0; h < 2; ++h) {
        states.o(lane.warp(), 2 * t + r, 16 * i + g + 8 * h) = state.o[i][2 * h + r];
      }
    }
  }
  leave_partial(lane, rows, kv.kv_heads, queries, states);
}

// Merges a row's runs, in their order. Grid: rows of all sequences x 1 x 1, of kDim threads.
template <int kDim, class Lane>
KVF_DEVICE void merge_dense(const Lane& lane, const DensePages& kv, const DecodeQueries& queries) {
  const int row = static_cast<int>(lane.block_x());
  const int tokens = kv.tokens[row / (kv.kv_heads * queries.group)];
  const int tiles = (tokens + kTileTokens - 1) / kTileTokens, each = run_tiles(tiles);
  const int runs = (tiles + each - 1) / each;
  merge_parts<kDim>(lane, queries, row, max_runs(kv.max_tiles), [&](auto call) {
    for (int run = 0; run < runs; ++run) call(run);
  });
}

}  // namespace kvferry::cuda
