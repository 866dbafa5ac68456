// Attention on codes in AVX2, every kind of planes. Blocks of up to 4 query rows share the unpacked
// codes; the template parameter R is the number of rows of a block, and each row's operations and
// their order are the same for every R. All of it has internal linkage but the table.
//
// Without VNNI the integer dots are vpmaddubsw, which multiplies unsigned by signed bytes, adds two
// neighbouring products and SATURATES that sum to 16 bits; vpaddw, which adds it up, wraps. Neither
// may happen, so codes enter with 4 bits at most and sums of 16 bits are widened (vpmaddwd by ones)
// after every N steps of 4 products in a lane of 32 bits, 2 in one of 16:
//   K: codes unsigned, q' signed, |q'| <= 127.  N = 8 at 4 bits: 8 * 2 * 127 * 15 = 30,480 <=
//   32,767;
//      N = 16, a whole group, at 2 bits: 12,192, and at 1 bit: 4,064.
//   V: p' unsigned, p' <= 255, codes signed.    N = 4 at 4 bits: 4 * 2 * 255 * 15 = 30,600 <=
//   32,767;
//      N = 16 at 2 bits: 24,480, and at 1 bit: 8,160.
// static_asserts hold the code to this. Codes of 8 bits are read twice, as 4 low and 4 high bits:
// as they are, one product is up to 255 * 255. The whole dot of a group is below 2^23 (64 * 255 *
// 255), so its conversion to f32 is exact.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/dense_vec.h"
#include "kernels/cpu/hack_common.h"

