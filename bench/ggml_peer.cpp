#include "bench/ggml_peer.h"

#include <ggml.h>
#if __has_include(<ggml-cpu.h>)
#include <ggml-cpu.h>
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "base/clock.h"
#include "base/extent_pool.h"

namespace kvferry::bench {
namespace {

constexpr std::array<std::string_view, 7> kTypes = {"f16",  "bf16",   "q8_0", "q8_KV",
                                                    "q6_0", "iq4_nl", "q4_0"};
// Relative error of the output above which it is not attention. Over made-up values, whose sums
// nearly cancel, f16 accumulators cost 0.02 at 8,192 tokens and codes of 4 bits 0.1.
constexpr double kMostError = 0.5;

// Of the ggml at hand, GGML_TYPE_COUNT when it has none of that name.
ggml_type type_of(std::string_view name) {
  for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
    const auto type = static_cast<ggml_type>(i);
    const char* found = ggml_type_name(type);
    if (found != nullptr && name == found && ggml_blck_size(type) > 0) return type;
  }
  return GGML_TYPE_COUNT;
}

#if __has_include(<ggml-cpu.h>)
ggml_cplan plan_of(ggml_cgraph* graph, int threads) {
  ggml_cpu_init();
  return ggml_graph_plan(graph, threads, nullptr);
}
#else
ggml_cplan plan_of(ggml_cgraph* graph, int threads) { return ggml_graph_plan(graph, threads); }
#endif

// K or V [kv_heads][tokens][head_dim] in a type of ggml.
using Bytes = std::vector<std::uint8_t>;

// By ggml_quantize_chunk; that of ik_llama.cpp has one argument more.
template <class Quantize>
Bytes quantized(Quantize chunk, ggml_type type, const std::vector<float>& values,
                std::int64_t width) {
  const auto rows = static_cast<std::int64_t>(values.size()) / width;
  Bytes to(static_cast<std::size_t>(rows) * ggml_row_size(type, width));
  if constexpr (std::is_invocable_v<Quantize, ggml_type, const float*, void*, std::int64_t,
                                    std::int64_t, std::int64_t, const float*, std::nullptr_t>) {
    chunk(type, values.data(), to.data(), 0, rows, width, nullptr, nullptr);
  } else {
    chunk(type, values.data(), to.data(), 0, rows, width, nullptr);
  }
  return to;
}

class GgmlPeer final : public AttentionPeer {
 public:
  GgmlPeer(std::string name, ggml_type type, bool masked, const PeerTensors& tensors,
           const Bytes& k, const Bytes& v)
      : name_(std::move(name)), t_(tensors), type_(type), masked_(masked) {
    const std::size_t rows = std::size_t{2} * t_.kv_heads * t_.tokens;
    layer_bytes_ = rows * ggml_row_size(type, t_.head_dim);
    layers_ = std::max<std::size_t>(1, (t_.least_working_set + layer_bytes_ - 1) / layer_bytes_);
    build(k, v);
  }
  ~GgmlPeer() override { ggml_free(context_); }
  GgmlPeer(const GgmlPeer&) = delete;
  GgmlPeer& operator=(const GgmlPeer&) = delete;

  const std::string& name() const override { return name_; }
  double bytes_per_token_kv_head() const override {
    return static_cast<double>(layer_bytes_) / t_.tokens / t_.kv_heads;
  }
  double rms_error() const override { return rms_error_; }
  double run() override {
    const std::uint64_t begin_ns = monotonic_ns();
    ggml_graph_compute(graph_, &plan_);
    const auto ns = static_cast<double>(monotonic_ns() - begin_ns);
    return ns / static_cast<double>(layers_) / t_.tokens / t_.kv_heads / t_.queries;
  }

  // Runs once and compares each layer's output.
  Status check(const std::vector<double>& want) {
    run();
    double error = 0.0, square = 0.0;
    for (const ggml_tensor* output : outputs_) {  // [queries][q_heads][head_dim]
      const auto* got = static_cast<const float*>(output->data);
      for (std::size_t i = 0; i < want.size(); ++i) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        square += want[i] * want[i];
      }
    }
    rms_error_ = std::sqrt(error / square);
    if (rms_error_ <= kMostError) return ok_status();
    return internal_error("ggml's attention on " + name_ + " is off by " +
                          std::to_string(rms_error_) + " of its size");
  }

