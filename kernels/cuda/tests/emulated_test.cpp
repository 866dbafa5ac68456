// The kernels' logic on the CPU, each thread a coroutine (emulated_lane.h).
#include "kernels/cuda/tests/check.h"
#include "kernels/cuda/tests/decode_batch.h"
#include "kernels/cuda/tests/emulated_lane.h"

namespace kvferry::cuda {
namespace {

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
  std::vector<Words> q(batch.queries().size() / 4);
  std::memcpy(q.data(), batch.queries().data(), q.size() * sizeof(Words));
  queries.q = reinterpret_cast<const float*>(q.data());
  std::vector<float> out(batch.queries().size(), NAN);
  std::vector<float> partial(decode_partial_bytes(kv, queries) / sizeof(float), NAN);
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

}  // namespace
}  // namespace kvferry::cuda

int main(int argc, char** argv) {
  kvferry::cuda::register_decode_tests(kvferry::cuda::run_decode);
  return kvferry::cuda::run_tests(argc, argv);
}
