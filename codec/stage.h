// What a codec is composed of: any number of domain stages, then one storage stage. A new stage is
// one file that ends in its StageEntry, and one line in registry.cpp.
//
// Thread contract: stages are immutable; their methods may be called from any number of threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "codec/codec.h"
#include "codec/segment.h"
#include "codec/spec.h"

namespace kvferry::codec {

// An invertible linear map on K (with Q) and V of each head, applied before rounding to the open
// dtype. Q and K must be mapped so that q . k stays.
class DomainStage {
 public:
  virtual ~DomainStage() = default;
  virtual std::string text() const = 0;  // normalised
  virtual Status supports(const KvGeometry& geometry) const = 0;
  // x: [heads][head_dim] f32, in place.
  virtual void apply_q(float* x, std::size_t heads, std::size_t head_dim) const = 0;
  virtual void apply_k(float* x, std::size_t heads, std::size_t head_dim) const = 0;
  virtual void apply_v(float* x, std::size_t heads, std::size_t head_dim) const = 0;
  virtual void undo_o(float* x, std::size_t heads, std::size_t head_dim) const = 0;
};

// How a closed tile lies in a segment. The segments of open tiles are dense for every storage
// (codec/segment.h). The methods are those of Codec, for tiles of kTileTokens tokens; the header is
// written and checked by the codec, so `body` is what follows it.
class StorageStage {
 public:
  virtual ~StorageStage() = default;
  virtual std::string text() const = 0;  // normalised
  virtual CodecTraits traits() const = 0;
  virtual Status supports(const KvGeometry& geometry) const = 0;
  virtual SegmentKind kind() const = 0;
  // Bits of a code of K and of V, or of a value of the open dtype when the kind is dense.
  struct Bits {
    std::uint8_t k, v;
  };
  virtual Bits bits(std::uint32_t tile) const = 0;
  // Bytes of the part of one KV head, a multiple of 64.
  virtual std::size_t head_bytes(const KvGeometry& geometry, std::uint32_t tile) const = 0;
  // k, v: [kTileTokens][head_dim] of the open dtype, finite. out: head_bytes.
  virtual void encode_head(const KvGeometry& geometry, std::uint32_t tile, const std::byte* k,
                           const std::byte* v, std::byte* out) const = 0;
  // Whether what encode_head never writes is in the part (a scale that is not finite, say).
  virtual Status validate_head(const KvGeometry& geometry, std::uint32_t tile,
                               const std::byte* part) const = 0;
  virtual void attend_head(const KvGeometry& geometry, std::uint32_t tile, const std::byte* part,
                           const QueryRows& queries, kernels::AttentionStates states) const = 0;
  virtual void reconstruct_head(const KvGeometry& geometry, std::uint32_t tile,
                                const std::byte* part, float* k, float* v) const = 0;
  // Where the bytes of a head's part go, for `codec describe`.
  struct Planes {
    std::size_t codes = 0, scales = 0, minima = 0;
  };
  virtual Planes planes(const KvGeometry& geometry, std::uint32_t tile) const = 0;
};

// What a parsed stage becomes: one of the two.
struct Stage {
  std::shared_ptr<const DomainStage> domain;
  std::shared_ptr<const StorageStage> storage;
};

struct StageEntry {
  std::string_view name;
  std::string_view usage;    // "hack(k=1..8,v=1..8[,range=minmax|search|lsq][,first_bits=8])"
  std::string_view summary;  // one line
  Result<Stage> (*make)(const SpecStage& spec);
};

// All stages that specs may name, in the order in which they are listed to people.
const std::vector<StageEntry>& list_stages();

}  // namespace kvferry::codec
