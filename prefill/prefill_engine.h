// Prefill's engine: computes prompts chunk by chunk and pushes each layer's finished tiles to the
// decode worker while the next layer computes.
//
// Thread contract: start, cancel, load and the transfer's callbacks run on the reactor's thread;
// step runs on the engine thread. A job is shared by both; its memory goes back to the pool when
// the last of them lets go, so nothing that a send still reads is ever reused.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
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

namespace kvferry::prefill {

struct PrefillConfig {
  std::uint32_t chunk_tokens = 512;  // of all prompts in one step
  std::uint32_t max_jobs = 256;      // queued and running; more are refused
  std::uint64_t max_deadline_ns = 3600 * kSecond;
  // Pool bytes left to the transfer hub (TransferConfig::staging_bytes).
  std::size_t staging_bytes = transport::TransferConfig{}.staging_bytes();
};

// What the engine stands on. Nothing here is owned; all outlive the engine.
struct PrefillParts {
  model::Model* model = nullptr;
  ExtentPool* pool = nullptr;
  EngineThread* thread = nullptr;
  transport::KvSender* sender = nullptr;
  Timers* timers = nullptr;
  Metrics* metrics = nullptr;
  Executor reactor;
  const codec::CodecSet* codecs = nullptr;  // a spec outside is refused
  // Tells the owner (as given to start) of an order. Reactor's thread.
  std::function<void(std::uint64_t owner, const proto::Envelope&)> reply;
};

class PrefillEngine {
 public:
  PrefillEngine(PrefillParts parts, PrefillConfig config);
  ~PrefillEngine();

  // Registers step() with the engine thread. Before EngineThread::start.
  void attach();

  // A failure to start, now or later, is a Failed to the owner: a number for whoever gave the
  // order.
  void start(const proto::StartPrefill& order, std::uint64_t owner);
  void cancel(std::uint64_t transfer_id, const Status& why);
  void cancel_owner(std::uint64_t owner, const Status& why);  // all of its orders
  proto::BeatReply load() const;
  std::size_t active() const { return jobs_.size(); }

 private:
  struct Job;
  struct EngineState;
  using JobPtr = std::shared_ptr<Job>;

  Result<JobPtr> make_job(const proto::StartPrefill& order) const;
  void granted(const JobPtr& job);
  void finished(std::uint64_t transfer_id, const Status& status);

  // Engine thread.
  bool step();
  void drop_cancelled();
  void admit();
  void run_chunks(const std::vector<JobPtr>& batch, const std::vector<std::uint32_t>& counts);
  void push_tiles(const JobPtr& job, std::uint32_t layer, std::uint32_t first, std::uint32_t last);
  void push(const JobPtr& job, std::uint32_t layer, std::uint32_t first,
            const std::vector<std::span<const std::byte>>& segments);
  Status push_open_tile(const JobPtr& job);
  void commit(const JobPtr& job, std::span<const float> logits);
  void fail(const JobPtr& job, const Status& status);

  PrefillParts parts_;
  PrefillConfig config_;
  std::map<std::uint64_t, JobPtr> jobs_;  // by transfer id; reactor's
  std::unique_ptr<EngineState> engine_;   // engine thread's
  Counter& prompt_tokens_;
  Histogram& prefill_seconds_;
  Histogram& queue_seconds_;
  Counter& encode_seconds_;
  Counter& wrap_seconds_;
};

}  // namespace kvferry::prefill
