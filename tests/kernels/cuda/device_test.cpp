// The kernels on a GPU.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/kernels/cuda/check.h"
#include "tests/kernels/cuda/decode_batch.h"
#include "tests/kernels/cuda/dense_tests.h"
#include "tests/kernels/cuda/encode_batch.h"
#include "tests/kernels/cuda/on_device.h"

namespace kvferry::cuda {
namespace {

std::vector<float> run_decode(const DecodeBatch& batch) {
  PagedKv kv = batch.kv();
  const OnDevice<Words> tiles(batch.tiles()), open(batch.open());
  const OnDevice<const std::byte*> tile_table(batch.tile_table(tiles.bytes()));
  const OnDevice<const std::byte*> open_table(batch.open_table(open.bytes()));
  const OnDevice<int> closed_tiles(batch.closed_tiles()), open_tokens(batch.open_tokens());
  kv.tiles = tile_table.data();
  kv.open = open_table.data();
  kv.closed_tiles = closed_tiles.data();
  kv.open_tokens = open_tokens.data();
  DecodeQueries queries;
  queries.sequences = static_cast<int>(batch.shape().tokens.size());
  queries.group = batch.shape().group;
  const OnDevice<float> q(batch.queries()), out(batch.queries().size());
  const OnDevice<std::byte> partial(decode_partial_bytes(kv, queries));
  queries.q = q.data();
  queries.out = out.data();
  queries.partial = reinterpret_cast<float*>(partial.data());
  must(decode_attend(kv, queries, nullptr), "decode_attend");
  must(cudaDeviceSynchronize(), "decode_attend");
  return out.copy();
}

std::vector<float> run_dense(const DenseBatch& batch) {
  DensePages kv = batch.arguments();
  const OnDevice<Words> pages(batch.pages);
  const OnDevice<const std::byte*> table(batch.table(pages.bytes()));
  const OnDevice<int> tokens(batch.tokens);
  kv.tiles = table.data();
  kv.tokens = tokens.data();
  DecodeQueries queries;
  queries.sequences = static_cast<int>(batch.tokens.size());
  queries.group = batch.group;
  const OnDevice<float> q(batch.queries), out(batch.queries.size());
  const OnDevice<std::byte> partial(dense_partial_bytes(kv, queries));
  queries.q = q.data();
  queries.out = out.data();
  queries.partial = reinterpret_cast<float*>(partial.data());
  must(dense_attend(kv, queries, nullptr), "dense_attend");
  must(cudaDeviceSynchronize(), "dense_attend");
  return out.copy();
}

EncodeResult run_encode(const EncodeBatch& batch) {
  const auto bytes = static_cast<std::size_t>(batch.head_bytes() * batch.shape.kv_heads);
  const auto tiles = static_cast<std::size_t>(batch.tiles);
  const OnDevice<Words> values(batch.values);
  const OnDevice<std::byte> parts(tiles * bytes);
  const OnDevice<int> not_finite(tiles);
  std::vector<const std::byte*> from;
  std::vector<std::byte*> to;
  for (std::size_t i = 0; i < tiles; ++i) {
    from.push_back(values.bytes() + i * batch.tile_bytes());
    to.push_back(parts.bytes() + i * bytes);
  }
  const OnDevice<const std::byte*> from_table(from);
  const OnDevice<std::byte*> to_table(to);
  EncodeTiles arguments = batch.arguments();
  arguments.from = from_table.data();
  arguments.to = to_table.data();
  arguments.not_finite = not_finite.data();
  must(encode_tiles(arguments, nullptr), "encode_tiles");
  must(cudaDeviceSynchronize(), "encode_tiles");
  return {parts.copy(), not_finite.copy()};
}

}  // namespace
}  // namespace kvferry::cuda

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no GPU: nothing ran\n");
    return 77;
  }
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) == cudaSuccess) {
    std::printf("on %s, sm_%d%d\n", properties.name, properties.major, properties.minor);
  }
  kvferry::cuda::register_decode_tests(kvferry::cuda::run_decode);
  kvferry::cuda::register_encode_tests(kvferry::cuda::run_encode);
  kvferry::cuda::register_dense_tests(kvferry::cuda::run_dense);
  return kvferry::cuda::run_tests(argc, argv);
}
