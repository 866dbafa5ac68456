#include "decode/decode_engine.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "cluster/messages.h"
#include "model/sampling.h"

namespace kvferry::decode {

struct DecodeEngine::Request {
  // Set by make_request, then read by both threads.
  proto::Plan plan;  // without its ids
  std::vector<std::int32_t> ids;
  std::uint64_t owner = 0;
  transport::TransferIdentity identity;
  model::SamplingParams sampling;
  bool remote_prefill = false;
  std::uint64_t received_ns = 0;
  std::uint64_t deadline_ns = 0;
  std::atomic<bool> ended{false};

  // Reactor's.
  bool holding = false;    // counts in holding_
  bool receiving = false;  // the receiver knows it
  Timers::Id deadline = 0;

  // The reactor's until the request is handed to the engine thread, then that thread's.
  std::unique_ptr<codec::PooledSequence> sequence;
  transport::TransferStats stats;
  std::uint64_t ready_ns = 0;  // the prompt's KV was complete
  std::int32_t last_id = 0;
  std::uint32_t generated = 0;
  std::uint64_t first_decode_ns = 0;

  std::uint32_t prompt() const { return identity.tokens; }
};

struct DecodeEngine::EngineState {
  std::deque<std::shared_ptr<Request>> prefilling;
  std::vector<std::shared_ptr<Request>> running;
  std::vector<float> logits;
};

DecodeEngine::DecodeEngine(DecodeParts parts, DecodeConfig config)
    : parts_(std::move(parts)),
      config_(config),
      engine_(std::make_unique<EngineState>()),
      tokens_(parts_.metrics->counter("kvferry_decode_tokens_total", "Tokens generated.")),
      step_seconds_(parts_.metrics->histogram("kvferry_decode_step_seconds",
                                              "One engine step over all running requests.")),
      batch_rows_(parts_.metrics->histogram("kvferry_decode_batch_rows",
                                            "Token rows of one engine step.", {},
                                            {1, 2, 4, 8, 16, 32, 64, 128, 256, 512})),
      waiting_gauge_(parts_.metrics->gauge("kvferry_decode_waiting_requests",
                                           "Requests that wait for memory.")),
      running_gauge_(
          parts_.metrics->gauge("kvferry_decode_holding_requests", "Requests that hold memory.")) {}

DecodeEngine::~DecodeEngine() = default;

void DecodeEngine::attach() {
  parts_.thread->add_stepper([this] { return step(); });
}

Result<DecodeEngine::RequestPtr> DecodeEngine::make_request(const proto::StartDecode& order) const {
  const model::ModelConfig& config = parts_.model->config();
  auto request = std::make_shared<Request>();
  request->plan = order.plan();
  request->plan.clear_ids();
  request->ids.assign(order.plan().ids().begin(), order.plan().ids().end());
  const std::uint64_t prompt = request->ids.size(), generate = order.plan().max_tokens();
  if (prompt == 0 || generate == 0 || prompt + generate > config.context) {
    return invalid_argument(
        "a prompt of " + std::to_string(prompt) + " and " + std::to_string(generate) +
        " tokens to generate do not fit a context of " + std::to_string(config.context));
  }
  KVF_RETURN_IF_ERROR(cluster::check_ids(order.plan(), config.vocab));
  transport::TransferIdentity& identity = request->identity;
  KVF_ASSIGN_OR_RETURN(identity.codec, parts_.codecs->find(order.plan().codec()));
  identity.request_id = order.plan().request_id();
  identity.transfer_id = order.plan().transfer_id();
  identity.model_fingerprint = parts_.model->fingerprint();
  identity.numerics_class = parts_.model->numerics_class();
  identity.tokens = static_cast<std::uint32_t>(prompt);
  identity.geometry = config.kv_geometry();
  const proto::Sampling& sampling = order.plan().sampling();
  request->sampling = {sampling.temperature(), sampling.top_k(), sampling.top_p(), sampling.seed(),
                       sampling.choice()};
  request->remote_prefill = order.remote_prefill();
  request->received_ns = parts_.timers->now_ns();
  request->deadline_ns = request->received_ns + std::min(order.plan().deadline_ms() * kMillisecond,
                                                         config_.max_deadline_ns);
  const std::size_t needed = codec::PooledSequence::bytes_needed(
      *identity.codec, identity.geometry, identity.tokens + order.plan().max_tokens());
  if (needed + config_.staging_bytes > parts_.pool->usage().pool) {
    return invalid_argument(
        "the request's KV needs " + std::to_string(needed) +
        " bytes, more than the pool has beside its staging; lower max_tokens or raise pool_mib");
  }
  return request;
}

void DecodeEngine::start(const proto::StartDecode& order, std::uint64_t owner) {
  const std::uint64_t transfer_id = order.plan().transfer_id();
  if (requests_.contains(transfer_id)) return;  // a repeated order
  auto refuse = [&](const Status& status) {
    parts_.reply(owner, cluster::failed_envelope(order.plan(), status));
  };
  if (waiting_.size() >= config_.max_waiting) {
    return refuse(resource_exhausted("the decode worker's queue is full"));
  }
  Result<RequestPtr> made = make_request(order);
  if (!made.ok()) return refuse(made.status());
  const RequestPtr request = *made;
  request->owner = owner;
  request->deadline = parts_.timers->at(request->deadline_ns, [this, transfer_id] {
    fail(transfer_id, deadline_exceeded("the request's deadline passed on the decode worker"));
  });
  requests_[transfer_id] = request;
  waiting_.push_back(transfer_id);
  admit();
}

void DecodeEngine::admit() {
  while (!waiting_.empty() && holding_ < config_.max_running) {
    const RequestPtr request = requests_.at(waiting_.front());
    auto sequence = codec::PooledSequence::create(
        *parts_.pool, request->identity.codec, request->identity.geometry,
        request->prompt() + request->plan.max_tokens(), config_.staging_bytes);
    if (!sequence.ok()) {
      if (holding_ > 0) break;  // in order: a large request is not overtaken for ever
      // Nothing will come free: the pool is smaller than its nominal size (staging, fragments).
      fail(waiting_.front(), sequence.status());
      continue;
    }
    waiting_.pop_front();
    request->sequence = std::move(*sequence);
    request->holding = true;
    ++holding_;
    begin(request);
  }
  waiting_gauge_.set(static_cast<double>(waiting_.size()));
  running_gauge_.set(holding_);
}

void DecodeEngine::begin(const RequestPtr& request) {
  if (request->remote_prefill) return receive(request);
  request->stats.prefill.queue_ns = parts_.timers->now_ns() - request->received_ns;
  parts_.thread->post([this, request] { engine_->prefilling.push_back(request); });
}

void DecodeEngine::receive(const RequestPtr& request) {
  const std::uint64_t transfer_id = request->identity.transfer_id;
  // The callbacks hold no reference: the receiver may keep them a little longer than the memory.
  const std::weak_ptr<Request> weak = request;
  transport::ReceiveCallbacks callbacks;
  callbacks.land = [weak](std::uint32_t layer, std::uint32_t tile) -> std::span<std::byte> {
    const RequestPtr landing = weak.lock();
    if (!landing || landing->ended) return {};
    const std::uint32_t open = landing->prompt() % codec::kTileTokens;
    if (tile < landing->prompt() / codec::kTileTokens) {
      return landing->sequence->kv().segment(layer, tile);
    }
    return landing->sequence->open_segment(layer, tile, open);
  };
  callbacks.complete = [this, weak](std::vector<transport::FirstToken> first,
                                    const transport::TransferStats& stats) {
    const RequestPtr complete = weak.lock();
    if (!complete || complete->ended) return;
    complete->receiving = false;
    const Status adopted =
        first.size() == 1 ? adopt(complete) : data_loss("a commit without a first token");
    if (!adopted.ok()) return fail(complete->identity.transfer_id, adopted);
    received(complete, first.front(), stats);
  };
  callbacks.failed = [this, weak, transfer_id](Status why) {
    if (const RequestPtr failed = weak.lock()) failed->receiving = false;
    fail(transfer_id, why);
  };
  request->receiving = true;
  const Status expected =
      parts_.receiver->expect(request->identity, request->deadline_ns, std::move(callbacks));
  if (!expected.ok()) {
    request->receiving = false;
    fail(transfer_id, expected);
  }
}

// The received segments become the sequence's KV.
Status DecodeEngine::adopt(const RequestPtr& request) {
  codec::SequenceKv& kv = request->sequence->kv();
  const std::uint32_t tile = request->prompt() / codec::kTileTokens;
  const std::uint32_t open = request->prompt() % codec::kTileTokens;
  for (std::uint32_t layer = 0; open > 0 && layer < kv.geometry.layers; ++layer) {
    const std::span<const std::byte> segment = request->sequence->open_segment(layer, tile, open);
    kv.codec->load_open(kv.geometry, segment, kv.open_tile(layer));
  }
  kv.length = request->prompt();
  request->sequence->mark_resident(tile);
  return ok_status();
}

void DecodeEngine::received(const RequestPtr& request, const transport::FirstToken& first,
                            const transport::TransferStats& stats) {
  request->stats = stats;
  parts_.thread->post([this, request, first] {
    request->ready_ns = monotonic_ns();
    engine_->running.push_back(request);
    accept_token(request, first.id, first.logprob);
  });
}

void DecodeEngine::cancel(std::uint64_t transfer_id, const Status& why) {
  const auto found = requests_.find(transfer_id);
  if (found == requests_.end()) return;
  if (found->second->receiving) parts_.receiver->cancel(transfer_id, why);
  end(transfer_id);
}

void DecodeEngine::cancel_owner(std::uint64_t owner, const Status& why) {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, request] : requests_) {
    if (request->owner == owner) ids.push_back(id);
  }
  for (const std::uint64_t id : ids) cancel(id, why);
}

