// Decode attention against exact attention in double precision over what the codes mean, within the
// bound that holds for the CPU's kernels; against the scalar kernels, which round alike; and row
// determinism, bit by bit.
#include <cmath>

#include "tests/kernels/cuda/check.h"
#include "tests/kernels/cuda/decode_batch.h"

namespace kvferry::cuda {
namespace {

std::string text_of(const BatchShape& s) {
  std::ostringstream out;
  out << "head_dim " << s.head_dim << ", " << s.kv_heads << " heads of " << s.group << ", bits "
      << s.first_k_bits << " " << s.first_v_bits << " and " << s.k_bits << " " << s.v_bits
      << ", tokens";
  for (const int tokens : s.tokens) out << " " << tokens;
  return out.str();
}

void expect_within_bound(const RunDecode& run, const BatchShape& shape) {
  const DecodeBatch batch(shape, 7);
  const std::vector<float> out = run(batch);
  const auto dim = static_cast<std::size_t>(shape.head_dim);
  double rounding = 0.0, apart = 0.0;  // squares: of scalar to exact, and of the GPU's to scalar
  for (int row = 0; row < batch.rows(); ++row) {
    const kernels::TileAnswer want = batch.answer(row);
    const std::vector<double> scalar = batch.scalar_answer(row);
    for (std::size_t d = 0; d < dim; ++d) {
      const double got = out[static_cast<std::size_t>(row) * dim + d];
      const double off = std::fabs(got - want.output[d]);
      CHECK(off <= want.bound[d]) << off << " > " << want.bound[d] << ", row " << row << " channel "
                                  << d << ", " << text_of(shape);
      rounding += (scalar[d] - want.output[d]) * (scalar[d] - want.output[d]);
      apart += (got - scalar[d]) * (got - scalar[d]);
    }
  }
  // Both round q and p to the same integers, but for a few that lie between two. What is left is
  // the order of f32 sums.
  const double closed =
      static_cast<double>(*std::max_element(shape.tokens.begin(), shape.tokens.end()) / 64);
  CHECK(apart <= 0.05 * 0.05 * rounding || (closed == 0.0 && apart < 1e-12))
      << std::sqrt(apart) << " from the scalar kernels, which are " << std::sqrt(rounding)
      << " from exact, " << text_of(shape);
}

// What a batch leaves in `other` at the place of its first sequence, with other neighbours.
void expect_same_rows(const RunDecode& run, BatchShape shape) {
  const DecodeBatch alone(shape, 7);
  const std::vector<float> want = run(alone);
  shape.tokens.push_back(5000);
  shape.tokens.push_back(1);
  const std::vector<float> got = run(DecodeBatch(shape, 7));
  // The queries of a batch are drawn in order of rows, so those of its first sequence are equal.
  CHECK(std::memcmp(want.data(), got.data(), want.size() * sizeof(float)) == 0) << text_of(shape);
}

void within_bound(const RunDecode& run) {
  for (const int dim : {64, 128, 256}) {
    for (const int k : {2, 4, 8}) {
      for (const int v : {2, 4, 8}) {
        expect_within_bound(run, {dim, 1, 4, k, v, 8, 8, {64 * 3 + 5}});
      }
    }
  }
}
void query_groups(const RunDecode& run) {
  for (const int group : {1, 2, 3, 7, 8, 9, 16}) {
    expect_within_bound(run, {128, 2, group, 2, 2, 8, 8, {300}});
  }
}
void lengths(const RunDecode& run) {
  expect_within_bound(run, {64, 1, 2, 2, 2, 8, 8, {1, 63, 64, 65, 128, 1000, 64 * 40 + 1}});
  expect_within_bound(run, {64, 1, 2, 4, 2, 4, 2, {64, 320, 64 * 17}});  // tile 0 is as the rest
  // More tiles than one a warp and run: 4 * 64 of them have runs of 4, these have runs of 8.
  expect_within_bound(run, {64, 1, 1, 2, 2, 8, 8, {64 * 300, 700}});
}
void rows_do_not_depend_on_neighbours(const RunDecode& run) {
  expect_same_rows(run, {128, 1, 4, 2, 2, 8, 8, {700}});
  expect_same_rows(run, {64, 2, 8, 4, 2, 8, 8, {64 * 5}});
}
// Queries that no f32 sum could hold still give finite answers.
void nothing_finite_gives_nan(const RunDecode& run) {
  DecodeBatch batch({128, 1, 4, 2, 2, 8, 8, {64 * 3 + 5}}, 7);
  for (std::size_t i = 0; i < 128; ++i) {
    batch.queries()[i] = 3e38f;
    batch.queries()[128 + i] = i % 2 == 0 ? 3e38f : -3e38f;
    batch.queries()[256 + i] = 1e-40f;
  }
  for (const float v : run(batch)) CHECK(std::isfinite(v)) << v;
}
void an_empty_sequence_gives_zeros(const RunDecode& run) {
  const std::vector<float> out = run(DecodeBatch({64, 1, 2, 2, 2, 8, 8, {0, 70}}, 7));
  for (std::size_t i = 0; i < 2 * 64; ++i) CHECK(out[i] == 0.0f) << out[i];
}

}  // namespace

void register_decode_tests(const RunDecode& run) {
  const auto add = [&run](const char* name, void (*test)(const RunDecode&)) {
    test_cases().push_back({std::string("decode_") + name, [run, test] { test(run); }});
  };
  add("every_head_dim_and_number_of_bits_is_within_its_bound", within_bound);
  add("every_group_of_queries_is_within_its_bound", query_groups);
  add("every_length_is_within_its_bound", lengths);
  add("rows_do_not_depend_on_their_neighbours", rows_do_not_depend_on_neighbours);
  add("nothing_finite_gives_nan", nothing_finite_gives_nan);
  add("an_empty_sequence_gives_zeros", an_empty_sequence_gives_zeros);
}

}  // namespace kvferry::cuda
