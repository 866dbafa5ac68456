// A codec turns a tile of KV (one layer x tile_tokens tokens x all KV heads) into a segment, and
// attends on the segment as it is. docs/codecs.md describes the specs and the layouts.
//
// Life of KV under a codec (docs/ARCHITECTURE.md, "one answer"): a new token's K (after rope) and V
// are brought into the codec's domain, rounded to the open dtype, and written (write_open_*) to the
// open tile. A query attends to every closed tile as encoded and to its own tile as it lies open.
// When the tile's last token is in, encode() makes the closed segment, which never changes again.
// On the wire and in stores a segment may go in another form (wrap, unwrap); it is never attended
// on in that form.
//
// Thread contract: a Codec is immutable after make_codec; all methods may be called from any
// number of threads with distinct output buffers and scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "codec/geometry.h"
#include "kernels/dense_kernels.h"

namespace kvferry::codec {

// Tiles are whole numbers of grid blocks, and kernels work on one block at a time.
inline constexpr std::uint32_t kGridTokens = kernels::kTileTokens;
// The longest tile a codec may have.
inline constexpr std::uint32_t kMaxTileTokens = 128;

// Hash of the normalised spec: equal meaning, equal id.
using CodecId = std::uint64_t;

enum class OpenDtype : std::uint8_t { kBf16 = 1, kF32 = 2 };
inline std::size_t bytes_of(OpenDtype t) { return t == OpenDtype::kBf16 ? 2 : 4; }

struct CodecTraits {
  bool lossless = false;  // reconstruct gives back the open dtype's values exactly
  std::uint32_t tile_tokens = kGridTokens;  // a multiple of kGridTokens, at most kMaxTileTokens
  OpenDtype open_dtype = OpenDtype::kBf16;
  // K and V are worth less error without the biases of their projections. The caller then leaves
  // out, before to_domain_*, the bias of V and that part of K's which KvGeometry::removed_bias
  // stands for, and gives them back: by QueryRows::score_add, and by adding V's to the output.
  bool removes_bias = false;
  bool wraps = false;  // the wire form is not the segment itself
};

// The open tile of one layer: k and v are [kv_heads][tile_tokens][head_dim] of the open dtype.
// Not owned. Slots of tokens not yet written must hold finite values (they are zeroed at the
// start of a tile).
struct OpenTile {
  std::byte* k = nullptr;
  std::byte* v = nullptr;
};

// Query rows that share one KV head. q: [rows][head_dim] f32, in the codec's domain, already
// multiplied by 1/sqrt(head_dim). score_add: [tile_tokens / 64][rows][64], what a removed bias of K
// adds to the scores of the tile's tokens, a grid block after the other (of magnitude at most
// kernels::kMaxScoreAdd), or null. ahead: what the caller attends to soon, most often
// codec::head_memory of another tile.
struct QueryRows {
  const float* q = nullptr;
  std::uint32_t rows = 0;
  const float* score_add = nullptr;
  kernels::Ahead ahead = {};

  // The rows as a kernel takes them for one grid block of the tile. The first asks for what is
  // ahead.
  kernels::Queries block(std::uint32_t index) const {
    kernels::Queries queries;
    queries.q = q;
    if (score_add != nullptr) {
      queries.score_add = score_add + std::size_t{index} * rows * kGridTokens;
    }
    if (index == 0) queries.ahead = ahead;
    return queries;
  }
};

// Rows, and the KV head of a closed, validated segment that they attend to. states.rows ==
// queries.rows. layer and tile are those of the segment, whose header need not be read then.
struct AttendWork {
  std::uint32_t layer = 0;
  std::uint32_t tile = 0;
  std::span<const std::byte> segment;
  std::uint32_t kv_head = 0;
  QueryRows queries;
  kernels::AttentionStates states;
};

class Codec {
 public:
  virtual ~Codec() = default;

  const CodecTraits& traits() const { return traits_; }
  std::uint32_t tile_tokens() const { return traits_.tile_tokens; }
  const std::string& spec() const { return spec_; }  // normalised
  CodecId id() const { return id_; }

  // The digest of an artefact that this codec lacks (codec/artifacts.h), or empty. While one is
  // missing, nothing but spec() and id() may be asked, and supports() says so.
  virtual std::string missing_artifact() const { return ""; }

  // The spec of what stores a layer's closed tiles, without domain and wire stages. Layers with
  // equal ones are stored alike.
  virtual std::string layer_spec(std::uint32_t) const { return spec_; }

  // Whether this codec can serve the geometry; the Status says why not.
  virtual Status supports(const KvGeometry& geometry) const = 0;

