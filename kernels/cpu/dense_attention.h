// Attention over one dense tile, and the arithmetic of attention states. Included only by
// dense_<isa>.cpp.
//
// K and V are read where they lie, in words: a word of bf16 is a pair of channels, which two
// instructions widen in registers. A score q . k has lanes of channels: lane j of 16 is one chain
// of fma over the channels 32 i + 2 j and 32 i + 2 j + 1, i = 0, 1, ..., from 0; the lanes are
// added by the tree of reduce_add. The sums of 16 pairs of row and token are reduced together,
// which takes 3 instructions a pair where transposing K took 16 a token. An element of o = p . v is
// one chain of fma over t = 0, 1, ... from 0. Tokens that a row does not see have p = +0; leaving
// them out of the chain changes nothing but perhaps the sign of a zero, which the "+ 0" at its end
// removes. So a row's bits do not depend on the rows beside it, nor on how many share each loaded
// register.
#pragma once

#include "kernels/cpu/dense_products.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr int kBlockRows = 4;
constexpr int kLanesOfAll = 16;  // of kParts registers
constexpr float kMinusInfinity = -__builtin_huge_valf();
constexpr float kLargest = 0x1.fffffep127f;

// Rows of `width` values, a multiple of kChannels, zeros behind head_dim. Keys in f32 are arranged.
template <class Key, class Value>  // float, or bf16 (std::uint16_t)
struct Tile {
  const Key* keys;
  const Value* values;
  std::size_t width;
  std::size_t head_dim;
};

// Scores, and then p, of R rows over a tile: 16 lanes hold kTokens tokens of each row, so that the
// softmax of all of them is one of whole registers.
template <int R>
struct Scores {
  static constexpr int kTokens = kLanesOfAll / R;
  alignas(64) float at[kTileTokens * R];

  static constexpr std::size_t index(int row, std::size_t token) {
    return token / kTokens * kLanesOfAll + static_cast<std::size_t>(row) * kTokens +
           token % kTokens;
  }
};

// The scores of the tile's first `tokens` tokens, a multiple of 16.
template <int R, class Tile>
KVFERRY_INLINE void score_tile(const Tile& tile, const float* q, std::size_t tokens, Asking& asking,
                               Scores<R>& scores) {
  constexpr int kTokens = kSums / R;
  for (std::size_t t = 0; t < tokens; t += kTokens) {
    store_rows<R>(scores.at + Scores<R>::index(0, t), Scores<R>::kTokens,
                  score_block<R>(q, tile.keys + t * tile.width, tile.width, asking));
  }
}

// Adds more [rows][kTileTokens].
template <int R>
KVFERRY_INLINE void add_to_scores(const float* more, int rows, std::size_t tokens,
                                  Scores<R>& scores) {
  for (int r = 0; r < rows; ++r, more += kTileTokens) {
    for (std::size_t t = 0; t < tokens; t += 4) {
      float* at = scores.at + Scores<R>::index(r, t);
      _mm_storeu_ps(at, _mm_add_ps(_mm_loadu_ps(at), _mm_loadu_ps(more + t)));
    }
  }
}

// 16 lanes, R rows of which have kLanesOfAll / R each.
struct Lanes {
  V parts[kParts];
};

// Each lane with that at distance S.
template <int S, class Op>
KVFERRY_INLINE Lanes with_partner(const Lanes& x, Op op) {
  Lanes out;
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    if constexpr (S < kLanes) {
      out.parts[part] = op(x.parts[part], partner<S>(x.parts[part]));
    } else {
      out.parts[part] = op(x.parts[part], x.parts[part ^ (S / kLanes)]);
    }
  }
  return out;
}

// All of a row's tokens, of which registers i of R hold those of 16 at a time, by the tree of
// reduce_add: distance 8, 4, 2, 1. The result is in every lane of the row.
template <int R, class Op>
KVFERRY_INLINE Lanes reduce_rows(const Lanes (&x)[R], Op op) {
  Lanes all = x[0];
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    if constexpr (R == 4) {
      all.parts[part] =
          op(op(x[0].parts[part], x[2].parts[part]), op(x[1].parts[part], x[3].parts[part]));
    }
    if constexpr (R == 2) all.parts[part] = op(x[0].parts[part], x[1].parts[part]);
  }
  if constexpr (R == 1) all = with_partner<8>(all, op);
  if constexpr (R <= 2) all = with_partner<4>(all, op);
  return with_partner<1>(with_partner<2>(all, op), op);
}

