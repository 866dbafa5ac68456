// A prefill and a decode engine in this process, joined by the loopback transport, on one engine
// thread and one model: the whole life of a request without a socket. `kvferry generate` and the
// tests' undisturbed answers come from here.
//
// Thread contract: made, used and destroyed by one thread; replies come on the reactor's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/extent_pool.h"
#include "base/metrics.h"
#include "base/status.h"
#include "codec/codec_set.h"
#include "control.pb.h"
#include "decode/decode_engine.h"
#include "model/model.h"
#include "prefill/prefill_engine.h"

namespace kvferry::cli {

struct InProcessOptions {
  std::size_t pool_bytes = std::size_t{256} << 20;  // of each engine
  prefill::PrefillConfig prefill;
  decode::DecodeConfig decode;
};

class InProcessCluster {
 public:
  using Reply = std::function<void(const proto::Envelope&)>;

  // The model is driven by this cluster alone until it is destroyed. Not owned; neither are codecs.
  static Result<std::unique_ptr<InProcessCluster>> start(model::Model& model,
                                                         const codec::CodecSet& codecs,
                                                         const InProcessOptions& options);
  ~InProcessCluster();

  // Starts a plan; `reply` gets its tokens, and a Finished for each choice or one Failed.
  // remote_prefill false: the decode engine computes the prompt itself.
  void submit(const proto::Plan& plan, bool remote_prefill, Reply reply);
  // Ends one choice of a plan that has begun to answer; no Finished comes for it.
  void cancel_choice(std::uint64_t transfer_id, std::uint32_t choice);

  // Answers one plan and waits: the tokens of each choice and the usage, or why it failed.
  struct Choice {
    std::vector<proto::Token> tokens;
    std::string finish_reason;
    std::vector<std::int32_t> ids() const;
  };
  struct Answer {
    std::vector<Choice> choices;
    std::vector<proto::PromptLogprobs::Entry> prompt_logprobs;
    proto::KvUsage usage;
    double ttft_ms = 0, total_ms = 0;
  };
  Result<Answer> answer(const proto::Plan& plan, bool remote_prefill = true);

  ExtentPool& prefill_pool();
  ExtentPool& decode_pool();

 private:
  struct Impl;
  explicit InProcessCluster(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvferry::cli
