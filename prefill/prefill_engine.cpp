#include "prefill/prefill_engine.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/compute_pool.h"
#include "base/log.h"
#include "cluster/messages.h"
#include "codec/wire_forms.h"
#include "model/choice_sampler.h"

namespace kvferry::prefill {

struct PrefillEngine::Job {
  transport::TransferIdentity identity;
  std::uint64_t owner = 0;
  std::uint32_t attempt = 0;
  std::vector<std::int32_t> ids;
  std::vector<model::ChoiceSampler> choices;
  std::optional<std::uint32_t> logprobs;  // most probable tokens to tell
  std::uint64_t received_ns = 0;
  std::atomic<bool> cancelled{false};

  // Engine thread's, until the job is committed.
  std::unique_ptr<codec::PooledSequence> sequence;
  std::unique_ptr<codec::WireForms> wire_forms;
  transport::TransferTimings timings;
};

struct PrefillEngine::EngineState {
  std::deque<std::shared_ptr<Job>> waiting;  // granted, no memory yet
  std::vector<std::shared_ptr<Job>> running;
  std::vector<float> logits, adjusted;
};

PrefillEngine::PrefillEngine(PrefillParts parts, PrefillConfig config)
    : parts_(std::move(parts)),
      config_(config),
      engine_(std::make_unique<EngineState>()),
      prompt_tokens_(parts_.metrics->counter("kvferry_prefill_prompt_tokens_total",
                                             "Prompt tokens computed by this worker.")),
      prefill_seconds_(parts_.metrics->histogram(
          "kvferry_prefill_seconds", "Computing one prompt, from its first chunk to the commit.")),
      queue_seconds_(parts_.metrics->histogram("kvferry_prefill_queue_seconds",
                                               "From the order to a prompt's first chunk.")),
      encode_seconds_(parts_.metrics->counter("kvferry_prefill_encode_seconds_total",
                                              "CPU time spent encoding KV, over all threads.")),
      wrap_seconds_(parts_.metrics->counter(
          "kvferry_prefill_wrap_seconds_total",
          "CPU time spent on the wire form of segments, over all threads.")) {}

PrefillEngine::~PrefillEngine() = default;

void PrefillEngine::attach() {
  parts_.thread->add_stepper([this] { return step(); });
}

Result<PrefillEngine::JobPtr> PrefillEngine::make_job(const proto::StartPrefill& order) const {
  const proto::Plan& plan = order.plan();
  const model::ModelConfig& config = parts_.model->config();
  auto job = std::make_shared<Job>();
  KVF_ASSIGN_OR_RETURN(job->identity.codec, parts_.codecs->find(plan.codec()));
  KVF_RETURN_IF_ERROR(job->identity.codec->supports(parts_.model->config().kv_geometry()));
  if (plan.ids_size() == 0 || static_cast<std::uint32_t>(plan.ids_size()) > config.context) {
    return invalid_argument("a prompt has 1 to " + std::to_string(config.context) +
                            " tokens, not " + std::to_string(plan.ids_size()));
  }
  KVF_RETURN_IF_ERROR(cluster::check_plan(plan, config.vocab));
  job->ids.assign(plan.ids().begin(), plan.ids().end());
  job->identity.request_id = plan.request_id();
  job->identity.transfer_id = plan.transfer_id();
  job->identity.model_fingerprint = parts_.model->fingerprint();
  job->identity.numerics_class = parts_.model->numerics_class();
  job->identity.tokens = static_cast<std::uint32_t>(job->ids.size());
  job->identity.geometry = config.kv_geometry();
  job->attempt = plan.attempt();
  job->choices.emplace_back(cluster::sampling_params<model::SamplingParams>(plan), job->ids,
                            plan.prompt_tokens());
  for (std::uint32_t i = 1; i < plan.choices(); ++i) {
    job->choices.push_back(job->choices.front().for_choice(plan.first_choice() + i));
  }
  if (plan.has_logprobs()) job->logprobs = plan.logprobs();
  job->received_ns = parts_.timers->now_ns();
  const std::size_t needed =
      codec::PooledSequence::bytes_needed(*job->identity.codec, job->identity.geometry,
                                          {job->identity.tokens, job->identity.tokens}) +
      codec::WireForms::bytes_needed(*job->identity.codec, job->identity.geometry,
                                     job->identity.tokens);
  if (needed + config_.staging_bytes > parts_.pool->usage().pool) {
    return invalid_argument("the prompt's KV needs " + std::to_string(needed) +
                            " bytes, more than the pool has beside its staging; raise pool_mib");
  }
  return job;
}

void PrefillEngine::start(const proto::StartPrefill& order, std::uint64_t owner) {
  const std::uint64_t transfer_id = order.plan().transfer_id();
  auto refuse = [&](const Status& status) {
    parts_.reply(owner, cluster::failed_envelope(order.plan(), status));
  };
  if (jobs_.contains(transfer_id)) return;  // a repeated order
  if (jobs_.size() >= config_.max_jobs) {
    return refuse(resource_exhausted("the prefill worker's queue is full"));
  }
  Result<JobPtr> made = make_job(order);
  if (!made.ok()) return refuse(made.status());
  const JobPtr job = *made;
  job->owner = owner;
  jobs_[transfer_id] = job;

  transport::SendCallbacks callbacks;
  // Weak: the sender must not keep a job's memory alive beyond its last callback.
  callbacks.granted = [this, weak = std::weak_ptr<Job>(job)] {
    if (const JobPtr granted_job = weak.lock()) granted(granted_job);
  };
  callbacks.acknowledged = [this, transfer_id] { finished(transfer_id, ok_status()); };
  callbacks.failed = [this, transfer_id](Status why) { finished(transfer_id, why); };
  const std::uint64_t deadline_ns =
      job->received_ns +
      std::min(order.plan().deadline_ms() * kMillisecond, config_.max_deadline_ns);
  const Status opened = parts_.sender->open(job->identity, order.decode_data_address(), deadline_ns,
                                            std::move(callbacks));
  if (!opened.ok()) finished(transfer_id, opened);
}

void PrefillEngine::granted(const JobPtr& job) {
  parts_.thread->post([this, job] { engine_->waiting.push_back(job); });
}

void PrefillEngine::cancel(std::uint64_t transfer_id, const Status& why) {
  const auto found = jobs_.find(transfer_id);
  if (found == jobs_.end()) return;
  found->second->cancelled = true;
  parts_.sender->cancel(transfer_id, why);  // finished() follows
  parts_.thread->post([] {});               // the engine may sleep on a job that waits
}

void PrefillEngine::cancel_owner(std::uint64_t owner, const Status& why) {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, job] : jobs_) {
    if (job->owner == owner) ids.push_back(id);
  }
  for (const std::uint64_t id : ids) cancel(id, why);
}

