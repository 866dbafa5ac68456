// Attention of layout=paper, for the instruction set (AVX2 or AVX-512) that the unit is compiled
// for. Blocks of up to 4 query rows share the unpacked codes; each row's operations and their order
// are the same in a block of any size. Included only by paper_avx2.cpp and paper_avx512.cpp; all of
// it has internal linkage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/dense_vec.h"
#include "kernels/cpu/paper_common.h"
#include "kernels/cpu/paper_dots.h"

namespace kvferry::kernels {
namespace {

constexpr std::uint32_t kPaperRows = 4;  // of a block
constexpr std::uint32_t kStep = 16;      // values that are worked on at once
constexpr float kLevels = 255.0f;
constexpr float kLargest = 0x1.fffffep127f;

KVFERRY_INLINE V load_plane(const std::byte* plane, std::size_t index) {
  return load(reinterpret_cast<const std::uint16_t*>(plane) + index);
}
KVFERRY_INLINE V magnitude(V v) { return bit_and(v, as_vector(0x7fffffffu)); }

#if defined(__AVX512F__)
KVFERRY_INLINE V as_floats(const std::int32_t* p) {
  return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}
// Sums of a partition's codes as they are stored, in 1 or 2 bytes.
KVFERRY_INLINE V stored_sums(const std::byte* sums, std::size_t bytes, std::size_t index) {
  if (bytes == 1) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(sums + index));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(eight));
  }
  const __m256i wide = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + 2 * index));
  return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(wide));
}
// 16 values to the nearest integers, 0 to 255.
KVFERRY_INLINE __m128i round_to_bytes(const V (&v)[kParts]) {
  return _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(v[0]));
}
KVFERRY_INLINE bool any_differ(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ) != 0; }
KVFERRY_INLINE bool all_less(V a, V b) {  // NaN is not
  return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ) == 0;
}
#else
KVFERRY_INLINE V as_floats(const std::int32_t* p) {
  return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
KVFERRY_INLINE V stored_sums(const std::byte* sums, std::size_t bytes, std::size_t index) {
  if (bytes == 1) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(sums + index));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
  }
  const __m128i wide = _mm_loadu_si128(reinterpret_cast<const __m128i*>(sums + 2 * index));
  return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(wide));
}
KVFERRY_INLINE __m128i round_to_bytes(const V (&v)[kParts]) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
  return _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
}
KVFERRY_INLINE bool any_differ(V a, V b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)) != 0;
}
KVFERRY_INLINE bool all_less(V a, V b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ)) == 0;
}
#endif

// Rows of values in 0..255 over one partition of n: value ~ step * code + min.
struct Steps {
  float step[kPaperRows], min[kPaperRows];
  float whole[kPaperRows];       // step * sum + n * min
  std::int32_t sum[kPaperRows];  // of the codes
};

// The least and the largest of x[0..n), n a multiple of 16.
struct Bounds {
  float least, largest;
};
KVFERRY_INLINE Bounds bounds_of(const float* x, std::uint32_t n) {
  V low[kParts], high[kParts];
  for (int i = 0; i < kParts; ++i) low[i] = high[i] = load(x + i * kLanes);
  for (std::uint32_t at = kStep; at < n; at += kStep) {
    for (int i = 0; i < kParts; ++i) {
      const V value = load(x + at + i * kLanes);
      low[i] = min(low[i], value);
      high[i] = max(high[i], value);
    }
  }
  for (int i = 0; i < kParts; ++i) low[i] = sub(zero(), low[i]);
  return {-reduce_max(low), reduce_max(high)};
}

