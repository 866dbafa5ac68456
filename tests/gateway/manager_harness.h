// A request manager on virtual time, and the words of workers for it.
// Thread contract: one thread.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "control.pb.h"
#include "gateway/request_manager.h"
#include "text/tokenizer.h"

namespace kvferry::gateway {

inline std::shared_ptr<const text::Tokenizer> mini_tokenizer() {
  static const auto tokenizer = [] {
    const char* root = std::getenv("KVFERRY_SOURCE_DIR");
    auto loaded =
        text::Tokenizer::load(std::filesystem::path(root == nullptr ? "." : root) / "models/mini");
    EXPECT_TRUE(loaded.ok()) << loaded.status().to_string();
    return *loaded;
  }();
  return tokenizer;
}

// A manager on virtual time; what it sends to workers is recorded.
class ManagerTest : public testing::Test {
 protected:
  using Role = scheduler::Role;
  using WorkerId = scheduler::WorkerId;
  static constexpr WorkerId kD1 = 1, kD2 = 2, kP1 = 11, kP2 = 12;

  ManagerTest() {
    usage_.set_sent_bytes(1234);
    make({});
  }

  void make(const RequestLimits& limits) {
    router_ = std::make_unique<scheduler::Router>(scheduler::make_least_loaded(), 4);
    RequestManagerParts parts;
    parts.timers = &timers_;
    parts.metrics = &metrics_;
    parts.router = router_.get();
    parts.tokenizer = mini_tokenizer();
    parts.send = [this](WorkerId id, const proto::Envelope& message) {
      sent_.emplace_back(id, message);
    };
    manager_ = std::make_unique<RequestManager>(parts, limits);
  }

  void up(WorkerId id, std::uint64_t numerics = 1) {
    WorkerFacts facts;
    facts.info.role = id < 10 ? Role::kDecode : Role::kPrefill;
    facts.info.compute = {1, numerics};
    facts.data_address = "address of " + std::to_string(id);
    manager_->worker_up(id, facts);
  }

  struct Seen {
    std::string text;    // of the first choice, as all down to `others`
    std::string reason;  // to finish
    std::vector<std::int32_t> ids;
    std::vector<TokenLogprobs> tokens;
    std::vector<Seen> others;  // choices
    std::vector<TokenLogprobs> prompt;
    std::optional<GenerationOutcome> outcome;
    int dones = 0;
  };

  Generation generation(const std::string& prompt = "one two three four five six") {
    Generation wanted;
    wanted.prompt = *mini_tokenizer()->encode(prompt, true);
    wanted.max_tokens = 8;
    wanted.stop_ids = {0};
    wanted.codec = "raw";
    wanted.seed = 42;
    wanted.timeout_ns = 120 * kSecond;
    return wanted;
  }

  RequestManager::RequestId submit(Generation wanted, Seen& seen) {
    GenerationSink sink;
    seen.others.resize(wanted.choices - 1);
    sink.prompt = [&seen](std::vector<TokenLogprobs> tokens) { seen.prompt = std::move(tokens); };
    sink.piece = [&seen](const GenerationPiece& piece) {
      Seen& choice = piece.choice == 0 ? seen : seen.others.at(piece.choice - 1);
      EXPECT_EQ(choice.reason, "") << "a piece behind the last";
      choice.text += piece.text;
      choice.reason = piece.finish_reason;
      choice.ids = piece.ids;
      choice.tokens.insert(choice.tokens.end(), piece.tokens.begin(), piece.tokens.end());
    };
    sink.done = [&seen](const GenerationOutcome& outcome) {
      seen.outcome = outcome;
      ++seen.dones;
    };
    const auto id = manager_->submit(std::move(wanted), std::move(sink));
    EXPECT_TRUE(id.ok()) << id.status().to_string();
    return id.ok() ? *id : 0;
  }

  // The last StartDecode, and to whom it went.
  const proto::StartDecode& order(WorkerId* to = nullptr) const {
    static const proto::StartDecode kNone;
    for (auto at = sent_.rbegin(); at != sent_.rend(); ++at) {
      if (!at->second.has_start_decode()) continue;
      if (to != nullptr) *to = at->first;
      return at->second.start_decode();
    }
    ADD_FAILURE() << "no StartDecode was sent";
    return kNone;
  }
  std::size_t orders() const {
    return static_cast<std::size_t>(std::count_if(
        sent_.begin(), sent_.end(), [](const auto& m) { return m.second.has_start_decode(); }));
  }
  std::set<WorkerId> cancelled(std::uint64_t transfer_id) const {
    std::set<WorkerId> workers;
    for (const auto& [id, message] : sent_) {
      if (message.has_cancel() && message.cancel().transfer_id() == transfer_id) workers.insert(id);
    }
    return workers;
  }

  void token(WorkerId from, const proto::Plan& plan, std::uint32_t index, std::int32_t id,
             std::uint32_t choice = 0) {
    proto::Envelope message;
    proto::Token& token = *message.mutable_token();
    token.set_request_id(plan.request_id());
    token.set_transfer_id(plan.transfer_id());
    token.set_attempt(plan.attempt());
    token.set_position(static_cast<std::uint32_t>(plan.ids_size()) + index);
    token.set_id(id);
    token.set_choice(choice);
    if (plan.has_logprobs()) {
      token.set_logprob(-0.25f * static_cast<float>(id));
      for (std::uint32_t i = 0; i < plan.logprobs(); ++i) {
        token.add_top()->set_id(static_cast<std::int32_t>(40 + i));
      }
    }
    if (index == 0) *token.mutable_usage() = usage_;
    manager_->worker_message(from, message);
  }
  // Feeds a text's tokens from index on; gives the next index.
  std::uint32_t say(WorkerId from, const proto::Plan& plan, const std::string& text,
                    std::uint32_t index = 0, std::uint32_t choice = 0) {
    for (const std::int32_t id : *mini_tokenizer()->encode(text, false)) {
      token(from, plan, index++, id, choice);
    }
    return index;
  }
  void finished(WorkerId from, const proto::Plan& plan, const std::string& reason,
                std::uint32_t choice = 0) {
    proto::Envelope message;
    proto::Finished& finished = *message.mutable_finished();
    finished.set_request_id(plan.request_id());
    finished.set_transfer_id(plan.transfer_id());
    finished.set_attempt(plan.attempt());
    finished.set_reason(reason);
    finished.set_choice(choice);
    *finished.mutable_usage() = usage_;
    manager_->worker_message(from, message);
  }
  void failed(WorkerId from, const proto::Plan& plan, Code code) {
    proto::Envelope message;
    proto::Failed& failed = *message.mutable_failed();
    failed.set_request_id(plan.request_id());
    failed.set_transfer_id(plan.transfer_id());
    failed.set_attempt(plan.attempt());
    failed.set_code(static_cast<std::uint32_t>(code));
    failed.set_message("because");
    manager_->worker_message(from, message);
  }

  ManualTimers timers_;
  proto::KvUsage usage_;  // what workers say with first tokens and at the end
  Metrics registry_;
  GatewayMetrics metrics_{registry_};
  std::unique_ptr<scheduler::Router> router_;
  std::unique_ptr<RequestManager> manager_;
  std::vector<std::pair<WorkerId, proto::Envelope>> sent_;
};

}  // namespace kvferry::gateway
