#include "bench/wire_bench.h"

#include <numeric>

#include "base/clock.h"
#include "bench/spread.h"

namespace kvferry::bench {

Result<WireBench> WireBench::create(std::shared_ptr<const codec::Codec> codec,
                                    const codec::KvGeometry& geometry,
                                    std::span<const codec::OpenTile> tiles) {
  WireBench bench(std::move(codec), geometry);
  const std::uint32_t tokens = bench.codec_->tile_tokens();
  for (std::uint32_t i = 0; i < tiles.size(); ++i) {
    auto& segment =
        bench.segments_.emplace_back(bench.codec_->segment_bytes(geometry, 0, i + 1, tokens));
    KVF_RETURN_IF_ERROR(bench.codec_->encode(geometry, 0, i + 1, tokens, tiles[i], segment));
    bench.wires_.emplace_back(segment.size());
    bench.sizes_.push_back(segment.size());
    bench.plain_bytes_ += segment.size();
  }
  bench.back_.resize(bench.segments_.front().size());
  bench.wrap();
  for (std::uint32_t i = 0; i < tiles.size(); ++i) {
    KVF_RETURN_IF_ERROR(bench.unwrap(i));
    if (bench.back_ != bench.segments_[i]) {
      return internal_error("a wrapped segment did not come back as it was");
    }
  }
  return bench;
}

void WireBench::wrap() {
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    sizes_[i] = codec_->wrap(geometry_, segments_[i], wires_[i]);
  }
}

Status WireBench::unwrap(std::uint32_t i) {
  return codec_->unwrap(geometry_, 0, i + 1, codec_->tile_tokens(),
                        std::span(wires_[i]).first(sizes_[i]), back_);
}

Status WireBench::run() {
  const std::uint64_t begin_ns = monotonic_ns();
  wrap();
  const std::uint64_t wrapped_ns = monotonic_ns();
  for (std::uint32_t i = 0; i < segments_.size(); ++i) KVF_RETURN_IF_ERROR(unwrap(i));
  const auto bytes = static_cast<double>(plain_bytes_);
  wrap_gbyte_s_.push_back(bytes / static_cast<double>(wrapped_ns - begin_ns));
  unpack_gbyte_s_.push_back(bytes / static_cast<double>(monotonic_ns() - wrapped_ns));
  return ok_status();
}

WireReport WireBench::report() const {
  const std::size_t bytes = std::accumulate(sizes_.begin(), sizes_.end(), std::size_t{0});
  const std::size_t values =
      segments_.size() * 2 * geometry_.kv_heads * codec_->tile_tokens() * geometry_.head_dim;
  return {8.0 * static_cast<double>(bytes) / static_cast<double>(values),
          spread_of(wrap_gbyte_s_).median, spread_of(unpack_gbyte_s_).median};
}

}  // namespace kvferry::bench
