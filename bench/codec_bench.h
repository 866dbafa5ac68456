// `kvferry bench codec`: how fast a codec encodes and reconstructs on one core, and what it loses.
//
// Method: 64 tiles of made-up KV in bf16, Gaussian, are encoded one after the other, as a layer's
// tiles are; then the segments are reconstructed to f32. With 8 heads of 128 they are 16 MiB, so
// they come out of the last cache at best, as KV does that was just computed. All rates count the
// bytes of the values in bf16. Runs of everything and of the read ceiling alternate; medians are
// reported. Writing to open tiles goes token by token, from rows that are in the core's cache, as
// in a forward pass, beside the same of `raw`. Rates of wire forms count the bytes of the plain
// segments instead. Before that, attention on segments is compared with exact attention in double
// precision over what they reconstruct to, and encoding twice must give equal bytes; nothing is
// measured when it does not.
//
// Errors are relative: the root mean square of what encoding changed over that of the values, of K
// and V together, in the codec's domain. Data with outliers: of every ten channels one has 20 times
// the deviation of the others, in K and in V.
//
// Thread contract: one thread.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <string>

#include "base/status.h"
#include "bench/spread.h"
#include "bench/wire_bench.h"

namespace kvferry::bench {

struct CodecBenchOptions {
  std::string codec = "hadamard | hack(k=4,v=2)";
  std::uint32_t kv_heads = 8, head_dim = 128;
  std::uint32_t tiles = 64;
  int runs = 9;
};

struct CodecBenchReport {
  std::string codec, cpu, isa;
  std::uint32_t kv_heads = 0, head_dim = 0, tiles = 0;
  int runs = 0;
  std::size_t input_bytes = 0;
  double bits_per_value = 0.0;  // of a closed segment behind the first, its header included
  Spread encode_gbyte_s, reconstruct_gbyte_s;
  double read_ceiling_gbyte_s = 0.0, encode_share_of_read = 0.0;
  // What the domain costs. Of the time of writing K and V to open tiles and encoding them, the part
  // that bringing them into the domain adds to rounding them alone, the median over pairs of a
  // write with and one without it; and for a query head, q into the domain and o out of it. Zeros
  // without a domain stage.
  double domain_share_of_encode = 0.0, domain_ns_per_query_head = 0.0;
  // With a wire stage: its own, and that of `zstd(level=1)` in its place. Zeros without.
  WireReport wire, zstd;
  double rmse_gaussian = 0.0, rmse_outliers = 0.0;
  double attend_error = 0.0;  // rms against exact attention, over the output's rms
};

// kInternal when answers differ by more than attention on codes may.
Result<CodecBenchReport> run_codec_bench(const CodecBenchOptions& options);

boost::json::object to_json(const CodecBenchReport& report);
std::string to_text(const CodecBenchReport& report);  // a few lines, ends in a newline

}  // namespace kvferry::bench
