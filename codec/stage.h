// What a codec is composed of, in this order: any number of domain stages, any number of adapters,
// one storage stage, at most one wire stage. A new stage is one file that ends in its maker, and
// one entry in registry.cpp. A preset is a name for a spec made of other stages.
//
// Thread contract: stages are immutable; their methods may be called from any number of threads.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
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
  // apply_k or apply_v, rounded to bf16: head h goes to out + h * stride. x is of no more use.
  virtual void write_k(float* x, std::size_t heads, std::size_t head_dim, std::uint16_t* out,
                       std::size_t stride) const = 0;
  virtual void write_v(float* x, std::size_t heads, std::size_t head_dim, std::uint16_t* out,
                       std::size_t stride) const = 0;
};

// Where a closed tile stands: everything but the values that its bytes may depend on.
struct TileId {
  std::uint32_t layer = 0;
  std::uint32_t tile = 0;  // 0 is the first of the sequence
};

// The bytes of one head's part, by what they are.
enum class PlaneKind : std::uint8_t {
  kValues,   // dense
  kCodes,    // packed integer codes
  kScales,   // what a code's step is worth
  kMinima,   // what code 0 is worth
  kSums,     // of codes
  kFactors,  // of rows or columns, beside scales
  kMeans,
};
inline constexpr std::size_t kPlaneKinds = 7;
std::string_view plane_name(PlaneKind kind);

// A run of bytes of one kind in a head's part. bits: of a value or code, 1 to 32.
struct Plane {
  PlaneKind kind = PlaneKind::kValues;
  std::uint32_t bits = 0;
  std::size_t bytes = 0;
};

// K, then V, of half the bytes each.
std::vector<Plane> dense_planes(std::size_t bytes, OpenDtype dtype);

// Rows, and the part of one KV head of a tile that they attend to.
struct HeadWork {
  TileId id;
  const std::byte* part;
  QueryRows queries;
  kernels::AttentionStates states;
};

// How a closed tile lies in a segment. The segments of open tiles are dense for every storage
// (codec/segment.h). The methods are those of Codec, for whole tiles of one KV head; the header is
// written and checked by the codec, so a part is what follows it.
class StorageStage {
 public:
  virtual ~StorageStage() = default;
  virtual std::string text() const = 0;  // normalised
  // The text of what stores this layer, where a storage is another one in each.
  virtual std::string layer_text(std::uint32_t) const { return text(); }
  virtual CodecTraits traits() const = 0;
  virtual Status supports(const KvGeometry& geometry) const = 0;
  virtual SegmentKind kind(TileId id) const = 0;
  // Bits of a code of K and of V, or of a value of the open dtype when the kind is dense.
  struct Bits {
    std::uint8_t k, v;
  };
  virtual Bits bits(TileId id) const = 0;
  // Bytes of the part of one KV head, a multiple of 64. Tiles behind the first are alike.
  virtual std::size_t head_bytes(const KvGeometry& geometry, TileId id) const = 0;
  // The part's bytes in order, head_bytes in all. For wire stages and `codec describe`.
  virtual std::vector<Plane> planes(const KvGeometry& geometry, TileId id) const = 0;
  // k, v: [tile_tokens][head_dim] of the open dtype, finite. out: head_bytes.
  virtual void encode_head(const KvGeometry& geometry, TileId id, std::uint32_t kv_head,
                           const std::byte* k, const std::byte* v, std::byte* out) const = 0;
  // Whether what encode_head never writes is in the part (a scale that is not finite, say).
  virtual Status validate_head(const KvGeometry& geometry, TileId id,
                               const std::byte* part) const = 0;
  virtual void attend_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                           const QueryRows& queries, kernels::AttentionStates states) const = 0;
  // attend_head for each, in order. The tiles are of one layer.
  virtual void attend_heads(const KvGeometry& geometry, std::span<const HeadWork> works) const;
  virtual void reconstruct_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                                float* k, float* v) const = 0;
  // The same, rounded to finite bf16: k, v [tile_tokens][head_dim].
  virtual void write_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                          std::uint16_t* k, std::uint16_t* v) const;
  // Whether attend_head is dense attention over the bf16 values that reconstruct_head gives, to the
  // last bit. Not a trait: the text of `dequantize` depends on it, so an artefact must not.
  virtual bool attends_bf16() const { return false; }
  // Codec::attend_open of one head: k, v [tile_tokens][head_dim] of the open dtype. Dense unless
  // the storage codes its own tile too.
  virtual void attend_open_head(TileId id, std::uint32_t kv_head, const std::byte* k,
                                const std::byte* v, const QueryRows& queries,
                                const std::uint32_t* visible,
                                kernels::AttentionStates states) const;
  // The digest of an artefact without which nothing but text() works (codec/artifacts.h), or empty.
  virtual std::string missing_artifact() const { return ""; }
};

// How the bytes behind a segment's header go on the wire and into stores: in fewer, and back.
class WireStage {
 public:
  virtual ~WireStage() = default;
  virtual std::string text() const = 0;  // normalised
  // planes: of the part of one KV head; the body holds those of all heads, in order.
  // Writes fewer bytes than the body has to out, which holds body.size() - 1, and returns their
  // number; or returns 0, and the body goes as it is. Equal bytes on every instruction set.
  virtual std::size_t wrap(std::span<const Plane> planes, std::span<const std::byte> body,
                           std::span<std::byte> out) const = 0;
  // Undoes wrap. kDataLoss for what wrap never writes; reads and writes nothing outside.
  virtual Status unwrap(std::span<const Plane> planes, std::span<const std::byte> wire,
                        std::span<std::byte> body) const = 0;
};

using DomainPtr = std::shared_ptr<const DomainStage>;
using StoragePtr = std::shared_ptr<const StorageStage>;
using WirePtr = std::shared_ptr<const WireStage>;

// Makes another storage out of the one that stands behind it in the spec.
using Adapter = std::function<Result<StoragePtr>(StoragePtr behind)>;

// What a parsed stage becomes: that of its entry's kind.
using Stage = std::variant<DomainPtr, Adapter, StoragePtr, WirePtr>;

enum class StageKind : std::uint8_t { kDomain, kAdapter, kStorage, kWire, kPreset };
std::string_view stage_kind_name(StageKind kind);  // "domain", ...

// What a stage may be told.
struct StageArgument {
  std::string_view key;        // empty: a bare word
  std::string_view choices;    // "32|64|128", "1..8", "N" for a number, "FILE" for its name
  std::string_view otherwise;  // what it is when not given; empty: it must be
};
// "1..4" and "1|2|3|4" one by one.
std::vector<std::string> list_choices(const StageArgument& argument);

// A way to write a stage: the argument that it has in any case, or none, and those it may have.
struct StageForm {
  std::string_view fixed;
  std::vector<StageArgument> arguments;
};

struct StageEntry {
  std::string_view name;
  StageKind kind = StageKind::kStorage;
  std::string_view summary;  // one line
  std::vector<StageForm> forms;
  Result<Stage> (*make)(const SpecStage& spec) = nullptr;
  // Presets: the spec that this one stands for.
  Result<std::string> (*expand)(const SpecStage& spec) = nullptr;
  bool takes_file = false;  // its arguments may be names of files
};

// All stages that specs may name, in the order in which they are listed to people.
const std::vector<StageEntry>& list_stages();

}  // namespace kvferry::codec