void PrefillEngine::finished(std::uint64_t transfer_id, const Status& status) {
  const auto found = jobs_.find(transfer_id);
  if (found == jobs_.end()) return;
  JobPtr job = std::move(found->second);
  jobs_.erase(found);
  if (!status.ok()) {
    job->cancelled = true;
    if (status.code() != Code::kCancelled) {
      log_warn("prefill", "request " + std::to_string(job->identity.request_id) +
                              " failed: " + status.to_string());
      proto::Plan plan;
      plan.set_request_id(job->identity.request_id);
      plan.set_transfer_id(transfer_id);
      plan.set_attempt(job->attempt);
      parts_.reply(job->owner, cluster::failed_envelope(plan, status));
    }
  }
  job.reset();
  parts_.thread->post([] {});  // memory came free: something may be waiting for it
}

proto::BeatReply PrefillEngine::load() const {
  proto::BeatReply reply;
  std::uint64_t tokens = 0;
  for (const auto& [id, job] : jobs_) tokens += job->ids.size();
  reply.set_queued(static_cast<std::uint32_t>(jobs_.size()));
  reply.set_queued_tokens(tokens);
  reply.set_pool_free_bytes(parts_.pool->usage().free);
  return reply;
}

// ---- engine thread ----

bool PrefillEngine::step() {
  drop_cancelled();
  admit();
  std::vector<JobPtr> batch;
  std::vector<std::uint32_t> counts;
  std::uint32_t budget = config_.chunk_tokens;
  for (const JobPtr& job : engine_->running) {
    if (budget == 0) break;
    const std::uint32_t left = job->identity.tokens - job->sequence->kv().length;
    counts.push_back(std::min(left, budget));
    batch.push_back(job);
    budget -= counts.back();
  }
  if (batch.empty()) return false;
  run_chunks(batch, counts);
  return true;
}