void DecodeEngine::fail(std::uint64_t transfer_id, const Status& status) {
  const auto found = requests_.find(transfer_id);
  if (found == requests_.end()) return;
  const RequestPtr request = found->second;
  if (request->receiving) parts_.receiver->cancel(transfer_id, status);
  log_warn("decode", "request " + std::to_string(request->identity.request_id) +
                         " failed: " + status.to_string());
  parts_.reply(request->owner, cluster::failed_envelope(request->plan, status));
  end(transfer_id);
}

// The reactor lets go of the request; the engine thread does at its next step.
void DecodeEngine::end(std::uint64_t transfer_id) {
  const auto found = requests_.find(transfer_id);
  if (found == requests_.end()) return;
  RequestPtr request = std::move(found->second);
  requests_.erase(found);
  parts_.timers->cancel(request->deadline);
  request->ended = true;
  request->receiving = false;
  std::erase(waiting_, transfer_id);
  const bool held = request->holding;
  request.reset();
  // By way of the engine thread, which may hold the last reference: memory is free, and counts as
  // such, only after that.
  parts_.thread->post([this, held] {
    drop_ended();
    parts_.reactor([this, held] {
      if (held) --holding_;
      admit();
    });
  });
}

proto::BeatReply DecodeEngine::load() const {
  proto::BeatReply reply;
  reply.set_queued(static_cast<std::uint32_t>(waiting_.size()));
  reply.set_running(holding_);
  reply.set_pool_free_bytes(parts_.pool->usage().free);
  return reply;
}

