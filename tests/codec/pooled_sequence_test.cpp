#include "codec/pooled_sequence.h"

#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "codec/codec_set.h"

namespace kvferry::codec {
namespace {

constexpr std::size_t kPoolBytes = std::size_t{8} << 20;
const KvGeometry kGeometry{2, 2, 4, 32};

class PooledSequenceTest : public testing::Test {
 protected:
  PooledSequenceTest()
      : pool_(*ExtentPool::create(kPoolBytes)),
        codec_(CodecSet::parse({"hadamard | hack(k=4,v=2)"})->codecs().front()) {}
  std::size_t taken() const {
    const PoolUsage usage = pool_->usage();
    return usage.pool - usage.free;
  }
  auto create(const SequenceShape& shape) {
    return PooledSequence::create(*pool_, codec_, kGeometry, shape, 0);
  }

  std::unique_ptr<ExtentPool> pool_;
  std::shared_ptr<const Codec> codec_;
};

TEST_F(PooledSequenceTest, TakesWhatItSaidAndGivesItBack) {
  for (const std::uint32_t prompt : {1u, 63u, 64u, 65u, 128u, 200u}) {
    for (const std::uint32_t generated : {0u, 1u, 63u, 64u, 150u}) {
      for (const std::uint32_t choices : {1u, 2u, 5u}) {
        const SequenceShape shape{prompt, prompt + generated, choices};
        {
          const auto sequences = create(shape);
          ASSERT_TRUE(sequences.ok()) << sequences.status().to_string();
          EXPECT_EQ(sequences->size(), choices);
          EXPECT_EQ(taken(), PooledSequence::bytes_needed(*codec_, kGeometry, shape))
              << prompt << " + " << generated << " x " << choices;
          EXPECT_TRUE(pool_->check().ok());
        }
        EXPECT_EQ(taken(), 0u);
      }
    }
  }
}

TEST_F(PooledSequenceTest, ChoicesShareClosedTilesOfThePromptAndNothingElse) {
  auto sequences = create({130, 300, 3});
  ASSERT_TRUE(sequences.ok());
  std::vector<std::unique_ptr<PooledSequence>>& all = *sequences;
  for (std::size_t choice = 1; choice < 3; ++choice) {
    for (std::size_t tile = 0; tile < 4; ++tile) {
      EXPECT_EQ(all[choice]->kv().blocks[tile] == all[0]->kv().blocks[tile], tile < 2) << tile;
    }
    EXPECT_NE(all[choice]->kv().open, all[0]->kv().open);
  }
  EXPECT_NE(all[1]->kv().blocks[2], all[2]->kv().blocks[2]);

  std::memset(all[0]->kv().open, 7, 100);
  all[0]->kv().length = 130;
  all[0]->mark_resident(2);
  all[2]->copy_prompt(*all[0]);
  EXPECT_EQ(all[2]->kv().length, 130u);
  EXPECT_EQ(std::memcmp(all[2]->kv().open, all[0]->kv().open, 200), 0);

  // The first may go first: the prompt's blocks stay with the others.
  std::memset(all[0]->kv().blocks[1], 42, 10);
  const std::byte* shared = all[0]->kv().blocks[1];
  all[0].reset();
  EXPECT_EQ(all[2]->kv().blocks[1], shared);
  EXPECT_EQ(static_cast<int>(*shared), 42);
  const PoolUsage usage = pool_->usage();
  const auto in_pool = [&](std::uint32_t tile) {
    const std::size_t bytes = BlockLayout(*codec_, kGeometry).block_bytes(tile);
    return (bytes + ExtentPool::kUnit - 1) / ExtentPool::kUnit * ExtentPool::kUnit;
  };
  EXPECT_EQ(usage.classes[static_cast<std::size_t>(ExtentClass::kClosed)].resident,
            in_pool(0) + in_pool(1));
  EXPECT_TRUE(pool_->check().ok());
  all.clear();
  EXPECT_EQ(taken(), 0u);
}

TEST_F(PooledSequenceTest, AllOrNothing) {
  const SequenceShape shape{200, 400, 4};
  const std::size_t needed = PooledSequence::bytes_needed(*codec_, kGeometry, shape);
  const std::size_t room = pool_->usage().free - needed;
  auto filler = pool_->allocate(room + 1, ExtentClass::kStaging);
  ASSERT_TRUE(filler.ok());
  const std::size_t before = taken();
  // What staging holds counts towards what is left to it, so only the last extents are refused.
  const auto refused = create(shape);
  EXPECT_EQ(refused.status().code(), Code::kResourceExhausted);
  EXPECT_EQ(taken(), before);
  filler->release();
  EXPECT_TRUE(create(shape).ok());
}

}  // namespace
}  // namespace kvferry::codec
