// The steps of attention that are made of jobs (hack_jobs_avx512.h), one after the other as next()
// has them done. Included only by hack_avx512.cpp; all of it has internal linkage.
//
// Thread contract: one thread, within a call.
#pragma once

#include "kernels/cpu/asking.h"
#include "kernels/cpu/hack_jobs_avx512.h"

#define KVFERRY_LAMBDA_INLINE __attribute__((always_inline))

namespace kvferry::kernels {
namespace {

// Scores are in units of ln 2 inside a block, so that e^score is a power of two.
constexpr float kLog2E = 1.442695041f, kLn2 = 0.693147181f;

// Rows of a work that go through the steps together. work null: none, and no jobs.
struct Rows {
  const HackWork* work = nullptr;
  std::uint32_t first = 0;
  Asking asking{{}, 1};
};

// From queries to what K's codes are multiplied with: q~ = q * s_K rounded to q', and q . m_K. A
// job for each of two groups of channels, one that rounds both, then those of the next two, for
// each half of the tokens with scales of its own.
template <int R>
class FoldQueries {
 public:
  FoldQueries(const Rows& rows, Block& block) : block_(block) {
    if (rows.work == nullptr) return;
    planes_ = &rows.work->planes;
    q_ = rows.work->queries.q + std::size_t{rows.first} * planes_->head_dim;
    groups_ = planes_->head_dim / 64;
    parts_ = planes_->k_group == 32 ? 2 : 1;
    block.q_fits = (1u << R) - 1u;
  }
  bool done() const { return part_ == parts_; }
  // Has run(job) do the next job.
  template <class Run>
  KVFERRY_INLINE void next(Run run) {
    if (folded_ < end()) {
      const std::size_t dim = planes_->head_dim, d = 64 * folded_;
      const std::size_t at = 2 * (part_ * dim + d);
      FoldJob<R> job(q_ + d, dim, planes_->k_scale + at, planes_->k_min + at, &block_.folded[0][d]);
      run(job);
      block_.largest[folded_ - group_] = join_quarters<Max>(job.largest);
      const V four = join_quarters<Add>(job.sum);
      block_.sum[0] = d == 0 ? four : add(block_.sum[0], four);
      if (++folded_ == end()) find_steps();
      return;
    }
    const std::size_t d = 64 * group_;
    RoundJob<R, std::int8_t> job(&block_.folded[0][d], block_.inv,
                                 {&block_.q[part_][0][d], 64, kMaxDim}, group_ + 1 < groups_);
    run(job);
    group_ = end();
    if (group_ < groups_) return;
    group_ = folded_ = 0;
    ++part_;
  }

 private:
  std::size_t end() const { return group_ + 2 < groups_ ? group_ + 2 : groups_; }
  KVFERRY_INLINE void find_steps() {
    const bool pair = group_ + 1 < groups_;
    const __m256 step = rounding_steps(
        finish<Max>(block_.largest[0], pair ? block_.largest[1] : zero()), 127.0f, block_);
    _mm256_store_ps(block_.q_step[part_][group_], _mm256_mul_ps(step, _mm256_set1_ps(kLog2E)));
    const __m128 both = _mm_add_ps(_mm256_castps256_ps128(step), _mm256_extractf128_ps(step, 1));
    bound_ = group_ == 0 ? both : _mm_add_ps(bound_, both);
    if (group_ + 2 < groups_) return;
    const float most_dot = 64.0f * 127.0f * static_cast<float>((1u << planes_->k_bits) - 1u);
    const __m128 sum = finish<Add>(block_.sum[0]);
    _mm_store_ps(block_.offset[part_], _mm_mul_ps(sum, _mm_set1_ps(kLog2E)));
    block_.q_fits &= rows_below_huge(_mm_mul_ps(bound_, _mm_set1_ps(most_dot)), sum,
                                     largest_factor(planes_->k_row, kTokens));
  }

  Block& block_;
  const HackPlanes* planes_ = nullptr;
  const float* q_ = nullptr;
  std::size_t groups_ = 0, group_ = 0, folded_ = 0, part_ = 0, parts_ = 0;
  __m128 bound_ = _mm_setzero_ps();
};

// The largest scores of a tile, one job.
template <int R>
class FindMaxima {
 public:
  FindMaxima(const Rows& rows, Block& block) : block_(block), done_(rows.work == nullptr) {}
  bool done() const { return done_; }
  template <class Run>
  KVFERRY_INLINE void next(Run run) {
    MaxJob<R> job(block_.p);
    run(job);
    _mm_store_ps(block_.m, finish<Max>(join_quarters<Max>(job.largest)));
    done_ = true;
  }