// Of x[0..n), n a multiple of 16 up to 128, of which the first `used` count: the others hold one of
// their values, and their codes are 0.
KVFERRY_INLINE void round_values(const float* x, std::uint32_t n, std::uint32_t used,
                                 std::uint8_t* codes, Steps& steps, std::uint32_t row) {
  const Bounds bounds = bounds_of(x, n);
  const float range = bounds.largest - bounds.least;
  const bool tiny = range < kHackTiny;
  const V least = broadcast(bounds.least);
  const V inv = broadcast(tiny ? 0.0f : kLevels / range);
  __m128i sum = _mm_setzero_si128();
  for (std::uint32_t at = 0; at < n; at += kStep) {
    V place[kParts];
    for (int i = 0; i < kParts; ++i) place[i] = mul(sub(load(x + at + i * kLanes), least), inv);
    const __m128i bytes = round_to_bytes(place);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + at), bytes);
    sum = _mm_add_epi64(sum, _mm_sad_epu8(bytes, _mm_setzero_si128()));
  }
  std::int32_t total = _mm_cvtsi128_si32(sum) + _mm_extract_epi16(sum, 4);
  for (std::uint32_t i = used; i < n; ++i) {
    total -= codes[i];
    codes[i] = 0;
  }
  steps.step[row] = tiny ? 0.0f : range / kLevels;
  steps.min[row] = bounds.least;
  steps.sum[row] = total;
  steps.whole[row] =
      steps.step[row] * static_cast<float>(total) + static_cast<float>(used) * bounds.least;
}

// A tile and the sums of its codes as f32.
struct PaperTile {
  explicit PaperTile(const PaperPlanes& p) : planes(p) {}
  const PaperPlanes& planes;
  alignas(64) float k_sums[kPaperMaxParts * kPaperMaxTokens];  // [C][T]
  alignas(64) float v_sums[kPaperMaxSpans * kPaperMaxDim];     // [S][D]

  std::size_t k_count() const {  // of scales of K
    return std::size_t{planes.tile_tokens()} * planes.head_dim / planes.k_partition;
  }
  std::size_t v_count() const {
    return std::size_t{planes.tile_tokens()} * planes.head_dim / planes.v_partition;
  }
  PaperCodes k_codes(std::uint32_t token) const {
    const std::size_t block = std::size_t{8} * planes.head_dim * planes.k_bits;
    return {planes.k_codes + token / 64 * block, planes.k_bits, planes.head_dim, 64};
  }
  PaperCodes v_codes(std::uint32_t token) const {
    const std::size_t block = std::size_t{8} * planes.head_dim * planes.v_bits;
    return {planes.v_codes + token / 64 * block, planes.v_bits, planes.head_dim, planes.head_dim};
  }
};

// sums[r][64]: of the 64 tokens from `token` up, over one partition of channels.
template <int R>
KVFERRY_INLINE void k_dots(const PaperTile& tile, std::uint32_t token, std::uint32_t part,
                           const Left& left, std::int32_t* sums) {
  const PaperPlanes& p = tile.planes;
  start_dots<R>(p.k_bits, left, sums);
  add_dots<R>(tile.k_codes(token), part * p.k_partition, p.k_partition, 0, left, sums);
}

// The same of the 64 channels from `channel` up over one partition of tokens, which may run over
// two blocks.
template <int R>
KVFERRY_INLINE void v_dots(const PaperTile& tile, std::uint32_t channel, std::uint32_t span,
                           const Left& left, std::int32_t* sums) {
  const PaperPlanes& p = tile.planes;
  start_dots<R>(p.v_bits, left, sums);
  const std::uint32_t step = p.v_partition < 64 ? p.v_partition : 64;
  for (std::uint32_t i = 0; i < p.v_partition; i += step) {
    const std::uint32_t token = span * p.v_partition + i;
    add_dots<R>(tile.v_codes(token), token % 64, step, channel,
                {left.codes + i, left.stride, left.sums}, sums);
  }
}

