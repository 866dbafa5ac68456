// What forward() refuses, reports and calls back.
#include <cmath>
#include <limits>
#include <string>

#include "tests/model/model_fixture.h"

namespace kvferry::model {
namespace {

class Forward : public testing::Test {
 protected:
  Forward() : model_("random:tiny", Compute::kF32, 2) {}

  Status run(codec::SequenceKv& kv, const std::vector<std::int32_t>& ids,
             SequenceChunk::Logits logits = SequenceChunk::Logits::kLast,
             const TilesClosed& closed = nullptr) {
    const SequenceChunk chunk{&kv, ids, logits};
    return model_->forward(std::span(&chunk, 1), logits_, closed);
  }
  codec::OwnedSequenceKv sequence(std::uint32_t max_tokens) {
    return {codec_of("raw"), model_->config().kv_geometry(), max_tokens};
  }

  LoadedModel model_;
  std::vector<float> logits_;
};

TEST_F(Forward, LogitsOfTheRowsAskedFor) {
  const std::uint32_t vocab = model_->config().vocab;
  const auto ids = test_ids(700, vocab);  // more than one piece
  const auto all = run_chunked(*model_.model, codec_of("raw"), ids, {ids.size()});
  auto a = sequence(1024), b = sequence(1024), c = sequence(1024);
  const std::vector<SequenceChunk> chunks{
      {&a.kv(), ids, SequenceChunk::Logits::kLast},
      {&b.kv(), std::span(ids).first(100), SequenceChunk::Logits::kNone},
      {&c.kv(), std::span(ids).first(3), SequenceChunk::Logits::kAll}};
  ASSERT_TRUE(model_->forward(chunks, logits_, nullptr).ok());
  ASSERT_EQ(logits_.size(), 4 * vocab);
  const auto row = [&](std::size_t i) {
    return std::vector<float>(all.logits.begin() + i * vocab, all.logits.begin() + (i + 1) * vocab);
  };
  const auto got = [&](std::size_t i) {
    return std::vector<float>(logits_.begin() + i * vocab, logits_.begin() + (i + 1) * vocab);
  };
  EXPECT_EQ(got(0), row(699));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(got(1 + i), row(i));
  EXPECT_EQ(a.kv().length, 700u);
  EXPECT_EQ(b.kv().length, 100u);
  EXPECT_EQ(c.kv().length, 3u);
  EXPECT_GT(model_->last_step().total_ns, 0u);
  EXPECT_GE(model_->last_step().total_ns, model_->last_step().gemm_ns);
}

TEST_F(Forward, AnObserverSeesEveryRowOfEveryLayerAndChangesNothing) {
  const auto ids = test_ids(700, model_->config().vocab);  // more than one piece
  auto plain = sequence(1024), watched = sequence(1024);
  ASSERT_TRUE(run(plain.kv(), ids).ok());
  const auto logits = logits_;
  std::vector<std::uint32_t> next(model_->config().layers, 0);
  bool finite = true, dense = true;
  model_->observe([&](const AttentionInputs& inputs) {
    EXPECT_EQ(inputs.chunk, 0u);
    EXPECT_EQ(inputs.start, next[inputs.layer]);
    next[inputs.layer] = inputs.start + inputs.rows;
    const std::size_t width = std::size_t{model_->config().q_heads} * model_->config().head_dim;
    for (std::uint32_t row = 0; row < inputs.rows; ++row) {
      const float* q = inputs.q + row * inputs.q_stride;
      finite = finite && std::all_of(q, q + width, [](float x) { return std::isfinite(x); });
    }
    // raw's segments hold what the tiles that are full have held, behind their header.
    for (std::uint32_t tile = inputs.start / 64; tile < (inputs.start + inputs.rows) / 64; ++tile) {
      const auto segment = watched.kv().segment(inputs.layer, tile);
      dense = dense && std::memcmp(inputs.dense_tile(tile).k, segment.data() + 64,
                                   64 * model_->config().head_dim * 2) == 0;
    }
  });
  ASSERT_TRUE(run(watched.kv(), ids).ok());
  model_->observe(nullptr);
  EXPECT_EQ(next, std::vector<std::uint32_t>(model_->config().layers, 700));
  EXPECT_TRUE(finite);
  EXPECT_TRUE(dense);
  EXPECT_EQ(logits_, logits);
  EXPECT_EQ(kv_bytes(watched.kv()), kv_bytes(plain.kv()));
}

TEST_F(Forward, RefusesWithoutTouchingTheSequence) {
  auto kv = sequence(128);
  const std::int32_t vocab = static_cast<std::int32_t>(model_->config().vocab);
  ASSERT_TRUE(run(kv.kv(), {1, 2, 3}).ok());
  const auto before = kv_bytes(kv.kv());
  const std::vector<std::vector<std::int32_t>> bad{
      {},
      {-1},
      {vocab},
      {1, std::numeric_limits<std::int32_t>::min()},
      std::vector<std::int32_t>(200, 1),    // blocks for 128 tokens only
      std::vector<std::int32_t>(5000, 1)};  // beyond the context
  for (const auto& ids : bad) {
    EXPECT_EQ(run(kv.kv(), ids).code(), Code::kInvalidArgument);
    EXPECT_EQ(kv.kv().length, 3u);
    EXPECT_EQ(kv_bytes(kv.kv()), before);
  }
  const std::vector<std::int32_t> one{1};
  const std::vector<SequenceChunk> twice{{&kv.kv(), one}, {&kv.kv(), one}};
  EXPECT_EQ(model_->forward(twice, logits_, nullptr).code(), Code::kInvalidArgument);

  auto geometry = model_->config().kv_geometry();
  geometry.layers += 1;
  codec::OwnedSequenceKv other(codec_of("raw"), geometry, 128);
  EXPECT_EQ(run(other.kv(), one).code(), Code::kInvalidArgument);
  EXPECT_TRUE(run(kv.kv(), std::vector<std::int32_t>(124, 5)).ok());  // 127: no block more
}

// Each tile of each layer once, in order, after its bytes are final.
TEST_F(Forward, ReportsTilesAsTheyClose) {
  struct Closed {
    std::uint32_t layer, tile;
    std::vector<std::byte> bytes;
  };
  std::vector<Closed> seen;
  auto kv = sequence(1024);
  const auto closed = [&](std::size_t chunk, std::uint32_t layer, std::uint32_t first,
                          std::uint32_t last) {
    EXPECT_EQ(chunk, 0u);
    for (std::uint32_t tile = first; tile < last; ++tile) {
      const auto segment = kv.kv().segment(layer, tile);
      seen.push_back({layer, tile, {segment.begin(), segment.end()}});
    }
  };
  const auto ids = test_ids(700, model_->config().vocab);
  for (std::size_t done = 0; done < ids.size();) {  // pieces, a decode over a border, one token
    const std::size_t n = done == 0 ? 575 : done == 575 ? 1 : 124;
    const std::vector<std::int32_t> part(ids.begin() + static_cast<std::ptrdiff_t>(done),
                                         ids.begin() + static_cast<std::ptrdiff_t>(done + n));
    ASSERT_TRUE(run(kv.kv(), part, SequenceChunk::Logits::kNone, closed).ok());
    done += n;
  }
  std::vector<std::uint32_t> next(model_->config().layers, 0);
  for (const auto& [layer, tile, bytes] : seen) {
    EXPECT_EQ(tile, next[layer]++);
    const auto segment = kv.kv().segment(layer, tile);
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), segment.begin(), segment.end()));
  }
  for (auto tiles : next) EXPECT_EQ(tiles, 700u / 64);
}

}  // namespace
}  // namespace kvferry::model
