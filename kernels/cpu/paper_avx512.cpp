// layout=paper in AVX-512 with VNNI. Blocks of up to 4 query rows share the unpacked codes; each
// row's operations and their order are the same in a block of any size.
//
// vpdpbusd multiplies unsigned by signed bytes, four a lane: q' and p' are the unsigned ones, codes
// the signed ones. Codes of up to 7 bits fit a signed byte; those of 8 bits enter as code - 128,
// which 128 times the sum of q' or p' makes good. A sum of 128 products is at most 128 * 255 * 255
// < 2^23, on its way there at most 128 * 128 * 255 more: int32 holds it, and f32 exactly.
#include <immintrin.h>

#include <cstring>

#include "kernels/cpu/dense_vec.h"
#include "kernels/cpu/paper_common.h"

namespace kvferry::kernels {
namespace {

constexpr std::uint32_t kBlockRows = 4;
constexpr std::uint32_t kChunk = 64;  // lanes of a call of dots: tokens of K, channels of V
constexpr int kVectors = kChunk / kLanes;
constexpr float kLevels = 255.0f;
constexpr float kLargest = 0x1.fffffep127f;

KVFERRY_INLINE V load_bf16(const std::byte* plane, std::size_t index) {
  return load(reinterpret_cast<const std::uint16_t*>(plane) + index);
}
KVFERRY_INLINE V absolute(V v) { return bit_and(v, as_vector(0x7fffffffu)); }
KVFERRY_INLINE V as_float(const std::int32_t* p) {
  return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}

// The lanes of vector i that hold tokens attended to.
KVFERRY_INLINE __mmask16 token_lanes(std::uint32_t first, std::uint32_t tokens) {
  if (tokens <= first) return 0;
  return tokens - first >= kLanes ? __mmask16{0xffff} : first_lanes(tokens - first);
}

// Codes of one plane set in one 64-token block, from some place of the packed axis and some lane
// on. A sub-plane of w bits has 32 places in w rows of words.
struct Codes {
  const std::byte* words;
  std::size_t first_place;  // a multiple of 32
  std::size_t row_bytes;    // of a row of words
  std::size_t plane_bytes;  // of a sub-plane of 1 bit
};

// The four codes of each lane at places 4 i.. of a run of 32, for i in 0..7: the sub-plane of Width
// bits, which holds the bits from Shift on.
template <int Width, int Shift>
KVFERRY_INLINE __m512i part_of_group(const std::byte* run, std::size_t row_bytes, int i,
                                     int vector) {
  constexpr int kFields = 8 / Width;
  const __m512i word = _mm512_loadu_si512(run + i / kFields * row_bytes + 64 * vector);
  if constexpr (Width == 8) return _mm512_xor_si512(word, _mm512_set1_epi8(-128));
  const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << Width) - 1));
  const __m512i part =
      _mm512_and_si512(_mm512_srli_epi32(word, static_cast<unsigned>(i % kFields * Width)), mask);
  return _mm512_slli_epi32(part, Shift);
}

template <int Bits>
KVFERRY_INLINE __m512i group_of(const std::byte* const (&runs)[3], std::size_t row_bytes, int i,
                                int vector) {
  if constexpr (Bits == 8) return part_of_group<8, 0>(runs[0], row_bytes, i, vector);
  __m512i codes = _mm512_setzero_si512();
  if constexpr ((Bits & 4) != 0) codes = part_of_group<4, 0>(runs[0], row_bytes, i, vector);
  if constexpr ((Bits & 2) != 0) {
    codes = _mm512_or_si512(codes, part_of_group<2, Bits & 4>(runs[1], row_bytes, i, vector));
  }
  if constexpr ((Bits & 1) != 0) {
    codes = _mm512_or_si512(codes, part_of_group<1, Bits & 6>(runs[2], row_bytes, i, vector));
  }
  return codes;
}

