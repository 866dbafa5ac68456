// The wire form of a segment, whatever is in it: refused, or unwrapped to a segment that is valid
// and wraps again to no more bytes than it has. The first byte says under which codec and of which
// tile it claims to be; the header behind it is made good, as the fuzzer would not guess an id.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "codec/codec.h"
#include "codec/segment.h"

namespace {

using namespace kvferry::codec;

constexpr const char* kSpecs[] = {"hack(k=2,v=2) | rans", "hack(k=3,v=4) | rans", "raw | lossless",
                                  "hack(k=4,v=4) | zstd"};
constexpr KvGeometry kGeometry = {1, 2, 2, 64, 0};

// A tile's plain segment: zeros.
std::vector<std::byte> plain_segment(const Codec& codec, std::uint32_t tile, std::uint32_t tokens) {
  std::vector<std::byte> values(std::size_t{2} * 64 * 64 * 2);
  std::vector<std::byte> segment(codec.segment_bytes(kGeometry, 0, tile, tokens));
  if (!codec.encode(kGeometry, 0, tile, tokens, {values.data(), values.data()}, segment).ok()) {
    std::abort();
  }
  return segment;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static const std::vector<std::shared_ptr<const Codec>> codecs = [] {
    std::vector<std::shared_ptr<const Codec>> made;
    for (const char* spec : kSpecs) made.push_back(*make_codec(spec));
    return made;
  }();
  const Codec& codec = *codecs[data[0] % std::size(kSpecs)];
  const std::uint32_t tile = data[0] >> 2 & 1;
  const std::uint32_t tokens = (data[0] & 8) != 0 ? 17 : 64;
  std::vector<std::byte> segment = plain_segment(codec, tile, tokens);

  std::vector<std::byte> wire(kSegmentHeaderBytes + size - 1);
  SegmentHeader header;
  std::memcpy(&header, segment.data(), sizeof(header));
  header.wrapped = 1;
  header.bytes = static_cast<std::uint32_t>(wire.size());
  std::memcpy(wire.data(), &header, sizeof(header));
  std::copy_n(reinterpret_cast<const std::byte*>(data + 1), size - 1,
              wire.begin() + kSegmentHeaderBytes);

  if (!codec.unwrap(kGeometry, 0, tile, tokens, wire, segment).ok()) return 0;
  if (!codec.validate(kGeometry, 0, tile, tokens, segment).ok()) std::abort();
  std::vector<std::byte> again(segment.size()), back(segment.size());
  again.resize(codec.wrap(kGeometry, segment, again));
  if (!codec.unwrap(kGeometry, 0, tile, tokens, again, back).ok() || back != segment) std::abort();
  return 0;
}