// The softmax of each row over its scores, in place: a score becomes p_t = exp(s_t - maximum).
// Of a row that has none above -infinity, the maximum is 0 and every p_t is +0.
struct RowSums {
  Lanes maximum;
  Lanes sum;
};
template <int R>
KVFERRY_INLINE RowSums softmax(std::size_t tokens, Scores<R>& scores) {
  Lanes highest[R];
  Lanes sums[R];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      highest[i].parts[part] = broadcast(kMinusInfinity);
      sums[i].parts[part] = zero();
    }
  }
  float* const end = scores.at + tokens * R;
  for (float* at = scores.at; at < end; at += kLanesOfAll * R) {
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        V& most = highest[i].parts[part];
        most = max(load(at + i * kLanesOfAll + part * kLanes), most);
      }
    }
  }
  RowSums rows;
  rows.maximum = reduce_rows(highest, [](V a, V b) { return max(a, b); });
  for (V& maximum : rows.maximum.parts) {
    maximum = zero_where_less(maximum, broadcast(-kLargest), maximum);
  }
  for (float* at = scores.at; at < end; at += kLanesOfAll * R) {
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        float* lanes = at + i * kLanesOfAll + part * kLanes;
        const V p = exp_nonpositive(sub(load(lanes), rows.maximum.parts[part]));
        store(lanes, p);
        V& sum = sums[i].parts[part];
        sum = add(sum, p);
      }
    }
  }
  rows.sum = reduce_rows(sums, [](V a, V b) { return add(a, b); });
  return rows;
}

// The maximum and sum of two states, and what their sums of values are to be multiplied by. The
// other's maximum is finite, so no difference is NaN.
struct Merge {
  V m, l, mine, theirs;
};
KVFERRY_INLINE Merge merge_sums(V m, V l, V other_m, V other_l) {
  Merge out;
  out.m = max(m, other_m);
  out.mine = exp_nonpositive(sub(m, out.m));
  out.theirs = exp_nonpositive(sub(other_m, out.m));
  out.l = add(mul(l, out.mine), mul(other_l, out.theirs));
  return out;
}

// o = o * mine + other * theirs over one register, saturated.
KVFERRY_INLINE V merged(V o, V mine, V other, V theirs) {
  return held_to(kLargest, fma(other, theirs, mul(o, mine)));
}

// The rows of states that a block takes, R or fewer, one number for each of 16 lanes: rows lie as
// in Scores, lanes of rows that see nothing hold zeros.
template <int R>
struct RowLanes {
  static constexpr int kTokens = kLanesOfAll / R;
  alignas(64) float m[kLanesOfAll];
  alignas(64) float l[kLanesOfAll];
  alignas(64) float mine[kLanesOfAll];
  alignas(64) float theirs[kLanesOfAll];

  void load_states(const AttentionStates& states, std::size_t row, const std::uint32_t (&sees)[R]) {
    for (int r = 0; r < R; ++r) {
      const bool live = sees[r] > 0;
      const float row_m = live ? states.m[row + static_cast<std::size_t>(r)] : 0.0f;
      const float row_l = live ? states.l[row + static_cast<std::size_t>(r)] : 0.0f;
      for (int i = 0; i < kTokens; ++i) {
        m[r * kTokens + i] = row_m;
        l[r * kTokens + i] = row_l;
      }
    }
  }
  KVFERRY_INLINE void merge(const RowSums& tile) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const int at = part * kLanes;
      const Merge merge =
          merge_sums(load(m + at), load(l + at), tile.maximum.parts[part], tile.sum.parts[part]);
      store(m + at, merge.m);
      store(l + at, merge.l);
      store(mine + at, merge.mine);
      store(theirs + at, merge.theirs);
    }
  }
  void store_states(const AttentionStates& states, std::size_t row,
                    const std::uint32_t (&sees)[R]) const {
    for (int r = 0; r < R; ++r) {
      if (sees[r] == 0) continue;
      states.m[row + static_cast<std::size_t>(r)] = m[r * kTokens];
      states.l[row + static_cast<std::size_t>(r)] = l[r * kTokens];
    }
  }
};

