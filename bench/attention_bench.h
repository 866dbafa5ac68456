// `kvferry bench attention`: decode attention on a codec's segments, beside bf16 and the roofline.
//
// Method: the model room's own attention (model/attention.h), one query token of one sequence, or
// `queries` tokens behind it, over every layer of a sequence of `tokens` tokens in turn. There are
// as many layers as make the memory read at least 8 times the last-level cache and 256 MiB, and at
// least those that a profile names; a layer's segments are copies of its own encoded tiles of
// made-up values. Runs of the codec, of bf16 and of
// the ceilings alternate; medians are reported. First a short sequence of the same shape is
// checked, in each layer that is stored in another way, against exact attention in double precision
// over what the bytes mean (bench/oracle.h); nothing is measured when an answer is out of bounds.
//
// Thread contract: one thread, which drives the compute pool.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

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
};

struct AttentionBenchReport {
  std::string codec, cpu, isa;
  std::uint32_t tokens = 0, kv_heads = 0, head_dim = 0, group = 0, queries = 0;
  int threads = 0, runs = 0;
  std::size_t working_set_bytes = 0;
  // Nanoseconds of a query token for one token of the cache and KV head: median and spread.
  double ns_per_token_kv_head = 0.0, ns_min = 0.0, ns_max = 0.0;
  double bf16_ns_per_token_kv_head = 0.0, speedup_over_bf16 = 0.0;
  // The same roofline for bf16: its bytes, and its products at the ceiling of f32.
  double bf16_dot_ceiling_gops = 0.0, bf16_roofline_ns = 0.0, bf16_over_roofline = 0.0;
  double bytes_per_token_kv_head = 0.0, read_gbyte_s = 0.0;
  double read_ceiling_gbyte_s = 0.0, dot_ceiling_gops = 0.0;
  // With k_bias: pairs of channels in a head, time with them, and that over the time without.
  std::uint32_t k_bias_pairs = 0;
  double k_bias_ns_per_token_kv_head = 0.0, k_bias_cost = 0.0;
  // The longer of reading the bytes (once for all queries) and doing the integer operations of q.k
  // and p.v, each at its ceiling.
  double roofline_ns = 0.0, over_roofline = 0.0;
  // Others on the same tensors in the same runs (bench/attention_peer.h).
  struct Peer {
    std::string name;
    double ns_per_token_kv_head = 0.0, ns_min = 0.0, ns_max = 0.0;
    double bytes_per_token_kv_head = 0.0, rms_error = 0.0;  // relative to the output
    double speedup_over_peer = 0.0;                         // of the codec
  };
  std::vector<Peer> peers;
  double rms_error = 0.0, predicted_rms_error = 0.0, max_error = 0.0, error_bound = 0.0;
};

// kInternal when an answer is out of its bound; kInvalidArgument when the layers that a profile
// names hold less than the working set.
Result<AttentionBenchReport> run_attention_bench(const AttentionBenchOptions& options);

boost::json::object to_json(const AttentionBenchReport& report);
std::string to_text(const AttentionBenchReport& report);  // a few lines, ends in a newline

}  // namespace kvferry::bench
