// How fast a codec's wire stage wraps segments and unpacks them, on one core, and into how much.
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "codec/codec.h"

namespace kvferry::bench {

// Rates count the bytes of the plain segments.
struct WireReport {
  double bits_per_value = 0.0, wrap_gbyte_s = 0.0, unpack_gbyte_s = 0.0;
};

class WireBench {
 public:
  // Encodes the tiles as tiles 1, 2, ... of layer 0, wraps them and checks that they come back:
  // kInternal when one does not.
  static Result<WireBench> create(std::shared_ptr<const codec::Codec> codec,
                                  const codec::KvGeometry& geometry,
                                  std::span<const codec::OpenTile> tiles);
  Status run();
  WireReport report() const;  // medians of the runs, at least one

 private:
  WireBench(std::shared_ptr<const codec::Codec> codec, const codec::KvGeometry& geometry)
      : codec_(std::move(codec)), geometry_(geometry) {}
  void wrap();
  Status unwrap(std::uint32_t i);  // to back_

  std::shared_ptr<const codec::Codec> codec_;
  codec::KvGeometry geometry_;
  std::vector<std::vector<std::byte>> segments_, wires_;
  std::vector<std::size_t> sizes_;  // of the wires
  std::size_t plain_bytes_ = 0;
  std::vector<std::byte> back_;
  std::vector<double> wrap_gbyte_s_, unpack_gbyte_s_;
};

}  // namespace kvferry::bench