// Counts the codes of every partition: their dots with ones.
struct Ones {
  Ones() { std::memset(codes, 1, sizeof(codes)); }
  std::uint8_t codes[kPaperMaxTokens];
};
void count_k_sums(PaperTile& tile) {
  const PaperPlanes& p = tile.planes;
  const Ones ones;
  const auto n = static_cast<std::int32_t>(p.k_partition);
  for (std::uint32_t part = 0; part < p.head_dim / p.k_partition; ++part) {
    for (std::uint32_t t = 0; t < p.tile_tokens(); t += kDotLanes) {
      alignas(64) std::int32_t sums[kDotLanes];
      k_dots<1>(tile, t, part, {ones.codes, 0, &n}, sums);
      for (std::uint32_t i = 0; i < kDotLanes; i += kLanes) {
        store(tile.k_sums + part * p.tile_tokens() + t + i, as_floats(sums + i));
      }
    }
  }
}
void count_v_sums(PaperTile& tile) {
  const PaperPlanes& p = tile.planes;
  const Ones ones;
  const auto n = static_cast<std::int32_t>(p.v_partition);
  for (std::uint32_t span = 0; span < p.tile_tokens() / p.v_partition; ++span) {
    for (std::uint32_t d = 0; d < p.head_dim; d += kDotLanes) {
      alignas(64) std::int32_t sums[kDotLanes];
      v_dots<1>(tile, d, span, {ones.codes, 0, &n}, sums);
      for (std::uint32_t i = 0; i < kDotLanes; i += kLanes) {
        store(tile.v_sums + span * p.head_dim + d + i, as_floats(sums + i));
      }
    }
  }
}

KVFERRY_INLINE void load_stored(const std::byte* sums, std::size_t bytes, std::size_t n,
                                float* out) {
  for (std::size_t i = 0; i < n; i += kLanes) store(out + i, stored_sums(sums, bytes, i));
}
void load_k_sums(PaperTile& tile) {
  const PaperPlanes& p = tile.planes;
  if (p.k_sums == nullptr) return count_k_sums(tile);
  load_stored(p.k_sums, paper_sum_bytes(p.k_partition, p.k_bits), tile.k_count(), tile.k_sums);
}
void load_v_sums(PaperTile& tile) {
  const PaperPlanes& p = tile.planes;
  if (p.v_sums == nullptr) return count_v_sums(tile);
  load_stored(p.v_sums, paper_sum_bytes(p.v_partition, p.v_bits), tile.v_count(), tile.v_sums);
}

// Whether n stored sums are those counted. Sums are whole numbers below 2^24: equal as floats.
KVFERRY_INLINE bool equal_sums(const std::byte* stored, std::size_t bytes, const float* counted,
                               std::size_t n) {
  bool equal = true;
  for (std::size_t i = 0; i < n; i += kLanes) {
    equal = equal && !any_differ(stored_sums(stored, bytes, i), load(counted + i));
  }
  return equal;
}
bool sums_match(const PaperPlanes& planes) {
  PaperTile tile(planes);
  count_k_sums(tile);
  count_v_sums(tile);
  return equal_sums(planes.k_sums, paper_sum_bytes(planes.k_partition, planes.k_bits), tile.k_sums,
                    tile.k_count()) &&
         equal_sums(planes.v_sums, paper_sum_bytes(planes.v_partition, planes.v_bits), tile.v_sums,
                    tile.v_count());
}

// Whether sums over weights of at most 1 stay far within f32.
bool values_fit(const PaperTile& tile) {
  V scale[kParts], least[kParts];
  for (int i = 0; i < kParts; ++i) scale[i] = least[i] = zero();
  for (std::size_t at = 0; at < tile.v_count(); at += kStep) {
    for (int i = 0; i < kParts; ++i) {
      const std::size_t index = at + static_cast<std::size_t>(i) * kLanes;
      scale[i] = max(scale[i], load_plane(tile.planes.v_scale, index));
      least[i] = max(least[i], magnitude(load_plane(tile.planes.v_min, index)));
    }
  }
  const float whole = kLevels * reduce_max(scale) + reduce_max(least);
  return static_cast<float>(kPaperMaxTokens) * whole < kHackHuge;
}

// What a block of rows needs between its steps.
struct PaperBlock {
  alignas(64) std::uint8_t q[kPaperRows][kPaperMaxDim];      // q'
  alignas(64) float p[kPaperRows][kPaperMaxTokens];          // scores, then p
  alignas(64) std::uint8_t pq[kPaperRows][kPaperMaxTokens];  // p'
  Steps q_steps[kPaperMaxParts];
  Steps p_steps[kPaperMaxSpans];
  float m[kPaperRows], l[kPaperRows];
  unsigned fits;  // bit r: whether f32 holds the scores of row r
};

