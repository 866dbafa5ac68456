#include "codec/plane_coder.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "codec/frequency_table.h"
#include "kernels/rans_kernels.h"

namespace kvferry::codec {
namespace {

using kernels::kRansLanes;
using kernels::kRansSymbols;
using kernels::RansModel;

// A section that would not shrink by this share of itself stays as it is: its decoding time would
// buy next to nothing.
constexpr std::uint64_t kLeastGain = 64;
// Shorter bodies are coded by 16 states. 64 cost 96 bytes more on average, 3 % of a body of 5 KiB,
// and decode it in half the time.
constexpr std::size_t kManyLanesBytes = std::size_t{4} << 10;
std::uint32_t lanes_for(std::size_t body_bytes) {
  return body_bytes < kManyLanesBytes ? kernels::kRansFewLanes : kernels::kRansLanes;
}
// bf16 values are split, coded and joined so many at a time; whole rounds of the coder's states.
constexpr std::size_t kChunk = 4096;
static_assert(kChunk % kRansLanes == 0);

using Counts = std::array<std::uint32_t, kRansSymbols>;

// One kind of symbol: a plane of all heads, or the exponents of one, or their rest.
struct Section {
  std::uint32_t code_bits = 0;  // 0: as it is; else 1, 2, 4 or 8, the codes that the model is of
  std::vector<std::uint16_t> code_freq;  // 2^code_bits
  RansModel model{};
  const std::byte* plain = nullptr;  // decoding: where its bytes go on
};

// Where the strips of symbols lie: one plane of one head, or a chunk of its values.
struct Place {
  std::size_t offset = 0, bytes = 0;  // in a head's part
  std::uint32_t bits = 0;             // of a code or value

  bool split() const { return bits == 16; }
  std::size_t sections() const { return split() ? 2 : 1; }
  std::size_t chunk_bytes() const { return split() ? 2 * kChunk : bytes; }
  std::size_t chunks() const {
    return bytes == 0 ? 0 : (bytes + chunk_bytes() - 1) / chunk_bytes();
  }
  std::size_t symbols() const { return split() ? bytes / 2 : bytes; }  // of a section, of one head
  // Whether a section's symbols are exponents.
  bool exponents(std::size_t section) const { return split() && section == 0; }
  std::uint32_t code_bits() const { return bits == 1 || bits == 2 || bits == 4 ? bits : 8; }
};

struct Layout {
  std::vector<Place> places;
  std::size_t part_bytes = 0, heads = 0;
};

// Nothing when the body does not consist of such planes.
std::optional<Layout> lay_out(std::span<const Plane> planes, std::size_t body_bytes) {
  Layout layout;
  for (const Plane& plane : planes) {
    const Place place{layout.part_bytes, plane.bytes, plane.bits};
    if (place.split() && plane.bytes % 2 != 0) return std::nullopt;
    layout.places.push_back(place);
    layout.part_bytes += plane.bytes;
  }
  if (layout.part_bytes == 0 || body_bytes % layout.part_bytes != 0) return std::nullopt;
  layout.heads = body_bytes / layout.part_bytes;
  return layout;
}

// The strips of one chunk: the codes where they lie, or exponents and the rest on the stack.
struct Strips {
  std::array<const std::byte*, 2> bytes{};
  std::size_t symbols = 0;
  alignas(64) std::byte exponent[kChunk];
  alignas(64) std::byte rest[kChunk];