// sums[r][lane] += SUM_i left[r][i] code[i][lane] over `count` places, a multiple of 32; of 8-bit
// codes, less 128 each.
template <int Bits, int R>
void dots(const Codes& codes, std::uint32_t count, const std::uint8_t* left,
          std::size_t left_stride, std::int32_t* sums) {
  __m512i total[R][kVectors];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      total[r][v] = _mm512_loadu_si512(sums + r * kChunk + v * kLanes);
    }
  }
  for (std::uint32_t place = 0; place < count; place += 32) {
    const std::size_t run = (codes.first_place + place) / 32;
    const std::byte* two = codes.words + (Bits & 4) * codes.plane_bytes;
    const std::byte* one = codes.words + (Bits & 6) * codes.plane_bytes;
    const std::byte* const runs[3] = {
        codes.words + run * (Bits == 8 ? 8 : 4) * codes.row_bytes,
        two + run * 2 * codes.row_bytes,
        one + run * codes.row_bytes,
    };
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      __m512i group[kVectors];
      for (int v = 0; v < kVectors; ++v) group[v] = group_of<Bits>(runs, codes.row_bytes, i, v);
      for (int r = 0; r < R; ++r) {
        int four;
        std::memcpy(&four, left + r * left_stride + place + 4 * i, sizeof(four));
        const __m512i factor = _mm512_set1_epi32(four);
        for (int v = 0; v < kVectors; ++v) {
          total[r][v] = _mm512_dpbusd_epi32(total[r][v], factor, group[v]);
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      _mm512_storeu_si512(sums + r * kChunk + v * kLanes, total[r][v]);
    }
  }
}

using Dots = void (*)(const Codes&, std::uint32_t, const std::uint8_t*, std::size_t, std::int32_t*);
template <int R>
constexpr Dots kDotsOf[8] = {dots<1, R>, dots<2, R>, dots<3, R>, dots<4, R>,
                             dots<5, R>, dots<6, R>, dots<7, R>, dots<8, R>};
constexpr const Dots* kDots[kBlockRows] = {kDotsOf<1>, kDotsOf<2>, kDotsOf<3>, kDotsOf<4>};

// Rows of values in 0..255: value ~ step * code + min, over one partition.
struct Steps {
  float step[kBlockRows], min[kBlockRows];
  float whole[kBlockRows];       // step * sum + n * min
  std::int32_t sum[kBlockRows];  // of the codes
};

// Of values x[0..n), n at most 128: codes behind n are 0, up to the next multiple of 16.
KVFERRY_INLINE void round_values(const float* x, std::uint32_t n, std::uint8_t* codes, Steps& steps,
                                 std::uint32_t row) {
  const V first = broadcast(x[0]);
  V low = first;
  V high = first;
  for (std::uint32_t i = 0; i < n; i += kLanes) {
    const V value = _mm512_mask_loadu_ps(first, token_lanes(i, n), x + i);
    low = min(low, value);
    high = max(high, value);
  }
  const float lowest = _mm512_reduce_min_ps(low);
  const float range = _mm512_reduce_max_ps(high) - lowest;
  const bool tiny = range < kHackTiny;
  const V inv = broadcast(tiny ? 0.0f : kLevels / range);
  __m512i sum = _mm512_setzero_si512();
  for (std::uint32_t i = 0; i < n; i += kLanes) {
    const __mmask16 lanes = token_lanes(i, n);
    const V value = _mm512_maskz_loadu_ps(lanes, x + i);
    const __m512i code = _mm512_maskz_cvtps_epi32(lanes, mul(sub(value, broadcast(lowest)), inv));
    sum = _mm512_add_epi32(sum, code);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtusepi32_epi8(code));
  }
  steps.step[row] = tiny ? 0.0f : range / kLevels;
  steps.min[row] = lowest;
  steps.sum[row] = _mm512_reduce_add_epi32(sum);
  steps.whole[row] =
      steps.step[row] * static_cast<float>(steps.sum[row]) + static_cast<float>(n) * steps.min[row];
}

