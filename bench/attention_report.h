// What `kvferry bench attention` has measured, and how it is printed.
// Thread contract: values and pure functions.
#pragma once

#include <boost/json/object.hpp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/spread.h"

namespace kvferry::bench {

struct AttentionBenchReport {
  std::string codec, cpu, isa;
  std::uint32_t tokens = 0, kv_heads = 0, head_dim = 0, group = 0, queries = 0;
  int threads = 0, runs = 0;
  std::size_t working_set_bytes = 0;
  double tokens_attended = 0.0;  // by a query token, on average
  // Nanoseconds of a query token for one token that it attends to and KV head.
  Spread ns_per_token_kv_head, bf16_ns_per_token_kv_head;
  double speedup_over_bf16 = 0.0;
  // Of what is stored; and of closed tiles read, once for all queries.
  double bytes_per_token_kv_head = 0.0, read_gbyte_s = 0.0;
  Spread read_ceiling_gbyte_s, dot_ceiling_gops, bf16_dot_ceiling_gops;
  // With k_bias: pairs of channels in a head, time with them, and that over the time without.
  std::uint32_t k_bias_pairs = 0;
  Spread k_bias_ns_per_token_kv_head;
  double k_bias_cost = 0.0;
  // The longer of reading the bytes and doing the operations of q.k and p.v, each at its ceiling:
  // integer ones in closed tiles, those of f32 in a query's own, and all with bf16. A time below
  // its roofline says that the machine was not quiet.
  double roofline_ns = 0.0, over_roofline = 0.0;
  double bf16_roofline_ns = 0.0, bf16_over_roofline = 0.0;
  // Others on the same tensors in the same runs (bench/attention_peer.h).
  struct Peer {
    std::string name;
    Spread ns_per_token_kv_head;
    double bytes_per_token_kv_head = 0.0, rms_error = 0.0;  // relative to the output
    double speedup_over_peer = 0.0;                         // of the codec
  };
  std::vector<Peer> peers;
  double rms_error = 0.0, predicted_rms_error = 0.0, max_error = 0.0, error_bound = 0.0;
};

boost::json::object to_json(const AttentionBenchReport& report);
std::string to_text(const AttentionBenchReport& report);  // a few lines, ends in a newline
// What makes the figures doubtful, a line; empty when nothing does.
std::string doubts(const AttentionBenchReport& report);

}  // namespace kvferry::bench