  void take(const Place& place, const std::byte* plane, std::size_t chunk) {
    const std::size_t at = chunk * place.chunk_bytes();
    const std::size_t n = std::min(place.chunk_bytes(), place.bytes - at);
    if (!place.split()) {
      bytes = {plane + at, nullptr};
      symbols = n;
      return;
    }
    symbols = n / 2;
    kernels::rans_kernels().split_bf16(plane + at, symbols, exponent, rest);
    bytes = {exponent, rest};
  }
};

const std::byte* plane_of(const Layout& layout, const Place& place, const std::byte* body,
                          std::size_t head) {
  return body + head * layout.part_bytes + place.offset;
}

// The bytes of a model of codes of that many bits, its table with it; and that model.
std::uint64_t fit(const Counts& counts, std::uint32_t code_bits, Section& section) {
  std::array<std::uint64_t, kRansSymbols> weights{};
  const std::uint32_t codes = 1u << code_bits;
  for (std::uint32_t byte = 0; byte < kRansSymbols; ++byte) {
    for (std::uint32_t field = 0; field < 8; field += code_bits) {
      weights[byte >> field & (codes - 1)] += counts[byte];
    }
  }
  section.code_bits = code_bits;
  section.code_freq.resize(codes);
  kernels::rans_fit(std::span(weights).first(codes), section.code_freq.data());
  if (!kernels::rans_product_model(section.code_freq, section.model)) return ~std::uint64_t{0};
  std::array<std::byte, kMaxFrequencyTableBytes> table;
  return (kernels::rans_cost_bits(section.model, counts.data()) + 7) / 8 +
         write_frequencies(section.code_freq, table.data());
}

Section choose(const Counts& counts, std::uint32_t code_bits, std::uint64_t symbols) {
  Section best;
  std::uint64_t least = symbols - symbols / kLeastGain;
  if (symbols == 0) return best;
  for (const std::uint32_t bits : {code_bits, 8u}) {
    Section section;
    const std::uint64_t cost = fit(counts, bits, section);
    if (cost < least) {
      least = cost;
      best = std::move(section);
    }
    if (code_bits == 8) break;
  }
  return best;
}

std::vector<Section> choose_sections(Coded coded, const Layout& layout,
                                     std::span<const std::byte> body) {
  std::vector<Section> sections;
  Strips strips;
  for (const Place& place : layout.places) {
    std::array<Counts, 2> counts{};
    for (std::size_t head = 0; head < layout.heads; ++head) {
      const std::byte* plane = plane_of(layout, place, body.data(), head);
      for (std::size_t chunk = 0; chunk < place.chunks(); ++chunk) {
        strips.take(place, plane, chunk);
        for (std::size_t s = 0; s < place.sections(); ++s) {
          kernels::rans_count(strips.bytes[s], strips.symbols, counts[s].data());
        }
      }
    }
    const std::uint64_t symbols = layout.heads * place.symbols();
    for (std::size_t s = 0; s < place.sections(); ++s) {
      const bool may = coded == Coded::kEverything || place.exponents(s);
      sections.push_back(may ? choose(counts[s], place.code_bits(), symbols) : Section());
    }
  }
  return sections;
}

// Appends within a buffer; full once something did not fit.
struct Out {
  std::span<std::byte> buffer;
  std::size_t used = 0;
  bool full = false;

  void put(const std::byte* bytes, std::size_t n) {
    full = full || buffer.size() - used < n;
    if (full || n == 0) return;
    std::memcpy(buffer.data() + used, bytes, n);
    used += n;
  }
};

void put_tables(const std::vector<Section>& sections, Out& out) {
  for (const Section& section : sections) {
    const auto bits = static_cast<std::byte>(section.code_bits);
    out.put(&bits, 1);
    if (section.code_bits == 0) continue;
    std::array<std::byte, kMaxFrequencyTableBytes> table;
    out.put(table.data(), write_frequencies(section.code_freq, table.data()));
  }
}

void put_plain(const Layout& layout, const std::vector<Section>& sections,
               std::span<const std::byte> body, Out& out) {
  Strips strips;
  const Section* section = sections.data();
  for (const Place& place : layout.places) {
    for (std::size_t s = 0; s < place.sections(); ++s, ++section) {
      if (section->code_bits != 0) continue;
      for (std::size_t head = 0; head < layout.heads; ++head) {
        const std::byte* plane = plane_of(layout, place, body.data(), head);
        for (std::size_t chunk = 0; chunk < place.chunks(); ++chunk) {
          strips.take(place, plane, chunk);
          out.put(strips.bytes[s], strips.symbols);
        }
      }
    }
  }
}

// All coded runs, the last first, since rANS decodes in the reverse order of encoding.
bool encode(const Layout& layout, const std::vector<Section>& sections,
            std::span<const std::byte> body, kernels::RansEncoder& encoder) {
  Strips strips;
  std::array<kernels::RansEncodeTable, 2> tables;
  std::size_t first = sections.size();
  for (auto place = layout.places.rbegin(); place != layout.places.rend(); ++place) {
    const std::size_t count = place->sections();
    first -= count;
    const auto coded = [&](std::size_t s) { return sections[first + s].code_bits != 0; };
    if (!coded(0) && !coded(count - 1)) continue;
    for (std::size_t s = 0; s < count; ++s) {
      if (coded(s)) kernels::rans_encode_table(sections[first + s].model, tables[s]);
    }
    for (std::size_t head = layout.heads; head-- > 0;) {
      const std::byte* plane = plane_of(layout, *place, body.data(), head);
      for (std::size_t chunk = place->chunks(); chunk-- > 0;) {
        strips.take(*place, plane, chunk);
        for (std::size_t s = count; s-- > 0;) {
          if (coded(s) && !kernels::rans_kernels().encode(tables[s], encoder, strips.bytes[s],
                                                          strips.symbols)) {
            return false;
          }
        }
      }
    }
  }
  return true;
}

Status damaged(const char* what) {
  return {Code::kDataLoss, std::string("wrapped segment: ") + what};
}

// Tables of all sections; returns the bytes they take, 0 for what put_tables never writes.
std::size_t read_tables(std::span<const std::byte> wire, const Layout& layout,
                        std::vector<Section>& sections) {
  std::size_t at = 0;
  sections.reserve(2 * layout.places.size());
  for (const Place& place : layout.places) {
    for (std::size_t s = 0; s < place.sections(); ++s) {
      if (at == wire.size()) return 0;
      Section& section = sections.emplace_back();
      section.code_bits = static_cast<std::uint32_t>(wire[at++]);
      if (section.code_bits == 0) continue;
      if (section.code_bits != place.code_bits() && section.code_bits != 8) return 0;
      section.code_freq.resize(std::size_t{1} << section.code_bits);
      const std::size_t taken = read_frequencies(wire.subspan(at), section.code_freq);
      if (taken == 0 || !kernels::rans_product_model(section.code_freq, section.model)) return 0;
      at += taken;
    }
  }
  return at;
}

// The tables that one plane's sections are decoded with, and its strips.
struct PlaneDecoder {
  std::array<kernels::RansDecodeTable, 2> tables;
  alignas(64) std::byte exponent[kChunk];
  alignas(64) std::byte rest[kChunk];