// Sums of codes as f32, and what the tile's values need.
struct Tile {
  explicit Tile(const PaperPlanes& p) : planes(p) {}
  const PaperPlanes& planes;
  alignas(64) float k_sums[kPaperMaxParts * kPaperMaxTokens];  // [C][T]
  alignas(64) float v_sums[kPaperMaxSpans * kPaperMaxDim];     // [S][D]

  // K of tokens 64 block.., from channel `channel` on.
  Codes k_codes(std::uint32_t block, std::uint32_t channel) const {
    const std::size_t plane = 8 * std::size_t{planes.head_dim};
    return {planes.k_codes + block * plane * planes.k_bits, channel, 4 * kChunk, plane};
  }
  // V of channels from `channel` on, from token `token` on to the end of its block.
  Codes v_codes(std::uint32_t token, std::uint32_t channel) const {
    const std::size_t plane = 8 * std::size_t{planes.head_dim};
    return {planes.v_codes + token / kChunk * plane * planes.v_bits + 4 * std::size_t{channel},
            token % kChunk, 4 * std::size_t{planes.head_dim}, plane};
  }
};

alignas(64) constexpr std::uint8_t kOnes[kPaperMaxTokens] = {
#define KVFERRY_ONES_16 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1
    KVFERRY_ONES_16, KVFERRY_ONES_16, KVFERRY_ONES_16, KVFERRY_ONES_16, KVFERRY_ONES_16,
    KVFERRY_ONES_16, KVFERRY_ONES_16, KVFERRY_ONES_16
#undef KVFERRY_ONES_16
};

// sums[r][64] of one partition of K: 64 tokens of a block, R rows.
KVFERRY_INLINE void k_dots(const Tile& tile, std::uint32_t rows, std::uint32_t block,
                           std::uint32_t part, const std::uint8_t* left, std::size_t left_stride,
                           const std::int32_t* left_sums, std::int32_t* sums) {
  const PaperPlanes& p = tile.planes;
  for (std::uint32_t r = 0; r < rows; ++r) {
    const __m512i start = _mm512_set1_epi32(p.k_bits == 8 ? 128 * left_sums[r] : 0);
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_si512(sums + r * kChunk + v * kLanes, start);
  }
  kDots[rows - 1][p.k_bits - 1](tile.k_codes(block, part * p.partition), p.partition, left,
                                left_stride, sums);
}

// The same of one partition of V: 64 channels, which may run over two blocks of tokens.
KVFERRY_INLINE void v_dots(const Tile& tile, std::uint32_t rows, std::uint32_t span,
                           std::uint32_t channel, const std::uint8_t* left, std::size_t left_stride,
                           const std::int32_t* left_sums, std::int32_t* sums) {
  const PaperPlanes& p = tile.planes;
  for (std::uint32_t r = 0; r < rows; ++r) {
    const __m512i start = _mm512_set1_epi32(p.v_bits == 8 ? 128 * left_sums[r] : 0);
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_si512(sums + r * kChunk + v * kLanes, start);
  }
  const std::uint32_t step = p.partition < kChunk ? p.partition : kChunk;
  for (std::uint32_t i = 0; i < p.partition; i += step) {
    kDots[rows - 1][p.v_bits - 1](tile.v_codes(span * p.partition + i, channel), step, left + i,
                                  left_stride, sums);
  }
}

KVFERRY_INLINE V stored_sums(const std::byte* sums, std::size_t bytes, std::size_t index) {
  if (bytes == 1) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(sums + index));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(eight));
  }
  const __m256i wide = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + 2 * index));
  return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(wide));
}

