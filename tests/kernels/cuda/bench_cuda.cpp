// bench_cuda attention|encode [--tokens 4096,32768,131072] [--batch 1,16] [--heads 64]
//            [--kv-heads 8] [--head-dim 128] [--k-bits 2] [--v-bits 2] [--json]
//
// attention: decode attention on codes beside our own over bf16 KV of the same shape and the speed
// of reading the device's memory, all in one run, interleaved; the answer is checked first against
// double precision. Layers are taken in rotation, so that nothing is in the cache. encode: bf16
// tiles to codes, of as many tokens.
//
// Prints a line for each number of tokens and batch; with --json an object each.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "kernels/cuda/dense_cuda.h"
#include "kernels/cuda/hack_cuda.h"
#include "kernels/cuda/lane.h"
#include "tests/kernels/cuda/device_read.h"
#include "tests/kernels/cuda/encode_batch.h"
#include "tests/kernels/cuda/on_device.h"
#include "tests/kernels/hack_tile.h"

namespace kvferry::cuda {
namespace {

struct Options {
  std::string what = "attention";
  std::vector<int> tokens = {4096, 32768, 131072}, batch = {1, 16};
  int heads = 64, kv_heads = 8, head_dim = 128, k_bits = 2, v_bits = 2;
  bool json = false;

  int group() const { return heads / kv_heads; }
};

[[noreturn]] void usage(const std::string& why) {
  std::fprintf(stderr,
               "bench_cuda: %s\nbench_cuda attention|encode [--tokens N,...] [--batch N,...] "
               "[--heads N] [--kv-heads N] [--head-dim N] [--k-bits N] [--v-bits N] [--json]\n",
               why.c_str());
  std::exit(2);
}

std::vector<int> numbers(const std::string& text) {
  std::vector<int> list;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t used = 0;
    try {
      list.push_back(std::stoi(text.substr(at), &used));
    } catch (const std::exception&) {
      usage("\"" + text + "\" is not a list of numbers");
    }
    if (list.back() < 1) usage("\"" + text + "\" has a number below 1");
    at += used + 1;
  }
  return list;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (i == 1 && (name == "attention" || name == "encode")) {
      options.what = name;
      continue;
    }
    if (name == "--json") {
      options.json = true;
      continue;
    }
    if (i + 1 == argc) usage("\"" + name + "\" is not an option, or lacks its value");
    const std::vector<int> value = numbers(argv[++i]);
    if (name == "--tokens") {
      options.tokens = value;
    } else if (name == "--batch") {
      options.batch = value;
    } else if (name == "--heads") {
      options.heads = value.at(0);
    } else if (name == "--kv-heads") {
      options.kv_heads = value.at(0);
    } else if (name == "--head-dim") {
      options.head_dim = value.at(0);
    } else if (name == "--k-bits") {
      options.k_bits = value.at(0);
    } else if (name == "--v-bits") {
      options.v_bits = value.at(0);
    } else {
      usage("\"" + name + "\" is not an option");
    }
  }
  if (options.heads % options.kv_heads != 0) usage("--heads must be a multiple of --kv-heads");
  for (int& tokens : options.tokens) tokens = std::max(64, tokens / 64 * 64);
  return options;
}

// ---- timing ----

struct Time {
  double microseconds, spread;  // median, and how far the middle half of the rounds is from it
};