  // Domain transforms, in place. x: [heads][head_dim] f32 of one token.
  virtual void to_domain_q(float* x, std::size_t heads, std::size_t head_dim) const;
  virtual void to_domain_k(float* x, std::size_t heads, std::size_t head_dim) const;
  virtual void to_domain_v(float* x, std::size_t heads, std::size_t head_dim) const;
  // The same of K, or of V, and rounding to the open dtype, fused where that is faster: head h of a
  // token goes to out + h * stride, a slot of an open tile. x is of no more use.
  virtual void write_open_k(float* x, std::size_t heads, std::size_t head_dim, std::byte* out,
                            std::size_t stride) const;
  virtual void write_open_v(float* x, std::size_t heads, std::size_t head_dim, std::byte* out,
                            std::size_t stride) const;
  // Undoes on the normalised attention output what to_domain_v did to V.
  virtual void from_domain_o(float* x, std::size_t heads, std::size_t head_dim) const;

  // Exact size of a layer's segment of tile number `tile` (0 is the first of the sequence) that
  // holds `tokens` tokens, 1..tile_tokens. Fewer than tile_tokens: an open tile as it is sent,
  // dense. Layers may differ; tiles behind the first do not.
  virtual std::size_t segment_bytes(const KvGeometry& geometry, std::uint32_t layer,
                                    std::uint32_t tile, std::uint32_t tokens) const = 0;

  // Encodes the first `tokens` tokens of a tile into out, whose size must be segment_bytes().
  // Equal input gives equal bytes on every instruction set. kInvalidArgument if a value is NaN or
  // infinite; out is then unspecified.
  virtual Status encode(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                        std::uint32_t tokens, const OpenTile& input,
                        std::span<std::byte> out) const = 0;

  // Checks a segment that came from outside: header, sizes, identity and that every scale and
  // minimum is finite. After an OK, attend, reconstruct and load_open never read outside it and
  // never produce NaN from finite queries.
  virtual Status validate(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                          std::uint32_t tokens, std::span<const std::byte> segment) const = 0;

  // Attends the rows of each work and merges into its states, work by work: works may share their
  // states, whole ones. Scratch lives on the stack. Many works in one call are faster than one by
  // one; the results are the same bits.
  virtual void attend_all(const KvGeometry& geometry, std::span<const AttendWork> works) const = 0;
  // The same of one work, of the layer and tile that the segment's header names.
  void attend(const KvGeometry& geometry, std::span<const std::byte> segment, std::uint32_t kv_head,
              const QueryRows& queries, kernels::AttentionStates states) const;

  // What the encoded bytes mean, in the codec's domain: k, v [tokens][head_dim] f32 of one KV head.
  // Each value is one rounding of scale * code + minimum.
  virtual void reconstruct(const KvGeometry& geometry, std::span<const std::byte> segment,
                           std::uint32_t kv_head, float* k, float* v) const = 0;

  // Attends over one layer and KV head of tile number `tile` as it lies open: row r sees the first
  // visible[r] tokens, all when visible is null. Dense attention, unless a codec codes its own tile
  // too.
  virtual void attend_open(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                           const OpenTile& open, std::uint32_t kv_head, const QueryRows& queries,
                           const std::uint32_t* visible, kernels::AttentionStates states) const;

  // Copies a dense segment of an open tile (tokens < tile_tokens) back into open memory; the slots
  // behind the last token become zeros.
  virtual void load_open(const KvGeometry& geometry, std::span<const std::byte> segment,
                         const OpenTile& out) const = 0;

  // The wire form of a segment, never longer than the segment itself; its length is in its header
  // (codec/segment.h, wire_bytes). Writes it to out, which holds segment.size() bytes, and returns
  // its length. Equal bytes on every instruction set. By default the segment itself.
  virtual std::size_t wrap(const KvGeometry& geometry, std::span<const std::byte> segment,
                           std::span<std::byte> out) const;

  // Undoes wrap into out, whose size must be segment_bytes() of that tile, and validates the
  // result as validate() does. kDataLoss for what is not the wire form of a valid segment; out is
  // then unspecified. Whether it is the segment that was sent, checksums must say.
  virtual Status unwrap(const KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                        std::uint32_t tokens, std::span<const std::byte> wire,
                        std::span<std::byte> out) const;

 protected:
  Codec(CodecTraits traits, std::string spec);

 private:
  CodecTraits traits_;
  std::string spec_;
  CodecId id_;
};

// Whether a spec may name files, which are then read: an operator's may, a client's may not.
enum class SpecFiles : std::uint8_t { kRead, kRefuse };

// The codec of a spec such as "hadamard | hack(k=4,v=2)". Errors point at the character and name
// what was expected; unknown stages list those that exist.
Result<std::shared_ptr<const Codec>> make_codec(std::string_view spec,
                                                SpecFiles files = SpecFiles::kRead);

// KV left as computed (f32), for logits and tests without a codec; not servable, not in the list.
std::shared_ptr<const Codec> make_exact_codec();

inline constexpr std::string_view kDefaultSpec = "hadamard | hack(k=4,v=2)";

}  // namespace kvferry::codec