// What the scores ask for, and what the values do: they take the same time, in which memory is to
// be asked for evenly. Zen 4 drops what is asked for faster than memory can bring it.
struct Askings {
  Asking scores, values;
};
template <int R>
KVFERRY_INLINE Askings askings(const Ahead& ahead, std::size_t width) {
  const std::size_t registers = width / kLanes;
  const std::size_t passes = (registers + kBlockColumns - 1) / kBlockColumns;
  const std::size_t half = ahead.bytes / 2;
  return {{{ahead.data, half}, kTileTokens * R / kSums * (width / (2 * kLanes))},
          {{ahead.data + half, ahead.bytes - half}, kTileTokens * passes}};
}

// At most R rows from `row` on; of the others q holds zeros. Not inlined: inside a larger
// function the compiler spills the addresses of the inner loops.
template <int R, class Key, class Value>
__attribute__((noinline)) void attend_rows(const Tile<Key, Value>& tile, const Queries& queries,
                                           const float* q, const std::uint32_t* visible,
                                           const AttentionStates& states, std::size_t row) {
  std::uint32_t most = 0;
  std::uint32_t sees[R];
  for (int r = 0; r < R; ++r) {
    const std::size_t at = row + static_cast<std::size_t>(r);
    sees[r] = at >= states.rows ? 0 : visible == nullptr ? kTileTokens : visible[at];
    if (sees[r] > most) most = sees[r];
  }
  if (most == 0) return;
  RowLanes<R> lanes;
  lanes.load_states(states, row, sees);
  Scores<R> scores;
  const std::size_t tokens = round_up(most, 16);
  Askings asking = askings<R>(queries.ahead, tile.width);
  score_tile<R>(tile, q, tokens, asking.scores, scores);
  if (queries.score_add != nullptr) {
    const std::size_t rows = states.rows - row < R ? states.rows - row : R;
    add_to_scores<R>(queries.score_add + row * kTileTokens, static_cast<int>(rows), tokens, scores);
  }
  for (int r = 0; r < R; ++r) {
    for (std::size_t t = sees[r]; t < tokens; ++t) {
      scores.at[Scores<R>::index(r, t)] = kMinusInfinity;
    }
  }
  lanes.merge(softmax<R>(tokens, scores));
  lanes.store_states(states, row, sees);
  const auto p = [&](int r, std::size_t t) { return scores.at[Scores<R>::index(r, t)]; };
  const auto merge_into_o = [&](int r, int n, V sum) {
    const std::size_t d = static_cast<std::size_t>(n) * kLanes;
    if (sees[r] == 0 || d >= tile.head_dim) return;
    float* o = states.o + (row + static_cast<std::size_t>(r)) * tile.head_dim + d;
    const V other = held_to(kLargest, add(sum, zero()));
    const V mine = broadcast(lanes.mine[r * Scores<R>::kTokens]);
    const V theirs = broadcast(lanes.theirs[r * Scores<R>::kTokens]);
    if (d + kLanes <= tile.head_dim) {
      store(o, merged(load(o), mine, other, theirs));
    } else {
      const std::size_t left = tile.head_dim - d;
      store_n(o, left, merged(load_n(o, left), mine, other, theirs));
    }
  };
  wide_product<R>(p, Matrix<Value>{tile.values, tile.width}, most,
                  static_cast<int>(tile.width) / kLanes, asking.values, merge_into_o);
}

// Asks for `bytes` at p. A tile that nobody asked for ahead seldom lies in the cache when one query
// comes by.
KVFERRY_INLINE void prefetch(const void* p, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) {
    _mm_prefetch(static_cast<const char*>(p) + i, _MM_HINT_T0);
  }
}