// ---- engine thread ----

void DecodeEngine::drop_ended() {
  auto gone = [](const RequestPtr& request) { return request->ended.load(); };
  std::erase_if(engine_->running, gone);
  std::erase_if(engine_->prefilling, gone);
}

bool DecodeEngine::step() {
  drop_ended();
  std::vector<RequestPtr> batch = engine_->running;
  std::vector<std::uint32_t> counts(batch.size(), 1);
  std::uint32_t budget = config_.chunk_tokens;
  for (const RequestPtr& request : engine_->prefilling) {
    if (budget == 0) break;
    counts.push_back(std::min(budget, request->prompt() - request->sequence->kv().length));
    batch.push_back(request);
    budget -= counts.back();
  }
  if (batch.empty()) return false;
  run_step(batch, counts);
  return true;
}

void DecodeEngine::run_step(const std::vector<RequestPtr>& batch,
                            const std::vector<std::uint32_t>& counts) {
  std::vector<model::SequenceChunk> chunks;
  std::uint32_t rows = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    Request& request = *batch[i];
    codec::SequenceKv& kv = request.sequence->kv();
    const bool prompt = kv.length < request.prompt();
    const bool wanted = !prompt || kv.length + counts[i] == request.prompt();
    const std::span<const std::int32_t> ids =
        prompt ? std::span<const std::int32_t>(request.ids).subspan(kv.length, counts[i])
               : std::span<const std::int32_t>(&request.last_id, 1);
    chunks.push_back(
        {&kv, ids,
         wanted ? model::SequenceChunk::Logits::kLast : model::SequenceChunk::Logits::kNone});
    rows += counts[i];
  }
  const std::uint64_t begin_ns = monotonic_ns();
  Status status = parts_.model->forward(chunks, engine_->logits);
  const std::uint64_t end_ns = monotonic_ns();
  if (!status.ok()) {
    // One bad sequence spoils its step; the others may be tried again, alone or elsewhere.
    if (batch.size() > 1) status = internal_error(status.message());
    for (const RequestPtr& request : batch) {
      parts_.reactor([this, id = request->identity.transfer_id, status] { fail(id, status); });
      request->ended = true;
    }
    return;
  }
  step_seconds_.observe(static_cast<double>(end_ns - begin_ns) * 1e-9);
  batch_rows_.observe(rows);
  const std::uint64_t encode_ns = parts_.model->last_step().encode_ns;
  const std::size_t vocab = parts_.model->config().vocab;
  std::size_t row = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const RequestPtr& request = batch[i];
    const std::uint32_t length = request->sequence->kv().length;
    request->sequence->mark_resident(length / codec::kTileTokens);
    if (length <= request->prompt()) {  // a chunk of a local prompt
      request->stats.prefill.prefill_ns += (end_ns - begin_ns) * counts[i] / rows;
      request->stats.prefill.encode_ns += encode_ns * counts[i] / rows;
      if (length < request->prompt()) continue;
      request->ready_ns = end_ns;
      std::erase(engine_->prefilling, request);
      engine_->running.push_back(request);
    } else if (request->first_decode_ns == 0) {
      request->first_decode_ns = end_ns - request->ready_ns;
    }
    const std::span<const float> logits(engine_->logits.data() + vocab * row++, vocab);
    const std::int32_t id = model::sample(logits, request->sampling, length);
    accept_token(request, id, model::logprob(logits, id));
  }
}