  bool take(Section& section, std::size_t s, kernels::RansDecoder& decoder, std::byte* out,
            std::size_t n) {
    if (section.code_bits != 0) {
      return kernels::rans_kernels().decode(tables[s], decoder, out, n);
    }
    std::memcpy(out, section.plain, n);
    section.plain += n;
    return true;
  }

  // One plane of one head.
  bool decode(const Place& place, Section* sections, kernels::RansDecoder& decoder,
              std::byte* plane) {
    if (!place.split()) return take(sections[0], 0, decoder, plane, place.bytes);
    for (std::size_t at = 0; at < place.bytes; at += 2 * kChunk) {
      const std::size_t n = std::min(kChunk, (place.bytes - at) / 2);
      if (!take(sections[0], 0, decoder, exponent, n)) return false;
      if (!take(sections[1], 1, decoder, rest, n)) return false;
      kernels::rans_kernels().join_bf16(exponent, rest, n, plane + at);
    }
    return true;
  }
};

bool decode(const Layout& layout, std::vector<Section>& sections, kernels::RansDecoder& decoder,
            std::span<std::byte> body) {
  PlaneDecoder planes;
  Section* section = sections.data();
  for (const Place& place : layout.places) {
    for (std::size_t s = 0; s < place.sections(); ++s) {
      if (section[s].code_bits != 0)
        kernels::rans_kernels().decode_table(section[s].model, planes.tables[s]);
    }
    for (std::size_t head = 0; head < layout.heads; ++head) {
      std::byte* plane = body.data() + head * layout.part_bytes + place.offset;
      if (!planes.decode(place, section, decoder, plane)) return false;
    }
    section += place.sections();
  }
  return true;
}

}  // namespace

std::size_t wrap_planes(Coded coded, std::span<const Plane> planes, std::span<const std::byte> body,
                        std::span<std::byte> out_span) {
  const std::optional<Layout> layout = lay_out(planes, body.size());
  if (!layout) return 0;
  const std::vector<Section> sections = choose_sections(coded, *layout, body);
  Out out{out_span};
  put_tables(sections, out);
  put_plain(*layout, sections, body, out);
  const std::uint32_t lanes = lanes_for(body.size());
  const std::size_t state_bytes = kernels::rans_state_bytes(lanes);
  if (out.full || out_span.size() - out.used < state_bytes) return 0;
  // The words are written from the end of the room downwards, and then moved to their place.
  kernels::RansEncoder encoder;
  std::byte* end = out_span.data() + out_span.size();
  std::byte* words = out_span.data() + out.used + state_bytes;
  kernels::rans_start(encoder, lanes, words, end);
  if (!encode(*layout, sections, body, encoder)) return 0;
  out.put(reinterpret_cast<const std::byte*>(encoder.state), state_bytes);
  const auto word_bytes = static_cast<std::size_t>(end - encoder.next);
  std::memmove(words, encoder.next, word_bytes);
  return out.used + word_bytes;
}

Status unwrap_planes(std::span<const Plane> planes, std::span<const std::byte> wire,
                     std::span<std::byte> body) {
  const std::optional<Layout> layout = lay_out(planes, body.size());
  if (!layout) return damaged("its planes do not make up its bytes");
  std::vector<Section> sections;
  std::size_t at = read_tables(wire, *layout, sections);
  if (at == 0) return damaged("a frequency table is not one");
  Section* section = sections.data();
  for (const Place& place : layout->places) {
    for (std::size_t s = 0; s < place.sections(); ++s, ++section) {
      if (section->code_bits != 0) continue;
      const std::size_t bytes = layout->heads * place.symbols();
      if (wire.size() - at < bytes) return damaged("bytes are missing");
      section->plain = wire.data() + at;
      at += bytes;
    }
  }
  kernels::RansDecoder decoder;
  if (!kernels::rans_open(decoder, lanes_for(body.size()), wire.subspan(at)) ||
      !decode(*layout, sections, decoder, body) || !kernels::rans_closed(decoder)) {
    return damaged("its entropy-coded bytes do not decode");
  }
  return ok_status();
}

}  // namespace kvferry::codec
