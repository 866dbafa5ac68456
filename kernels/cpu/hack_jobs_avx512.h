// What is done to queries, scores and weights, in jobs on 4 rows of 64 values. A job is done while
// the codes of another tile are multiplied, in small pieces: Zen 4 looks 64 instructions of its
// vector units ahead, so what should overlap must stand no further apart. Included only by
// hack_avx512.cpp; all of it has internal linkage.
//
// A job has at(i, r), which does vector i of row r, r a constant once unrolled, for i = 0 .. 3 and
// in it r = 0 .. 3. Rows from R on are left out.
//
// On Zen 4, multiplications and comparisons of f32 and vpdpbusd share two ports, so what counts is
// how many of the former there are: each is a sixteenth of a token's dots. Additions, maxima,
// conversions and shifts have two other ports.
//
// Thread contract: one thread, within a call.
#pragma once

#include "kernels/cpu/hack_block_avx512.h"

namespace kvferry::kernels {
namespace {

KVFERRY_INLINE void clear(V (&rows)[kBlockRows]) {
#pragma GCC unroll 4
  for (V& row : rows) row = zero();
}

struct NoJob {
  KVFERRY_INLINE void at(int, int) {}
};

// 64 values of each row, `stride` apart, times factors that the rows share.
template <int R>
class FoldJob {
 public:
  V largest[kBlockRows];  // magnitude of the products
  V sum[kBlockRows];      // of the values times `mins`

  // folded: where the products go, rows kMaxDim apart.
  FoldJob(const float* values, std::size_t stride, const std::byte* factors, const std::byte* mins,
          float* folded)
      : values_(values), stride_(stride), factors_(factors), mins_(mins), folded_(folded) {
    clear(largest);
    clear(sum);
  }
  KVFERRY_INLINE void at(int i, int r) {
    const std::size_t at = kLanes * static_cast<std::size_t>(i);
    if (r == 0) {
      factor_ = load_bf16(factors_, at);
      min_ = load_bf16(mins_, at);
    }
    if (r >= R) return;
    const V value = load(values_ + static_cast<std::size_t>(r) * stride_ + at);
    const V product = mul(value, factor_);
    store(folded_ + static_cast<std::size_t>(r) * kMaxDim + at, product);
    largest[r] = _mm512_range_ps(product, largest[r], 0b1011);  // the larger magnitude
    sum[r] = fma(value, min_, sum[r]);
  }

 private:
  const float* values_;
  const std::size_t stride_;
  const std::byte *factors_, *mins_;
  float* folded_;
  V factor_, min_;
};

// Where the bytes of one or two groups go: `group` apart, rows `row` apart.
template <class Byte>
struct Bytes {
  Byte* to;
  std::size_t group, row;
};

// The products of one group of 64, or of two that follow each other, to bytes.
template <int R, class Byte>
class RoundJob {
 public:
  // folded: rows kMaxDim apart. inv: the factor of each row, of each group.
  RoundJob(const float* folded, const float (*inv)[kBlockRows], Bytes<Byte> out, bool pair)
      : folded_(folded), inv_(inv), out_(out), pair_(pair) {}
  // Here vector `r` of row `i`, since the bytes of a row are packed together.
  KVFERRY_INLINE void at(int i, int r) {
    if (i >= R) return;
    round(0, i, r);
    if (pair_) round(1, i, r);
  }

 private:
  KVFERRY_INLINE void round(int n, int row, int i) {
    const V product = load(folded_ + kMaxDim * row + 64 * n + kLanes * i);
    rounded_[n][i] = _mm512_cvtps_epi32(mul(product, broadcast(inv_[n][row])));
    if (i + 1 < kVectors) return;
    const __m512i low = _mm512_packs_epi32(rounded_[n][0], rounded_[n][1]);
    const __m512i high = _mm512_packs_epi32(rounded_[n][2], rounded_[n][3]);
    const __m512i bytes =
        Byte(-1) < Byte(0) ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
    // Four bytes of each vector in turn.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(out_.to + static_cast<std::size_t>(n) * out_.group +
                            static_cast<std::size_t>(row) * out_.row,
                        _mm512_permutexvar_epi32(order, bytes));
  }

  const float* folded_;
  const float (*inv_)[kBlockRows];
  const Bytes<Byte> out_;
  const bool pair_;
  __m512i rounded_[2][kVectors];
};

// The largest score of each row.
template <int R>
class MaxJob {
 public:
  V largest[kBlockRows];

  explicit MaxJob(const float (*scores)[kTokens]) : scores_(scores) {
    clear(largest);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) largest[r] = load(scores[r]);
  }
  KVFERRY_INLINE void at(int i, int r) {
    if (r < R) largest[r] = max(largest[r], load(scores_[r] + kLanes * i));
  }

 private:
  const float (*scores_)[kTokens];
};

// Scores to p, in place, and their sums.
template <int R>
class SoftenJob {
 public:
  V l[kBlockRows];

  SoftenJob(float (*p)[kTokens], const float* m) : p_(p), m_(m) { clear(l); }
  KVFERRY_INLINE void at(int i, int r) {
    if (r >= R) return;
    float* at = p_[r] + kLanes * i;
    const V weight = exp2_weight(sub(load(at), broadcast(m_[r])));
    store(at, weight);
    l[r] = add(l[r], weight);
  }

 private:
  float (*p_)[kTokens];
  const float* m_;
};

// Does a job where there are no dots.
template <class Job>
KVFERRY_INLINE void do_job(Job& job) {
#pragma GCC unroll 1
  for (int i = 0; i < kVectors; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < kBlockRows; ++r) job.at(i, r);
  }
}

}  // namespace
}  // namespace kvferry::kernels
