// The client half of cluster_fixture.h: completions, streams, and the undisturbed answers.

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/json.hpp>
#include <iterator>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/compute_pool.h"
#include "base/hash.h"
#include "cli/in_process.h"
#include "cluster_fixture.h"

namespace kvferry::e2e {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace json = boost::json;

// Each changes what random prompts are answered.
proto::Sampling penalties() {
  proto::Sampling sampling;
  sampling.set_presence_penalty(0.75f);
  sampling.set_frequency_penalty(0.5f);
  sampling.set_repetition_penalty(1.25f);
  sampling.set_min_p(0.015625f);
  sampling.set_min_tokens(8);
  proto::LogitBias& bias = *sampling.add_logit_bias();
  bias.set_id(66);
  bias.set_bias(2.5f);
  return sampling;
}

std::string request_body(const Ask& ask, bool stream) {
  json::object body{{"prompt", json::array(ask.prompt.begin(), ask.prompt.end())},
                    {"max_tokens", ask.max_tokens},
                    {"temperature", ask.temperature},
                    {"seed", ask.seed},
                    {"kv_codec", ask.codec},
                    {"return_token_ids", true}};
  if (stream) body["stream"] = true;
  if (ask.choices > 1) body["n"] = ask.choices;
  if (ask.logprobs) body["logprobs"] = 2;
  if (ask.penalties) {
    const proto::Sampling sampling = penalties();
    body["presence_penalty"] = sampling.presence_penalty();
    body["frequency_penalty"] = sampling.frequency_penalty();
    body["repetition_penalty"] = sampling.repetition_penalty();
    body["min_p"] = sampling.min_p();
    body["min_tokens"] = sampling.min_tokens();
    body["logit_bias"] = {
        {std::to_string(sampling.logit_bias(0).id()), sampling.logit_bias(0).bias()}};
  }
  return json::serialize(body);
}

// The token's own and those of the two most probable ones, in falling order: names are another
// test's matter.
void take_logprobs(const json::value& logprobs, std::vector<double>& to) {
  // A float as it was sent: Boost 1.81 may err in a double's last place.
  const auto number = [](const json::value& value) {
    return static_cast<float>(value.to_number<double>());
  };
  const json::array& tokens = logprobs.at("token_logprobs").as_array();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    to.push_back(number(tokens[i]));
    std::vector<double> top;
    for (const auto& [token, logprob] : logprobs.at("top_logprobs").at(i).as_object()) {
      top.push_back(number(logprob));
    }
    std::sort(top.rbegin(), top.rend());
    top.resize(2);
    to.insert(to.end(), top.begin(), top.end());
  }
}

// Adds the ids of an answer's choices, or of an event's one, and the finish reason of the first.
void take_choice(const json::value& value, Answer& answer) {
  boost::system::error_code error;
  if (const json::value* text = value.find_pointer("/error/message", error)) {
    answer.error = text->as_string();
  }
  const json::value* choices = value.find_pointer("/choices", error);
  if (choices == nullptr) return;
  for (const json::value& choice : choices->as_array()) {
    const auto index = choice.at("index").to_number<std::size_t>();
    if (index > answer.others.size()) answer.others.resize(index);
    std::vector<std::int32_t>& ids = index == 0 ? answer.ids : answer.others[index - 1];
    if (const json::value* given = choice.find_pointer("/token_ids", error);
        given != nullptr && given->is_array()) {
      for (const json::value& id : given->as_array()) ids.push_back(id.to_number<int>());
    }
    if (index != 0) continue;
    if (choice.at("logprobs").is_object()) take_logprobs(choice.at("logprobs"), answer.logprobs);
    const json::value& reason = choice.at("finish_reason");
    if (reason.is_string()) answer.finish_reason = reason.as_string();
  }
}

Status send_streaming(asio::ip::tcp::socket& socket, const cli::HttpUrl& url, const Ask& ask) {
  boost::system::error_code error;
  socket.connect({asio::ip::make_address(url.host), url.port}, error);
  if (error) return unavailable("connect: " + error.message());
  http::request<http::string_body> request(http::verb::post, "/v1/completions", 11);
  request.set(http::field::host, url.host);
  request.set(http::field::content_type, "application/json");
  request.body() = request_body(ask, true);
  request.prepare_payload();
  http::write(socket, request, error);
  if (error) return unavailable("write: " + error.message());
  return ok_status();
}

}  // namespace

void abandon(const cli::HttpUrl& url, const Ask& ask) {
  asio::io_context io;
  asio::ip::tcp::socket socket(io);
  const Status sent = send_streaming(socket, url, ask);
  if (!sent.ok()) std::fprintf(stderr, "abandon: %s\n", sent.to_string().c_str());
}