// o += scale (step dot + min sums) + least whole: the four terms of one partition, for kLanes
// lanes.
KVFERRY_INLINE V add_terms(V o, const Steps& steps, int row, V dot, V sums, V scale, V least) {
  const V coded = fma(broadcast(steps.step[row]), dot, mul(broadcast(steps.min[row]), sums));
  return fma(least, broadcast(steps.whole[row]), fma(scale, coded, o));
}

// block.p of R rows. Tokens that are not attended to take the score of the first.
template <int R>
void score(const PaperTile& tile, const float* q, PaperBlock& block) {
  const PaperPlanes& p = tile.planes;
  const std::uint32_t parts = p.head_dim / p.k_partition;
  for (std::uint32_t part = 0; part < parts; ++part) {
    for (std::uint32_t r = 0; r < R; ++r) {
      round_values(q + r * p.head_dim + part * p.k_partition, p.k_partition, p.k_partition,
                   block.q[r] + part * p.k_partition, block.q_steps[part], r);
    }
  }
  for (std::uint32_t first = 0; first < p.tile_tokens(); first += kDotLanes) {
    for (std::uint32_t part = 0; part < parts; ++part) {
      const Steps& steps = block.q_steps[part];
      alignas(64) std::int32_t sums[R * kDotLanes];
      k_dots<R>(tile, first, part, {block.q[0] + part * p.k_partition, kPaperMaxDim, steps.sum},
                sums);
      for (std::uint32_t i = 0; i < kDotLanes; i += kLanes) {
        const std::size_t at = part * p.tile_tokens() + first + i;
        const V scale = load_plane(p.k_scale, at);
        const V least = load_plane(p.k_min, at);
        const V code_sums = load(tile.k_sums + at);
        for (int r = 0; r < R; ++r) {
          float* scores = block.p[r] + first + i;
          const V before = part == 0 ? zero() : load(scores);
          store(scores, add_terms(before, steps, r, as_floats(sums + r * kDotLanes + i), code_sums,
                                  scale, least));
        }
      }
    }
  }
  block.fits = 0;
  for (int r = 0; r < R; ++r) {
    for (std::uint32_t t = p.tokens; t < p.tile_tokens(); ++t) block.p[r][t] = block.p[r][0];
    bool fits = true;
    for (std::uint32_t t = 0; t < p.tile_tokens(); t += kLanes) {
      fits = fits && all_less(magnitude(load(block.p[r] + t)), broadcast(kHackHuge));
    }
    block.fits |= fits ? 1u << r : 0u;
  }
}

// Scores to p against the tile's maximum, and p to p'. add_to: [T / 64][64] with a stride, or null.
void soften_row(const PaperPlanes& p, const float* add_to, std::size_t add_stride,
                std::uint32_t row, PaperBlock& block) {
  float* scores = block.p[row];
  const std::uint32_t tile = p.tile_tokens();
  for (std::uint32_t t = 0; add_to != nullptr && t < tile; t += kLanes) {
    store(scores + t, add(load(scores + t), load(add_to + t / 64 * add_stride + t % 64)));
  }
  for (std::uint32_t t = p.tokens; t < tile; ++t) scores[t] = scores[0];
  const float m = bounds_of(scores, tile).largest;
  V sum[kParts];
  for (int i = 0; i < kParts; ++i) sum[i] = zero();
  for (std::uint32_t t = 0; t < tile; t += kLanes) {
    store(scores + t, exp_nonpositive(sub(load(scores + t), broadcast(m))));
  }
  for (std::uint32_t first = 0; first < p.tokens; first += p.v_partition) {
    const std::uint32_t left = p.tokens - first;
    const std::uint32_t used = left < p.v_partition ? left : p.v_partition;
    for (std::uint32_t t = used; t < p.v_partition; ++t) scores[first + t] = scores[first];
    round_values(scores + first, p.v_partition, used, block.pq[row] + first,
                 block.p_steps[first / p.v_partition], row);
  }
  for (std::uint32_t t = p.tokens; t < tile; ++t) scores[t] = 0.0f;
  for (std::uint32_t t = 0; t < tile; t += kStep) {
    for (int i = 0; i < kParts; ++i) sum[i] = add(sum[i], load(scores + t + i * kLanes));
  }
  block.m[row] = m;
  block.l[row] = reduce_add(sum);
}