void PrefillEngine::drop_cancelled() {
  auto gone = [](const JobPtr& job) { return job->cancelled.load(); };
  std::erase_if(engine_->waiting, gone);
  std::erase_if(engine_->running, gone);
}

void PrefillEngine::admit() {
  while (!engine_->waiting.empty()) {
    const JobPtr& job = engine_->waiting.front();
    // The wire forms count as reserved, so that there is room for them once there is for the rest.
    const transport::TransferIdentity& identity = job->identity;
    auto sequences = codec::PooledSequence::create(
        *parts_.pool, identity.codec, identity.geometry, {identity.tokens, identity.tokens},
        config_.staging_bytes +
            codec::WireForms::bytes_needed(*identity.codec, identity.geometry, identity.tokens));
    if (!sequences.ok()) {
      // Memory comes back as earlier transfers are acknowledged, which posts and so wakes the
      // engine. make_job has seen that the pool as a whole suffices.
      return;
    }
    auto wire_forms =
        codec::WireForms::create(*parts_.pool, identity.codec, identity.geometry, identity.tokens);
    if (!wire_forms.ok()) return;  // likewise: the free memory is in pieces
    job->sequence = std::move(sequences->front());
    job->wire_forms = std::move(*wire_forms);
    job->timings.queue_ns = parts_.timers->now_ns() - job->received_ns;
    queue_seconds_.observe(static_cast<double>(job->timings.queue_ns) * 1e-9);
    engine_->running.push_back(job);
    engine_->waiting.pop_front();
  }
}

void PrefillEngine::run_chunks(const std::vector<JobPtr>& batch,
                               const std::vector<std::uint32_t>& counts) {
  std::vector<model::SequenceChunk> chunks;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    codec::SequenceKv& kv = batch[i]->sequence->kv();
    const bool last = kv.length + counts[i] == batch[i]->identity.tokens;
    chunks.push_back(
        {&kv, std::span(batch[i]->ids).subspan(kv.length, counts[i]),
         last ? model::SequenceChunk::Logits::kLast : model::SequenceChunk::Logits::kNone});
  }
  const std::uint64_t begin_ns = monotonic_ns();
  const Status status = parts_.model->forward(
      chunks, engine_->logits,
      [&](std::size_t chunk, std::uint32_t layer, std::uint32_t first, std::uint32_t last) {
        push_tiles(batch[chunk], layer, first, last);
      });
  const std::uint64_t elapsed_ns = monotonic_ns() - begin_ns;
  if (!status.ok()) {
    // One bad prompt spoils its step; the others may be tried again, alone or elsewhere.
    const Status each = batch.size() > 1 ? internal_error(status.message()) : status;
    for (const JobPtr& job : batch) fail(job, each);
    return;
  }
  const std::uint64_t encode_ns = parts_.model->last_step().encode_ns;
  encode_seconds_.add(static_cast<double>(encode_ns) * 1e-9);
  std::uint32_t rows = 0, row_of_logits = 0;
  for (const std::uint32_t count : counts) rows += count;
  prompt_tokens_.add(rows);
  const std::size_t vocab = parts_.model->config().vocab;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const JobPtr& job = batch[i];
    // A prompt is charged its share of a step that it had with others.
    job->timings.prefill_ns += elapsed_ns * counts[i] / rows;
    job->timings.encode_ns += encode_ns * counts[i] / rows;
    if (job->sequence->kv().length < job->identity.tokens) continue;
    const std::span<const float> logits(engine_->logits.data() + vocab * row_of_logits++, vocab);
    const Status pushed = push_open_tile(job);
    if (pushed.ok()) {
      commit(job, logits);
    } else {
      fail(job, pushed);
    }
  }
}