namespace kvferry::kernels {
namespace {

constexpr int kBlockRows = 4;
constexpr int kTokens = 64;
constexpr int kMaxHalves = 2;  // runs of tokens with scales of K of their own
constexpr int kMaxGroups = 8;  // groups of channels with scales of V of their own
constexpr int kMaxDim = 256;
constexpr int kSteps = 16;    // of 4 products, along a group of 64
constexpr int kTogether = 2;  // registers of lanes whose dots are summed at once
constexpr int kChunk = kTogether * kLanes;

// What a block of rows needs between its steps. What is one value a row lies as [kBlockRows].
struct Block {
  alignas(32) std::int8_t q[kMaxHalves][kBlockRows][kMaxDim];    // q'
  alignas(32) float p[kBlockRows][kTokens];                      // scores, then p
  alignas(32) std::uint8_t pq[kMaxGroups][kBlockRows][kTokens];  // p'
  alignas(32) float folded[kBlockRows][kTokens];                 // of a group, before rounding
  alignas(16) float q_step[kMaxHalves][kMaxDim / 64][kBlockRows];
  alignas(16) float q_offset[kMaxHalves][kBlockRows];  // q . m_K
  alignas(16) float p_step[kMaxGroups][kBlockRows];
  alignas(16) float p_offset[kMaxGroups][kBlockRows];  // SUM p m_V
  alignas(16) float inv[kBlockRows];                   // 127 or 255 / largest
  alignas(16) float m[kBlockRows];
  alignas(16) float l[kBlockRows];
  unsigned fits;  // bit r: whether f32 holds the sums of row r
};

KVFERRY_INLINE V load_bf16(const std::byte* plane, std::size_t index) {
  return load(reinterpret_cast<const std::uint16_t*>(plane) + index);
}
KVFERRY_INLINE V absolute(V v) { return bit_and(v, as_vector(0x7fffffffu)); }

struct Add {
  static KVFERRY_INLINE __m128 apply(__m128 a, __m128 b) { return _mm_add_ps(a, b); }
};
struct Max {
  static KVFERRY_INLINE __m128 apply(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
};

// One register a row to one lane a row, every row by the same tree: lane i with i + 4, then i + 2,
// i + 1.
template <class Op, int R>
KVFERRY_INLINE __m128 reduce_rows(const V (&rows)[R]) {
  __m128 four[kBlockRows];
#pragma GCC unroll 4
  for (int r = 0; r < kBlockRows; ++r) {
    four[r] = r < R ? Op::apply(_mm256_castps256_ps128(rows[r % R]),
                                _mm256_extractf128_ps(rows[r % R], 1))
                    : _mm_setzero_ps();
  }
  _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
  return Op::apply(Op::apply(four[0], four[2]), Op::apply(four[1], four[3]));
}

// The largest of a plane of factors, at least 1, which null stands for.
float largest_factor(const std::byte* plane, std::size_t count) {
  if (plane == nullptr) return 1.0f;
  V largest[1] = {broadcast(1.0f)};
  for (std::size_t i = 0; i < count; i += kLanes) largest[0] = max(load_bf16(plane, i), largest[0]);
  return _mm_cvtss_f32(reduce_rows<Max>(largest));
}

// The steps of symmetric or unsigned rounding to `levels` from each row's largest value: stores the
// factor of the values in block.inv, returns the step. Zero for what is tiny.
KVFERRY_INLINE __m128 rounding_steps(__m128 largest, float levels, Block& block) {
  const __m128 keep = _mm_cmpge_ps(largest, _mm_set1_ps(kHackTiny));
  _mm_store_ps(block.inv, _mm_and_ps(keep, _mm_div_ps(_mm_set1_ps(levels), largest)));
  return _mm_and_ps(keep, _mm_mul_ps(largest, _mm_set1_ps(1.0f / levels)));
}

// Bit r: (bound + |offset|) * factor < kHackHuge in row r; not where any is NaN.
KVFERRY_INLINE unsigned rows_below_huge(__m128 bound, __m128 offset, float factor) {
  const __m128 sum = _mm_add_ps(bound, _mm_andnot_ps(_mm_set1_ps(-0.0f), offset));
  return static_cast<unsigned>(
      _mm_movemask_ps(_mm_cmplt_ps(_mm_mul_ps(sum, _mm_set1_ps(factor)), _mm_set1_ps(kHackHuge))));
}

// 32 values, times inv, to the nearest integers, saturated to signed or unsigned bytes.
template <bool Signed>
KVFERRY_INLINE __m256i rounded_bytes(const float* values, V inv) {
  __m256i x[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) x[i] = _mm256_cvtps_epi32(mul(load(values + kLanes * i), inv));
  const __m256i low = _mm256_packs_epi32(x[0], x[1]);
  const __m256i high = _mm256_packs_epi32(x[2], x[3]);
  const __m256i bytes = Signed ? _mm256_packs_epi16(low, high) : _mm256_packus_epi16(low, high);
  // Packing goes by halves of 128 bits: words 0, 2, 4, 6 lie below 1, 3, 5, 7.
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

KVFERRY_INLINE __m256i broadcast_bytes(const void* p) {
  int word;
  std::memcpy(&word, p, sizeof(word));
  return _mm256_set1_epi32(word);
}

// Which operand the codes are, and the largest magnitude of the other one.
struct KeyDot {
  static constexpr int kLargest = 127;
  static KVFERRY_INLINE __m256i apply(__m256i codes, __m256i q) {
    return _mm256_maddubs_epi16(codes, q);
  }
};
struct ValueDot {
  static constexpr int kLargest = 255;
  static KVFERRY_INLINE __m256i apply(__m256i codes, __m256i p) {
    return _mm256_maddubs_epi16(p, codes);
  }
};

// After how many steps sums of 16 bits are widened; the proof is at the head of this file.
template <class Dot, int Bits>
constexpr int widening_steps() {
  constexpr int kPair = 2 * Dot::kLargest * ((1 << Bits) - 1);
  return kSteps * kPair <= 32767 ? kSteps : 8 * kPair <= 32767 ? 8 : 4;
}

// Lanes of codes at one place of the packed axis: 4 bytes a lane, words of 4 * `row_bytes`.
struct Codes {
  const std::byte* words;  // of step 0, first lane
  std::size_t row_bytes;   // from a row of words to the next
};

// sums[r][i] += dot over 16 steps of the `Fields` fields from `First` up of `Bits` bits in each
// byte. Row r's other operand is at others + r * stride, 4 bytes a step.
template <class Dot, int Bits, int First, int Fields, int R>
KVFERRY_INLINE void add_fields(const Codes& codes, const void* others, std::size_t stride,
                               __m256i (&sums)[R][kTogether]) {
  constexpr int kWiden = widening_steps<Dot, Bits>();
  static_assert(kWiden * 2 * Dot::kLargest * ((1 << Bits) - 1) <= 32767 && kWiden % Fields == 0);
  const __m256i mask = _mm256_set1_epi8((1 << Bits) - 1);
  const auto* other = static_cast<const std::byte*>(others);
  const std::byte* words = codes.words;
  for (int step = 0; step < kSteps; step += kWiden) {
    __m256i partial[R][kTogether];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kTogether; ++i) partial[r][i] = _mm256_setzero_si256();
    }
#pragma GCC unroll 2
    for (int s = 0; s < kWiden; s += Fields, words += codes.row_bytes, other += 4 * Fields) {
      __m256i word[kTogether];
      for (int i = 0; i < kTogether; ++i) {
        word[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + 32 * i));
      }
#pragma GCC unroll 8
      for (int f = 0; f < Fields; ++f) {
        __m256i code[kTogether];
        for (int i = 0; i < kTogether; ++i) {
          code[i] = _mm256_and_si256(_mm256_srli_epi32(word[i], (First + f) * Bits), mask);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const __m256i bytes = broadcast_bytes(other + r * stride + 4 * f);
          for (int i = 0; i < kTogether; ++i) {
            partial[r][i] = _mm256_add_epi16(partial[r][i], Dot::apply(code[i], bytes));
            // Or gcc adds up trees of products first and spills the sums.
            asm("" : "+x"(partial[r][i]));
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kTogether; ++i) {
        const __m256i wide = _mm256_madd_epi16(partial[r][i], _mm256_set1_epi16(1));
        sums[r][i] = _mm256_add_epi32(sums[r][i], wide);
      }
    }
  }
}

template <int R>
KVFERRY_INLINE void set_zero(__m256i (&sums)[R][kTogether]) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < kTogether; ++i) sums[r][i] = _mm256_setzero_si256();
  }
}