void DecodeEngine::accept_token(const RequestPtr& request, std::int32_t id, float logprob) {
  if (request->ended) return;
  const auto& stops = request->plan.stop_ids();
  if (std::find(stops.begin(), stops.end(), id) != stops.end()) return finish(request, "stop");
  proto::Envelope envelope;
  proto::Token& token = *envelope.mutable_token();
  token.set_request_id(request->identity.request_id);
  token.set_transfer_id(request->identity.transfer_id);
  token.set_attempt(request->plan.attempt());
  token.set_position(request->prompt() + request->generated);
  token.set_id(id);
  token.set_logprob(logprob);
  // What the prompt's KV cost is known with the first token, and with the second how long a decode
  // step took; a request that ends at a stop string or with its client never gets to Finished.
  if (request->generated < 2) fill_usage(*request, *token.mutable_usage());
  request->last_id = id;
  ++request->generated;
  tokens_.add();
  parts_.reactor([this, request, envelope = std::move(envelope)] {
    // Cancelled meanwhile: the gateway has let go of it.
    if (!requests_.contains(request->identity.transfer_id)) return;
    parts_.reply(request->owner, envelope);
  });
  if (request->generated == request->plan.max_tokens()) finish(request, "length");
}

void DecodeEngine::finish(const RequestPtr& request, const char* reason) {
  proto::Envelope envelope;
  proto::Finished& finished = *envelope.mutable_finished();
  finished.set_request_id(request->identity.request_id);
  finished.set_transfer_id(request->identity.transfer_id);
  finished.set_attempt(request->plan.attempt());
  finished.set_reason(reason);
  fill_usage(*request, *finished.mutable_usage());
  request->ended = true;
  parts_.reactor([this, id = request->identity.transfer_id, envelope = std::move(envelope)] {
    const auto found = requests_.find(id);
    if (found == requests_.end()) return;
    parts_.reply(found->second->owner, envelope);
    end(id);
  });
}

void DecodeEngine::fill_usage(const Request& request, proto::KvUsage& usage) const {
  const codec::KvGeometry& geometry = request.identity.geometry;
  const codec::Codec& codec = *request.identity.codec;
  const double values = static_cast<double>(geometry.values_per_token()) * request.prompt();
  const std::uint32_t closed = request.prompt() / codec::kTileTokens;
  const std::uint32_t open = request.prompt() % codec::kTileTokens;
  std::size_t bytes = request.stats.wire_bytes;
  if (!request.remote_prefill) {  // what the prompt occupies here
    for (std::uint32_t tile = 0; tile < closed; ++tile) {
      bytes += codec::SequenceKv::block_bytes(codec, geometry, tile);
    }
    if (open > 0) bytes += geometry.layers * codec.segment_bytes(geometry, closed, open);
  }
  auto ms = [](std::uint64_t ns) { return static_cast<double>(ns) * 1e-6; };
  usage.set_values(static_cast<std::uint64_t>(values));
  usage.set_raw_bytes(static_cast<std::uint64_t>(values) * 2);
  usage.set_sent_bytes(request.stats.wire_bytes);
  usage.set_bits_per_value(static_cast<double>(bytes) * 8 / values);
  usage.set_closed_bits_per_value(
      static_cast<double>(codec::SequenceKv::block_bytes(codec, geometry, 1)) * 8 /
      (static_cast<double>(geometry.values_per_token()) * codec::kTileTokens));
  usage.set_queue_ms(ms(request.stats.prefill.queue_ns));
  usage.set_prefill_ms(ms(request.stats.prefill.prefill_ns));
  usage.set_encode_ms(ms(request.stats.prefill.encode_ns));
  usage.set_transfer_ms(ms(request.stats.last_data_ns - request.stats.first_data_ns));
  usage.set_first_decode_ms(ms(request.first_decode_ns));
  usage.set_remote_prefill(request.remote_prefill);
}

}  // namespace kvferry::decode