// Counts a partition's codes where the sums are not stored.
void count_k_sums(Tile& tile) {
  const PaperPlanes& p = tile.planes;
  const auto n = static_cast<std::int32_t>(p.partition);
  for (std::uint32_t part = 0; part < p.head_dim / p.partition; ++part) {
    for (std::uint32_t t = 0; t < p.tile_tokens(); t += kChunk) {
      alignas(64) std::int32_t sums[kChunk];
      k_dots(tile, 1, t / kChunk, part, kOnes, 0, &n, sums);
      for (std::uint32_t i = 0; i < kChunk; i += kLanes) {
        store(tile.k_sums + part * p.tile_tokens() + t + i, as_float(sums + i));
      }
    }
  }
}
void count_v_sums(Tile& tile) {
  const PaperPlanes& p = tile.planes;
  const auto n = static_cast<std::int32_t>(p.partition);
  for (std::uint32_t span = 0; span < p.tile_tokens() / p.partition; ++span) {
    for (std::uint32_t d = 0; d < p.head_dim; d += kChunk) {
      alignas(64) std::int32_t sums[kChunk];
      v_dots(tile, 1, span, d, kOnes, 0, &n, sums);
      for (std::uint32_t i = 0; i < kChunk; i += kLanes) {
        store(tile.v_sums + span * p.head_dim + d + i, as_float(sums + i));
      }
    }
  }
}

void load_k_sums(Tile& tile) {
  const PaperPlanes& p = tile.planes;
  if (p.k_sums == nullptr) return count_k_sums(tile);
  const std::size_t bytes = paper_sum_bytes(p.partition, p.k_bits);
  for (std::uint32_t i = 0; i < p.head_dim / p.partition * p.tile_tokens(); i += kLanes) {
    store(tile.k_sums + i, stored_sums(p.k_sums, bytes, i));
  }
}
void load_v_sums(Tile& tile) {
  const PaperPlanes& p = tile.planes;
  if (p.v_sums == nullptr) return count_v_sums(tile);
  const std::size_t bytes = paper_sum_bytes(p.partition, p.v_bits);
  for (std::uint32_t i = 0; i < p.tile_tokens() / p.partition * p.head_dim; i += kLanes) {
    store(tile.v_sums + i, stored_sums(p.v_sums, bytes, i));
  }
}

// Whether sums over weights of at most 1 stay far within f32.
bool values_fit(const PaperPlanes& p) {
  V scale = zero();
  V lowest = zero();
  for (std::uint32_t i = 0; i < p.tile_tokens() / p.partition * p.head_dim; i += kLanes) {
    scale = max(scale, load_bf16(p.v_scale, i));
    lowest = max(lowest, absolute(load_bf16(p.v_min, i)));
  }
  const float whole = kLevels * _mm512_reduce_max_ps(scale) + _mm512_reduce_max_ps(lowest);
  return static_cast<float>(kPaperMaxTokens) * whole < kHackHuge;
}

// What a block of rows needs between its steps.
struct Block {
  alignas(64) std::uint8_t q[kBlockRows][kPaperMaxDim];      // q'
  alignas(64) float p[kBlockRows][kPaperMaxTokens];          // scores, then p
  alignas(64) std::uint8_t pq[kBlockRows][kPaperMaxTokens];  // p'
  Steps q_steps[kPaperMaxParts];
  Steps p_steps[kPaperMaxSpans];
  float m[kBlockRows], l[kBlockRows];
  unsigned fits;  // bit r: whether f32 holds the scores of row r
};