// sums[r][i] = the dots of one sub-plane, of 1, 2, 4 or 8 bits.
template <class Dot, int R>
KVFERRY_INLINE void sub_plane_dots(std::uint32_t bits, const Codes& codes, const void* others,
                                   std::size_t stride, __m256i (&sums)[R][kTogether]) {
  set_zero(sums);
  switch (bits) {
    case 1:
      return add_fields<Dot, 1, 0, 8>(codes, others, stride, sums);
    case 2:
      return add_fields<Dot, 2, 0, 4>(codes, others, stride, sums);
    case 4:
      return add_fields<Dot, 4, 0, 2>(codes, others, stride, sums);
    default:
      add_fields<Dot, 4, 1, 1>(codes, others, stride, sums);
      for (int r = 0; r < R; ++r) {
        for (int i = 0; i < kTogether; ++i) sums[r][i] = _mm256_slli_epi32(sums[r][i], 4);
      }
      return add_fields<Dot, 4, 0, 1>(codes, others, stride, sums);
  }
}

// What a tile's dots are taken of: the codes of K or of V.
struct Plane {
  const std::byte* codes;
  std::size_t bits;
  std::size_t dim;
  std::size_t lanes;  // 64 for K, dim for V
};

// sums[r][i] = the dots with the codes of kChunk lanes from `lane` up, over the places from 64 *
// `block` up of the packed axis.
template <class Dot, int R>
KVFERRY_INLINE void dots(const Plane& plane, std::size_t block, std::size_t lane,
                         const void* others, std::size_t stride, __m256i (&sums)[R][kTogether]) {
  const auto codes_of = [&](const HackSubPlane& sub) {
    return Codes{
        plane.codes + 8 * (plane.dim * sub.shift + plane.lanes * sub.bits * block) + 4 * lane,
        4 * plane.lanes};
  };
  const HackSubPlanes& subs = kHackSubPlanes[plane.bits];
  sub_plane_dots<Dot>(subs.part[0].bits, codes_of(subs.part[0]), others, stride, sums);
  for (std::uint32_t n = 1; n < subs.count; ++n) {
    const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(subs.part[n].shift));
    __m256i more[R][kTogether];
    sub_plane_dots<Dot>(subs.part[n].bits, codes_of(subs.part[n]), others, stride, more);
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kTogether; ++i) {
        sums[r][i] = _mm256_add_epi32(sums[r][i], _mm256_sll_epi32(more[r][i], shift));
      }
    }
  }
}

