#include "codec/pipeline_codec.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "codec/dense.h"

namespace kvferry::codec {
namespace {

std::string joined_text(const std::vector<std::shared_ptr<const DomainStage>>& domain,
                        const StorageStage& storage) {
  std::string text;
  for (const auto& stage : domain) text += stage->text() + " | ";
  return text + storage.text();
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

PipelineCodec::PipelineCodec(std::vector<std::shared_ptr<const DomainStage>> domain,
                             std::shared_ptr<const StorageStage> storage)
    : Codec(storage->traits(), joined_text(domain, *storage)),
      domain_(std::move(domain)),
      storage_(std::move(storage)) {}

Status PipelineCodec::supports(const KvGeometry& geometry) const {
  KVF_RETURN_IF_ERROR(check_geometry(geometry));
  for (const auto& stage : domain_) KVF_RETURN_IF_ERROR(stage->supports(geometry));
  KVF_RETURN_IF_ERROR(storage_->supports(geometry));
  for (const std::uint32_t tile : {0u, 1u}) {
    for (const std::uint32_t tokens : {kTileTokens - 1, kTileTokens}) {
      if (segment_bytes(geometry, tile, tokens) > std::numeric_limits<std::uint32_t>::max()) {
        return unsupported("a segment of these KV heads would be longer than 4 GiB");
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

void PipelineCodec::from_domain_o(float* x, std::size_t heads, std::size_t head_dim) const {
  for (auto stage = domain_.rbegin(); stage != domain_.rend(); ++stage) {
    (*stage)->undo_o(x, heads, head_dim);
  }
}

std::size_t PipelineCodec::head_bytes(const KvGeometry& geometry, std::uint32_t tile,
                                      std::uint32_t tokens) const {
  return tokens < kTileTokens ? dense_head_bytes(geometry, tokens, traits().open_dtype)
                              : storage_->head_bytes(geometry, tile);
}

std::size_t PipelineCodec::segment_bytes(const KvGeometry& geometry, std::uint32_t tile,
                                         std::uint32_t tokens) const {
  return kSegmentHeaderBytes + geometry.kv_heads * head_bytes(geometry, tile, tokens);
}

SegmentHeader PipelineCodec::header(const KvGeometry& geometry, std::uint32_t layer,
                                    std::uint32_t tile, std::uint32_t tokens) const {
  const auto dense_bits = static_cast<std::uint8_t>(8 * bytes_of(traits().open_dtype));
  const bool open = tokens < kTileTokens;
  const StorageStage::Bits bits =
      open ? StorageStage::Bits{dense_bits, dense_bits} : storage_->bits(tile);
  SegmentHeader header{};
  header.magic = kSegmentMagic;
  header.version = kSegmentVersion;
  header.kind = static_cast<std::uint8_t>(open ? SegmentKind::kDense : storage_->kind());
  header.open_dtype = static_cast<std::uint8_t>(traits().open_dtype);
  header.k_bits = bits.k;
  header.v_bits = bits.v;
  header.tokens = static_cast<std::uint16_t>(tokens);
  header.layer = static_cast<std::uint16_t>(layer);
  header.kv_heads = static_cast<std::uint16_t>(geometry.kv_heads);
  header.head_dim = static_cast<std::uint16_t>(geometry.head_dim);
  header.tile = tile;
  header.bytes = static_cast<std::uint32_t>(segment_bytes(geometry, tile, tokens));
  header.codec_id = id();
  return header;
}

Status PipelineCodec::encode(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                             std::uint32_t tokens, const OpenTile& input,
                             std::span<std::byte> out) const {
  if (tokens == 0 || tokens > kTileTokens || layer >= geometry.layers ||
      out.size() != segment_bytes(geometry, tile, tokens)) {
    return invalid_argument("encode: tokens, layer or the output's size do not fit");
  }
  const OpenDtype dtype = traits().open_dtype;
  const std::size_t slot = geometry.head_dim * bytes_of(dtype);
  const std::size_t part_bytes = head_bytes(geometry, tile, tokens);
  const SegmentHeader head = header(geometry, layer, tile, tokens);
  std::memcpy(out.data(), &head, sizeof(head));
  for (std::uint32_t h = 0; h < geometry.kv_heads; ++h) {
    const std::byte* k = input.k + h * kTileTokens * slot;
    const std::byte* v = input.v + h * kTileTokens * slot;
    for (const std::byte* values : {k, v}) {
      const std::size_t bad = first_not_finite(dtype, values, tokens * geometry.head_dim);
      if (bad == tokens * geometry.head_dim) continue;
      return invalid_argument(
          std::string(values == k ? "K" : "V") + " is NaN or infinite: layer " +
          std::to_string(layer) + ", KV head " + std::to_string(h) + ", token " +
          std::to_string(std::size_t{tile} * kTileTokens + bad / geometry.head_dim) + ", channel " +
          std::to_string(bad % geometry.head_dim));
    }
    std::byte* part = out.data() + kSegmentHeaderBytes + h * part_bytes;
    if (tokens == kTileTokens) {
      storage_->encode_head(geometry, tile, k, v, part);
    } else {
      std::memcpy(part, k, tokens * slot);
      std::memcpy(part + tokens * slot, v, tokens * slot);
    }
  }
  return ok_status();
}

Status PipelineCodec::validate(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                               std::uint32_t tokens, std::span<const std::byte> segment) const {
  if (tokens == 0 || tokens > kTileTokens || layer >= geometry.layers) {
    return invalid_argument("validate: tokens or layer are out of range");
  }
  const std::size_t want = segment_bytes(geometry, tile, tokens);
  if (segment.size() != want) {
    return {Code::kDataLoss, "segment of " + std::to_string(segment.size()) + " bytes, expected " +
                                 std::to_string(want)};
  }
  KVF_RETURN_IF_ERROR(compare_headers(read_header(segment), header(geometry, layer, tile, tokens)));
  const std::size_t part_bytes = head_bytes(geometry, tile, tokens);
  for (std::uint32_t h = 0; h < geometry.kv_heads; ++h) {
    const std::byte* part = head_part(segment, h, part_bytes);
    const Status status = tokens == kTileTokens
                              ? storage_->validate_head(geometry, tile, part)
                              : check_dense(traits().open_dtype, part, part_bytes);
    KVF_RETURN_IF_ERROR(status.with_context("segment, KV head " + std::to_string(h)));
  }
  return ok_status();
}

void PipelineCodec::attend(const KvGeometry& geometry, std::span<const std::byte> segment,
                           std::uint32_t kv_head, const QueryRows& queries,
                           kernels::AttentionStates states) const {
  const std::uint32_t tile = read_header(segment).tile;
  storage_->attend_head(geometry, tile,
                        head_part(segment, kv_head, storage_->head_bytes(geometry, tile)), queries,
                        states);
}

void PipelineCodec::reconstruct(const KvGeometry& geometry, std::span<const std::byte> segment,
                                std::uint32_t kv_head, float* k, float* v) const {
  const SegmentHeader head = read_header(segment);
  const std::byte* part = head_part(segment, kv_head, head_bytes(geometry, head.tile, head.tokens));
  if (head.tokens == kTileTokens) {
    storage_->reconstruct_head(geometry, head.tile, part, k, v);
    return;
  }
  const std::size_t n = std::size_t{head.tokens} * geometry.head_dim;
  widen(traits().open_dtype, part, n, k);
  widen(traits().open_dtype, part + n * bytes_of(traits().open_dtype), n, v);
}

void PipelineCodec::load_open(const KvGeometry& geometry, std::span<const std::byte> segment,
                              const OpenTile& out) const {
  const std::size_t slot = geometry.head_dim * bytes_of(traits().open_dtype);
  const std::size_t filled = read_header(segment).tokens * slot;
  const std::size_t whole = kTileTokens * slot;
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
