// Where the KV of a step lies while a layer is computed.
//
// A step covers positions [start, start + rows) of each of its sequences. The first tile it touches
// is the sequence's open tile and is written in place; the tiles behind it go to scratch memory.
// Every row of the step reads its own tile there, dense, even when the tile has been encoded
// meanwhile; begin_layer() and end_layer() keep the open tile right on both sides.
//
// Thread contract: as said by each function; "any" means pool threads with distinct rows or tiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/compute_pool.h"
#include "base/status.h"
#include "codec/codec.h"
#include "codec/sequence_kv.h"

namespace kvferry::model {

// The rows of one sequence in a step.
struct StepPart {
  codec::SequenceKv* kv = nullptr;
  std::size_t chunk = 0;                        // index in the caller's list
  std::uint32_t row0 = 0, start = 0, rows = 0;  // rows >= 1
  std::size_t scratch = 0;  // where tile first_tile() + 1 lies in scratch memory, in bytes

  std::uint32_t end() const { return start + rows; }
  std::uint32_t tile_tokens() const { return kv->tile_tokens(); }
  std::uint32_t first_tile() const { return start / tile_tokens(); }
  std::uint32_t last_tile() const { return (end() - 1) / tile_tokens(); }
  std::uint32_t closed_end() const { return end() / tile_tokens(); }  // tiles before it close
};

class StepKv {
 public:
  // Takes scratch memory for steps of up to `rows` rows, whatever their codecs, so that steps need
  // not grow it: enough if at most one part begins inside a tile, as in prefill.
  void reserve(const codec::KvGeometry& geometry, std::size_t rows);
  // Sets the parts of a step (row0 and scratch are assigned here). Engine thread.
  void begin_step(std::vector<StepPart> parts);
  const std::vector<StepPart>& parts() const { return parts_; }

  // Zeroes what the rows of this layer will not write. Engine thread.
  void begin_layer(std::uint32_t layer);
  // k, v: [kv_heads][head_dim] f32 of row `row` of a part, not yet in the codec's domain; of no
  // more use after. Any.
  void write_row(const StepPart& part, std::uint32_t layer, std::uint32_t row, float* k, float* v);
  // The dense memory of tile `tile`, first_tile() <= tile <= last_tile(). Any.
  codec::OpenTile dense_tile(const StepPart& part, std::uint32_t layer, std::uint32_t tile) const;
  // Encodes the tiles that close, on the pool. Engine thread.
  Status encode(ComputePool& pool, std::uint32_t layer);
  // Moves the last, partial tile to open memory. Engine thread; dense_tile is invalid from here.
  void end_layer(std::uint32_t layer);

 private:
  std::vector<StepPart> parts_;
  std::vector<std::byte> scratch_;
};

}  // namespace kvferry::model