std::size_t halves_of(const HackPlanes& planes) { return planes.k_group == 32 ? 2 : 1; }

// q~ = q * s_K rounded to q', and q . m_K, for each run of tokens that shares scales.
template <int R>
void fold_queries(const HackPlanes& planes, const float* q, float largest_row, Block& block) {
  const std::size_t dim = planes.head_dim;
  const __m128 dot_limit =
      _mm_set1_ps(64.0f * 127.0f * static_cast<float>((1u << planes.k_bits) - 1u));
  block.fits = (1u << R) - 1u;
  for (std::size_t half = 0; half < halves_of(planes); ++half) {
    V offset[R];
    for (int r = 0; r < R; ++r) offset[r] = zero();
    __m128 bound = _mm_setzero_ps();
    for (std::size_t g = 0; g < dim / 64; ++g) {
      V largest[R];
      for (int r = 0; r < R; ++r) largest[r] = zero();
      for (std::size_t i = 0; i < 64; i += kLanes) {
        const V scale = load_bf16(planes.k_scale, half * dim + 64 * g + i);
        const V min = load_bf16(planes.k_min, half * dim + 64 * g + i);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const V row = load(q + r * dim + 64 * g + i);
          const V folded = mul(row, scale);
          store(block.folded[r] + i, folded);
          largest[r] = max(absolute(folded), largest[r]);
          offset[r] = fma(row, min, offset[r]);
        }
      }
      const __m128 step = rounding_steps(reduce_rows<Max>(largest), 127.0f, block);
      _mm_store_ps(block.q_step[half][g], step);
      bound = _mm_add_ps(bound, _mm_mul_ps(step, dot_limit));
      for (int r = 0; r < R; ++r) {
        const V inv = broadcast(block.inv[r]);
        for (int i = 0; i < 64; i += 32) {
          _mm256_store_si256(reinterpret_cast<__m256i*>(block.q[half][r] + 64 * g + i),
                             rounded_bytes<true>(block.folded[r] + i, inv));
        }
      }
    }
    const __m128 sum = reduce_rows<Add>(offset);
    _mm_store_ps(block.q_offset[half], sum);
    block.fits &= rows_below_huge(bound, sum, largest_row);
  }
}

// block.p = (SUM_g q_step * (q' . codes) + q . m_K) * row, 64 tokens.
template <int R>
void score(const HackPlanes& planes, Block& block) {
  const std::size_t dim = planes.head_dim;
  const Plane codes{planes.k_codes, planes.k_bits, dim, kTokens};
  for (std::size_t t = 0; t < kTokens; t += kChunk) {
    const std::size_t half = t / (kTokens / halves_of(planes));
    V scores[R][kTogether];
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kTogether; ++i) scores[r][i] = broadcast(block.q_offset[half][r]);
    }
    for (std::size_t g = 0; g < dim / 64; ++g) {
      __m256i sums[R][kTogether];
      dots<KeyDot>(codes, g, t, block.q[half][0] + 64 * g, kMaxDim, sums);
      for (int r = 0; r < R; ++r) {
        const V step = broadcast(block.q_step[half][g][r]);
        for (int i = 0; i < kTogether; ++i) {
          scores[r][i] = fma(_mm256_cvtepi32_ps(sums[r][i]), step, scores[r][i]);
        }
      }
    }
    for (int i = 0; i < kTogether; ++i) {
      const std::size_t at = t + kLanes * static_cast<std::size_t>(i);
      const V factor = planes.k_row == nullptr ? broadcast(1.0f) : load_bf16(planes.k_row, at);
      for (int r = 0; r < R; ++r) store(block.p[r] + at, mul(scores[r][i], factor));
    }
  }
}