// block.p and block.fits of R rows.
template <int R>
void score(const Tile& tile, const float* q, Block& block) {
  const PaperPlanes& p = tile.planes;
  const std::uint32_t parts = p.head_dim / p.partition;
  for (std::uint32_t part = 0; part < parts; ++part) {
    for (std::uint32_t r = 0; r < R; ++r) {
      round_values(q + r * p.head_dim + part * p.partition, p.partition,
                   block.q[r] + part * p.partition, block.q_steps[part], r);
    }
  }
  __mmask16 bad[R] = {};
  for (std::uint32_t first = 0; first < p.tile_tokens(); first += kChunk) {
    V scores[R][kVectors];
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kVectors; ++v) scores[r][v] = zero();
    }
    for (std::uint32_t part = 0; part < parts; ++part) {
      const Steps& steps = block.q_steps[part];
      alignas(64) std::int32_t sums[R * kChunk];
      k_dots(tile, R, first / kChunk, part, block.q[0] + part * p.partition, kPaperMaxDim,
             steps.sum, sums);
      for (int v = 0; v < kVectors; ++v) {
        const std::size_t at =
            part * p.tile_tokens() + first + static_cast<std::size_t>(v) * kLanes;
        const V scale = load_bf16(p.k_scale, at);
        const V lowest = load_bf16(p.k_min, at);
        const V code_sums = load(tile.k_sums + at);
        for (int r = 0; r < R; ++r) {
          const V coded = fma(broadcast(steps.step[r]), as_float(sums + r * kChunk + v * kLanes),
                              mul(broadcast(steps.min[r]), code_sums));
          scores[r][v] = fma(scale, coded, scores[r][v]);
          scores[r][v] = fma(lowest, broadcast(steps.whole[r]), scores[r][v]);
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        const std::uint32_t at = first + static_cast<std::uint32_t>(v) * kLanes;
        store(block.p[r] + at, scores[r][v]);
        bad[r] |= _mm512_mask_cmp_ps_mask(token_lanes(at, p.tokens), absolute(scores[r][v]),
                                          broadcast(kHackHuge), _CMP_NLT_UQ);
      }
    }
  }
  block.fits = 0;
  for (int r = 0; r < R; ++r) block.fits |= bad[r] == 0 ? 1u << r : 0u;
}

// Scores to p against the tile's maximum, and p to p'. add: [T / 64][all rows][64] from the block's
// first row on, or null.
void soften_row(const PaperPlanes& p, const float* add_to, std::size_t add_stride,
                std::uint32_t row, Block& block) {
  float* scores = block.p[row];
  V largest = broadcast(-kLargest);
  for (std::uint32_t t = 0; t < p.tile_tokens(); t += kLanes) {
    V s = load(scores + t);
    if (add_to != nullptr) s = add(s, load(add_to + t / kChunk * add_stride + t % kChunk));
    store(scores + t, s);
    largest = _mm512_mask_max_ps(largest, token_lanes(t, p.tokens), s, largest);
  }
  block.m[row] = _mm512_reduce_max_ps(largest);
  V sum = zero();
  for (std::uint32_t t = 0; t < p.tile_tokens(); t += kLanes) {
    const V weight = _mm512_maskz_mov_ps(
        token_lanes(t, p.tokens), exp_nonpositive(sub(load(scores + t), broadcast(block.m[row]))));
    store(scores + t, weight);
    sum = add(sum, weight);
  }
  block.l[row] = _mm512_reduce_add_ps(sum);
  _mm512_store_si512(block.pq[row], _mm512_setzero_si512());
  _mm512_store_si512(block.pq[row] + kChunk, _mm512_setzero_si512());
  for (std::uint32_t first = 0; first < p.tokens; first += p.partition) {
    const std::uint32_t left = p.tokens - first;
    round_values(scores + first, left < p.partition ? left : p.partition, block.pq[row] + first,
                 block.p_steps[first / p.partition], row);
  }
}

// The factors by which merging multiplies the old state and the tile's; updates m and l of the rows
// that fit.
struct Weights {
  alignas(64) float factor[2 * kLanes];  // of the old state, then of the tile
};
void merge_normalisers(const Block& block, std::uint32_t rows, AttentionStates states,
                       std::uint32_t first, Weights& weights) {
  alignas(64) float exponents[2 * kLanes] = {};
  for (std::uint32_t r = 0; r < rows; ++r) {
    const float before = states.m[first + r];
    const float m = before > block.m[r] ? before : block.m[r];
    exponents[r] = before - m;
    exponents[kLanes + r] = block.m[r] - m;
    if ((block.fits >> r & 1u) != 0) states.m[first + r] = m;
  }
  store(weights.factor, exp_nonpositive(load(exponents)));
  store(weights.factor + kLanes, exp_nonpositive(load(exponents + kLanes)));
  for (std::uint32_t r = 0; r < rows; ++r) {
    if ((block.fits >> r & 1u) == 0) continue;
    states.l[first + r] =
        states.l[first + r] * weights.factor[r] + block.l[r] * weights.factor[kLanes + r];
  }
}

