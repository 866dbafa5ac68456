// One answer: a token's logits and KV are the same bits however the work is cut up. Run by CTest
// natively and with oneDNN and the kernels held to older instruction sets.
#include <oneapi/dnnl/dnnl.hpp>
#include <ostream>
#include <string>
#include <tuple>

#include "model/gemm_kernel.h"
#include "tests/model/model_fixture.h"

namespace kvferry::model {
namespace {

struct Case {
  const char* model;
  Compute compute;
  const char* spec;  // "" is the exact codec
  std::size_t tokens;
};

void PrintTo(const Case& c, std::ostream* out) {  // GoogleTest's name for it
  *out << c.model << (c.compute == Compute::kBf16 ? " bf16 '" : " f32 '") << c.spec << "' "
       << c.tokens << " tokens";
}

bool has_bf16() { return dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core; }

std::string model_path(const Case& c) {
  if (c.model == std::string("mini")) return mini_path();
  if (c.model == std::string("qwen2")) return source_path("tests/golden/checkpoints/qwen2");
  return c.model;
}

class Determinism : public testing::TestWithParam<Case> {
 protected:
  // Where oneDNN has no bf16 products, a bf16 model must be refused, and there is no more to test.
  static bool refused(const Case& c) {
    if (c.compute != Compute::kBf16 || has_bf16()) return false;
    ComputePool pool(1);
    LoadOptions options;
    options.compute = c.compute;
    options.pool = &pool;
    const auto loaded = load_model(model_path(c), options);
    EXPECT_EQ(loaded.status().code(), Code::kUnsupported) << loaded.status().to_string();
    return true;
  }
};

TEST_P(Determinism, ChunksAndThreads) {
  const Case& c = GetParam();
  if (refused(c)) return;
  LoadedModel one(model_path(c), c.compute, 1);
  const std::uint32_t vocab = one->config().vocab;
  const auto ids = test_ids(c.tokens, vocab);
  const auto want = run_chunked(*one.model, codec_of(c.spec), ids, {c.tokens});
  for (std::size_t chunk : {7, 63, 64, 65, 512}) {
    expect_same(want, run_chunked(*one.model, codec_of(c.spec), ids, {chunk}), vocab,
                "chunks of " + std::to_string(chunk));
  }
  for (int threads : {2, 3}) {
    LoadedModel model(model_path(c), c.compute, threads);
    const std::string what = " on " + std::to_string(threads) + " threads";
    expect_same(want, run_chunked(*model.model, codec_of(c.spec), ids, {c.tokens}), vocab,
                "whole" + what);
    // Prefill all but the last 70 tokens, then one at a time over a tile border.
    expect_same(want, run_chunked(*model.model, codec_of(c.spec), ids, {c.tokens - 70, 1}), vocab,
                "decode" + what);
  }
  expect_same(want, run_chunked(*one.model, codec_of(c.spec), ids, {1}), vocab, "one at a time");
}

// Several sequences of other lengths share each step; the one looked at stands at every place.
TEST_P(Determinism, BatchAndPositionInIt) {
  const Case& c = GetParam();
  if (refused(c)) return;
  LoadedModel model(model_path(c), c.compute, 2);
  const auto& config = model->config();
  const auto ids = test_ids(140, config.vocab);
  const auto want = run_chunked(*model.model, codec_of(c.spec), ids, {ids.size()});
  constexpr std::size_t kOthers = 4;
  for (std::size_t place = 0; place <= kOthers; ++place) {
    std::vector<std::unique_ptr<codec::OwnedSequenceKv>> kv;
    std::vector<std::vector<std::int32_t>> tokens;
    for (std::size_t i = 0; i <= kOthers; ++i) {
      kv.push_back(
          std::make_unique<codec::OwnedSequenceKv>(codec_of(c.spec), config.kv_geometry(), 1024));
      tokens.push_back(
          i == place ? ids : test_ids(std::min(600u, config.context), config.vocab, 31 * (i + 1)));
    }
    Answer got;
    std::vector<std::size_t> done(kOthers + 1, 0);
    std::vector<float> logits;
    for (std::size_t step = 0; done[place] < ids.size(); ++step) {
      std::vector<SequenceChunk> chunks;
      std::size_t rows_before = 0, rows = 0;
      for (std::size_t i = 0; i <= kOthers; ++i) {
        // Chunks of 1, then 50, then 1, ...: decode, mixed and prefill steps.
        const std::size_t size = (step + i) % 3 == 0 ? 50 : 1;
        const std::size_t n = std::min(size, tokens[i].size() - done[i]);
        if (n == 0) continue;
        chunks.push_back(
            {&kv[i]->kv(), std::span(tokens[i]).subspan(done[i], n), SequenceChunk::Logits::kAll});
        done[i] += n;
        if (i < place) rows_before += n;
        if (i == place) rows = n;
      }
      const Status status = model->forward(chunks, logits);
      ASSERT_TRUE(status.ok()) << status.to_string();
      const auto first = logits.begin() + static_cast<std::ptrdiff_t>(rows_before * config.vocab);
      got.logits.insert(got.logits.end(), first,
                        first + static_cast<std::ptrdiff_t>(rows * config.vocab));
    }
    got.kv = kv_bytes(kv[place]->kv());
    expect_same(want, got, config.vocab, "place " + std::to_string(place));
  }
}

constexpr const char* kDefault = "hadamard | hack(k=4,v=2)";
constexpr const char* kTwo = "hack(k=2,v=2)";
// Tiles of 128 tokens, and random bits of its own for each layer and head.
constexpr const char* kPaper = "hack(k=4,v=2,layout=paper,group=128,rounding=stochastic,seed=3)";
// The open tile is coded as far as each row sees it.
constexpr const char* kPaperOpen = "hack(k=2,v=2,layout=paper,rqe=off)";

// tiny is long enough for two cells of 1,024 tokens; qwen2 has biases that codecs leave out.
INSTANTIATE_TEST_SUITE_P(All, Determinism,
                         testing::Values(Case{"mini", Compute::kF32, "", 300},
                                         Case{"mini", Compute::kF32, "raw", 300},
                                         Case{"mini", Compute::kF32, kDefault, 300},
                                         Case{"mini", Compute::kBf16, "raw", 300},
                                         Case{"mini", Compute::kBf16, kDefault, 300},
                                         Case{"mini", Compute::kBf16, kTwo, 300},
                                         Case{"qwen2", Compute::kF32, kTwo, 300},
                                         Case{"qwen2", Compute::kBf16, kDefault, 300},
                                         Case{"random:tiny", Compute::kF32, "", 1200},
                                         Case{"random:tiny", Compute::kF32, kTwo, 1200},
                                         Case{"random:tiny", Compute::kBf16, "raw", 1200},
                                         Case{"random:tiny", Compute::kBf16, kDefault, 1200},
                                         Case{"mini", Compute::kF32, kPaper, 300},
                                         Case{"mini", Compute::kBf16, kPaperOpen, 300}));

TEST(NumericsClass, SameForTwoLoadsAndThreadCounts) {
  const LoadedModel a("random:tiny", Compute::kF32, 1), b("random:tiny", Compute::kF32, 3);
  EXPECT_EQ(a->numerics_class(), b->numerics_class());
  EXPECT_EQ(a->fingerprint(), b->fingerprint());
  EXPECT_NE(a->numerics_class(), 0u);
  const LoadedModel mini(mini_path(), Compute::kF32, 2);
  EXPECT_NE(a->fingerprint(), mini->fingerprint());
  if (has_bf16()) {
    const LoadedModel bf16("random:tiny", Compute::kBf16, 2);
    EXPECT_NE(a->numerics_class(), bf16->numerics_class());
    EXPECT_NE(a->fingerprint(), bf16->fingerprint());
  }
}

TEST(GemmKernel, LadderHasLargeAndSmallRungs) {
  const auto kernel = GemmKernel::create(Compute::kF32, 256, 128);
  ASSERT_TRUE(kernel.ok()) << kernel.status().to_string();
  const auto rungs = (*kernel)->rungs();
  EXPECT_EQ(rungs.back(), kMaxRung);
  EXPECT_LE(rungs.front(), 64u);
  for (std::uint32_t limit : {64u, 128u, 256u, 512u}) {
    for (std::uint32_t rows = 1; rows <= kMaxRung; ++rows) {
      std::uint32_t at = 0;
      while (at < rows) {
        const auto block = (*kernel)->next_block(rows - at, limit);
        ASSERT_GE(block.rows, 1u);
        ASSERT_LE(block.rows, block.rung);
        ASSERT_LE(at + block.rung, kMaxRung) << rows << " rows, limit " << limit;
        at += block.rows;
      }
      ASSERT_EQ(at, rows);
    }
  }
}

}  // namespace
}  // namespace kvferry::model
