// Attention on codes in AVX-512 with VNNI, in the steps of docs/codecs.md. Blocks of up to 4 query
// rows share the unpacked codes; the template parameter R is the number of rows of a block, and
// each row's operations and their order are the same for every R. Included only by hack_avx512.cpp;
// all of it has internal linkage.
//
// Blocks of works go through the steps like this, so that the dots of one hide the rest of others:
//
//   dots with K's codes of block n + 1      weights of block n
//   dots with V's codes of block n          queries of block n + 2, maxima of block n + 1
//
// Thread contract: one thread, within a call.
#pragma once

#include "kernels/cpu/hack_dots_avx512.h"
#include "kernels/cpu/hack_steps_avx512.h"

namespace kvferry::kernels {
namespace {

// What is not in the dots of scores.
template <int R>
void add_terms(const Rows& rows, Block& block) {
  const HackPlanes& planes = rows.work->planes;
  const float* score_add = rows.work->queries.score_add;
  if (planes.k_row == nullptr && score_add == nullptr) return;
  for (std::size_t t = 0; t < kTokens; t += kLanes) {
    for (std::size_t r = 0; r < R; ++r) {
      V s = load(&block.p[r][t]);
      if (planes.k_row != nullptr) s = mul(s, load_bf16(planes.k_row, t));
      if (score_add != nullptr) {
        s = fma(load(score_add + (rows.first + r) * kTokens + t), broadcast(kLog2E), s);
      }
      store(&block.p[r][t], s);
    }
  }
}

// block.p = k_row (SUM_g q_step * (q' . codes) + q . m_K) + score_add, 64 tokens. Beside the dots,
// `other` has its jobs done.
template <int Bits, int R, class Other>
void score(Rows& rows, Block& block, Other& other) {
  const HackPlanes& planes = rows.work->planes;
  const std::size_t dim = planes.head_dim;
  for (std::size_t token = 0; token < kTokens; token += kStrip) {
    const std::size_t part = planes.k_group == 32 ? token / kStrip : 0;
    for (std::size_t g = 0; g < dim / 64; ++g) {
      __m512i sums[R][kStripVectors];
      for (int r = 0; r < R; ++r) {
        for (__m512i& s : sums[r]) s = _mm512_setzero_si512();
      }
      const Strip strip{planes.k_codes + 4 * token, 4 * kTokens, 8 * dim, g};
      other.next_or_none([&](auto& job) KVFERRY_LAMBDA_INLINE {
        add_dots<Operand::kK, Bits, R>(strip, &block.q[part][0][64 * g], kMaxDim, rows.asking, job,
                                       sums);
      });
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const V step = broadcast(block.q_step[part][g][r]);
        const V offset = broadcast(block.offset[part][r]);
#pragma GCC unroll 2
        for (int i = 0; i < kStripVectors; ++i) {
          float* at = &block.p[r][token + kLanes * static_cast<std::size_t>(i)];
          store(at, fma(_mm512_cvtepi32_ps(sums[r][i]), step, g == 0 ? offset : load(at)));
        }
      }
    }
  }
  add_terms<R>(rows, block);
}

// Updates m and l of the rows that fit, and leaves the factors by which their o is merged:
// block.before of the old state, and the tile's in block.p_step and block.p_offset.
inline void merge_normalisers(const Rows& block_rows, Block& block) {
  const HackWork& work = *block_rows.work;
  float* const m_at = work.states.m + block_rows.first;
  float* const l_at = work.states.l + block_rows.first;
  const auto rows = static_cast<__mmask8>(block.fits);
  const __m128 m_before = _mm_maskz_loadu_ps(rows, m_at);
  const __m128 m_tile = _mm_mul_ps(_mm_maskz_loadu_ps(rows, block.m), _mm_set1_ps(kLn2));
  const __m128 m = _mm_max_ps(m_before, m_tile);
  const V exponents =
      _mm512_insertf32x4(_mm512_zextps128_ps512(_mm_sub_ps(m_before, m)), _mm_sub_ps(m_tile, m), 1);
  const V factors = exp2_weight(mul(exponents, broadcast(kLog2E)));
  const __m128 before = _mm512_castps512_ps128(factors);
  const __m128 tile = _mm512_extractf32x4_ps(factors, 1);
  const __m128 l = _mm_maskz_loadu_ps(rows, l_at);
  _mm_mask_storeu_ps(m_at, rows, m);
  _mm_mask_storeu_ps(l_at, rows, _mm_fmadd_ps(_mm_load_ps(block.l), tile, _mm_mul_ps(l, before)));
  _mm_store_ps(block.before, before);
  for (std::size_t g = 0; g < work.planes.head_dim / work.planes.v_group; ++g) {
    _mm_store_ps(block.p_step[g], _mm_mul_ps(_mm_load_ps(block.p_step[g]), tile));
    _mm_store_ps(block.p_offset[g], _mm_mul_ps(_mm_load_ps(block.p_offset[g]), tile));
  }
  block.rescale = _mm_mask_cmp_ps_mask(rows, before, _mm_set1_ps(1.0f), _CMP_NEQ_UQ) != 0;
}

// Merges kStrip values of the tile's o, from d up, into the states of the rows that fit. Where
// nothing is rescaled, fma(o, 1, offset) is an addition, to the bit. Nothing overflows: what is
// added is below kHackHuge, which is lost in the largest f32.
template <int R, class Merge>
KVFERRY_INLINE void merge_strip(const Block& block, std::size_t g, unsigned rows, float* o,
                                std::size_t dim, const __m512i (&sums)[R][kStripVectors],
                                Merge merge) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    if ((rows >> r & 1u) == 0) continue;
    const V step = broadcast(block.p_step[g][r]);
    const V offset = broadcast(block.p_offset[g][r]);
    const V before = broadcast(block.before[r]);
#pragma GCC unroll 2
    for (int i = 0; i < kStripVectors; ++i) {
      float* at = o + static_cast<std::size_t>(r) * dim + kLanes * i;
      store(at, merge(_mm512_cvtepi32_ps(sums[r][i]), step, offset, load(at), before, i));
    }
  }
}

