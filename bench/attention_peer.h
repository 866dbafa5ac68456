// Other programs' attention on the same tensors, for `kvferry bench attention`: those of the ggml
// library that the build was given (-DKVFERRY_BENCH_GGML=DIR), none without.
//
// A peer attends with one query token of every query head over the K and V of every layer in turn,
// each layer in memory of its own, head after head, as the benchmark's own subjects do. Its first
// answer is compared with exact attention in double precision over the values before they were
// quantized.
//
// Thread contract: one thread; a peer makes its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace kvferry::bench {

#ifdef KVFERRY_BENCH_GGML
inline constexpr bool kAttentionPeers = true;
#else
inline constexpr bool kAttentionPeers = false;
#endif

struct PeerTensors {
  std::uint32_t tokens = 0, kv_heads = 0, head_dim = 0, group = 0, queries = 0;
  int threads = 1;
  std::size_t least_working_set = 0;  // bytes of K and V over all layers
  std::vector<float> k, v;            // [kv_heads][tokens][head_dim]
  // [queries][kv_heads * group][head_dim], multiplied by 1/sqrt(head_dim).
  std::vector<float> q;
};

class AttentionPeer {
 public:
  virtual ~AttentionPeer() = default;
  virtual const std::string& name() const = 0;  // of the type of K and V, as the library has it
  virtual double bytes_per_token_kv_head() const = 0;
  virtual double rms_error() const = 0;  // relative to the output
  // One pass over all layers, in nanoseconds per query token, cached token and KV head.
  virtual double run() = 0;
};

// The tensors must outlive the peers. kInternal when an answer is not attention, kUnsupported
// unless kAttentionPeers.
Result<std::vector<std::unique_ptr<AttentionPeer>>> attention_peers(const PeerTensors& tensors);

// Exact attention in double precision: [queries][kv_heads * group][head_dim].
std::vector<double> exact_output(const PeerTensors& tensors);

}  // namespace kvferry::bench
