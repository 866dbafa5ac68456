// Decode's engine: reserves memory for a request, receives its prompt's KV (or computes a short
// prompt itself), and generates with continuous batching: requests join and leave between steps.
//
// A request has one prompt and one or more choices: answers that go on from it, each a sequence of
// its own that shares the prompt's closed tiles. It goes waiting -> receiving (or prefilling, when
// local) -> running -> gone. The reactor owns it until it is handed to the engine thread, and both
// let go of it when it ends; its memory goes back to the pool when the last of them has, and the
// next waiting request is then admitted.
//
// Thread contract: start, cancel, load and the receiver's callbacks run on the reactor's thread;
// step runs on the engine thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/engine_thread.h"
#include "base/extent_pool.h"
#include "base/metrics.h"
#include "codec/codec_set.h"
#include "codec/pooled_sequence.h"
#include "control.pb.h"
#include "model/model.h"
#include "transport/kv_transfer.h"
#include "transport/transfer_config.h"

namespace kvferry::decode {

struct ChosenToken;
struct DecodeRequest;

struct DecodeConfig {
  std::uint32_t max_running = 32;    // choices that hold memory: receiving, prefilling or running
  std::uint32_t max_waiting = 256;   // beyond: refused
  std::uint32_t chunk_tokens = 256;  // of local prompts in one step, beside the running requests
  std::uint64_t max_deadline_ns = 3600 * kSecond;
  // Pool bytes left to the transfer hub (TransferConfig::staging_bytes).
  std::size_t staging_bytes = transport::TransferConfig{}.staging_bytes();
};

// What the engine stands on. Nothing here is owned; all outlive the engine.
struct DecodeParts {
  model::Model* model = nullptr;
  ExtentPool* pool = nullptr;
  EngineThread* thread = nullptr;
  transport::KvReceiver* receiver = nullptr;
  Timers* timers = nullptr;
  Metrics* metrics = nullptr;
  Executor reactor;
  const codec::CodecSet* codecs = nullptr;  // a spec outside is refused
  // Tells the owner (as given to start) of an order. Reactor's thread.
  std::function<void(std::uint64_t owner, const proto::Envelope&)> reply;
};

class DecodeEngine {
 public:
  DecodeEngine(DecodeParts parts, DecodeConfig config);
  ~DecodeEngine();

  // Registers step() with the engine thread. Before EngineThread::start.
  void attach();

  // A failure to start, now or later, is a Failed to the owner: a number for whoever gave the
  // order.
  void start(const proto::StartDecode& order, std::uint64_t owner);
  void cancel(std::uint64_t transfer_id, const Status& why);
  // Ends one choice of which tokens have come, without a word. The others go on.
  void cancel_choice(std::uint64_t transfer_id, std::uint32_t index);
  void cancel_owner(std::uint64_t owner, const Status& why);  // all of its orders
  proto::BeatReply load() const;
  std::size_t active() const { return requests_.size(); }

 private:
  struct Row;
  struct EngineState;
  using RequestPtr = std::shared_ptr<DecodeRequest>;

  void admit();
  void begin(const RequestPtr& request);
  void receive(const RequestPtr& request);
  static void adopt(DecodeRequest& request);
  void received(const RequestPtr& request, transport::FirstTokens first,
                const transport::TransferStats& stats);
  void end(std::uint64_t transfer_id);
  void fail(std::uint64_t transfer_id, const Status& status);

  // Engine thread.
  bool step();
  void drop_ended();
  void run_step(const std::vector<Row>& batch, const std::vector<std::uint32_t>& counts);
  void fail_step(const std::vector<Row>& batch, const Status& status);
  void local_chunk(const RequestPtr& request, std::uint32_t count, std::span<const float> logits);
  void share_prompt(const RequestPtr& request);
  void next_token(const Row& row, std::span<const float> logits);
  void accept_token(const Row& row, const ChosenToken& token);
  void say(const RequestPtr& request, proto::Envelope message);
  void end_choice(const Row& row, std::optional<proto::Envelope> last_word);

  DecodeParts parts_;
  DecodeConfig config_;
  std::map<std::uint64_t, RequestPtr> requests_;  // by transfer id; reactor's
  std::deque<std::uint64_t> waiting_;             // in order of arrival; reactor's
  std::uint32_t holding_ = 0;                     // choices admitted and not yet ended; reactor's
  std::unique_ptr<EngineState> engine_;           // engine thread's
  Counter& tokens_;
  Histogram& step_seconds_;
  Histogram& batch_rows_;
  Gauge& waiting_gauge_;
  Gauge& running_gauge_;
};

}  // namespace kvferry::decode
