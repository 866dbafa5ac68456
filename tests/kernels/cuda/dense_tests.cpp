// Dense decode attention against exact attention in double precision, and row determinism.
#include "tests/kernels/cuda/dense_tests.h"

#include <cmath>
#include <random>

#include "tests/kernels/cuda/check.h"

namespace kvferry::cuda {

int DenseBatch::max_tiles() const {
  return (*std::max_element(tokens.begin(), tokens.end()) + 63) / 64;
}
DensePages DenseBatch::arguments() const {
  DensePages arguments;
  arguments.head_dim = head_dim;
  arguments.kv_heads = kv_heads;
  arguments.max_tiles = max_tiles();
  return arguments;
}
std::vector<const std::byte*> DenseBatch::table(const std::byte* base) const {
  const auto stride = static_cast<std::size_t>(max_tiles());
  std::vector<const std::byte*> pointers(stride * tokens.size());
  for (std::size_t s = 0; s < at.size(); ++s) {
    for (std::size_t i = 0; i < at[s].size(); ++i) pointers[s * stride + i] = base + at[s][i];
  }
  return pointers;
}

namespace {

// Values in -1 .. 1; what lies behind the last token is NaN.
DenseBatch make_batch(int head_dim, int kv_heads, int group, const std::vector<int>& tokens) {
  DenseBatch batch;
  batch.head_dim = head_dim;
  batch.kv_heads = kv_heads;
  batch.group = group;
  batch.tokens = tokens;
  const auto dim = static_cast<std::size_t>(head_dim);
  const std::size_t matrix = 64 * dim;  // values of one head's K of a tile
  const auto count = static_cast<std::size_t>(kv_heads);
  for (std::size_t s = 0; s < tokens.size(); ++s) {
    std::mt19937 random(static_cast<std::uint32_t>(s + 5));
    const auto used = static_cast<std::size_t>(tokens[s]), tiles = (used + 63) / 64;
    std::vector<std::uint16_t> page(tiles * 2 * count * matrix, 0x7fc0);
    batch.heads.emplace_back();
    for (std::size_t head = 0; head < count; ++head) {
      kernels::DenseTokens dense{used, {}, {}};
      for (auto* values : {&dense.k, &dense.v}) {
        for (std::size_t i = 0; i < used * dim; ++i) {
          const float v = static_cast<float>(random() % 65536) / 32768.0f - 1.0f;
          values->push_back(kernels::bf16_from_f32(v));
          const std::size_t tile = i / matrix, half = values == &dense.v ? count : 0;
          page[(tile * 2 * count + half + head) * matrix + i % matrix] = values->back();
        }
      }
      batch.heads.back().push_back(std::move(dense));
    }
    batch.at.emplace_back();
    for (std::size_t tile = 0; tile < tiles; ++tile) {
      batch.at.back().push_back(batch.pages.size() * sizeof(Words) + tile * 4 * count * matrix);
    }
    const std::size_t end = batch.pages.size();
    batch.pages.resize(end + page.size() * 2 / sizeof(Words));
    std::memcpy(batch.pages.data() + end, page.data(), page.size() * 2);
  }
  batch.queries = kernels::make_queries(static_cast<std::uint32_t>(batch.rows()),
                                        static_cast<std::uint32_t>(head_dim), 3, 0.5f);
  return batch;
}

void expect_exact(const RunDense& run, int head_dim, int kv_heads, int group,
                  const std::vector<int>& tokens) {
  const DenseBatch batch = make_batch(head_dim, kv_heads, group, tokens);
  const std::vector<float> out = run(batch);
  const auto dim = static_cast<std::size_t>(head_dim);
  double size = 0.0, apart = 0.0;
  for (int row = 0; row < batch.rows(); ++row) {
    const auto head = static_cast<std::size_t>(row / group % kv_heads);
    const auto& dense = batch.heads[static_cast<std::size_t>(row / group / kv_heads)][head];
    const float* const q = batch.queries.data() + static_cast<std::size_t>(row) * dim;
    const kernels::TileAnswer want = kernels::attention_answer({}, dense, dim, q);
    for (std::size_t d = 0; d < dim; ++d) {
      const double off = out[static_cast<std::size_t>(row) * dim + d] - want.output[d];
      size += want.output[d] * want.output[d];
      apart += off * off;
    }
  }
  // q and p keep 16 bits each: 2^-16 of a score of a few. With one bf16 for p it would be 2e-3.
  CHECK(apart <= 4e-5 * 4e-5 * size)
      << std::sqrt(apart / size) << " apart, head_dim " << head_dim << ", " << kv_heads
      << " heads of " << group << ", " << tokens.front() << " tokens first";
}

void exact(const RunDense& run) {
  for (const int dim : {64, 128, 256}) {
    expect_exact(run, dim, 2, 4, {64 * 3 + 5});
    expect_exact(run, dim, 1, 9, {130});
  }
  expect_exact(run, 64, 1, 2, {1, 15, 16, 17, 63, 64, 65, 1000, 64 * 270});
}
void rows_do_not_depend_on_neighbours(const RunDense& run) {
  const std::vector<float> want = run(make_batch(128, 1, 4, {700}));
  const std::vector<float> got = run(make_batch(128, 1, 4, {700, 5000, 1}));
  CHECK(std::memcmp(want.data(), got.data(), want.size() * sizeof(float)) == 0) << "other bits";
}

}  // namespace

void register_dense_tests(const RunDense& run) {
  test_cases().push_back({"dense_attention_is_exact", [run] { exact(run); }});
  test_cases().push_back({"dense_rows_do_not_depend_on_their_neighbours",
                          [run] { rows_do_not_depend_on_neighbours(run); }});
}

}  // namespace kvferry::cuda
