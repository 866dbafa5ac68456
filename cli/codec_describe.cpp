// `kvferry codec describe`.

#include <fmt/format.h>

#include <boost/json.hpp>
#include <charconv>

#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "codec/describe.h"
#include "codec/stage.h"

namespace kvferry::cli {
namespace {

namespace json = boost::json;

// "layers=32,kv_heads=8,head_dim=128", in any order.
Result<codec::KvGeometry> parse_shape(std::string_view text) {
  codec::KvGeometry geometry;
  const std::string shape(text);
  const Status wrong = invalid_argument("the model shape \"" + shape +
                                        "\" is not of the form layers=N,kv_heads=N,head_dim=N");
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), part.size() + 1));
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos) return wrong;
    const std::string_view key = part.substr(0, equals), digits = part.substr(equals + 1);
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size()) return wrong;
    std::uint32_t* const field = key == "layers"     ? &geometry.layers
                                 : key == "kv_heads" ? &geometry.kv_heads
                                 : key == "head_dim" ? &geometry.head_dim
                                                     : nullptr;
    if (field == nullptr) return wrong;
    if (*field != 0) {
      return invalid_argument("the model shape \"" + shape + "\" has " + std::string(key) +
                              " twice");
    }
    *field = value;
  }
  geometry.q_heads = geometry.kv_heads;
  if (geometry.layers == 0 || geometry.kv_heads == 0 || geometry.head_dim == 0) return wrong;
  return geometry;
}

std::vector<std::pair<std::string_view, std::uint64_t>> parts(const codec::ByteBreakdown& bytes) {
  std::vector<std::pair<std::string_view, std::uint64_t>> parts;
  for (std::size_t i = 0; i < codec::kPlaneKinds; ++i) {
    if (bytes.planes[i] == 0) continue;
    parts.emplace_back(codec::plane_name(static_cast<codec::PlaneKind>(i)), bytes.planes[i]);
  }
  parts.emplace_back("segment_headers", bytes.segment_headers);
  parts.emplace_back("first_tile_extra", bytes.first_tile_extra);
  parts.emplace_back("open_tile", bytes.open_tile);
  parts.emplace_back("frame_headers", bytes.frame_headers);
  parts.emplace_back("control_frames", bytes.control_frames);
  return parts;
}

json::object to_json(const codec::CodecDescription& description) {
  json::array points;
  for (const codec::CostPoint& point : description.points) {
    json::object bytes;
    for (const auto& [name, count] : parts(point.bytes)) bytes[name] = count;
    bytes["total"] = point.bytes.total();
    points.push_back(json::object{{"tokens", point.tokens},
                                  {"values", point.values},
                                  {"bits_per_value", point.bits_per_value},
                                  {"closed_bits_per_value", point.closed_bits_per_value},
                                  {"bytes", bytes}});
  }
  return {{"id", fmt::format("{:016x}", description.id)},
          {"spec", description.spec},
          {"lossless", description.traits.lossless},
          {"tile_tokens", description.traits.tile_tokens},
          {"wire_form", description.traits.wraps ? "wrapped" : "plain"},
          {"points", points}};
}

void print(const codec::CodecDescription& description) {
  fmt::print("{}\nid {:016x}, tiles of {} tokens, {}\n", description.spec, description.id,
             description.traits.tile_tokens, description.traits.lossless ? "lossless" : "lossy");
  if (description.traits.wraps) {
    fmt::print("on the wire at most the bytes below; how many fewer depends on the values\n");
  }
  for (const codec::CostPoint& point : description.points) {
    fmt::print(
        "\n{} tokens: {:.4f} bits per value, all bytes counted; {:.4f} on closed tiles, "
        "without headers\n",
        point.tokens, point.bits_per_value, point.closed_bits_per_value);
    for (const auto& [name, count] : parts(point.bytes)) {
      if (count == 0) continue;
      fmt::print("  {:<18} {:>14} bytes  {:7.4f} bits\n", name, count,
                 static_cast<double>(count) * 8 / static_cast<double>(point.values));
    }
  }
}

Status describe(const DescribeOptions& options) {
  KVF_ASSIGN_OR_RETURN(const codec::KvGeometry geometry, parse_shape(options.model_shape));
  KVF_ASSIGN_OR_RETURN(const auto description,
                       codec::describe_codec(options.spec, geometry, options.tokens));
  if (options.json) {
    fmt::print("{}\n", json::serialize(to_json(description)));
  } else {
    print(description);
  }
  return ok_status();
}

}  // namespace

int run_codec_describe(const DescribeOptions& options) {
  return report("codec describe", describe(options));
}

}  // namespace kvferry::cli