// Adds the tile's o to the states. Beside the dots, `other` has its jobs done.
template <int Bits, int R, class Other>
void add_values(Rows& rows, Block& block, Other& other) {
  const HackPlanes& planes = rows.work->planes;
  const std::size_t dim = planes.head_dim;
  float* o = rows.work->states.o + std::size_t{rows.first} * dim;
  merge_normalisers(rows, block);
  constexpr unsigned kAll = (1u << R) - 1u;
  for (std::size_t d = 0; d < dim; d += kStrip) {
    const std::size_t g = d / planes.v_group;
    __m512i sums[R][kStripVectors];
    for (int r = 0; r < R; ++r) {
      const __m512i start =
          Bits == 8 ? sum_of_bytes_times_128(block.pq[g][r]) : _mm512_setzero_si512();
      for (__m512i& s : sums[r]) s = start;
    }
    const Strip strip{planes.v_codes + 4 * d, 4 * dim, 8 * dim, 0};
    other.next_or_none([&](auto& job) KVFERRY_LAMBDA_INLINE {
      add_dots<Operand::kV, Bits, R>(strip, block.pq[g][0], kTokens, rows.asking, job, sums);
    });
    if (planes.v_column != nullptr) {
      merge_strip<R>(block, g, block.fits, o + d, dim, sums,
                     [&](V sum, V step, V offset, V old, V before, int i) KVFERRY_LAMBDA_INLINE {
                       const V column =
                           load_bf16(planes.v_column, d + kLanes * static_cast<std::size_t>(i));
                       return fma(fma(sum, step, offset), column, mul(old, before));
                     });
    } else if (block.rescale || block.fits != kAll) {
      merge_strip<R>(block, g, block.fits, o + d, dim, sums,
                     [](V sum, V step, V offset, V old, V before, int) KVFERRY_LAMBDA_INLINE {
                       return fma(sum, step, fma(old, before, offset));
                     });
    } else {
      merge_strip<R>(block, g, kAll, o + d, dim, sums,
                     [](V sum, V step, V offset, V old, V, int)
                         KVFERRY_LAMBDA_INLINE { return fma(sum, step, add(old, offset)); });
    }
  }
}

// call(std::integral_constant<int, bits>) for bits in 1..8.
template <class Call>
KVFERRY_INLINE void with_bits(std::uint32_t bits, Call call) {
  switch (bits) {
    case 1:
      return call.template operator()<1>();
    case 2:
      return call.template operator()<2>();
    case 3:
      return call.template operator()<3>();
    case 4:
      return call.template operator()<4>();
    case 5:
      return call.template operator()<5>();
    case 6:
      return call.template operator()<6>();
    case 7:
      return call.template operator()<7>();
    default:
      return call.template operator()<8>();
  }
}

