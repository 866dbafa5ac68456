#include "bench/attention_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace kvferry::bench {

boost::json::object to_json(const AttentionBenchReport& r) {
  boost::json::array peers;
  for (const auto& peer : r.peers) {
    peers.push_back(boost::json::object{{"name", peer.name},
                                        {"ns_per_token_kv_head", peer.ns_per_token_kv_head.median},
                                        {"ns_min", peer.ns_per_token_kv_head.min},
                                        {"ns_max", peer.ns_per_token_kv_head.max},
                                        {"bytes_per_token_kv_head", peer.bytes_per_token_kv_head},
                                        {"relative_error", peer.rms_error},
                                        {"speedup_over_peer", peer.speedup_over_peer}});
  }
  return {{"bench", "attention"},
          {"codec", r.codec},
          {"cpu", r.cpu},
          {"isa", r.isa},
          {"tokens", r.tokens},
          {"kv_heads", r.kv_heads},
          {"head_dim", r.head_dim},
          {"group", r.group},
          {"queries", r.queries},
          {"threads", r.threads},
          {"runs", r.runs},
          {"working_set_bytes", r.working_set_bytes},
          {"tokens_attended", r.tokens_attended},
          {"ns_per_token_kv_head", r.ns_per_token_kv_head.median},
          {"ns_min", r.ns_per_token_kv_head.min},
          {"ns_max", r.ns_per_token_kv_head.max},
          {"bf16_ns_per_token_kv_head", r.bf16_ns_per_token_kv_head.median},
          {"bf16_ns_min", r.bf16_ns_per_token_kv_head.min},
          {"bf16_ns_max", r.bf16_ns_per_token_kv_head.max},
          {"speedup_over_bf16", r.speedup_over_bf16},
          {"bf16_dot_ceiling_gops", r.bf16_dot_ceiling_gops.median},
          {"bf16_dot_ceiling_gops_min", r.bf16_dot_ceiling_gops.min},
          {"bf16_dot_ceiling_gops_max", r.bf16_dot_ceiling_gops.max},
          {"bf16_roofline_ns", r.bf16_roofline_ns},
          {"bf16_over_roofline", r.bf16_over_roofline},
          {"k_bias_pairs", r.k_bias_pairs},
          {"k_bias_ns_per_token_kv_head", r.k_bias_ns_per_token_kv_head.median},
          {"k_bias_ns_min", r.k_bias_ns_per_token_kv_head.min},
          {"k_bias_ns_max", r.k_bias_ns_per_token_kv_head.max},
          {"k_bias_cost", r.k_bias_cost},
          {"bytes_per_token_kv_head", r.bytes_per_token_kv_head},
          {"read_gbyte_s", r.read_gbyte_s},
          {"read_ceiling_gbyte_s", r.read_ceiling_gbyte_s.median},
          {"read_ceiling_gbyte_s_min", r.read_ceiling_gbyte_s.min},
          {"read_ceiling_gbyte_s_max", r.read_ceiling_gbyte_s.max},
          {"dot_ceiling_gops", r.dot_ceiling_gops.median},
          {"dot_ceiling_gops_min", r.dot_ceiling_gops.min},
          {"dot_ceiling_gops_max", r.dot_ceiling_gops.max},
          {"roofline_ns", r.roofline_ns},
          {"over_roofline", r.over_roofline},
          {"rms_error", r.rms_error},
          {"predicted_rms_error", r.predicted_rms_error},
          {"max_error", r.max_error},
          {"error_bound", r.error_bound},
          {"peers", std::move(peers)}};
}

std::string to_text(const AttentionBenchReport& r) {
  std::string text = fmt::format(
      "{}, {} tokens, {} KV heads x {}, {} query heads each, {} query tokens, {} threads, {}\n"
      "  {:.2f} ns per token and KV head ({:.2f} to {:.2f} in {} runs), bf16 {:.2f}: {:.1f} times\n"
      "  {:.1f} bytes each, {:.1f} GB/s of {:.1f}; roofline {:.2f} ns ({:.0f} GOP/s): {:.2f} over\n"
      "  bf16's roofline {:.2f} ns ({:.0f} GFLOP/s of f32): {:.2f} over\n"
      "  error: rms {:.2e} (predicted {:.2e}), largest {:.2e} (bound {:.2e})\n",
      r.codec, r.tokens, r.kv_heads, r.head_dim, r.group, r.queries, r.threads, r.isa,
      r.ns_per_token_kv_head.median, r.ns_per_token_kv_head.min, r.ns_per_token_kv_head.max, r.runs,
      r.bf16_ns_per_token_kv_head.median, r.speedup_over_bf16, r.bytes_per_token_kv_head,
      r.read_gbyte_s, r.read_ceiling_gbyte_s.median, r.roofline_ns, r.dot_ceiling_gops.median,
      r.over_roofline, r.bf16_roofline_ns, r.bf16_dot_ceiling_gops.median, r.bf16_over_roofline,
      r.rms_error, r.predicted_rms_error, r.max_error, r.error_bound);
  if (r.k_bias_pairs > 0) {
    text +=
        fmt::format("  with K's bias in {} pairs left out of the codes: {:.2f} ns, {:.2f} times\n",
                    r.k_bias_pairs, r.k_bias_ns_per_token_kv_head.median, r.k_bias_cost);
  }
  for (const auto& peer : r.peers) {
    text += fmt::format(
        "  ggml {}: {:.2f} ns ({:.2f} to {:.2f}), {:.1f} bytes: {:.1f} times as long\n", peer.name,
        peer.ns_per_token_kv_head.median, peer.ns_per_token_kv_head.min,
        peer.ns_per_token_kv_head.max, peer.bytes_per_token_kv_head, peer.speedup_over_peer);
  }
  return text;
}

std::string doubts(const AttentionBenchReport& r) {
  const double least = std::min(r.over_roofline, r.bf16_over_roofline);
  if (least >= 1.0) return "";
  return fmt::format(
      "{} came out at {:.2f} of the time that its ceilings allow: the machine was "
      "not quiet; measure again with more --runs",
      r.over_roofline < 1.0 ? r.codec : "bf16", least);
}

}  // namespace kvferry::bench