Result<Answer> complete(const cli::HttpUrl& url, const Ask& ask) {
  KVF_ASSIGN_OR_RETURN(
      const cli::HttpResponse response,
      cli::http_post_json(url, "/v1/completions", request_body(ask, false), 300 * kSecond));
  Answer answer;
  answer.status = response.status;
  boost::system::error_code error;
  const json::value value = json::parse(response.body, error);
  if (error) return internal_error("not JSON: " + response.body);
  take_choice(value, answer);
  return answer;
}

Result<Answer> stream(const cli::HttpUrl& url, const Ask& ask,
                      const std::function<bool(const Answer&)>& on_event) {
  asio::io_context io;
  asio::ip::tcp::socket socket(io);
  KVF_RETURN_IF_ERROR(send_streaming(socket, url, ask));
  boost::system::error_code error;

  Answer answer;
  boost::beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(64u << 20);
  std::size_t seen = 0;
  while (!parser.is_done()) {
    http::read_some(socket, buffer, parser, error);
    if (error) break;
    const std::string& body = parser.get().body();
    for (std::size_t end; (end = body.find("\n\n", seen)) != std::string::npos; seen = end + 2) {
      const std::string event = body.substr(seen, end - seen);
      if (!event.starts_with("data: ")) continue;
      if (event == "data: [DONE]") {
        answer.done = true;
        continue;
      }
      boost::system::error_code wrong;
      const json::value value = json::parse(event.substr(6), wrong);
      if (wrong) return internal_error("an event is not JSON: " + event);
      take_choice(value, answer);
      ++answer.events;
      if (on_event && !on_event(answer)) return answer;
    }
  }
  answer.status = static_cast<int>(parser.get().result_int());
  if (error) answer.error = error.message();
  return answer;
}

std::vector<std::int32_t> random_prompt(std::uint64_t seed, std::uint32_t length) {
  std::vector<std::int32_t> ids = {1};
  for (std::uint32_t i = 1; i < length; ++i) {
    ids.push_back(static_cast<std::int32_t>(2 + counter_random(seed, i) % 1022));
  }
  return ids;
}

struct Undisturbed::Impl {
  ComputePool pool{2};
  std::unique_ptr<model::Model> model;
  codec::CodecSet codecs;
  std::unique_ptr<cli::InProcessCluster> cluster;
  std::uint64_t next_id = 1;
};

Undisturbed::Undisturbed(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Undisturbed::~Undisturbed() = default;

Result<std::unique_ptr<Undisturbed>> Undisturbed::create(const std::filesystem::path& model,
                                                         std::vector<std::string> codecs) {
  if (codecs.empty()) {
    codecs.assign(std::begin(kCodecs), std::end(kCodecs));
  }
  auto impl = std::make_unique<Impl>();
  model::LoadOptions options;
  options.pool = &impl->pool;
  KVF_ASSIGN_OR_RETURN(impl->model, model::load_model(model.string(), options));
  KVF_ASSIGN_OR_RETURN(impl->codecs, codec::CodecSet::parse(codecs));
  KVF_ASSIGN_OR_RETURN(impl->cluster, cli::InProcessCluster::start(*impl->model, impl->codecs, {}));
  return std::unique_ptr<Undisturbed>(new Undisturbed(std::move(impl)));
}

Result<Answer> Undisturbed::answer(const Ask& ask) {
  proto::Plan plan;
  plan.set_request_id(impl_->next_id);
  plan.set_transfer_id(impl_->next_id++);
  plan.mutable_ids()->Add(ask.prompt.begin(), ask.prompt.end());
  plan.set_max_tokens(ask.max_tokens);
  plan.add_stop_ids(0);
  plan.set_codec(ask.codec);
  plan.mutable_sampling()->set_repetition_penalty(1);
  if (ask.penalties) *plan.mutable_sampling() = penalties();
  if (ask.logprobs) plan.set_logprobs(2);
  plan.mutable_sampling()->set_temperature(ask.temperature);
  plan.mutable_sampling()->set_top_p(1);
  plan.mutable_sampling()->set_seed(ask.seed);
  plan.set_prompt_tokens(static_cast<std::uint32_t>(ask.prompt.size()));
  plan.set_choices(ask.choices);
  plan.set_deadline_ms(300'000);
  KVF_ASSIGN_OR_RETURN(const auto result, impl_->cluster->answer(plan));
  Answer answer;
  answer.status = 200;
  answer.ids = result.choices.front().ids();
  answer.finish_reason = result.choices.front().finish_reason;
  for (std::size_t i = 1; i < result.choices.size(); ++i) {
    answer.others.push_back(result.choices[i].ids());
  }
  for (const proto::Token& token : result.choices.front().tokens) {
    if (!ask.logprobs) break;
    answer.logprobs.insert(answer.logprobs.end(),
                           {token.logprob(), token.top(0).logprob(), token.top(1).logprob()});
  }
  return answer;
}

}  // namespace kvferry::e2e
