#include "codec/pipeline_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "codec/dense.h"

namespace kvferry::codec {
namespace {

std::string joined_text(const std::vector<DomainPtr>& domain, const StorageStage& storage,
                        const WireStage* wire) {
  std::string text;
  for (const auto& stage : domain) text += stage->text() + " | ";
  text += storage.text();
  return wire == nullptr ? text : text + " | " + wire->text();
}

CodecTraits joined_traits(const StorageStage& storage, const WireStage* wire) {
  CodecTraits traits = storage.traits();
  traits.wraps = wire != nullptr;
  return traits;
}

SegmentHeader read_header(std::span<const std::byte> segment) {
  SegmentHeader header;
  std::memcpy(&header, segment.data(), sizeof(header));
  return header;
}

const std::byte* head_part(std::span<const std::byte> segment, std::uint32_t kv_head,
                           std::size_t head_bytes) {
  return segment.data() + kSegmentHeaderBytes + kv_head * head_bytes;
}

// Names the first field in which a received header is not what it must be.
Status compare_headers(const SegmentHeader& got, const SegmentHeader& want) {
  if (std::memcmp(&got, &want, sizeof(got)) == 0) return ok_status();
  const auto differs = [](const char* field, std::uint64_t is, std::uint64_t must) {
    return Status(Code::kDataLoss, "segment header: " + std::string(field) + " is " +
                                       std::to_string(is) + ", expected " + std::to_string(must));
  };
  const struct {
    const char* name;
    std::uint64_t got, want;
  } fields[] = {
      {"magic", got.magic, want.magic},
      {"version", got.version, want.version},
      {"kind", got.kind, want.kind},
      {"open dtype", got.open_dtype, want.open_dtype},
      {"bits of K", got.k_bits, want.k_bits},
      {"bits of V", got.v_bits, want.v_bits},
      {"tokens", got.tokens, want.tokens},
      {"wrapped", got.wrapped, want.wrapped},
      {"layer", got.layer, want.layer},
      {"KV heads", got.kv_heads, want.kv_heads},
      {"head_dim", got.head_dim, want.head_dim},
      {"tile", got.tile, want.tile},
      {"bytes", got.bytes, want.bytes},
      {"codec id", got.codec_id, want.codec_id},
  };
  for (const auto& field : fields) {
    if (field.got != field.want) return differs(field.name, field.got, field.want);
  }
  return {Code::kDataLoss, "segment header: a reserved byte is not zero"};
}

}  // namespace

Result<std::size_t> wire_bytes(std::span<const std::byte> wire) {
  if (wire.size() < kSegmentHeaderBytes) return data_loss("a segment without a whole header");
  const SegmentHeader header = read_header(wire);
  if (header.magic != kSegmentMagic) return data_loss("a segment's magic differs");
  if (header.bytes < kSegmentHeaderBytes || header.bytes > wire.size()) {
    return data_loss("a segment's header says " + std::to_string(header.bytes) + " bytes, of " +
                     std::to_string(wire.size()));
  }
  return std::size_t{header.bytes};
}

PipelineCodec::PipelineCodec(std::vector<DomainPtr> domain, StoragePtr storage, WirePtr wire,
                             MissingArtifact missing)
    : Codec(joined_traits(*storage, wire.get()), joined_text(domain, *storage, wire.get())),
      domain_(std::move(domain)),
      storage_(std::move(storage)),
      missing_(std::move(missing)),
      wire_(std::move(wire)) {}

Status PipelineCodec::supports(const KvGeometry& geometry) const {
  KVF_RETURN_IF_ERROR(check_geometry(geometry));
  if (!missing_.digest.empty()) {
    return unavailable("codec spec, character " + std::to_string(missing_.position) +
                       ": the artefact " + missing_.digest +
                       " is not here; name its file, or let a gateway that has it send it");
  }
  for (const auto& stage : domain_) KVF_RETURN_IF_ERROR(stage->supports(geometry));
  KVF_RETURN_IF_ERROR(storage_->supports(geometry));
  for (std::uint32_t layer = 0; layer < geometry.layers; ++layer) {
    for (const std::uint32_t tile : {0u, 1u}) {
      for (const std::uint32_t tokens : {tile_tokens() - 1, tile_tokens()}) {
        if (segment_bytes(geometry, layer, tile, tokens) >
            std::numeric_limits<std::uint32_t>::max()) {
          return unsupported("a segment of these KV heads would be longer than 4 GiB");
        }
      }
    }
  }
  return ok_status();
}

void PipelineCodec::to_domain_q(float* x, std::size_t heads, std::size_t head_dim) const {
  for (const auto& stage : domain_) stage->apply_q(x, heads, head_dim);
}

void PipelineCodec::to_domain_k(float* x, std::size_t heads, std::size_t head_dim) const {
  for (const auto& stage : domain_) stage->apply_k(x, heads, head_dim);
}

void PipelineCodec::to_domain_v(float* x, std::size_t heads, std::size_t head_dim) const {
  for (const auto& stage : domain_) stage->apply_v(x, heads, head_dim);
}

void PipelineCodec::write_open_k(float* x, std::size_t heads, std::size_t head_dim, std::byte* out,
                                 std::size_t stride) const {
  if (!writes_through_domain()) return Codec::write_open_k(x, heads, head_dim, out, stride);
  for (const auto& stage : std::span(domain_).first(domain_.size() - 1)) {
    stage->apply_k(x, heads, head_dim);
  }
  domain_.back()->write_k(x, heads, head_dim, reinterpret_cast<std::uint16_t*>(out), stride / 2);
}

void PipelineCodec::write_open_v(float* x, std::size_t heads, std::size_t head_dim, std::byte* out,
                                 std::size_t stride) const {
  if (!writes_through_domain()) return Codec::write_open_v(x, heads, head_dim, out, stride);
  for (const auto& stage : std::span(domain_).first(domain_.size() - 1)) {
    stage->apply_v(x, heads, head_dim);
  }
  domain_.back()->write_v(x, heads, head_dim, reinterpret_cast<std::uint16_t*>(out), stride / 2);
}

void PipelineCodec::from_domain_o(float* x, std::size_t heads, std::size_t head_dim) const {
  for (auto stage = domain_.rbegin(); stage != domain_.rend(); ++stage) {
    (*stage)->undo_o(x, heads, head_dim);
  }
}

std::size_t PipelineCodec::head_bytes(const KvGeometry& geometry, TileId id,
                                      std::uint32_t tokens) const {
  return is_open(tokens) ? dense_head_bytes(geometry, tokens, traits().open_dtype)
                         : storage_->head_bytes(geometry, id);
}

std::vector<Plane> PipelineCodec::head_planes(const KvGeometry& geometry, TileId id,
                                              std::uint32_t tokens) const {
  if (!is_open(tokens)) return storage_->planes(geometry, id);
  const OpenDtype dtype = traits().open_dtype;
  return dense_planes(dense_head_bytes(geometry, tokens, dtype), dtype);
}

std::size_t PipelineCodec::segment_bytes(const KvGeometry& geometry, std::uint32_t layer,
                                         std::uint32_t tile, std::uint32_t tokens) const {
  return kSegmentHeaderBytes + geometry.kv_heads * head_bytes(geometry, {layer, tile}, tokens);
}

SegmentHeader PipelineCodec::header(const KvGeometry& geometry, std::uint32_t layer,
                                    std::uint32_t tile, std::uint32_t tokens) const {
  const auto dense_bits = static_cast<std::uint8_t>(8 * bytes_of(traits().open_dtype));
  const bool open = is_open(tokens);
  const StorageStage::Bits bits =
      open ? StorageStage::Bits{dense_bits, dense_bits} : storage_->bits({layer, tile});
  SegmentHeader header{};
  header.magic = kSegmentMagic;
  header.version = kSegmentVersion;
  header.kind =
      static_cast<std::uint8_t>(open ? SegmentKind::kDense : storage_->kind({layer, tile}));
  header.open_dtype = static_cast<std::uint8_t>(traits().open_dtype);
  header.k_bits = bits.k;
  header.v_bits = bits.v;
  header.tokens = static_cast<std::uint16_t>(tokens);
  header.layer = static_cast<std::uint16_t>(layer);
  header.kv_heads = static_cast<std::uint16_t>(geometry.kv_heads);
  header.head_dim = static_cast<std::uint16_t>(geometry.head_dim);
  header.tile = tile;
  header.bytes = static_cast<std::uint32_t>(segment_bytes(geometry, layer, tile, tokens));
  header.codec_id = id();
  return header;
}

Status PipelineCodec::encode(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                             std::uint32_t tokens, const OpenTile& input,
                             std::span<std::byte> out) const {
  if (tokens == 0 || tokens > tile_tokens() || layer >= geometry.layers ||
      out.size() != segment_bytes(geometry, layer, tile, tokens)) {
    return invalid_argument("encode: tokens, layer or the output's size do not fit");
  }
  const OpenDtype dtype = traits().open_dtype;
  const std::size_t slot = geometry.head_dim * bytes_of(dtype);
  const TileId id{layer, tile};
  const std::size_t part_bytes = head_bytes(geometry, id, tokens);
  const SegmentHeader head = header(geometry, layer, tile, tokens);
  std::memcpy(out.data(), &head, sizeof(head));
  for (std::uint32_t h = 0; h < geometry.kv_heads; ++h) {
    const std::byte* k = input.k + h * tile_tokens() * slot;
    const std::byte* v = input.v + h * tile_tokens() * slot;
    for (const std::byte* values : {k, v}) {
      const std::size_t bad = first_not_finite(dtype, values, tokens * geometry.head_dim);
      if (bad == tokens * geometry.head_dim) continue;
      return invalid_argument(
          std::string(values == k ? "K" : "V") + " is NaN or infinite: layer " +
          std::to_string(layer) + ", KV head " + std::to_string(h) + ", token " +
          std::to_string(std::size_t{tile} * tile_tokens() + bad / geometry.head_dim) +
          ", channel " + std::to_string(bad % geometry.head_dim));
    }
    std::byte* part = out.data() + kSegmentHeaderBytes + h * part_bytes;
    if (!is_open(tokens)) {
      storage_->encode_head(geometry, id, h, k, v, part);
    } else {
      std::memcpy(part, k, tokens * slot);
      std::memcpy(part + tokens * slot, v, tokens * slot);
    }
  }
  return ok_status();
}

Status PipelineCodec::validate(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                               std::uint32_t tokens, std::span<const std::byte> segment) const {
  if (tokens == 0 || tokens > tile_tokens() || layer >= geometry.layers) {
    return invalid_argument("validate: tokens or layer are out of range");
  }
  const std::size_t want = segment_bytes(geometry, layer, tile, tokens);
  if (segment.size() != want) {
    return {Code::kDataLoss, "segment of " + std::to_string(segment.size()) + " bytes, expected " +
                                 std::to_string(want)};
  }
  KVF_RETURN_IF_ERROR(compare_headers(read_header(segment), header(geometry, layer, tile, tokens)));
  const std::size_t part_bytes = head_bytes(geometry, {layer, tile}, tokens);
  for (std::uint32_t h = 0; h < geometry.kv_heads; ++h) {
    const std::byte* part = head_part(segment, h, part_bytes);
    const Status status = is_open(tokens) ? check_dense(traits().open_dtype, part, part_bytes)
                                          : storage_->validate_head(geometry, {layer, tile}, part);
    KVF_RETURN_IF_ERROR(status.with_context("segment, KV head " + std::to_string(h)));
  }
  return ok_status();
}

void PipelineCodec::attend_all(const KvGeometry& geometry,
                               std::span<const AttendWork> works) const {
  constexpr std::size_t kTogether = 32;  // 3 KiB
  HeadWork heads[kTogether];
  for (std::size_t first = 0; first < works.size(); first += kTogether) {
    const std::size_t count = std::min(kTogether, works.size() - first);
    for (std::size_t i = 0; i < count; ++i) {
      const AttendWork& work = works[first + i];
      const TileId id{work.layer, work.tile};
      const std::size_t bytes = storage_->head_bytes(geometry, id);
      heads[i] = {id, head_part(work.segment, work.kv_head, bytes), work.queries, work.states};
    }
    storage_->attend_heads(geometry, {heads, count});
  }
}

void PipelineCodec::reconstruct(const KvGeometry& geometry, std::span<const std::byte> segment,
                                std::uint32_t kv_head, float* k, float* v) const {
  const SegmentHeader head = read_header(segment);
  const TileId id{head.layer, head.tile};
  const std::byte* part = head_part(segment, kv_head, head_bytes(geometry, id, head.tokens));
  if (!is_open(head.tokens)) {
    storage_->reconstruct_head(geometry, id, part, k, v);
    return;
  }
  const std::size_t n = std::size_t{head.tokens} * geometry.head_dim;
  widen(traits().open_dtype, part, n, k);
  widen(traits().open_dtype, part + n * bytes_of(traits().open_dtype), n, v);
}

void PipelineCodec::attend_open(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                                const OpenTile& open, std::uint32_t kv_head,
                                const QueryRows& queries, const std::uint32_t* visible,
                                kernels::AttentionStates states) const {
  const std::size_t head =
      std::size_t{kv_head} * tile_tokens() * geometry.head_dim * bytes_of(traits().open_dtype);
  storage_->attend_open_head({layer, tile}, kv_head, open.k + head, open.v + head, queries, visible,
                             states);
}

std::size_t PipelineCodec::wrap(const KvGeometry& geometry, std::span<const std::byte> segment,
                                std::span<std::byte> out) const {
  if (wire_ == nullptr) return Codec::wrap(geometry, segment, out);
  SegmentHeader header = read_header(segment);
  const std::size_t bytes =
      wire_->wrap(head_planes(geometry, {header.layer, header.tile}, header.tokens),
                  segment.subspan(kSegmentHeaderBytes),
                  out.subspan(kSegmentHeaderBytes, segment.size() - kSegmentHeaderBytes - 1));
  if (bytes == 0) return Codec::wrap(geometry, segment, out);
  header.wrapped = 1;
  header.bytes = static_cast<std::uint32_t>(kSegmentHeaderBytes + bytes);
  std::memcpy(out.data(), &header, sizeof(header));
  return header.bytes;
}

Status PipelineCodec::unwrap(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                             std::uint32_t tokens, std::span<const std::byte> wire,
                             std::span<std::byte> out) const {
  if (tokens == 0 || tokens > tile_tokens() || layer >= geometry.layers ||
      out.size() != segment_bytes(geometry, layer, tile, tokens)) {
    return invalid_argument("unwrap: tokens, layer or the output's size do not fit");
  }
  KVF_ASSIGN_OR_RETURN(const std::size_t bytes, wire_bytes(wire));
  if (bytes != wire.size()) return {Code::kDataLoss, "bytes behind the end of a wrapped segment"};
  if (wire_ == nullptr || read_header(wire).wrapped == 0) {
    return Codec::unwrap(geometry, layer, tile, tokens, wire, out);
  }
  const SegmentHeader plain = header(geometry, layer, tile, tokens);
  SegmentHeader wrapped = plain;
  wrapped.wrapped = 1;
  wrapped.bytes = static_cast<std::uint32_t>(bytes);
  KVF_RETURN_IF_ERROR(compare_headers(read_header(wire), wrapped));
  KVF_RETURN_IF_ERROR(wire_->unwrap(head_planes(geometry, {layer, tile}, tokens),
                                    wire.subspan(kSegmentHeaderBytes),
                                    out.subspan(kSegmentHeaderBytes)));
  std::memcpy(out.data(), &plain, sizeof(plain));
  return validate(geometry, layer, tile, tokens, out);
}

void PipelineCodec::load_open(const KvGeometry& geometry, std::span<const std::byte> segment,
                              const OpenTile& out) const {
  const std::size_t slot = geometry.head_dim * bytes_of(traits().open_dtype);
  const std::size_t filled = read_header(segment).tokens * slot;
  const std::size_t whole = tile_tokens() * slot;
  for (std::uint32_t h = 0; h < geometry.kv_heads; ++h) {
    const std::byte* part = head_part(segment, h, 2 * filled);
    for (std::byte* to : {out.k + h * whole, out.v + h * whole}) {
      std::memcpy(to, part, filled);
      std::memset(to + filled, 0, whole - filled);
      part += filled;
    }
  }
}

}  // namespace kvferry::codec