// Times what it is given by turns, each as a graph of several calls, so that a launch costs what it
// costs in an engine's step.
class Timer {
 public:
  Timer() { must(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
  ~Timer() { cudaStreamDestroy(stream_); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // A graph of call(0, stream) .. call(count - 1, stream).
  void add(int count, const std::function<Error(int, Stream)>& call) {
    Graph graph{nullptr, count, {}};
    cudaGraph_t captured;
    must(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "capture");
    for (int i = 0; i < count; ++i) must(call(i, stream_), "launch");
    must(cudaStreamEndCapture(stream_, &captured), "capture");
    must(cudaGraphInstantiate(&graph.graph, captured, 0), "cudaGraphInstantiate");
    cudaGraphDestroy(captured);
    graphs_.push_back(graph);
  }
  std::vector<Time> run(int rounds) {
    cudaEvent_t begin, end;
    must(cudaEventCreate(&begin), "cudaEventCreate");
    must(cudaEventCreate(&end), "cudaEventCreate");
    for (int round = -2; round < rounds; ++round) {  // two to warm up
      for (Graph& graph : graphs_) {
        must(cudaEventRecord(begin, stream_), "cudaEventRecord");
        must(cudaGraphLaunch(graph.graph, stream_), "cudaGraphLaunch");
        must(cudaEventRecord(end, stream_), "cudaEventRecord");
        must(cudaEventSynchronize(end), "the kernels");
        float milliseconds = 0.0f;
        must(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
        if (round >= 0) graph.times.push_back(1e3 * milliseconds / graph.calls);
      }
    }
    std::vector<Time> times;
    for (Graph& graph : graphs_) {
      std::sort(graph.times.begin(), graph.times.end());
      const std::size_t n = graph.times.size();
      const double middle = graph.times[n / 2];
      times.push_back({middle, std::max(middle - graph.times[n / 4],
                                        graph.times[std::min(n - 1, 3 * n / 4)] - middle)});
      cudaGraphExecDestroy(graph.graph);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    graphs_.clear();
    return times;
  }

 private:
  struct Graph {
    cudaGraphExec_t graph;
    int calls;
    std::vector<double> times;
  };
  cudaStream_t stream_ = nullptr;
  std::vector<Graph> graphs_;
};

// ---- what is attended to ----

constexpr std::size_t kImages = 64;  // different tiles; the others are copies
// Many times the cache: 50 MiB on an H200.
constexpr std::size_t kWorkingSet = std::size_t{1} << 30;

// The KV of enough layers, on the device: each a table of pointers to tiles, image after image.
class Layers {
 public:
  // images: kImages tiles of all KV heads, one behind the other.
  Layers(const std::vector<std::byte>& images, std::size_t tiles)
      : tile_bytes_(images.size() / kImages),
        count_((kWorkingSet + tiles * tile_bytes_ - 1) / (tiles * tile_bytes_)),
        memory_(count_ * tiles * tile_bytes_) {
    std::vector<const std::byte*> table;
    for (std::size_t i = 0; i < count_ * tiles; ++i) {
      std::byte* const to = memory_.bytes() + i * tile_bytes_;
      table.push_back(to);
      must(cudaMemcpyAsync(to, images.data() + i % kImages * tile_bytes_, tile_bytes_,
                           cudaMemcpyHostToDevice, nullptr),
           "to the device");
    }
    table_ = std::make_unique<OnDevice<const std::byte*>>(table);
    tiles_ = tiles;
  }
  int count() const { return static_cast<int>(count_); }
  const std::byte* const* table(int layer) const {
    return table_->data() + static_cast<std::size_t>(layer) * tiles_;
  }
  const std::byte* memory() const { return memory_.bytes(); }
  std::size_t layer_bytes() const { return tiles_ * tile_bytes_; }

 private:
  std::size_t tile_bytes_, count_, tiles_ = 0;
  OnDevice<std::byte> memory_;
  std::unique_ptr<OnDevice<const std::byte*>> table_;
};

void append(std::vector<std::byte>& to, const void* from, std::size_t bytes) {
  const auto* const data = static_cast<const std::byte*>(from);
  to.insert(to.end(), data, data + bytes);
}

// Tiles of codes, and what they are made of.
struct CodedImages {
  std::vector<std::vector<std::unique_ptr<kernels::Tile>>> tiles;  // [image][head]
  std::vector<std::byte> bytes;
};
CodedImages make_coded(const Options& options) {
  CodedImages images;
  for (std::size_t i = 0; i < kImages; ++i) {
    images.tiles.emplace_back();
    for (int head = 0; head < options.kv_heads; ++head) {
      kernels::TileShape shape{static_cast<std::uint32_t>(options.head_dim),
                               static_cast<std::uint32_t>(options.k_bits),
                               static_cast<std::uint32_t>(options.v_bits)};
      shape.low = -5 - std::max(options.k_bits, options.v_bits);
      shape.high = shape.low + 3;
      const auto seed = static_cast<std::uint32_t>(i) * 1000 + static_cast<std::uint32_t>(head);
      images.tiles.back().push_back(std::make_unique<kernels::Tile>(shape, seed));
      const kernels::Tile& tile = *images.tiles.back().back();
      append(images.bytes, tile.k_codes.data(), tile.k_codes.size());
      for (const auto* plane : {&tile.k_scale, &tile.k_min}) {
        append(images.bytes, plane->data(), 2 * plane->size());
      }
      append(images.bytes, tile.v_codes.data(), tile.v_codes.size());
      for (const auto* plane : {&tile.v_scale, &tile.v_min}) {
        append(images.bytes, plane->data(), 2 * plane->size());
      }
    }
  }
  return images;
}

// Tiles of bf16 values in -1 .. 1: K of all heads, then V.
std::vector<std::byte> make_dense(const Options& options) {
  std::mt19937 random(1);
  const auto values =
      kImages * 2 * 64 * static_cast<std::size_t>(options.kv_heads * options.head_dim);
  std::vector<std::uint16_t> images(values);
  for (std::uint16_t& value : images) {
    value = kernels::bf16_from_f32(static_cast<float>(random() % 65536) / 32768.0f - 1.0f);
  }
  std::vector<std::byte> bytes;
  append(bytes, images.data(), 2 * values);
  return bytes;
}

// ---- attention ----

struct Check {
  double max_error = 0.0, of_bound = 0.0;  // the greatest, and the greatest share of its bound
};

// The first and the last row of the first sequence.
Check check(const Options& options, const CodedImages& images, int tokens,
            const std::vector<float>& queries, const std::vector<float>& out) {
  Check found;
  const auto dim = static_cast<std::size_t>(options.head_dim);
  for (const int row : {0, options.heads - 1}) {
    const auto head = static_cast<std::size_t>(row / options.group());
    std::vector<const kernels::Tile*> tiles;
    for (std::size_t i = 0; i < static_cast<std::size_t>(tokens / 64); ++i) {
      tiles.push_back(images.tiles[i % kImages][head].get());
    }
    const std::size_t at = static_cast<std::size_t>(row) * dim;
    const auto want = kernels::attention_answer(tiles, {}, dim, queries.data() + at);
    for (std::size_t d = 0; d < dim; ++d) {
      const double off = std::fabs(out[at + d] - want.output[d]);
      found.max_error = std::max(found.max_error, off);
      found.of_bound = std::max(found.of_bound, off / want.bound[d]);
    }
  }
  return found;
}

void bench_attention(const Options& options, const std::string& gpu, int tokens, int batch) {
  const auto tiles = static_cast<std::size_t>(tokens / 64) * static_cast<std::size_t>(batch);
  const CodedImages images = make_coded(options);
  const Layers coded(images.bytes, tiles), dense(make_dense(options), tiles);
  const std::vector<float> q =
      kernels::make_queries(static_cast<std::uint32_t>(batch * options.heads),
                            static_cast<std::uint32_t>(options.head_dim), 3, 0.3f);
  const OnDevice<float> queries_on(q), out(q.size());
  DecodeQueries queries;
  queries.sequences = batch;
  queries.group = options.group();
  queries.q = queries_on.data();
  queries.out = out.data();

  PagedKv kv;
  kv.head_dim = options.head_dim;
  kv.kv_heads = options.kv_heads;
  kv.k_bits = kv.first_k_bits = options.k_bits;
  kv.v_bits = kv.first_v_bits = options.v_bits;
  kv.head_bytes = kv.first_head_bytes =
      8 * options.head_dim * (options.k_bits + options.v_bits + 1);
  kv.max_tiles = tokens / 64;
  const OnDevice<int> closed(std::vector<int>(static_cast<std::size_t>(batch), tokens / 64));
  const OnDevice<int> none(static_cast<std::size_t>(batch));
  const OnDevice<int> lengths(std::vector<int>(static_cast<std::size_t>(batch), tokens));
  kv.closed_tiles = closed.data();
  kv.open_tokens = none.data();
  DensePages pages;
  pages.head_dim = options.head_dim;
  pages.kv_heads = options.kv_heads;
  pages.max_tiles = tokens / 64;
  pages.tokens = lengths.data();
  const OnDevice<std::byte> partial(
      std::max(decode_partial_bytes(kv, queries), dense_partial_bytes(pages, queries)));
  queries.partial = reinterpret_cast<float*>(partial.data());

  const auto attend_coded = [&](int layer, Stream stream) {
    kv.tiles = coded.table(layer);
    return decode_attend(kv, queries, stream);
  };
  must(attend_coded(0, nullptr), "decode_attend");
  must(cudaDeviceSynchronize(), "decode_attend");
  const Check checked = check(options, images, tokens, q, out.copy());
  if (!(checked.of_bound <= 1.0)) {
    std::fprintf(stderr,
                 "bench_cuda: the answer is wrong by %g, %.2f times its bound: no figures\n",
                 checked.max_error, checked.of_bound);
    std::exit(1);
  }

  const OnDevice<unsigned> sink(1);
  Timer timer;
  timer.add(coded.count(), attend_coded);
  timer.add(dense.count(), [&](int layer, Stream stream) {
    pages.tiles = dense.table(layer);
    return dense_attend(pages, queries, stream);
  });
  timer.add(dense.count(), [&](int layer, Stream stream) {
    return read_device(dense.memory() + static_cast<std::size_t>(layer) * dense.layer_bytes(),
                       dense.layer_bytes(), sink.data(), stream);
  });
  const std::vector<Time> times = timer.run(15);
  const auto speed = [](std::size_t bytes, const Time& time) {
    return static_cast<double>(bytes) / time.microseconds * 1e-3;
  };
  const double read = speed(coded.layer_bytes(), times[0]);
  const double dense_read = speed(dense.layer_bytes(), times[1]);
  const double ceiling = speed(dense.layer_bytes(), times[2]);
  if (!options.json) {
    std::printf(
        "%7d tokens, batch %3d: %8.1f us (+-%.1f), %6.0f GB/s, %4.1f %% of reading; bf16 %8.1f us, "
        "%4.1f %%; %.2f times as fast; error %.2f of its bound\n",
        tokens, batch, times[0].microseconds, times[0].spread, read, 100 * read / ceiling,
        times[1].microseconds, 100 * dense_read / ceiling,
        times[1].microseconds / times[0].microseconds, checked.of_bound);
    return;
  }
  std::printf(
      "{\"gpu\": \"%s\", \"tokens\": %d, \"batch\": %d, \"heads\": %d, \"kv_heads\": %d, "
      "\"head_dim\": %d, \"k_bits\": %d, \"v_bits\": %d, \"layers\": %d, "
      "\"working_set_bytes\": %zu, \"microseconds\": %.2f, \"spread_microseconds\": %.2f, "
      "\"read_gbyte_s\": %.1f, \"read_ceiling_gbyte_s\": %.1f, \"share_of_ceiling\": %.3f, "
      "\"bf16_microseconds\": %.2f, \"bf16_read_gbyte_s\": %.1f, \"bf16_share_of_ceiling\": %.3f, "
      "\"speedup_over_bf16\": %.3f, \"max_error\": %.3g, \"error_of_bound\": %.3g}\n",
      gpu.c_str(), tokens, batch, options.heads, options.kv_heads, options.head_dim, options.k_bits,
      options.v_bits, coded.count(), coded.layer_bytes() * static_cast<std::size_t>(coded.count()),
      times[0].microseconds, times[0].spread, read, ceiling, read / ceiling, times[1].microseconds,
      dense_read, dense_read / ceiling, times[1].microseconds / times[0].microseconds,
      checked.max_error, checked.of_bound);
}

// ---- encoding ----

void bench_encode(const Options& options, const std::string& gpu, int tokens,
                  kernels::HackRange range, const char* range_name) {
  const auto tiles = static_cast<std::size_t>(tokens / 64);
  const std::vector<std::byte> images = make_dense(options);
  const Layers dense(images, tiles);
  EncodeBatch first{
      {options.head_dim, options.kv_heads, options.k_bits, options.v_bits, range, range}, 1, {}};
  first.values.resize(first.tile_bytes() / sizeof(Words));
  std::memcpy(first.values.data(), images.data(), first.tile_bytes());
  EncodeTiles arguments = first.arguments();
  arguments.tiles = static_cast<int>(tiles);
  const std::size_t tile_bytes = static_cast<std::size_t>(arguments.head_bytes * options.kv_heads);
  const OnDevice<std::byte> codes(tiles * tile_bytes);
  std::vector<std::byte*> to;
  for (std::size_t i = 0; i < tiles; ++i) to.push_back(codes.bytes() + i * tile_bytes);
  const OnDevice<std::byte*> to_table(to);
  const OnDevice<int> not_finite(tiles);
  arguments.to = to_table.data();
  arguments.not_finite = not_finite.data();
  arguments.from = dense.table(0);
  must(encode_tiles(arguments, nullptr), "encode_tiles");
  must(cudaDeviceSynchronize(), "encode_tiles");
  const std::vector<std::byte> want = scalar_part(first, 0, 0), got = codes.copy();
  if (!std::equal(want.begin(), want.end(), got.begin())) {
    std::fprintf(stderr, "bench_cuda: other bytes than the CPU's: no figures\n");
    std::exit(1);
  }
  const OnDevice<unsigned> sink(1);
  Timer timer;
  timer.add(dense.count(), [&](int layer, Stream stream) {
    arguments.from = dense.table(layer);
    return encode_tiles(arguments, stream);
  });
  timer.add(dense.count(), [&](int layer, Stream stream) {
    return read_device(dense.memory() + static_cast<std::size_t>(layer) * dense.layer_bytes(),
                       dense.layer_bytes(), sink.data(), stream);
  });
  const std::vector<Time> times = timer.run(15);
  const double input = static_cast<double>(dense.layer_bytes()) / times[0].microseconds * 1e-3;
  const double ceiling = static_cast<double>(dense.layer_bytes()) / times[1].microseconds * 1e-3;
  if (!options.json) {
    std::printf("%7d tokens, %s: %8.1f us (+-%.1f), %6.0f GB/s of bf16, %4.1f %% of reading\n",
                tokens, range_name, times[0].microseconds, times[0].spread, input,
                100 * input / ceiling);
    return;
  }
  std::printf(
      "{\"gpu\": \"%s\", \"tokens\": %d, \"range\": \"%s\", \"kv_heads\": %d, \"head_dim\": %d, "
      "\"k_bits\": %d, \"v_bits\": %d, \"microseconds\": %.2f, \"spread_microseconds\": %.2f, "
      "\"encode_gbyte_s\": %.1f, \"read_ceiling_gbyte_s\": %.1f}\n",
      gpu.c_str(), tokens, range_name, options.kv_heads, options.head_dim, options.k_bits,
      options.v_bits, times[0].microseconds, times[0].spread, input, ceiling);
}

int bench(const Options& options) {
  cudaDeviceProp properties;
  must(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  for (const int tokens : options.tokens) {
    if (options.what == "attention") {
      for (const int batch : options.batch)
        bench_attention(options, properties.name, tokens, batch);
      continue;
    }
    bench_encode(options, properties.name, tokens, kernels::HackRange::kMinMax, "minmax");
    bench_encode(options, properties.name, tokens, kernels::HackRange::kSearch, "search");
    bench_encode(options, properties.name, tokens, kernels::HackRange::kLeastSquares, "lsq");
  }
  return 0;
}

}  // namespace
}  // namespace kvferry::cuda

int main(int argc, char** argv) {
  const auto options = kvferry::cuda::parse(argc, argv);
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "bench_cuda: no GPU here\n");
    return 1;
  }
  return kvferry::cuda::bench(options);
}
