#include "tests/kernels/cuda/decode_batch.h"

#include "kernels/cpu/hack_common.h"

namespace kvferry::cuda {
namespace {

using kernels::Tile;

constexpr int kTile = 64;  // tokens

void append(const std::byte* from, std::size_t bytes, std::vector<Words>& to) {
  const std::size_t at = to.size();
  to.resize(at + bytes / sizeof(Words));
  std::memcpy(to.data() + at, from, bytes);
}
void append(const std::vector<std::uint16_t>& from, std::vector<Words>& to) {
  append(Tile::bytes(from), 2 * from.size(), to);
}

}  // namespace

DecodeBatch::DecodeBatch(const BatchShape& shape, std::uint32_t seed) : shape_(shape) {
  for (const int tokens : shape.tokens) {
    add_sequence(tokens, 1000 * (seed + static_cast<std::uint32_t>(sequences_.size())));
  }
  queries_ = kernels::make_queries(static_cast<std::uint32_t>(rows()),
                                   static_cast<std::uint32_t>(shape.head_dim), seed, 0.5f);
}

void DecodeBatch::add_sequence(int tokens, std::uint32_t seed) {
  Sequence sequence;
  const int closed = tokens / kTile;
  const auto dim = static_cast<std::uint32_t>(shape_.head_dim);
  for (int tile = 0; tile < closed; ++tile) {
    sequence.at.push_back(tiles_.size() * sizeof(Words));
    const int k = tile == 0 ? shape_.first_k_bits : shape_.k_bits;
    const int v = tile == 0 ? shape_.first_v_bits : shape_.v_bits;
    sequence.tiles.emplace_back();
    for (int head = 0; head < shape_.kv_heads; ++head) {
      kernels::TileShape tile_shape{dim, static_cast<std::uint32_t>(k),
                                    static_cast<std::uint32_t>(v)};
      // Values of about the same size with any number of bits, so that no token has all the weight.
      tile_shape.low = -5 - std::max(k, v);
      tile_shape.high = 1 - std::max(k, v);
      sequence.tiles.back().push_back(std::make_unique<Tile>(tile_shape, ++seed));
      add_part(*sequence.tiles.back().back());
    }
  }
  // All 64 rows are there; those beyond the end are NaN, which nothing may read.
  std::mt19937 random(seed);
  const auto used = static_cast<std::size_t>(tokens % kTile);
  std::vector<std::vector<std::uint16_t>> planes[2];
  for (int head = 0; head < shape_.kv_heads; ++head) {
    kernels::DenseTokens dense;
    dense.tokens = used;
    for (auto* values : {&dense.k, &dense.v}) {
      for (std::size_t i = 0; i < used * dim; ++i) {
        values->push_back(
            kernels::bf16_from_f32(static_cast<float>(random() % 65536) / 32768.0f - 1.0f));
      }
      auto padded = *values;
      padded.resize(std::size_t{kTile} * dim, 0x7fc0);
      planes[values == &dense.k ? 0 : 1].push_back(padded);
    }
    sequence.open.push_back(std::move(dense));
  }
  for (const auto& heads : planes) {
    for (const auto& plane : heads) append(plane, open_);
  }
  closed_tiles_.push_back(closed);
  open_tokens_.push_back(static_cast<int>(used));
  sequences_.push_back(std::move(sequence));
}

void DecodeBatch::add_part(const Tile& tile) {
  append(tile.k_codes.data(), tile.k_codes.size(), tiles_);
  append(tile.k_scale, tiles_);
  append(tile.k_min, tiles_);
  append(tile.v_codes.data(), tile.v_codes.size(), tiles_);
  append(tile.v_scale, tiles_);
  append(tile.v_min, tiles_);
}

int DecodeBatch::rows() const {
  return static_cast<int>(shape_.tokens.size()) * shape_.kv_heads * shape_.group;
}

PagedKv DecodeBatch::kv() const {
  PagedKv kv;
  kv.head_dim = shape_.head_dim;
  kv.kv_heads = shape_.kv_heads;
  kv.k_bits = shape_.k_bits;
  kv.v_bits = shape_.v_bits;
  kv.first_k_bits = shape_.first_k_bits;
  kv.first_v_bits = shape_.first_v_bits;
  kv.head_bytes = 8 * shape_.head_dim * (kv.k_bits + kv.v_bits + 1);
  kv.first_head_bytes = 8 * shape_.head_dim * (kv.first_k_bits + kv.first_v_bits + 1);
  kv.max_tiles = *std::max_element(closed_tiles_.begin(), closed_tiles_.end());
  return kv;
}

std::vector<const std::byte*> DecodeBatch::tile_table(const std::byte* tiles) const {
  const auto stride = static_cast<std::size_t>(kv().max_tiles);
  std::vector<const std::byte*> table(stride * sequences_.size());
  for (std::size_t s = 0; s < sequences_.size(); ++s) {
    for (std::size_t i = 0; i < sequences_[s].at.size(); ++i) {
      table[s * stride + i] = tiles + sequences_[s].at[i];
    }
  }
  return table;
}
std::vector<const std::byte*> DecodeBatch::open_table(const std::byte* open) const {
  std::vector<const std::byte*> table;
  for (std::size_t s = 0; s < sequences_.size(); ++s) {
    table.push_back(open + s * open_.size() / sequences_.size() * sizeof(Words));
  }
  return table;
}

DecodeBatch::Head DecodeBatch::head_of(int row) const {
  const auto head = static_cast<std::size_t>(row / shape_.group % shape_.kv_heads);
  const Sequence& sequence =
      sequences_[static_cast<std::size_t>(row / (shape_.group * shape_.kv_heads))];
  Head of;
  for (const auto& heads : sequence.tiles) of.tiles.push_back(heads[head].get());
  of.open = &sequence.open[head];
  of.q = queries_.data() + static_cast<std::size_t>(row * shape_.head_dim);
  return of;
}

kernels::TileAnswer DecodeBatch::answer(int row) const {
  const Head head = head_of(row);
  return kernels::attention_answer(head.tiles, *head.open,
                                   static_cast<std::size_t>(shape_.head_dim), head.q);
}

std::vector<double> DecodeBatch::scalar_answer(int row) const {
  const Head head = head_of(row);
  const auto dim = static_cast<std::size_t>(shape_.head_dim);
  kernels::States state(1, static_cast<std::uint32_t>(dim));
  for (const Tile* tile : head.tiles) {
    const kernels::HackWork work{tile->planes, {head.q}, state.view(0, 1)};
    kernels::kHackScalar.attend(&work, 1);
  }
  double m = state.m[0], l = state.l[0];
  std::vector<double> o(state.o.begin(), state.o.end());
  for (std::size_t t = 0; t < head.open->tokens; ++t) {
    double score = 0.0;
    for (std::size_t d = 0; d < dim; ++d) {
      score += double{head.q[d]} * kernels::f32_from_bf16(head.open->k[t * dim + d]);
    }
    const double top = std::max(m, score), before = std::exp(m - top), now = std::exp(score - top);
    m = top;
    l = l * before + now;
    for (std::size_t d = 0; d < dim; ++d) {
      o[d] = o[d] * before + now * kernels::f32_from_bf16(head.open->v[t * dim + d]);
    }
  }
  for (double& value : o) value /= l;
  return o;
}

}  // namespace kvferry::cuda