 private:
  Block& block_;
  bool done_;
};

// From scores to what V's codes are multiplied with: p against the tile's maximum, a job; p~ = p *
// s_V rounded to p', and SUM p m_V: a job for each of two groups of channels, one that rounds both,
// then those of the next two.
template <int R>
class Weigh {
 public:
  Weigh(const Rows& rows, Block& block) : block_(block) {
    if (rows.work == nullptr) return;
    work_ = rows.work;
    groups_ = work_->planes.head_dim / work_->planes.v_group;
    block.fits = block.q_fits;
  }
  bool done() const { return softened_ == (work_ != nullptr) && group_ == groups_; }
  template <class Run>
  KVFERRY_INLINE void next(Run run) {
    if (!softened_) {
      SoftenJob<R> job(block_.p, block_.m);
      run(job);
      _mm_store_ps(block_.l, finish<Add>(join_quarters<Add>(job.l)));
      softened_ = true;
    } else if (folded_ < end()) {
      const std::size_t n = folded_ - group_, at = 2 * kTokens * folded_;
      FoldJob<R> job(block_.p[0], kTokens, work_->planes.v_scale + at, work_->planes.v_min + at,
                     &block_.folded[0][kTokens * n]);
      run(job);
      block_.largest[n] = join_quarters<Max>(job.largest);
      block_.sum[n] = join_quarters<Add>(job.sum);
      if (++folded_ == end()) find_steps();
    } else {
      RoundJob<R, std::uint8_t> job(block_.folded[0], block_.inv,
                                    {block_.pq[group_][0], kBlockRows * kTokens, kTokens},
                                    group_ + 1 < groups_);
      run(job);
      group_ = end();
    }
  }

 private:
  std::size_t end() const { return group_ + 2 < groups_ ? group_ + 2 : groups_; }
  KVFERRY_INLINE void find_steps() {
    if (group_ + 1 == groups_) block_.largest[1] = block_.sum[1] = zero();
    const float column = largest_factor(work_->planes.v_column, work_->planes.head_dim);
    const __m256 step =
        rounding_steps(finish<Max>(block_.largest[0], block_.largest[1]), 255.0f, block_);
    const __m256 sum = finish<Add>(block_.sum[0], block_.sum[1]);
    _mm256_store_ps(block_.p_step[group_], step);
    _mm256_store_ps(block_.p_offset[group_], sum);
    const __m256 bound = _mm256_mul_ps(step, _mm256_set1_ps(kHackMaxVDot));
    block_.fits &=
        rows_below_huge(_mm256_castps256_ps128(bound), _mm256_castps256_ps128(sum), column) &
        rows_below_huge(_mm256_extractf128_ps(bound, 1), _mm256_extractf128_ps(sum, 1), column);
  }

  Block& block_;
  const HackWork* work_ = nullptr;
  std::size_t groups_ = 0, group_ = 0, folded_ = 0;
  bool softened_ = false;
};

// Jobs of two sources, one after the other.
template <class First, class Second>
class Jobs {
 public:
  Jobs(First& first, Second& second) : first_(first), second_(second) {}
  template <class Run>
  KVFERRY_INLINE void next_or_none(Run run) {
    if (!first_.done()) {
      first_.next(run);
    } else if (!second_.done()) {
      second_.next(run);
    } else {
      NoJob none;
      run(none);
    }
  }
  // The jobs that no dots were left for.
  void finish() {
    if (!first_.done() || !second_.done()) finish_alone();
  }

 private:
  __attribute__((noinline)) void finish_alone() {
    const auto run = [](auto& job) KVFERRY_LAMBDA_INLINE { do_job(job); };
    while (!first_.done()) first_.next(run);
    while (!second_.done()) second_.next(run);
  }
  First& first_;
  Second& second_;
};

struct NoJobs {
  static bool done() { return true; }
  template <class Run>
  KVFERRY_INLINE void next(Run) {}
};

}  // namespace
}  // namespace kvferry::kernels