// Scores to p against the tile's maximum. score_add: [R][64] or null.
template <int R>
void soften(const float* score_add, Block& block) {
  V row[R];
  for (int r = 0; r < R; ++r) {
    row[r] = broadcast(-__builtin_huge_valf());
    for (int t = 0; t < kTokens; t += kLanes) {
      V s = load(block.p[r] + t);
      if (score_add != nullptr) {
        s = add(s, load(score_add + r * kTokens + t));
        store(block.p[r] + t, s);
      }
      row[r] = max(s, row[r]);
    }
  }
  _mm_store_ps(block.m, reduce_rows<Max>(row));
  V largest[R];
  for (int r = 0; r < R; ++r) {
    largest[r] = broadcast(block.m[r]);
    row[r] = zero();
  }
  for (int t = 0; t < kTokens; t += kLanes) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {  // side by side, for exp is one long chain
      const V p = exp_nonpositive(sub(load(block.p[r] + t), largest[r]));
      store(block.p[r] + t, p);
      row[r] = add(row[r], p);
    }
  }
  _mm_store_ps(block.l, reduce_rows<Add>(row));
}

// p~ = p * s_V rounded to p', and SUM p m_V, for each group of channels that shares scales.
template <int R>
void fold_weights(const HackPlanes& planes, float largest_column, Block& block) {
  for (std::size_t g = 0; g < planes.head_dim / planes.v_group; ++g) {
    V largest[R], offset[R];
    for (int r = 0; r < R; ++r) largest[r] = offset[r] = zero();
    for (std::size_t t = 0; t < kTokens; t += kLanes) {
      const V scale = load_bf16(planes.v_scale, kTokens * g + t);
      const V min = load_bf16(planes.v_min, kTokens * g + t);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const V p = load(block.p[r] + t);
        const V folded = mul(p, scale);
        store(block.folded[r] + t, folded);
        largest[r] = max(folded, largest[r]);
        offset[r] = fma(p, min, offset[r]);
      }
    }
    const __m128 step = rounding_steps(reduce_rows<Max>(largest), 255.0f, block);
    const __m128 sum = reduce_rows<Add>(offset);
    _mm_store_ps(block.p_step[g], step);
    _mm_store_ps(block.p_offset[g], sum);
    block.fits &= rows_below_huge(_mm_mul_ps(step, _mm_set1_ps(kHackMaxVDot)), sum, largest_column);
    for (int r = 0; r < R; ++r) {
      const V inv = broadcast(block.inv[r]);
      for (int t = 0; t < kTokens; t += 32) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(block.pq[g][r] + t),
                           rounded_bytes<false>(block.folded[r] + t, inv));
      }
    }
  }
}