template <int R, class Tile>
void attend_block(const Tile& tile, const Queries& queries, const std::uint32_t* visible,
                  const AttentionStates& states, std::size_t row) {
  alignas(64) float q[R * kMaxHeadDim];
  const std::size_t rows = states.rows - row < R ? states.rows - row : R;
  arrange(queries.q + row * tile.head_dim, rows, tile.head_dim, tile.width, q);
  for (std::size_t i = rows * tile.width; i < R * tile.width; ++i) q[i] = 0.0f;
  attend_rows<R>(tile, queries, q, visible, states, row);
}

template <class Tile>
void attend_tile(const Tile& tile, const Queries& queries, const std::uint32_t* visible,
                 const AttentionStates& states) {
  Queries left = queries;
  for (std::size_t row = 0; row < states.rows; row += kBlockRows) {
    switch (states.rows - row) {
      case 1:
        attend_block<1>(tile, left, visible, states, row);
        break;
      case 2:
        attend_block<2>(tile, left, visible, states, row);
        break;
      default:
        attend_block<kBlockRows>(tile, left, visible, states, row);
    }
    left.ahead = {};
  }
}

template <class T>
void attend(const Queries& queries, const T* k, const T* v, const std::uint32_t* visible,
            AttentionStates states) {
  std::uint32_t most = visible == nullptr ? kTileTokens : 0;
  for (std::size_t r = 0; visible != nullptr && r < states.rows; ++r) {
    if (visible[r] > most) most = visible[r];
  }
  if (most == 0 || states.rows == 0) return;
  const std::size_t head_dim = states.head_dim;
  const std::size_t width = round_up(head_dim, kChannels);
  if (queries.ahead.bytes == 0) {  // else the caller has asked for this tile too
    prefetch(k, most * head_dim * sizeof(T));
    prefetch(v, most * head_dim * sizeof(T));
  }
  if constexpr (sizeof(T) == sizeof(std::uint16_t)) {
    if (width == head_dim) {
      attend_tile(Tile<T, T>{k, v, width, head_dim}, queries, visible, states);
      return;
    }
  }
  alignas(64) float keys[kTileTokens * kMaxHeadDim];
  arrange(k, round_up(most, 16), head_dim, width, keys);
  alignas(64) T padded[kTileTokens * kMaxHeadDim];
  const T* values = v;
  if (width != head_dim) {
    for (std::size_t t = 0; t < most; ++t) {
      for (std::size_t d = 0; d < width; ++d) {
        padded[t * width + d] = d < head_dim ? v[t * head_dim + d] : T{};
      }
    }
    values = padded;
  }
  attend_tile(Tile<float, T>{keys, values, width, head_dim}, queries, visible, states);
}

void attend_bf16(const Queries& queries, const std::uint16_t* k, const std::uint16_t* v,
                 const std::uint32_t* visible, AttentionStates states) {
  attend(queries, k, v, visible, states);
}

void attend_f32(const Queries& queries, const float* k, const float* v,
                const std::uint32_t* visible, AttentionStates states) {
  attend(queries, k, v, visible, states);
}

void merge_states(AttentionStates states, AttentionStates other) {
  const std::size_t head_dim = states.head_dim;
  for (std::size_t row = 0; row < states.rows; ++row) {
    if (other.m[row] == kMinusInfinity) continue;
    const Merge merge = merge_sums(broadcast(states.m[row]), broadcast(states.l[row]),
                                   broadcast(other.m[row]), broadcast(other.l[row]));
    store_n(states.m + row, 1, merge.m);
    store_n(states.l + row, 1, merge.l);
    float* o = states.o + row * head_dim;
    const float* other_o = other.o + row * head_dim;
    std::size_t d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) {
      store(o + d, merged(load(o + d), merge.mine, load(other_o + d), merge.theirs));
    }
    if (d < head_dim) {
      const std::size_t left = head_dim - d;
      store_n(o + d, left,
              merged(load_n(o + d, left), merge.mine, load_n(other_o + d, left), merge.theirs));
    }
  }
}

void normalize(AttentionStates states, float* out) {
  for (std::size_t row = 0; row < states.rows; ++row) {
    const float l = states.l[row];
    const float* o = states.o + row * states.head_dim;
    float* to = out + row * states.head_dim;
    for (std::size_t d = 0; d < states.head_dim; ++d) to[d] = l == 0.0f ? 0.0f : o[d] / l;
  }
}

}  // namespace
}  // namespace kvferry::kernels
