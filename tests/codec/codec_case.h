// What the tests that hold every codec to the contract of codec/codec.h share: tiles in memory
// of exactly their size, and online-softmax states that can be compared bit by bit.
//
// Thread contract: pure functions and plain values.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "bench/kv_data.h"
#include "codec/codec.h"
#include "tests/codec/all_specs.h"

namespace kvferry::codec {

// A test for each spec, named after it: "hack_k_2_v_2".
class EveryCodec : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override;
  void TearDown() override;  // the best instruction set again

  // Those of 64, 128 and 256 that the codec serves, with one KV head at least.
  std::vector<std::uint32_t> head_dims() const;
  KvGeometry geometry(std::uint32_t kv_heads = 2) const;  // two layers of the first of head_dims()

  std::shared_ptr<const Codec> codec_;
};
std::string spec_test_name(const ::testing::TestParamInfo<const char*>& test);

// Runs the body on every instruction set that the CPU has.
template <class Body>
void on_every_isa(Body body) {
  for (const kernels::Isa isa : kernels::available_isas()) {
    SCOPED_TRACE(std::string(kernels::isa_name(isa)));
    ASSERT_TRUE(kernels::force_isa(isa));
    body();
  }
}

// K and V of a tile, [kv_heads][tile_tokens][head_dim] bf16.
struct TileValues {
  std::vector<std::uint16_t> k, v;
  OpenTile open() {
    return {reinterpret_cast<std::byte*>(k.data()), reinterpret_cast<std::byte*>(v.data())};
  }
};
TileValues make_tile(const Codec& codec, const KvGeometry& geometry, bench::Kind kind,
                     std::uint64_t seed);

// Which segment: the arguments that Codec's methods share.
struct Place {
  std::uint32_t layer = 1;
  std::uint32_t tile = 3;
  std::uint32_t tokens = 64;
};

// Bytes in memory that ends where they do and begins `offset` bytes into it, so that a sanitizer
// sees a step outside, and unaligned access.
class ExactBytes {
 public:
  explicit ExactBytes(std::size_t size, std::size_t offset = 0)
      : memory_(new std::byte[offset + size]()), size_(size), offset_(offset) {}
  explicit ExactBytes(std::span<const std::byte> bytes, std::size_t offset = 0);
  std::span<std::byte> bytes() { return {memory_.get() + offset_, size_}; }

 private:
  std::unique_ptr<std::byte[]> memory_;
  std::size_t size_, offset_;
};

std::vector<std::byte> encode_tile(const Codec& codec, const KvGeometry& geometry,
                                   const Place& place, TileValues& tile);

// States of query rows over head_dim channels, empty at first.
struct States {
  States(std::uint32_t rows, std::uint32_t head_dim);
  kernels::AttentionStates view();
  kernels::AttentionStates rows(std::uint32_t first, std::uint32_t count);
  void merge(States other);
  std::vector<float> normalized();
  bool operator==(const States& other) const;  // the same bits

  std::vector<float> m, l, o;
};

}  // namespace kvferry::codec
