// ggml's flash attention on the CPU (ggml_flash_attn_ext), of a checkout of ggml or of the one in
// ik_llama.cpp, for every type of K and V that it has out of f16, bf16, q8_0, q8_KV, q6_0, iq4_nl
// and q4_0. Every token is seen: without a mask, or with one of zeros, whichever is faster.
//
// Only in builds with -DKVFERRY_BENCH_GGML=DIR. Thread contract: as bench/attention_peer.h.
#pragma once

#include <memory>
#include <vector>

#include "bench/attention_peer.h"

namespace kvferry::bench {

Result<std::vector<std::unique_ptr<AttentionPeer>>> ggml_peers(const PeerTensors& tensors);

}  // namespace kvferry::bench
