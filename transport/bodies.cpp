#include "transport/bodies.h"

#include <algorithm>
#include <cmath>

#include "base/hash.h"
#include "transport/byte_io.h"
#include "transport/frame.h"

namespace kvferry::transport {
namespace {

static_assert(kMaxSpecBytes + 64 <= kMaxControlPayloadBytes);
static_assert((kMaxChoices + kMaxTopTokens) * 8 + 64 <= kMaxControlPayloadBytes);
static_assert(kMaxBeatTransfers * 8 + 8 <= kMaxControlPayloadBytes);
static_assert(kMaxReasonBytes <= kMaxControlPayloadBytes);

Status malformed(const char* what) { return data_loss(std::string(what) + " body is malformed"); }

}  // namespace

std::vector<std::byte> encode_want(const WantBody& body) {
  ByteWriter out;
  out.put(body.tokens);
  out.put(body.tile_tokens);
  out.put(body.geometry.layers);
  out.put(body.geometry.kv_heads);
  out.put(body.geometry.q_heads);
  out.put(body.geometry.head_dim);
  out.put(body.geometry.removed_bias);
  out.put(static_cast<std::uint32_t>(body.spec.size()));
  out.put_text(body.spec);
  return out.take();
}

Result<WantBody> decode_want(std::span<const std::byte> payload) {
  ByteReader in(payload);
  WantBody body;
  body.tokens = in.get<std::uint32_t>();
  body.tile_tokens = in.get<std::uint32_t>();
  body.geometry.layers = in.get<std::uint32_t>();
  body.geometry.kv_heads = in.get<std::uint32_t>();
  body.geometry.q_heads = in.get<std::uint32_t>();
  body.geometry.head_dim = in.get<std::uint32_t>();
  body.geometry.removed_bias = in.get<std::uint64_t>();
  const auto length = in.get<std::uint32_t>();
  if (!in.ok() || length > kMaxSpecBytes || length != in.left()) return malformed("WANT");
  body.spec = in.get_text(length);
  return body;
}

std::vector<std::byte> encode_grant(const GrantBody& body) {
  ByteWriter out;
  out.put(body.max_frame_bytes);
  return out.take();
}

Result<GrantBody> decode_grant(std::span<const std::byte> payload) {
  ByteReader in(payload);
  GrantBody body;
  body.max_frame_bytes = in.get<std::uint32_t>();
  if (!in.ok() || in.left() != 0 || body.max_frame_bytes > kMaxPayloadBytes) {
    return malformed("GRANT");
  }
  return body;
}

std::vector<std::byte> encode_commit(const CommitBody& body) {
  ByteWriter out;
  out.put(body.frames);
  out.put(static_cast<std::uint32_t>(body.first_tokens.choices.size()));
  out.put(body.digest);
  out.put(body.payload_bytes);
  out.put(body.timings.prefill_ns);
  out.put(body.timings.encode_ns);
  out.put(body.timings.queue_ns);
  out.put(static_cast<std::uint32_t>(body.first_tokens.top.size()));
  for (const auto* tokens : {&body.first_tokens.choices, &body.first_tokens.top}) {
    for (const FirstToken& token : *tokens) {
      out.put(token.id);
      out.put(token.logprob);
    }
  }
  return out.take();
}

Result<CommitBody> decode_commit(std::span<const std::byte> payload) {
  ByteReader in(payload);
  CommitBody body;
  body.frames = in.get<std::uint32_t>();
  const auto choices = in.get<std::uint32_t>();
  body.digest = in.get<std::uint64_t>();
  body.payload_bytes = in.get<std::uint64_t>();
  body.timings.prefill_ns = in.get<std::uint64_t>();
  body.timings.encode_ns = in.get<std::uint64_t>();
  body.timings.queue_ns = in.get<std::uint64_t>();
  const auto top = in.get<std::uint32_t>();
  if (!in.ok() || choices == 0 || choices > kMaxChoices || top > kMaxTopTokens ||
      (std::size_t{choices} + top) * 8 != in.left()) {
    return malformed("COMMIT");
  }
  for (std::uint32_t i = 0; i < choices + top; ++i) {
    FirstToken token;
    token.id = in.get<std::int32_t>();
    token.logprob = in.get<float>();
    if (token.id < 0 || std::isnan(token.logprob)) return malformed("COMMIT");
    (i < choices ? body.first_tokens.choices : body.first_tokens.top).push_back(token);
  }
  return body;
}

std::vector<std::byte> encode_beat(std::span<const std::uint64_t> transfer_ids) {
  ByteWriter out;
  for (const std::uint64_t id : transfer_ids) out.put(id);
  return out.take();
}

Result<std::vector<std::uint64_t>> decode_beat(std::span<const std::byte> payload) {
  if (payload.size() % 8 != 0 || payload.size() / 8 > kMaxBeatTransfers) return malformed("BEAT");
  ByteReader in(payload);
  std::vector<std::uint64_t> ids(payload.size() / 8);
  for (std::uint64_t& id : ids) id = in.get<std::uint64_t>();
  return ids;
}

std::vector<std::byte> encode_reason(const std::string& reason) {
  ByteWriter out;
  out.put_text(std::string_view(reason).substr(0, kMaxReasonBytes));
  return out.take();
}

std::string decode_reason(std::span<const std::byte> payload) {
  ByteReader in(payload);
  std::string text = in.get_text(std::min(payload.size(), kMaxReasonBytes));
  for (char& c : text) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return text;
}

void SegmentDigest::add(std::uint32_t layer, std::uint32_t tile,
                        std::span<const std::byte> segment) {
  const std::uint64_t where = (std::uint64_t{layer} << 32) | tile;
  const std::uint64_t what = (std::uint64_t{segment.size()} << 32) | crc32c(segment);
  sum_ += counter_random(where, what);
}

}  // namespace kvferry::transport
