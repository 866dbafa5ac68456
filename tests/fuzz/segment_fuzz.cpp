// Segments and wire forms of every codec, whatever is in them: refused, or attended to without a
// step outside their bytes and without NaN. Input: which codec, which tile and form (two bytes),
// then the bytes behind the header, of which missing ones are those of a good segment; or, where
// the form says so, changes to a good one, three bytes each (where, what).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "codec/all.h"
#include "tests/codec/all_specs.h"

namespace {

using namespace kvferry::codec;  // NOLINT: what this program is about
using kvferry::Status;

void require(bool holds) {
  if (!holds) std::abort();
}

struct Subject {
  std::shared_ptr<const Codec> codec;
  KvGeometry geometry;
};

std::vector<Subject> load_subjects() {
  std::vector<Subject> all;
  for (const char* spec : kAllSpecs) {
    Subject subject{make_codec(spec).value(), {1, 1, 1, 64}};
    if (!subject.codec->supports(subject.geometry).ok()) subject.geometry.head_dim = 128;
    all.push_back(std::move(subject));
  }
  return all;
}

struct Form {
  std::uint32_t tile, tokens;
  bool wire, changes, header;

  Form(std::uint8_t bits, std::uint32_t tile_tokens)
      : tile(bits % 2 == 0 ? 3 : 0),
        tokens((bits & 2) == 0 ? tile_tokens : 1 + (bits >> 5)),
        wire((bits & 4) != 0),
        changes((bits & 8) != 0),
        header((bits & 16) != 0) {}
};

std::vector<std::byte> good_segment(const Subject& subject, const Form& form) {
  const auto& [codec, g] = subject;
  std::vector<std::uint16_t> values(std::size_t{2} * codec->tile_tokens() * g.head_dim);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<std::uint16_t>(0x3f00 + i * 2654435761u % 0x200);
  }
  auto* k = reinterpret_cast<std::byte*>(values.data());
  std::vector<std::byte> segment(codec->segment_bytes(g, 0, form.tile, form.tokens));
  require(codec->encode(g, 0, form.tile, form.tokens, {k, k + values.size()}, segment).ok());
  if (!form.wire) return segment;
  std::vector<std::byte> wire(segment.size());
  wire.resize(codec->wrap(g, segment, wire));
  return wire;
}

// The bytes to be tried: in a segment they keep their number, on the wire they may be fewer.
std::vector<std::byte> altered(std::vector<std::byte> bytes, const Form& form,
                               std::span<const std::byte> input) {
  const std::size_t first = form.header ? 0 : kSegmentHeaderBytes;
  if (form.changes) {
    for (; input.size() >= 3; input = input.subspan(3)) {
      const auto at =
          std::to_integer<std::size_t>(input[0]) | std::to_integer<std::size_t>(input[1]) << 8;
      bytes[first + at % (bytes.size() - first)] = input[2];
    }
    return bytes;
  }
  const std::size_t count = std::min(input.size(), bytes.size() - first);
  std::copy_n(input.begin(), count, bytes.begin() + static_cast<std::ptrdiff_t>(first));
  if (!form.wire || form.header) return bytes;
  bytes.resize(first + count);
  const auto length = static_cast<std::uint32_t>(bytes.size());
  std::memcpy(bytes.data() + offsetof(SegmentHeader, bytes), &length, sizeof(length));
  return bytes;
}

void require_no_nan(std::span<const float> values) {
  require(std::none_of(values.begin(), values.end(), [](float x) { return std::isnan(x); }));
}

void use(const Subject& subject, const Form& form, std::span<const std::byte> segment) {
  const auto& [codec, g] = subject;
  std::vector<float> k(std::size_t{codec->tile_tokens()} * g.head_dim), v(k.size());
  codec->reconstruct(g, segment, 0, k.data(), v.data());
  require_no_nan(k);
  require_no_nan(v);
  if (form.tokens < codec->tile_tokens()) {
    std::vector<std::byte> open_k(2 * k.size()), open_v(open_k.size());
    codec->load_open(g, segment, {open_k.data(), open_v.data()});
    return;
  }
  constexpr std::uint32_t kRows = 2;
  std::vector<float> q(kRows * std::size_t{g.head_dim}), o(q.size());
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = i % 3 == 0 ? -1.0f : 0.01f;
  float m[kRows], l[kRows] = {};
  std::fill(std::begin(m), std::end(m), -std::numeric_limits<float>::infinity());
  codec->attend(g, segment, 0, {q.data(), kRows}, {m, l, o.data(), kRows, g.head_dim});
  require_no_nan(m);
  require_no_nan(l);
  require_no_nan(o);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<Subject> subjects = load_subjects();
  if (size < 2) return 0;
  const Subject& subject = subjects[data[0] % subjects.size()];
  const auto& [codec, g] = subject;
  const Form form(data[1], codec->tile_tokens());
  const auto bytes =
      altered(good_segment(subject, form), form, std::as_bytes(std::span(data + 2, size - 2)));
  if (!form.wire) {
    if (codec->validate(g, 0, form.tile, form.tokens, bytes).ok()) use(subject, form, bytes);
    return 0;
  }
  std::vector<std::byte> segment(codec->segment_bytes(g, 0, form.tile, form.tokens));
  if (!codec->unwrap(g, 0, form.tile, form.tokens, bytes, segment).ok()) return 0;
  require(codec->validate(g, 0, form.tile, form.tokens, segment).ok());
  use(subject, form, segment);
  std::vector<std::byte> wire(segment.size()), back(segment.size());
  wire.resize(codec->wrap(g, segment, wire));
  require(codec->unwrap(g, 0, form.tile, form.tokens, wire, back).ok() && back == segment);
  return 0;
}