// The blocks of R rows of works: those of kBlockRows, or the one of the rows left.
template <int R>
class Blocks {
 public:
  Blocks(const HackWork* work, std::size_t count) : work_(work), end_(work + count) {}
  void next(Rows& to) {
    to.work = nullptr;
    for (; work_ != end_; ++work_, row_ = 0) {
      const std::uint32_t rows = work_->states.rows;
      const std::uint32_t first = R == kBlockRows ? row_ : rows / kBlockRows * kBlockRows;
      if (R == kBlockRows ? first + R > rows : rows - first != R || row_ != 0) continue;
      row_ += kBlockRows;
      to.work = work_;
      to.first = first;
      // What lies ahead is asked for by the work's first block.
      const HackPlanes& planes = work_->planes;
      const std::size_t steps =
          planes.head_dim / kStrip * (group_steps(planes.k_bits) + group_steps(planes.v_bits));
      to.asking = Asking(first == 0 ? work_->queries.ahead : Ahead{}, steps);
      return;
    }
  }

 private:
  const HackWork* work_;
  const HackWork* const end_;
  std::uint32_t row_ = 0;
};

template <int R>
void attend_exactly(const Rows& rows, const Block& block) {
  const HackWork& work = *rows.work;
  for (int r = 0; r < R; ++r) {
    if ((block.fits >> r & 1u) != 0) continue;
    const std::uint32_t row = rows.first + static_cast<std::uint32_t>(r);
    hack_attend_row_exact(work.planes, skip_rows(work.queries, row, work.planes.head_dim),
                          work.states, row);
  }
}

// The steps of blocks that dots hide or not.
template <int R>
void score_beside(Rows& rows, Block& block, Jobs<Weigh<R>, NoJobs>& jobs) {
  with_bits(rows.work->planes.k_bits, [&]<int Bits>() { score<Bits, R>(rows, block, jobs); });
}
template <int R>
void add_values_beside(Rows& rows, Block& block, Jobs<FoldQueries<R>, FindMaxima<R>>& jobs) {
  with_bits(rows.work->planes.v_bits, [&]<int Bits>() { add_values<Bits, R>(rows, block, jobs); });
}

// Up to the scores and queries that the first round of attend_blocks() begins with.
template <int R>
void begin(Rows& now, Rows& next, Block& block, Block& other) {
  FoldQueries<R> fold(now, block), fold_next(next, other);
  Jobs(fold, fold_next).finish();
  NoJobs none;
  Weigh<R> no_weights(Rows{}, other);
  Jobs beside(no_weights, none);
  score_beside<R>(now, block, beside);
  FindMaxima<R> maxima(now, block);
  Jobs(maxima, none).finish();
}

template <int R>
void attend_blocks(Blocks<R> items) {
  Block blocks[2];
  Rows rows[3];
  Rows *now = &rows[0], *next = &rows[1], *later = &rows[2];
  items.next(*now);
  if (now->work == nullptr) return;
  items.next(*next);
  begin<R>(*now, *next, blocks[0], blocks[1]);
  NoJobs none;
  for (int at = 0; now->work != nullptr; at = 1 - at) {
    Block &block = blocks[at], &other = blocks[1 - at];
    Weigh<R> weigh(*now, block);
    Jobs weighing(weigh, none);
    if (next->work != nullptr) score_beside<R>(*next, other, weighing);
    weighing.finish();
    items.next(*later);
    FoldQueries<R> fold(*later, block);
    FindMaxima<R> maxima(*next, other);
    Jobs preparing(fold, maxima);
    add_values_beside<R>(*now, block, preparing);
    preparing.finish();
    attend_exactly<R>(*now, block);
    Rows* const free = now;
    now = next;
    next = later;
    later = free;
  }
}

// Works that share states have equal numbers of rows, so that each of their rows comes to the same
// of these, and is merged in order.
void attend(const HackWork* work, std::size_t count) {
  attend_blocks(Blocks<kBlockRows>(work, count));
  attend_blocks(Blocks<3>(work, count));
  attend_blocks(Blocks<2>(work, count));
  attend_blocks(Blocks<1>(work, count));
}

}  // namespace
}  // namespace kvferry::kernels
