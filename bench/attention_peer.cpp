#include "bench/attention_peer.h"

#include <algorithm>
#include <cmath>

#include "bench/ggml_peer.h"

namespace kvferry::bench {

std::vector<double> exact_output(const PeerTensors& t) {
  const std::size_t dim = t.head_dim, q_heads = std::size_t{t.kv_heads} * t.group;
  std::vector<double> output(t.q.size(), 0.0), p(t.tokens);
  for (std::size_t row = 0; row < t.queries * q_heads; ++row) {
    const std::size_t kv_head = row % q_heads / t.group;
    const float* k = t.k.data() + kv_head * t.tokens * dim;
    const float* v = t.v.data() + kv_head * t.tokens * dim;
    const float* q = t.q.data() + row * dim;
    for (std::size_t i = 0; i < t.tokens; ++i) {
      p[i] = 0.0;
      for (std::size_t d = 0; d < dim; ++d) p[i] += double{q[d]} * k[i * dim + d];
    }
    const double most = *std::max_element(p.begin(), p.end());
    double sum = 0.0;
    for (double& score : p) sum += score = std::exp(score - most);
    double* out = output.data() + row * dim;
    for (std::size_t i = 0; i < t.tokens; ++i) {
      for (std::size_t d = 0; d < dim; ++d) out[d] += p[i] / sum * v[i * dim + d];
    }
  }
  return output;
}

Result<std::vector<std::unique_ptr<AttentionPeer>>> attention_peers(const PeerTensors& tensors) {
#ifdef KVFERRY_BENCH_GGML
  return ggml_peers(tensors);
#else
  static_cast<void>(tensors);
  return unsupported("this program was built without -DKVFERRY_BENCH_GGML");
#endif
}

}  // namespace kvferry::bench