 private:
  void build(const Bytes& k_bytes, const Bytes& v_bytes) {
    const std::size_t overhead = (ggml_tensor_overhead() + 256) * (4 * layers_ + 16) +
                                 ggml_graph_overhead_custom(2 * layers_ + 16, false);
    const std::size_t row_bytes = t_.q.size() * sizeof(float) + 256;
    ggml_init_params params{};
    const std::size_t mask_rows = GGML_PAD(t_.queries, 64);  // as many as ggml asks for
    const std::size_t mask_bytes = masked_ ? mask_rows * t_.tokens * sizeof(ggml_fp16_t) + 256 : 0;
    params.mem_size = overhead + layers_ * (layer_bytes_ + row_bytes) + 2 * row_bytes + mask_bytes;
    // Where our own KV lies too, in huge pages where there are; else in memory of ggml.
    auto memory = ExtentPool::create(params.mem_size);
    if (memory.ok()) {
      memory_ = std::move(*memory);
      params.mem_buffer = memory_->arena().data();
    }
    context_ = ggml_init(params);
    graph_ = ggml_new_graph_custom(context_, 2 * layers_ + 16, false);
    const std::int64_t dim = t_.head_dim, q_heads = std::int64_t{t_.kv_heads} * t_.group;
    // ggml wants [q_heads][queries][head_dim].
    ggml_tensor* q = ggml_new_tensor_3d(context_, GGML_TYPE_F32, dim, t_.queries, q_heads);
    for (std::int64_t i = 0; i < t_.queries * q_heads; ++i) {
      const std::int64_t to = i % q_heads * t_.queries + i / q_heads;
      std::memcpy(static_cast<float*>(q->data) + to * dim, t_.q.data() + i * dim, dim * 4);
    }
    ggml_tensor* mask = nullptr;
    if (masked_) {
      const auto rows = static_cast<std::int64_t>(mask_rows);
      mask = ggml_new_tensor_2d(context_, GGML_TYPE_F16, t_.tokens, rows);
      std::memset(mask->data, 0, ggml_nbytes(mask));
    }
    for (std::size_t layer = 0; layer < layers_; ++layer) {
      ggml_tensor* k = make(k_bytes);
      ggml_tensor* v = make(v_bytes);
      outputs_.push_back(ggml_flash_attn_ext(context_, q, k, v, mask, 1.0f, 0.0f, 0.0f));
      ggml_build_forward_expand(graph_, outputs_.back());
    }
    plan_ = plan_of(graph_, t_.threads);
    work_.resize(plan_.work_size + 64);
    plan_.work_data = work_.data();
  }

  ggml_tensor* make(const Bytes& bytes) {
    ggml_tensor* tensor = ggml_new_tensor_3d(context_, type_, t_.head_dim, t_.tokens, t_.kv_heads);
    std::memcpy(tensor->data, bytes.data(), bytes.size());
    return tensor;
  }

  const std::string name_;
  const PeerTensors& t_;
  const ggml_type type_;
  const bool masked_;
  std::size_t layer_bytes_ = 0, layers_ = 0;
  std::unique_ptr<ExtentPool> memory_;  // of context_
  ggml_context* context_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
  ggml_cplan plan_{};
  std::vector<std::uint8_t> work_;
  std::vector<ggml_tensor*> outputs_;
  double rms_error_ = 0.0;
};

// Without a mask or with one of zeros, which says the same: the faster of those whose answer is
// right. ik_llama.cpp's kernels want a mask; without one it takes ggml's older ones, or is wrong.
Result<std::unique_ptr<GgmlPeer>> faster_peer(const std::string& name, ggml_type type,
                                              const PeerTensors& tensors,
                                              const std::vector<double>& want) {
  const Bytes k = quantized(ggml_quantize_chunk, type, tensors.k, tensors.head_dim);
  const Bytes v = quantized(ggml_quantize_chunk, type, tensors.v, tensors.head_dim);
  std::unique_ptr<GgmlPeer> fastest;
  double least_ns = 0.0;
  Status wrong;
  for (const bool masked : {false, true}) {
    auto peer = std::make_unique<GgmlPeer>(name, type, masked, tensors, k, v);
    if (const Status status = peer->check(want); !status.ok()) {
      wrong = status;
      continue;
    }
    const double ns = peer->run();
    if (fastest != nullptr && ns >= least_ns) continue;
    fastest = std::move(peer);
    least_ns = ns;
  }
  if (fastest == nullptr) return wrong;
  return fastest;
}

}  // namespace

Result<std::vector<std::unique_ptr<AttentionPeer>>> ggml_peers(const PeerTensors& tensors) {
  const std::vector<double> want = exact_output(tensors);
  std::vector<std::unique_ptr<AttentionPeer>> peers;
  for (const std::string_view name : kTypes) {
    const ggml_type type = type_of(name);
    if (type == GGML_TYPE_COUNT || tensors.head_dim % ggml_blck_size(type) != 0) continue;
    KVF_ASSIGN_OR_RETURN(auto peer, faster_peer(std::string(name), type, tensors, want));
    peers.push_back(std::move(peer));
  }
  return peers;
}

}  // namespace kvferry::bench
