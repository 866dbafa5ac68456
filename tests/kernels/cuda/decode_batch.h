// Batches of random tiles for decode attention, in host memory, and what attending to them must
// give. A batch is run by an emulated or a real launch, which test drivers hand in.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "kernels/cuda/hack_cuda.h"
#include "kernels/cuda/lane.h"
#include "tests/kernels/hack_tile.h"

namespace kvferry::cuda {

struct BatchShape {
  int head_dim = 128, kv_heads = 1, group = 4;
  int k_bits = 2, v_bits = 2, first_k_bits = 8, first_v_bits = 8;
  std::vector<int> tokens;  // of each sequence
};

class DecodeBatch {
 public:
  DecodeBatch(const BatchShape& shape, std::uint32_t seed);

  const BatchShape& shape() const { return shape_; }
  // What a launch takes: all tiles' parts, and all open tiles, each as one array.
  const std::vector<Words>& tiles() const { return tiles_; }
  const std::vector<Words>& open() const { return open_; }
  std::vector<float>& queries() { return queries_; }
  const std::vector<float>& queries() const { return queries_; }
  const std::vector<int>& closed_tiles() const { return closed_tiles_; }
  const std::vector<int>& open_tokens() const { return open_tokens_; }
  // The tables of pointers, with the arrays at these addresses. Null beyond a sequence's end.
  std::vector<const std::byte*> tile_table(const std::byte* tiles) const;
  std::vector<const std::byte*> open_table(const std::byte* open) const;
  // Without its pointers.
  PagedKv kv() const;
  int rows() const;  // of all sequences

  // Of one row of all: in double precision, and how far from it any element may be.
  kernels::TileAnswer answer(int row) const;
  // What the CPU's scalar kernels make of it, which round as the GPU's do: normalised.
  std::vector<double> scalar_answer(int row) const;

 private:
  struct Sequence {
    std::vector<std::vector<std::unique_ptr<kernels::Tile>>> tiles;  // [tile][head]
    std::vector<kernels::DenseTokens> open;                          // [head]
    std::vector<std::size_t> at;                                     // [tile], in bytes
  };
  // What one row attends to.
  struct Head {
    std::vector<const kernels::Tile*> tiles;
    const kernels::DenseTokens* open;
    const float* q;
  };
  Head head_of(int row) const;
  void add_sequence(int tokens, std::uint32_t seed);
  void add_part(const kernels::Tile& tile);

  BatchShape shape_;
  std::vector<Sequence> sequences_;
  std::vector<Words> tiles_, open_;
  std::vector<float> queries_;
  std::vector<int> closed_tiles_, open_tokens_;
};

// Runs the batch and returns the outputs of all rows.
using RunDecode = std::function<std::vector<float>(const DecodeBatch&)>;

// The tests, which each driver registers with its way to run a batch.
void register_decode_tests(const RunDecode& run);

}  // namespace kvferry::cuda