void PrefillEngine::push_tiles(const JobPtr& job, std::uint32_t layer, std::uint32_t first,
                               std::uint32_t last) {
  std::vector<std::span<const std::byte>> segments;
  for (std::uint32_t tile = first; tile < last; ++tile) {
    segments.push_back(job->sequence->kv().segment(layer, tile));
  }
  push(job, layer, first, segments);
}

// Wraps the segments where the codec has a wire form, on the pool, and hands them to the sender.
void PrefillEngine::push(const JobPtr& job, std::uint32_t layer, std::uint32_t first,
                         const std::vector<std::span<const std::byte>>& segments) {
  std::vector<transport::OutgoingSegment> outgoing;
  for (const auto& segment : segments) outgoing.emplace_back(segment);
  if (job->identity.codec->traits().wraps) {
    ComputePool& pool = parts_.model->pool();
    const std::uint64_t busy_ns = pool.busy_ns();
    pool.parallel_for(segments.size(), [&](std::size_t i, int) {
      outgoing[i].wire =
          job->wire_forms->wrap(layer, first + static_cast<std::uint32_t>(i), segments[i]);
    });
    wrap_seconds_.add(static_cast<double>(pool.busy_ns() - busy_ns) * 1e-9);
  }
  parts_.reactor([this, job, layer, first, outgoing = std::move(outgoing)]() mutable {
    if (job->cancelled) return;
    parts_.sender->push(job->identity.transfer_id, layer, first, std::move(outgoing));
  });
}

Status PrefillEngine::push_open_tile(const JobPtr& job) {
  codec::SequenceKv& kv = job->sequence->kv();
  const std::uint32_t tile = kv.closed_tiles();
  const std::uint32_t tokens = kv.open_tokens();
  job->sequence->mark_resident(tile);
  if (tokens == 0) return ok_status();
  for (std::uint32_t layer = 0; layer < kv.geometry.layers; ++layer) {
    const std::span<std::byte> segment = job->sequence->open_segment(layer, tile, tokens);
    KVF_RETURN_IF_ERROR(
        kv.codec->encode(kv.geometry, layer, tile, tokens, kv.open_tile(layer), segment));
    push(job, layer, tile, {segment});
  }
  return ok_status();
}

void PrefillEngine::commit(const JobPtr& job, std::span<const float> logits) {
  transport::FirstTokens first;
  for (const model::ChoiceSampler& choice : job->choices) {
    const std::int32_t id = choice.choose(logits, engine_->adjusted);
    first.choices.push_back({id, job->logprobs ? model::logprob(logits, id) : 0.0f});
  }
  for (const auto& [id, logprob] : model::top_logprobs(logits, job->logprobs.value_or(0))) {
    first.top.push_back({id, logprob});
  }
  prefill_seconds_.observe(static_cast<double>(job->timings.prefill_ns) * 1e-9);
  std::erase(engine_->running, job);
  parts_.reactor([this, job, first = std::move(first), timings = job->timings] {
    if (job->cancelled) return;
    parts_.sender->commit(job->identity.transfer_id, first, timings);
  });
}

void PrefillEngine::fail(const JobPtr& job, const Status& status) {
  std::erase(engine_->running, job);
  parts_.reactor([this, job, status] {
    if (job->cancelled) return;
    // The sender's `failed` follows and carries this status to the gateway.
    parts_.sender->cancel(job->identity.transfer_id, status);
  });
}

}  // namespace kvferry::prefill
