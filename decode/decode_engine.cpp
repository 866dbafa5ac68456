#include "decode/decode_engine.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "cluster/messages.h"
#include "decode/decode_messages.h"
#include "decode/decode_request.h"

namespace kvferry::decode {
namespace {

// Of a prompt whose log-probabilities are asked for, in one step: each row has logits over the
// whole vocabulary, 39 MB of them at 152k ids.
constexpr std::uint32_t kLogprobRows = 64;

}  // namespace

// A sequence in a step. choice: of the request, which keeps it alive.
struct DecodeEngine::Row {
  RequestPtr request;
  Choice* choice = nullptr;
};

struct DecodeEngine::EngineState {
  std::deque<RequestPtr> prefilling;
  std::vector<Row> running;
  std::vector<float> logits, adjusted;
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
      running_gauge_(parts_.metrics->gauge("kvferry_decode_holding_requests",
                                           "Choices of requests that hold memory.")) {}

DecodeEngine::~DecodeEngine() = default;

void DecodeEngine::attach() {
  parts_.thread->add_stepper([this] { return step(); });
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
  Result<RequestPtr> made = make_request(order, *parts_.model, *parts_.codecs);
  if (!made.ok()) return refuse(made.status());
  const RequestPtr request = *made;
  const std::size_t needed = codec::PooledSequence::bytes_needed(
      *request->identity.codec, request->identity.geometry, request->shape());
  if (needed + config_.staging_bytes > parts_.pool->usage().pool) {
    return refuse(invalid_argument(
        "the request's KV needs " + std::to_string(needed) +
        " bytes, more than the pool has beside its staging; lower max_tokens or n, or raise "
        "pool_mib"));
  }
  request->owner = owner;
  request->received_ns = parts_.timers->now_ns();
  request->deadline_ns = request->received_ns + std::min(order.plan().deadline_ms() * kMillisecond,
                                                         config_.max_deadline_ns);
  request->deadline = parts_.timers->at(request->deadline_ns, [this, transfer_id] {
    fail(transfer_id, deadline_exceeded("the request's deadline passed on the decode worker"));
  });
  requests_[transfer_id] = request;
  waiting_.push_back(transfer_id);
  admit();
}

void DecodeEngine::admit() {
  while (!waiting_.empty()) {
    const RequestPtr request = requests_.at(waiting_.front());
    const std::uint32_t choices = request->plan.choices();
    // In order: a large request is not overtaken for ever.
    if (holding_ > 0 && holding_ + choices > config_.max_running) break;
    auto sequences = codec::PooledSequence::create(*parts_.pool, request->identity.codec,
                                                   request->identity.geometry, request->shape(),
                                                   config_.staging_bytes);
    if (!sequences.ok()) {
      if (holding_ > 0) break;
      // Nothing will come free: the pool is smaller than its nominal size (staging, fragments).
      fail(waiting_.front(), sequences.status());
      continue;
    }
    waiting_.pop_front();
    for (std::uint32_t i = 0; i < choices; ++i) {
      request->choices[i].sequence = std::move((*sequences)[i]);
    }
    request->holding = choices;
    holding_ += choices;
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
  const std::weak_ptr<DecodeRequest> weak = request;
  transport::ReceiveCallbacks callbacks;
  callbacks.land = [weak](std::uint32_t layer, std::uint32_t tile) -> std::span<std::byte> {
    const RequestPtr landing = weak.lock();
    if (!landing || landing->ended) return {};
    const std::uint32_t tile_tokens = landing->identity.codec->tile_tokens();
    const std::uint32_t open = landing->prompt() % tile_tokens;
    if (tile < landing->prompt() / tile_tokens) {
      return landing->prompt_sequence().kv().segment(layer, tile);
    }
    return landing->prompt_sequence().open_segment(layer, tile, open);
  };
  callbacks.complete = [this, weak](transport::FirstTokens first,
                                    const transport::TransferStats& stats) {
    const RequestPtr complete = weak.lock();
    if (!complete || complete->ended) return;
    complete->receiving = false;
    if (first.choices.size() != complete->choices.size()) {
      return fail(complete->identity.transfer_id,
                  data_loss("a commit with another number of first tokens than choices"));
    }
    adopt(*complete);
    received(complete, std::move(first), stats);
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
void DecodeEngine::adopt(DecodeRequest& request) {
  codec::PooledSequence& sequence = request.prompt_sequence();
  codec::SequenceKv& kv = sequence.kv();
  const std::uint32_t tile = request.prompt() / kv.tile_tokens();
  const std::uint32_t open = request.prompt() % kv.tile_tokens();
  for (std::uint32_t layer = 0; open > 0 && layer < kv.geometry.layers; ++layer) {
    const std::span<const std::byte> segment = sequence.open_segment(layer, tile, open);
    kv.codec->load_open(kv.geometry, segment, kv.open_tile(layer));
  }
  kv.length = request.prompt();
  sequence.mark_resident(tile);
}

void DecodeEngine::received(const RequestPtr& request, transport::FirstTokens first,
                            const transport::TransferStats& stats) {
  request->stats = stats;
  parts_.thread->post([this, request, first = std::move(first)] {
    if (request->ended) return;
    request->ready_ns = monotonic_ns();
    share_prompt(request);
    std::vector<model::TokenLogprob> top;
    for (const auto& [id, logprob] : first.top) top.push_back({id, logprob});
    for (std::size_t i = 0; i < first.choices.size(); ++i) {
      Choice& choice = request->choices[i];
      accept_token({request, &choice}, {first.choices[i].id, first.choices[i].logprob, top});
    }
  });
}

void DecodeEngine::cancel(std::uint64_t transfer_id, const Status& why) {
  const auto found = requests_.find(transfer_id);
  if (found == requests_.end()) return;
  if (found->second->receiving) parts_.receiver->cancel(transfer_id, why);
  end(transfer_id);
}

void DecodeEngine::cancel_choice(std::uint64_t transfer_id, std::uint32_t index) {
  const auto found = requests_.find(transfer_id);
  if (found == requests_.end()) return;
  parts_.thread->post([this, request = found->second, index] {
    // Before its first token a choice is not ended alone: the prompt is for all of them.
    if (request->ended || request->ready_ns == 0) return;
    for (Choice& choice : request->choices) {
      if (choice.index == index && !choice.ended) {
        end_choice({request, &choice}, std::nullopt);
      }
    }
  });
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
  const std::uint32_t held = std::exchange(request->holding, 0);
  request.reset();
  // By way of the engine thread, which may hold the last reference: memory is free, and counts as
  // such, only after that.
  parts_.thread->post([this, held] {
    drop_ended();
    parts_.reactor([this, held] {
      holding_ -= held;
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
  std::erase_if(engine_->running,
                [](const Row& row) { return row.request->ended || row.choice->ended; });
  std::erase_if(engine_->prefilling,
                [](const RequestPtr& request) { return request->ended.load(); });
}

bool DecodeEngine::step() {
  drop_ended();
  std::vector<Row> batch = engine_->running;
  std::vector<std::uint32_t> counts(batch.size(), 1);
  std::uint32_t budget = config_.chunk_tokens;
  for (const RequestPtr& request : engine_->prefilling) {
    if (budget == 0) break;
    const std::uint32_t left = request->prompt() - request->prompt_sequence().kv().length;
    const std::uint32_t most = request->plan.prompt_logprobs() ? kLogprobRows : budget;
    counts.push_back(std::min({budget, left, most}));
    batch.push_back({request, &request->choices.front()});
    budget -= counts.back();
  }
  if (batch.empty()) return false;
  run_step(batch, counts);
  return true;
}

void DecodeEngine::run_step(const std::vector<Row>& batch,
                            const std::vector<std::uint32_t>& counts) {
  using Logits = model::SequenceChunk::Logits;
  std::vector<model::SequenceChunk> chunks;
  std::uint32_t rows = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const DecodeRequest& request = *batch[i].request;
    codec::SequenceKv& kv = batch[i].choice->sequence->kv();
    if (kv.length >= request.prompt()) {
      chunks.push_back({&kv, {&batch[i].choice->last_id, 1}, Logits::kLast});
    } else {
      const bool last = kv.length + counts[i] == request.prompt();
      const Logits wanted = request.plan.prompt_logprobs() ? Logits::kAll
                            : last                         ? Logits::kLast
                                                           : Logits::kNone;
      chunks.push_back({&kv, std::span(request.ids).subspan(kv.length, counts[i]), wanted});
    }
    rows += counts[i];
  }
  const std::uint64_t begin_ns = monotonic_ns();
  const Status status = parts_.model->forward(chunks, engine_->logits);
  const std::uint64_t elapsed_ns = monotonic_ns() - begin_ns;
  if (!status.ok()) return fail_step(batch, status);
  step_seconds_.observe(static_cast<double>(elapsed_ns) * 1e-9);
  batch_rows_.observe(rows);
  const std::uint64_t encode_ns = parts_.model->last_step().encode_ns;
  const std::size_t vocab = parts_.model->config().vocab;
  std::span<const float> logits(engine_->logits);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const Row& row = batch[i];
    const std::size_t told = chunks[i].logits == Logits::kAll    ? counts[i]
                             : chunks[i].logits == Logits::kLast ? 1
                                                                 : 0;
    const std::span<const float> own = logits.first(told * vocab);
    logits = logits.subspan(told * vocab);
    const std::uint32_t length = row.choice->sequence->kv().length;
    row.choice->sequence->mark_resident(length / row.choice->sequence->kv().tile_tokens());
    if (length > row.request->prompt()) {
      if (row.request->first_decode_ns == 0) {
        row.request->first_decode_ns = monotonic_ns() - row.request->ready_ns;
      }
      next_token(row, own);
      continue;
    }
    row.request->stats.prefill.prefill_ns += elapsed_ns * counts[i] / rows;
    row.request->stats.prefill.encode_ns += encode_ns * counts[i] / rows;
    local_chunk(row.request, counts[i], own);
  }
}

void DecodeEngine::fail_step(const std::vector<Row>& batch, const Status& status) {
  // One bad sequence spoils its step; the others may be tried again, alone or elsewhere.
  const Status each = batch.size() > 1 ? internal_error(status.message()) : status;
  for (const Row& row : batch) {
    parts_.reactor([this, id = row.request->identity.transfer_id, each] { fail(id, each); });
    row.request->ended = true;
  }
}

// `count` tokens of a local prompt have been computed. logits: of all of them when their
// log-probabilities are asked for, else of the prompt's last alone.
void DecodeEngine::local_chunk(const RequestPtr& request, std::uint32_t count,
                               std::span<const float> logits) {
  const std::uint32_t length = request->prompt_sequence().kv().length;
  if (request->plan.prompt_logprobs()) {
    say(request, prompt_logprobs_message(*request, length - count, count, logits));
  }
  if (length < request->prompt()) return;
  request->ready_ns = monotonic_ns();
  std::erase(engine_->prefilling, request);
  share_prompt(request);
  const std::size_t vocab = parts_.model->config().vocab;
  for (Choice& choice : request->choices) {
    const Row row{request, &choice};
    if (request->plan.max_tokens() == 0) {
      end_choice(row, finished_message(*request, choice, "length"));
    } else {
      next_token(row, logits.last(vocab));
    }
  }
}

// The prompt is complete: every choice goes on from it.
void DecodeEngine::share_prompt(const RequestPtr& request) {
  for (Choice& choice : request->choices) {
    if (&choice != &request->choices.front())
      choice.sequence->copy_prompt(request->prompt_sequence());
    engine_->running.push_back({request, &choice});
  }
}

void DecodeEngine::next_token(const Row& row, std::span<const float> logits) {
  ChosenToken token;
  token.id = row.choice->sampler.choose(logits, engine_->adjusted);
  if (row.request->plan.has_logprobs()) {
    token.logprob = model::logprob(logits, token.id);
    token.top = model::top_logprobs(logits, row.request->plan.logprobs());
  }
  accept_token(row, token);
}

void DecodeEngine::accept_token(const Row& row, const ChosenToken& token) {
  const RequestPtr& request = row.request;
  Choice& choice = *row.choice;
  if (request->ended || choice.ended) return;
  const auto& stops = request->plan.stop_ids();
  if (std::find(stops.begin(), stops.end(), token.id) != stops.end()) {
    return end_choice(row, finished_message(*request, choice, "stop"));
  }
  say(request, token_message(*request, choice, token));
  choice.sampler.append(token.id);
  choice.last_id = token.id;
  ++choice.generated;
  tokens_.add();
  if (choice.generated == request->plan.max_tokens()) {
    end_choice(row, finished_message(*request, choice, "length"));
  }
}

void DecodeEngine::say(const RequestPtr& request, proto::Envelope message) {
  parts_.reactor([this, request, message = std::move(message)] {
    // Cancelled meanwhile: the gateway has let go of it.
    if (!requests_.contains(request->identity.transfer_id)) return;
    parts_.reply(request->owner, message);
  });
}

// last_word: none when the gateway has ended the choice. What the choice held alone comes free now,
// the prompt's blocks with the last choice.
void DecodeEngine::end_choice(const Row& row, std::optional<proto::Envelope> last_word) {
  row.choice->ended = true;
  row.choice->sequence.reset();
  auto& choices = row.request->choices;
  const bool last =
      std::all_of(choices.begin(), choices.end(), [](const Choice& each) { return each.ended; });
  if (last) row.request->ended = true;
  if (last_word) say(row.request, std::move(*last_word));
  parts_.reactor([this, request = row.request, last] {
    const std::uint64_t id = request->identity.transfer_id;
    if (last) return end(id);
    if (!requests_.contains(id)) return;
    --request->holding;
    --holding_;
    admit();
  });
}

}  // namespace kvferry::decode
