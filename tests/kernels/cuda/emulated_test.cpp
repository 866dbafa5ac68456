// The kernels' logic on the CPU, each thread a coroutine (emulated_lane.h).
#include "kernels/cuda/dense_decode.h"
#include "kernels/cuda/hack_decode.h"
#include "kernels/cuda/hack_encode.h"
#include "tests/kernels/cuda/check.h"
#include "tests/kernels/cuda/decode_batch.h"
#include "tests/kernels/cuda/dense_tests.h"
#include "tests/kernels/cuda/emulated_lane.h"
#include "tests/kernels/cuda/encode_batch.h"

namespace kvferry::cuda {
namespace {

std::vector<Words> aligned(const std::vector<float>& values) {
  std::vector<Words> words(values.size() / 4);
  std::memcpy(words.data(), values.data(), words.size() * sizeof(Words));
  return words;
}

template <int kDim>
std::vector<float> run_decode_of(const DecodeBatch& batch) {
  PagedKv kv = batch.kv();
  const auto tiles = batch.tile_table(reinterpret_cast<const std::byte*>(batch.tiles().data()));
  const auto open = batch.open_table(reinterpret_cast<const std::byte*>(batch.open().data()));
  kv.tiles = tiles.data();
  kv.open = open.data();
  kv.closed_tiles = batch.closed_tiles().data();
  kv.open_tokens = batch.open_tokens().data();
  DecodeQueries queries;
  queries.sequences = static_cast<int>(batch.shape().tokens.size());
  queries.group = batch.shape().group;
  const std::vector<Words> q = aligned(batch.queries());
  queries.q = reinterpret_cast<const float*>(q.data());
  std::vector<float> out(batch.queries().size(), NAN);
  std::vector<float> partial(
      partial_bytes(kDim, kv.kv_heads, decode_parts(kv.max_tiles), queries) / sizeof(float), NAN);
  queries.out = out.data();
  queries.partial = partial.data();
  emulate({static_cast<std::uint32_t>(decode_parts(kv.max_tiles)),
           static_cast<std::uint32_t>(kv.kv_heads * row_blocks(queries.group)),
           static_cast<std::uint32_t>(queries.sequences)},
          kDecodeThreads, decode_shared_bytes<kDim>(kv),
          [&](const EmulatedLane& lane) { hack_decode<kDim>(lane, kv, queries); });
  emulate({static_cast<std::uint32_t>(batch.rows())}, kDim, 0,
          [&](const EmulatedLane& lane) { merge_decode<kDim>(lane, kv, queries); });
  return out;
}

std::vector<float> run_decode(const DecodeBatch& batch) {
  switch (batch.shape().head_dim) {
    case 64:
      return run_decode_of<64>(batch);
    case 128:
      return run_decode_of<128>(batch);
    default:
      return run_decode_of<256>(batch);
  }
}

template <int kDim>
std::vector<float> run_dense_of(const DenseBatch& batch) {
  DensePages kv = batch.arguments();
  const auto table = batch.table(reinterpret_cast<const std::byte*>(batch.pages.data()));
  kv.tiles = table.data();
  kv.tokens = batch.tokens.data();
  DecodeQueries queries;
  queries.sequences = static_cast<int>(batch.tokens.size());
  queries.group = batch.group;
  const std::vector<Words> q = aligned(batch.queries);
  queries.q = reinterpret_cast<const float*>(q.data());
  const int runs = max_runs(kv.max_tiles);
  std::vector<float> out(batch.queries.size(), NAN);
  std::vector<float> partial(partial_bytes(kDim, kv.kv_heads, runs, queries) / sizeof(float), NAN);
  queries.out = out.data();
  queries.partial = partial.data();
  emulate({static_cast<std::uint32_t>(runs),
           static_cast<std::uint32_t>(kv.kv_heads * row_blocks(queries.group)),
           static_cast<std::uint32_t>(queries.sequences)},
          kDecodeThreads, dense_shared_bytes<kDim>(),
          [&](const EmulatedLane& lane) { dense_decode<kDim>(lane, kv, queries); });
  emulate({static_cast<std::uint32_t>(batch.rows())}, kDim, 0,
          [&](const EmulatedLane& lane) { merge_dense<kDim>(lane, kv, queries); });
  return out;
}

std::vector<float> run_dense(const DenseBatch& batch) {
  switch (batch.head_dim) {
    case 64:
      return run_dense_of<64>(batch);
    case 128:
      return run_dense_of<128>(batch);
    default:
      return run_dense_of<256>(batch);
  }
}

template <int kDim>
void emulate_encode(const EncodeTiles& tiles) {
  emulate({static_cast<std::uint32_t>(tiles.tiles), static_cast<std::uint32_t>(tiles.kv_heads), 2},
          kDim, EncodeShared<kDim>::kBytes,
          [&](const EmulatedLane& lane) { hack_encode<kDim>(lane, tiles); });
}

EncodeResult run_encode(const EncodeBatch& batch) {
  const auto bytes = static_cast<std::size_t>(batch.head_bytes() * batch.shape.kv_heads);
  const auto tiles = static_cast<std::size_t>(batch.tiles);
  EncodeResult result{std::vector<std::byte>(tiles * bytes), std::vector<int>(tiles, 0)};
  std::vector<const std::byte*> from;
  std::vector<std::byte*> to;
  for (std::size_t i = 0; i < tiles; ++i) {
    from.push_back(reinterpret_cast<const std::byte*>(batch.values.data()) +
                   i * batch.tile_bytes());
    to.push_back(result.parts.data() + i * bytes);
  }
  EncodeTiles arguments = batch.arguments();
  arguments.from = from.data();
  arguments.to = to.data();
  arguments.not_finite = result.not_finite.data();
  switch (batch.shape.head_dim) {
    case 64:
      emulate_encode<64>(arguments);
      break;
    case 128:
      emulate_encode<128>(arguments);
      break;
    default:
      emulate_encode<256>(arguments);
  }
  return result;
}

}  // namespace
}  // namespace kvferry::cuda

int main(int argc, char** argv) {
  kvferry::cuda::register_decode_tests(kvferry::cuda::run_decode);
  kvferry::cuda::register_encode_tests(kvferry::cuda::run_encode);
  kvferry::cuda::register_dense_tests(kvferry::cuda::run_dense);
  return kvferry::cuda::run_tests(argc, argv);
}
