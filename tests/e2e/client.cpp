// The client half of cluster_fixture.h: completions, streams, and the undisturbed answers.

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/json.hpp>
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

std::string request_body(const Ask& ask, bool stream) {
  json::object body{{"prompt", json::array(ask.prompt.begin(), ask.prompt.end())},
                    {"max_tokens", ask.max_tokens},
                    {"temperature", ask.temperature},
                    {"seed", ask.seed},
                    {"kv_codec", ask.codec},
                    {"return_token_ids", true}};
  if (stream) body["stream"] = true;
  return json::serialize(body);
}

// Adds the ids and the finish reason of an answer's or event's first choice.
void take_choice(const json::value& value, Answer& answer) {
  boost::system::error_code error;
  if (const json::value* text = value.find_pointer("/error/message", error)) {
    answer.error = text->as_string();
  }
  const json::value* choice = value.find_pointer("/choices/0", error);
  if (choice == nullptr) return;
  if (const json::value* ids = choice->find_pointer("/token_ids", error);
      ids != nullptr && ids->is_array()) {
    for (const json::value& id : ids->as_array()) answer.ids.push_back(id.to_number<int>());
  }
  const json::value* reason = choice->find_pointer("/finish_reason", error);
  if (reason != nullptr && reason->is_string()) answer.finish_reason = reason->as_string();
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

Result<std::unique_ptr<Undisturbed>> Undisturbed::create() {
  auto impl = std::make_unique<Impl>();
  model::LoadOptions options;
  options.pool = &impl->pool;
  KVF_ASSIGN_OR_RETURN(impl->model, model::load_model(model_directory().string(), options));
  KVF_ASSIGN_OR_RETURN(impl->codecs, codec::CodecSet::parse({std::string(codec::kDefaultSpec),
                                                             "raw", "hadamard | hack(k=2,v=2)"}));
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
  plan.mutable_sampling()->set_temperature(ask.temperature);
  plan.mutable_sampling()->set_top_p(1);
  plan.mutable_sampling()->set_seed(ask.seed);
  plan.mutable_sampling()->set_repetition_penalty(1);
  plan.set_prompt_tokens(static_cast<std::uint32_t>(ask.prompt.size()));
  plan.set_choices(1);
  plan.set_deadline_ms(300'000);
  KVF_ASSIGN_OR_RETURN(const auto result, impl_->cluster->answer(plan));
  Answer answer;
  answer.status = 200;
  answer.ids = result.choices.front().ids();
  answer.finish_reason = result.choices.front().finish_reason;
  return answer;
}

}  // namespace kvferry::e2e