// The factors by which merging multiplies the old state and the tile's; updates m and l of the rows
// that fit.
struct PaperWeights {
  alignas(64) float before[kLanes];
  alignas(64) float tile[kLanes];
};
void merge_normalisers(const PaperBlock& block, std::uint32_t rows, AttentionStates states,
                       std::uint32_t first, PaperWeights& weights) {
  for (int i = 0; i < kLanes; ++i) weights.before[i] = weights.tile[i] = 0.0f;
  for (std::uint32_t r = 0; r < rows; ++r) {
    const float before = states.m[first + r];
    const float m = before > block.m[r] ? before : block.m[r];
    weights.before[r] = before - m;
    weights.tile[r] = block.m[r] - m;
    if ((block.fits >> r & 1u) != 0) states.m[first + r] = m;
  }
  store(weights.before, exp_nonpositive(load(weights.before)));
  store(weights.tile, exp_nonpositive(load(weights.tile)));
  for (std::uint32_t r = 0; r < rows; ++r) {
    if ((block.fits >> r & 1u) == 0) continue;
    states.l[first + r] = states.l[first + r] * weights.before[r] + block.l[r] * weights.tile[r];
  }
}

// Adds 64 channels of the tile's o to the states of the rows that fit.
template <int R>
void add_values(const PaperTile& tile, const PaperBlock& block, std::uint32_t channel,
                const PaperWeights& weights, AttentionStates states, std::uint32_t first) {
  const PaperPlanes& p = tile.planes;
  alignas(64) float o[R][kDotLanes];
  for (std::uint32_t span = 0; span * p.v_partition < p.tokens; ++span) {
    const Steps& steps = block.p_steps[span];
    alignas(64) std::int32_t sums[R * kDotLanes];
    v_dots<R>(tile, channel, span, {block.pq[0] + span * p.v_partition, kPaperMaxTokens, steps.sum},
              sums);
    for (std::uint32_t i = 0; i < kDotLanes; i += kLanes) {
      const std::size_t at = span * p.head_dim + channel + i;
      const V scale = load_plane(p.v_scale, at);
      const V least = load_plane(p.v_min, at);
      const V code_sums = load(tile.v_sums + at);
      for (int r = 0; r < R; ++r) {
        const V before = span == 0 ? zero() : load(o[r] + i);
        store(o[r] + i, add_terms(before, steps, r, as_floats(sums + r * kDotLanes + i), code_sums,
                                  scale, least));
      }
    }
  }
  for (std::uint32_t r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) == 0) continue;
    for (std::uint32_t i = 0; i < kDotLanes; i += kLanes) {
      float* at = states.o + std::size_t{first + r} * p.head_dim + channel + i;
      const V scaled = mul(load(at), broadcast(weights.before[r]));
      const V merged = fma(load(o[r] + i), broadcast(weights.tile[r]), scaled);
      store(at, min(max(merged, broadcast(-kLargest)), broadcast(kLargest)));
    }
  }
}

template <int R>
void attend_rows(const PaperTile& tile, bool values_fit_f32, const Queries& queries,
                 AttentionStates states, std::uint32_t first) {
  const PaperPlanes& p = tile.planes;
  PaperBlock block;
  score<R>(tile, queries.q + std::size_t{first} * p.head_dim, block);
  if (!values_fit_f32) block.fits = 0;
  for (std::uint32_t r = 0; r < R; ++r) {
    const float* add_to =
        queries.score_add == nullptr ? nullptr : queries.score_add + (first + r) * 64;
    soften_row(p, add_to, std::size_t{states.rows} * 64, r, block);
  }
  PaperWeights weights;
  merge_normalisers(block, R, states, first, weights);
  for (std::uint32_t d = 0; d < p.head_dim; d += kDotLanes) {
    add_values<R>(tile, block, d, weights, states, first);
  }
  for (std::uint32_t r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) == 0) paper_attend_row_exact(p, queries, states, first + r);
  }
}

