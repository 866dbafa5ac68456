// What a codec must know of a model's KV cache.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvferry::codec {

struct KvGeometry {
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t q_heads = 0;   // a multiple of kv_heads
  std::uint32_t head_dim = 0;  // 64, 128 or 256 for hack; any multiple of 16 up to 256 for raw

  // Which biases are left out of K and V by codecs that want it (CodecTraits::removes_bias): a hash
  // of the choice, 0 for none. Segments of different choices do not go together.
  std::uint64_t removed_bias = 0;

  // K and V of one token in all layers.
  std::size_t values_per_token() const { return std::size_t{2} * layers * kv_heads * head_dim; }
  friend bool operator==(const KvGeometry&, const KvGeometry&) = default;
};

}  // namespace kvferry::codec