// The factors by which merging multiplies the old state and the tile's; updates m and l of the rows
// that fit.
struct Weights {
  alignas(32) float before[kBlockRows], tile[kBlockRows];
};
template <int R>
void merge_normalisers(const Block& block, AttentionStates states, std::uint32_t first,
                       Weights& weights) {
  alignas(32) float exponents[2 * kBlockRows] = {};
  alignas(16) float m[kBlockRows] = {};
  for (int r = 0; r < R; ++r) {
    const float before = states.m[first + r];
    m[r] = before > block.m[r] ? before : block.m[r];
    exponents[r] = before - m[r];
    exponents[kBlockRows + r] = block.m[r] - m[r];
  }
  const V factors = exp_nonpositive(load(exponents));
  const __m128 before = _mm256_castps256_ps128(factors);
  const __m128 tile = _mm256_extractf128_ps(factors, 1);
  _mm_store_ps(weights.before, before);
  _mm_store_ps(weights.tile, tile);
  alignas(16) float l[kBlockRows] = {};
  for (int r = 0; r < R; ++r) l[r] = states.l[first + r];
  _mm_store_ps(l, _mm_fmadd_ps(_mm_load_ps(block.l), tile, _mm_mul_ps(_mm_load_ps(l), before)));
  for (int r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) == 0) continue;
    states.m[first + r] = m[r];
    states.l[first + r] = l[r];
  }
}

// Adds the tile's o to the states of the rows that fit.
template <int R>
void add_values(const HackPlanes& planes, const Block& block, AttentionStates states,
                std::uint32_t first, const Weights& weights) {
  constexpr float kLargest = 0x1.fffffep127f;
  const std::size_t dim = planes.head_dim;
  const Plane codes{planes.v_codes, planes.v_bits, dim, dim};
  for (std::size_t d = 0; d < dim; d += kChunk) {
    const std::size_t g = d / planes.v_group;
    V column[kTogether];
    for (int i = 0; i < kTogether; ++i) {
      column[i] =
          planes.v_column == nullptr ? broadcast(1.0f) : load_bf16(planes.v_column, d + kLanes * i);
    }
    __m256i sums[R][kTogether];
    dots<ValueDot>(codes, 0, d, block.pq[g][0], kTokens, sums);
    for (int r = 0; r < R; ++r) {
      if ((block.fits >> r & 1u) == 0) continue;
      const V step = broadcast(block.p_step[g][r]);
      const V offset = broadcast(block.p_offset[g][r]);
      const V before = broadcast(weights.before[r]);
      const V factor = broadcast(weights.tile[r]);
      float* o = states.o + (first + r) * dim + d;
      for (int i = 0; i < kTogether; ++i) {
        const V tile = mul(fma(_mm256_cvtepi32_ps(sums[r][i]), step, offset), column[i]);
        const V merged = fma(tile, factor, mul(load(o + kLanes * i), before));
        store(o + kLanes * i, min(max(merged, broadcast(-kLargest)), broadcast(kLargest)));
      }
    }
  }
}

template <int R>
void attend_block(const HackPlanes& planes, const Queries& queries, AttentionStates states,
                  std::uint32_t first) {
  Block block;
  fold_queries<R>(planes, queries.q, largest_factor(planes.k_row, kTokens), block);
  score<R>(planes, block);
  soften<R>(queries.score_add, block);
  fold_weights<R>(planes, largest_factor(planes.v_column, planes.head_dim), block);
  Weights weights;
  merge_normalisers<R>(block, states, first, weights);
  add_values<R>(planes, block, states, first, weights);
  for (int r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) != 0) continue;
    hack_attend_row_exact(planes, skip_rows(queries, r, planes.head_dim), states, first + r);
  }
}

void attend(const HackPlanes& planes, const Queries& queries, AttentionStates states) {
  std::uint32_t row = 0;
  for (; row + kBlockRows <= states.rows; row += kBlockRows) {
    attend_block<kBlockRows>(planes, skip_rows(queries, row, planes.head_dim), states, row);
  }
  const Queries left = skip_rows(queries, row, planes.head_dim);
  if (states.rows - row == 3) attend_block<3>(planes, left, states, row);
  if (states.rows - row == 2) attend_block<2>(planes, left, states, row);
  if (states.rows - row == 1) attend_block<1>(planes, left, states, row);
}

}  // namespace

const HackKernels kHackAvx2 = {attend};

}  // namespace kvferry::kernels
