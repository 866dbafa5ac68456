#include "base/extent_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

namespace kvferry {
namespace {

constexpr std::size_t kPage = 4096;

std::unique_ptr<ExtentPool> make_pool(std::size_t bytes) {
  auto pool = ExtentPool::create(bytes);
  EXPECT_TRUE(pool.ok()) << pool.status().to_string();
  return std::move(pool).value();
}

TEST(ExtentPoolTest, RoundsUpAndAligns) {
  const auto pool = make_pool(3 * kPage + 1);
  EXPECT_EQ(pool->usage().pool, 4 * kPage);
  EXPECT_EQ(pool->arena().size(), 4 * kPage);
  const Extent one = pool->allocate(1, ExtentClass::kClosed).value();
  const Extent more = pool->allocate(257, ExtentClass::kOpen).value();
  EXPECT_EQ(one.size(), 1u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(one.data()) % ExtentPool::kUnit, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(more.data()) % ExtentPool::kUnit, 0u);
  EXPECT_EQ(pool->usage().classes[0].leased, 256u);
  EXPECT_EQ(pool->usage().classes[1].leased, 512u);
  EXPECT_TRUE(pool->check().ok());
}

TEST(ExtentPoolTest, RefusesWhatCannotBe) {
  EXPECT_EQ(ExtentPool::create(0).status().code(), Code::kInvalidArgument);
  for (const std::size_t bytes : {std::numeric_limits<std::size_t>::max(), std::size_t{1} << 60}) {
    const Status status = ExtentPool::create(bytes).status();
    EXPECT_EQ(status.code(), Code::kResourceExhausted);
    EXPECT_NE(status.message().find("Lower the pool size"), std::string::npos);
  }
  const auto pool = make_pool(kPage);
  EXPECT_EQ(pool->allocate(0, ExtentClass::kOpen).status().code(), Code::kInvalidArgument);
  for (const std::size_t size : {kPage + 1, std::numeric_limits<std::size_t>::max()}) {
    EXPECT_EQ(pool->allocate(size, ExtentClass::kOpen).status().code(), Code::kResourceExhausted);
  }
  EXPECT_TRUE(pool->allocate(kPage, ExtentClass::kOpen).ok());
}

TEST(ExtentPoolTest, BestFitKeepsTheLongRange) {
  const auto pool = make_pool(16 * kPage);
  Extent hole = pool->allocate(2 * kPage, ExtentClass::kClosed).value();
  const Extent wall = pool->allocate(kPage, ExtentClass::kClosed).value();
  std::byte* const hole_data = hole.data();
  hole.release();
  EXPECT_EQ(pool->largest_free(), 13 * kPage);
  const Extent fits = pool->allocate(2 * kPage, ExtentClass::kClosed).value();
  EXPECT_EQ(fits.data(), hole_data);
  EXPECT_EQ(pool->largest_free(), 13 * kPage);
  EXPECT_TRUE(pool->check().ok());
}

TEST(ExtentPoolTest, StatesAndQuarantine) {
  const auto pool = make_pool(4 * kPage);
  Extent extent = pool->allocate(kPage, ExtentClass::kStaging).value();
  const auto staging = [&] { return pool->usage().classes[2]; };
  EXPECT_EQ(staging().leased, kPage);
  extent.mark_resident();
  extent.mark_resident();
  EXPECT_EQ(staging().leased, 0u);
  EXPECT_EQ(staging().resident, kPage);
  extent.quarantine();
  extent.quarantine();
  extent.mark_resident();  // not any more
  EXPECT_TRUE(extent.valid()) << "its holder still owns it";
  EXPECT_EQ(staging().resident, 0u);
  EXPECT_EQ(staging().quarantined, kPage);
  EXPECT_EQ(pool->usage().free, 3 * kPage);
  EXPECT_EQ(pool->allocate(4 * kPage, ExtentClass::kClosed).status().code(),
            Code::kResourceExhausted);
  EXPECT_TRUE(pool->check().ok());
  extent.release();
  EXPECT_FALSE(extent.valid());
  EXPECT_EQ(staging().quarantined, 0u);
  EXPECT_EQ(pool->largest_free(), 4 * kPage);
  extent = pool->allocate(kPage, ExtentClass::kStaging).value();
  extent.quarantine();
  const Extent moved = std::move(extent);
  EXPECT_EQ(staging().quarantined, kPage) << "moves with its owner";
  EXPECT_TRUE(pool->check().ok());
}

TEST(ExtentPoolTest, OwnershipMoves) {
  const auto pool = make_pool(4 * kPage);
  Extent first = pool->allocate(kPage, ExtentClass::kClosed).value();
  first.mark_resident();
  Extent second = std::move(first);
  EXPECT_FALSE(first.valid());  // NOLINT: a moved-from extent is empty by contract
  EXPECT_TRUE(second.valid());
  Extent third = pool->allocate(kPage, ExtentClass::kClosed).value();
  third = std::move(second);  // releases what it had
  EXPECT_EQ(pool->usage().classes[0].resident, kPage);
  EXPECT_EQ(pool->usage().classes[0].leased, 0u);
  Extent& alias = third;
  third = std::move(alias);
  EXPECT_TRUE(third.valid());
  third.mark_resident();  // already is
  EXPECT_TRUE(pool->check().ok());
}

// The equation, the tiling of the arena and the contents of every extent after each of many random
// steps.
TEST(ExtentPoolTest, EquationHoldsUnderRandomUse) {
  struct Held {
    Extent extent;
    std::uint8_t mark;
  };
  for (unsigned seed = 0; seed < 8; ++seed) {
    std::mt19937 random(seed);
    const auto pool = make_pool(64 * kPage);
    std::vector<Held> held;
    std::size_t refused = 0;
    for (int step = 0; step < 1500; ++step) {
      const unsigned action = random() % 16;
      if (action < 8) {
        const std::size_t size = 1 + random() % (random() % 4 == 0 ? 8 * kPage : kPage);
        auto got = pool->allocate(size, static_cast<ExtentClass>(random() % kExtentClasses));
        if (got.ok()) {
          const auto mark = static_cast<std::uint8_t>(random());
          std::memset(got->data(), mark, size);
          held.push_back({std::move(got).value(), mark});
        } else {
          ASSERT_EQ(got.status().code(), Code::kResourceExhausted);
          ASSERT_GT(size, pool->largest_free());
          ++refused;
        }
      } else if (!held.empty()) {
        const std::size_t which = random() % held.size();
        Extent& extent = held[which].extent;
        ASSERT_TRUE(std::all_of(extent.data(), extent.data() + extent.size(),
                                [&](std::byte b) { return b == std::byte{held[which].mark}; }));
        if (action < 10) {
          extent.mark_resident();
        } else if (action == 10) {
          extent.quarantine();
        } else {
          std::swap(held[which], held.back());
          held.pop_back();
        }
      }
      const Status status = pool->check();
      ASSERT_TRUE(status.ok()) << status.to_string() << " seed " << seed << " step " << step;
    }
    EXPECT_GT(refused, 0u);
    held.clear();
    EXPECT_EQ(pool->largest_free(), 64 * kPage) << "everything coalesces";
    EXPECT_TRUE(pool->check().ok());
  }
}

TEST(ExtentPoolTest, AnyThread) {
  const auto pool = make_pool(256 * kPage);
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&pool, seed] {
      std::mt19937 random(seed);
      std::vector<Extent> held;
      for (int step = 0; step < 500; ++step) {
        auto got = pool->allocate(1 + random() % kPage, ExtentClass::kClosed);
        if (got.ok()) held.push_back(std::move(got).value());
        if (held.size() > 20) {
          if (random() % 8 == 0) held.front().quarantine();
          held.erase(held.begin());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool->usage().free, 256 * kPage);
  EXPECT_TRUE(pool->check().ok());
}

}  // namespace
}  // namespace kvferry