// Adds 64 channels of the tile's o to the states of the rows that fit.
template <int R>
void add_values(const Tile& tile, const Block& block, std::uint32_t channel, const Weights& weights,
                AttentionStates states, std::uint32_t first) {
  const PaperPlanes& p = tile.planes;
  V o[R][kVectors];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) o[r][v] = zero();
  }
  for (std::uint32_t span = 0; span * p.partition < p.tokens; ++span) {
    const Steps& steps = block.p_steps[span];
    alignas(64) std::int32_t sums[R * kChunk];
    v_dots(tile, R, span, channel, block.pq[0] + span * p.partition, kPaperMaxTokens, steps.sum,
           sums);
    for (int v = 0; v < kVectors; ++v) {
      const std::size_t at = span * p.head_dim + channel + static_cast<std::size_t>(v) * kLanes;
      const V scale = load_bf16(p.v_scale, at);
      const V lowest = load_bf16(p.v_min, at);
      const V code_sums = load(tile.v_sums + at);
      for (int r = 0; r < R; ++r) {
        const V coded = fma(broadcast(steps.step[r]), as_float(sums + r * kChunk + v * kLanes),
                            mul(broadcast(steps.min[r]), code_sums));
        o[r][v] = fma(scale, coded, o[r][v]);
        o[r][v] = fma(lowest, broadcast(steps.whole[r]), o[r][v]);
      }
    }
  }
  for (std::uint32_t r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) == 0) continue;
    for (int v = 0; v < kVectors; ++v) {
      float* at = states.o + std::size_t{first + r} * p.head_dim + channel + v * kLanes;
      const V scaled = mul(load(at), broadcast(weights.factor[r]));
      const V merged = fma(o[r][v], broadcast(weights.factor[kLanes + r]), scaled);
      store(at, min(max(merged, broadcast(-kLargest)), broadcast(kLargest)));
    }
  }
}

template <int R>
void attend_rows(const Tile& tile, bool values_fit_f32, const Queries& queries,
                 AttentionStates states, std::uint32_t first) {
  const PaperPlanes& p = tile.planes;
  Block block;
  score<R>(tile, queries.q + std::size_t{first} * p.head_dim, block);
  if (!values_fit_f32) block.fits = 0;
  for (std::uint32_t r = 0; r < R; ++r) {
    const float* add_to =
        queries.score_add == nullptr ? nullptr : queries.score_add + (first + r) * kChunk;
    soften_row(p, add_to, std::size_t{states.rows} * kChunk, r, block);
  }
  Weights weights;
  merge_normalisers(block, R, states, first, weights);
  for (std::uint32_t d = 0; d < p.head_dim; d += kChunk) {
    add_values<R>(tile, block, d, weights, states, first);
  }
  for (std::uint32_t r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) == 0) paper_attend_row_exact(p, queries, states, first + r);
  }
}

void attend(const PaperPlanes& planes, const Queries& queries, AttentionStates states) {
  using Rows = void (*)(const Tile&, bool, const Queries&, AttentionStates, std::uint32_t);
  constexpr Rows kRows[kBlockRows] = {attend_rows<1>, attend_rows<2>, attend_rows<3>,
                                      attend_rows<4>};
  Tile tile(planes);
  load_k_sums(tile);
  load_v_sums(tile);
  const bool fit = values_fit(planes);
  for (std::uint32_t row = 0; row < states.rows; row += kBlockRows) {
    const std::uint32_t left = states.rows - row;
    kRows[(left < kBlockRows ? left : kBlockRows) - 1](tile, fit, queries, states, row);
  }
}

