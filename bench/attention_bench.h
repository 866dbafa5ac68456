// `kvferry bench attention`: decode attention on a codec's segments, beside bf16 and the roofline.
//
// Method: the model room's own attention (model/attention.h), one query token of one sequence, or
// `queries` tokens behind it, over every layer of a sequence of `tokens` tokens in turn. There are
// as many layers as make the memory read at least 8 times the last-level cache and 256 MiB, and at
// least those that a profile names; a layer's segments are copies of its own encoded tiles of
// made-up values. Runs of the codec, of bf16 and of the ceilings alternate; medians are reported,
// and ratios are medians of the ratios of each run. Times are of one query token, one token that it
// attends to, and one KV head: query token i attends to tokens + i + 1, those of its own tile
// dense. Bringing q into the codec's domain, which the model does before, is not in them (about 20
// ns a query head with `hadamard`, docs/codecs.md); bringing the output out of it is.
//
// First the same attention, with as many threads and query tokens, over the same sequence or, when
// that is longer, over its first 4,096 tokens, is held to exact attention in double precision over
// what the bytes mean (bench/oracle.h): bf16, the codec, in each layer that is stored in another
// way, and that with a K bias. Compared are the first, the middle and the last query token, in the
// first and the last KV head, of each its first and last query head. Nothing is measured when an
// answer is out of bounds.
//
// Thread contract: one thread, which drives the compute pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "base/status.h"
#include "bench/attention_report.h"

namespace kvferry::bench {

struct AttentionBenchOptions {
  std::string codec = "hack(k=2,v=2)";
  std::uint32_t tokens = 32768;  // a multiple of 128
  std::uint32_t kv_heads = 8, head_dim = 128, group = 4;
  std::uint32_t queries = 1;  // query tokens of a run
  // Measures beside it what a K bias costs that the codec leaves out of what it stores: of every
  // pair of channels that may be (model/removed_bias.h) at Qwen2.5's rope, theta 1e6, in all heads.
  bool k_bias = false;
  int threads = 1;
  int runs = 9;
  // Bytes at least; 0: the larger of 256 MiB and 8 last-level caches.
  std::size_t least_working_set = 0;
  std::function<void(double fraction)> progress;  // may be empty
};

// kInternal when an answer is out of its bound; kInvalidArgument when the layers that a profile
// names hold less than the working set.
Result<AttentionBenchReport> run_attention_bench(const AttentionBenchOptions& options);

}  // namespace kvferry::bench