void attend(const PaperPlanes& planes, const Queries& queries, AttentionStates states) {
  using Rows = void (*)(const PaperTile&, bool, const Queries&, AttentionStates, std::uint32_t);
  constexpr Rows kRows[kPaperRows] = {attend_rows<1>, attend_rows<2>, attend_rows<3>,
                                      attend_rows<4>};
  PaperTile tile(planes);
  load_k_sums(tile);
  load_v_sums(tile);
  const bool fit = values_fit(tile);
  for (std::uint32_t row = 0; row < states.rows; row += kPaperRows) {
    const std::uint32_t left = states.rows - row;
    kRows[(left < kPaperRows ? left : kPaperRows) - 1](tile, fit, queries, states, row);
  }
}

void scores(const PaperPlanes& planes, const float* q, std::uint32_t rows, float* out) {
  PaperTile tile(planes);
  load_k_sums(tile);
  for (std::uint32_t r = 0; r < rows; ++r) {
    PaperBlock block;
    score<1>(tile, q + std::size_t{r} * planes.head_dim, block);
    for (std::uint32_t t = 0; t < planes.tile_tokens(); t += kLanes) {
      const V row = block.fits != 0 ? load(block.p[0] + t) : as_vector(0x7fc00000u);
      store(out + std::size_t{r} * planes.tile_tokens() + t, row);
    }
  }
}

// 16 columns of four rows, the bytes of a column in a word: four registers of four words.
KVFERRY_INLINE void interleave_rows(const std::uint8_t* codes, __m128i (&words)[4]) {
  __m128i row[4];
  for (int i = 0; i < 4; ++i) {
    row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i * 64));
  }
  const __m128i low01 = _mm_unpacklo_epi8(row[0], row[1]);
  const __m128i low23 = _mm_unpacklo_epi8(row[2], row[3]);
  const __m128i high01 = _mm_unpackhi_epi8(row[0], row[1]);
  const __m128i high23 = _mm_unpackhi_epi8(row[2], row[3]);
  words[0] = _mm_unpacklo_epi16(low01, low23);
  words[1] = _mm_unpackhi_epi16(low01, low23);
  words[2] = _mm_unpacklo_epi16(high01, high23);
  words[3] = _mm_unpackhi_epi16(high01, high23);
}

void pack_rows(const std::uint8_t* codes, std::uint32_t rows, std::uint32_t shift,
               std::uint32_t bits, std::size_t lanes, std::byte* out) {
  const std::uint32_t fields = 8 / bits;
  const __m128i mask = _mm_set1_epi8(static_cast<char>((1u << bits) - 1u));
  const __m128i down = _mm_cvtsi32_si128(static_cast<int>(shift));
  for (std::uint32_t j = 0; j < rows / (4 * fields); ++j) {
    for (std::uint32_t c = 0; c < 64; c += 16) {
      __m128i packed[4] = {};
      for (std::uint32_t f = 0; f < fields; ++f) {
        const __m128i up = _mm_cvtsi32_si128(static_cast<int>(f * bits));
        __m128i words[4];
        interleave_rows(codes + 4 * (fields * j + f) * 64 + c, words);
        for (int i = 0; i < 4; ++i) {
          const __m128i part = _mm_and_si128(_mm_srl_epi32(words[i], down), mask);
          packed[i] = _mm_or_si128(packed[i], _mm_sll_epi32(part, up));
        }
      }
      for (int i = 0; i < 4; ++i) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 4 * (j * lanes + c)) + i, packed[i]);
      }
    }
  }
}

void sum_codes(const std::uint8_t* codes, std::uint32_t rows, std::uint16_t* sums) {
  for (std::uint32_t c = 0; c < 64; c += 16) {
    __m256i sum = _mm256_setzero_si256();
    for (std::uint32_t r = 0; r < rows; ++r) {
      const auto* row = reinterpret_cast<const __m128i*>(codes + r * 64 + c);
      sum = _mm256_add_epi16(sum, _mm256_cvtepu8_epi16(_mm_loadu_si128(row)));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + c), sum);
  }
}

}  // namespace
}  // namespace kvferry::kernels