void scores(const PaperPlanes& planes, const float* q, std::uint32_t rows, float* out) {
  Tile tile(planes);
  load_k_sums(tile);
  for (std::uint32_t r = 0; r < rows; ++r) {
    Block block;
    score<1>(tile, q + std::size_t{r} * planes.head_dim, block);
    for (std::uint32_t t = 0; t < planes.tile_tokens(); t += kLanes) {
      const V row = block.fits != 0 ? load(block.p[0] + t) : as_vector(0x7fc00000u);
      store(out + std::size_t{r} * planes.tile_tokens() + t, row);
    }
  }
}

// Whether n stored sums are those counted. Sums are whole numbers below 2^24: equal as floats.
KVFERRY_INLINE bool equal_sums(const std::byte* stored, std::size_t bytes, const float* counted,
                               std::size_t n) {
  __mmask16 differ = 0;
  for (std::size_t i = 0; i < n; i += kLanes) {
    differ |= _mm512_cmp_ps_mask(stored_sums(stored, bytes, i), load(counted + i), _CMP_NEQ_UQ);
  }
  return differ == 0;
}

bool sums_match(const PaperPlanes& planes) {
  Tile tile(planes);
  count_k_sums(tile);
  count_v_sums(tile);
  const std::size_t n = std::size_t{planes.tile_tokens()} * planes.head_dim / planes.partition;
  return equal_sums(planes.k_sums, paper_sum_bytes(planes.partition, planes.k_bits), tile.k_sums,
                    n) &&
         equal_sums(planes.v_sums, paper_sum_bytes(planes.partition, planes.v_bits), tile.v_sums,
                    n);
}

// 16 columns of four rows, the bytes of a column in a word.
KVFERRY_INLINE __m512i interleave_rows(const std::uint8_t* codes) {
  __m128i row[4];
  for (int i = 0; i < 4; ++i) {
    row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i * kChunk));
  }
  const __m128i low01 = _mm_unpacklo_epi8(row[0], row[1]);
  const __m128i low23 = _mm_unpacklo_epi8(row[2], row[3]);
  const __m128i high01 = _mm_unpackhi_epi8(row[0], row[1]);
  const __m128i high23 = _mm_unpackhi_epi8(row[2], row[3]);
  __m512i words = _mm512_castsi128_si512(_mm_unpacklo_epi16(low01, low23));
  words = _mm512_inserti32x4(words, _mm_unpackhi_epi16(low01, low23), 1);
  words = _mm512_inserti32x4(words, _mm_unpacklo_epi16(high01, high23), 2);
  return _mm512_inserti32x4(words, _mm_unpackhi_epi16(high01, high23), 3);
}

void pack_rows(const std::uint8_t* codes, std::uint32_t rows, std::uint32_t shift,
               std::uint32_t bits, std::size_t lanes, std::byte* out) {
  const std::uint32_t fields = 8 / bits;
  const __m512i mask = _mm512_set1_epi8(static_cast<char>((1u << bits) - 1u));
  for (std::uint32_t j = 0; j < rows / (4 * fields); ++j) {
    for (std::uint32_t c = 0; c < kChunk; c += kLanes) {
      __m512i packed = _mm512_setzero_si512();
      for (std::uint32_t f = 0; f < fields; ++f) {
        const __m512i words = interleave_rows(codes + 4 * (fields * j + f) * kChunk + c);
        const __m512i part = _mm512_and_si512(_mm512_srli_epi32(words, shift), mask);
        packed = _mm512_or_si512(packed, _mm512_slli_epi32(part, f * bits));
      }
      _mm512_storeu_si512(out + 4 * (j * lanes + c), packed);
    }
  }
}

KVFERRY_INLINE __m512i finalise(__m512i z) {
  z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 30));
  z = _mm512_mullo_epi64(z, _mm512_set1_epi64(static_cast<long long>(0xbf58476d1ce4e5b9)));
  z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 27));
  z = _mm512_mullo_epi64(z, _mm512_set1_epi64(static_cast<long long>(0x94d049bb133111eb)));
  return _mm512_xor_si512(z, _mm512_srli_epi64(z, 31));
}

// The upper 24 bits of eight words of the stream, as numbers in 0..1.
KVFERRY_INLINE __m256 uniform(__m512i stream, std::uint64_t first, std::uint64_t step) {
  const __m512i golden = _mm512_set1_epi64(static_cast<long long>(0x9e3779b97f4a7c15));
  const __m512i counter =
      _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(first + 1)),
                       _mm512_mullo_epi64(_mm512_set1_epi64(static_cast<long long>(step)),
                                          _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)));
  const __m512i bits = finalise(_mm512_add_epi64(stream, _mm512_mullo_epi64(counter, golden)));
  return _mm256_mul_ps(_mm512_cvtepu64_ps(_mm512_srli_epi64(bits, 40)), _mm256_set1_ps(0x1p-24f));
}

// Rows r..r+15 of columns c..c+15.
KVFERRY_INLINE void load_square(const HackBlock& block, std::uint32_t r, std::uint32_t c,
                                V (&square)[kLanes]) {
  for (std::uint32_t i = 0; i < kLanes; ++i) {
    square[i] = load(block.transposed ? block.x + (c + i) * block.stride + r
                                      : block.x + (r + i) * block.stride + c);
  }
  if (block.transposed) transpose(square);
}

void round_stochastic(const HackBlock& block, std::uint32_t bits, const std::uint16_t* scale,
                      const std::uint16_t* min_in, const PaperRandom& random, std::uint8_t* codes) {
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;
  const __m512i stream = finalise(_mm512_set1_epi64(static_cast<long long>(random.key + kGolden)));
  const V levels = broadcast(static_cast<float>((1u << bits) - 1u));
  for (std::uint32_t c = 0; c < kChunk; c += kLanes) {
    const V inv = div(broadcast(2.0f), load(scale + c));
    const V mh = mul(load(min_in + c), broadcast(0.5f));
    V square[kLanes];
    for (std::uint32_t r = 0; r < block.rows; ++r) {
      if (r % kLanes == 0) load_square(block, r, c, square);
      const std::uint64_t counter = random.first + r * random.row_step + c * random.column_step;
      const V u = _mm512_insertf32x8(
          _mm512_castps256_ps512(uniform(stream, counter, random.column_step)),
          uniform(stream, counter + 8 * random.column_step, random.column_step), 1);
      const V place = mul(sub(mul(square[r % kLanes], broadcast(0.5f)), mh), inv);
      const V clamped = min(max(place, zero()), levels);
      const V lower = _mm512_roundscale_ps(clamped, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
      const __mmask16 up = _mm512_cmp_ps_mask(u, sub(clamped, lower), _CMP_LT_OQ);
      const V code = _mm512_mask_add_ps(lower, up, lower, broadcast(1.0f));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + r * kChunk + c),
                       _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(code)));
    }
  }
}

void sum_codes(const std::uint8_t* codes, std::uint32_t rows, std::uint16_t* sums) {
  __m512i low = _mm512_setzero_si512();
  __m512i high = _mm512_setzero_si512();
  for (std::uint32_t r = 0; r < rows; ++r) {
    const auto* row = reinterpret_cast<const __m256i*>(codes + r * kChunk);
    low = _mm512_add_epi16(low, _mm512_cvtepu8_epi16(_mm256_loadu_si256(row)));
    high = _mm512_add_epi16(high, _mm512_cvtepu8_epi16(_mm256_loadu_si256(row + 1)));
  }
  _mm512_storeu_si512(sums, low);
  _mm512_storeu_si512(sums + 32, high);
}

}  // namespace

const PaperKernels kPaperAvx512 = {round_stochastic, sum_codes, pack_rows,
                                   sums_match,       scores,    attend};

}  // namespace kvferry::kernels
