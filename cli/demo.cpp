// `kvferry demo`: asks a running cluster the same retrieval question with several codecs and prints
// the answers and what their KV cost.

#include <fmt/format.h>

#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <thread>

#include "base/clock.h"
#include "cli/commands.h"
#include "cli/demo_prompt.h"
#include "cli/engine_setup.h"
#include "cli/http_client.h"

namespace kvferry::cli {
namespace {

namespace json = boost::json;

constexpr std::uint64_t kSeed = 7;
constexpr std::uint32_t kEntries = 100;
constexpr std::uint64_t kAnswerTimeoutNs = 120 * kSecond;

struct Row {
  std::string codec, answer;
  bool right = false;
  double prompt_tokens = 0, raw_bytes = 0, sent_bytes = 0, closed_bits = 0, bits = 0;
  double encode_ms = 0, transfer_ms = 0, ttft_ms = 0;
};

double number(const json::value& value, std::string_view key) {
  const json::value* found = value.is_object() ? value.as_object().if_contains(key) : nullptr;
  return found != nullptr && found->is_number() ? found->to_number<double>() : 0;
}

Status wait_ready(const HttpUrl& url, std::uint32_t wait_s) {
  const std::uint64_t deadline_ns = monotonic_ns() + wait_s * kSecond;
  std::string last;
  for (;;) {
    const auto answer = http_get(url, "/readyz", 2 * kSecond);
    if (answer.ok() && answer->status == 200) return ok_status();
    last = answer.ok() ? answer->body : answer.status().to_string();
    if (monotonic_ns() > deadline_ns) {
      return deadline_exceeded("the cluster is not ready after " + std::to_string(wait_s) +
                               " s: " + last);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

json::object request_of(const DemoPrompt& prompt) {
  return {
      {"prompt", prompt.text}, {"max_tokens", 16}, {"temperature", 0}, {"stop", json::array{"\n"}}};
}

Result<Row> ask(const HttpUrl& url, const DemoPrompt& prompt, const std::string& codec) {
  json::object body = request_of(prompt);
  body["kv_codec"] = codec;
  KVF_ASSIGN_OR_RETURN(
      const HttpResponse response,
      http_post_json(url, "/v1/completions", json::serialize(body), kAnswerTimeoutNs));
  if (response.status != 200) {
    return unavailable("status " + std::to_string(response.status) + ": " + response.body);
  }
  boost::system::error_code error;
  const json::value answer = json::parse(response.body, error);
  if (error || !answer.is_object()) return internal_error("the answer is not JSON");
  const json::value* text = answer.find_pointer("/choices/0/text", error);
  const json::value* usage = answer.find_pointer("/usage", error);
  const json::value* kv = answer.find_pointer("/usage/kvferry", error);
  if (text == nullptr || !text->is_string() || usage == nullptr || kv == nullptr) {
    return internal_error("the answer lacks its text or usage: " + response.body);
  }
  Row row;
  row.codec = codec;
  row.answer = std::string(text->as_string());
  row.right = row.answer.find(prompt.answer) != std::string::npos;
  row.prompt_tokens = number(*usage, "prompt_tokens");
  row.raw_bytes = number(*kv, "raw_bytes");
  row.sent_bytes = number(*kv, "sent_bytes");
  row.closed_bits = number(*kv, "closed_bits_per_value");
  row.bits = number(*kv, "bits_per_value");
  row.encode_ms = number(*kv, "encode_ms");
  row.transfer_ms = number(*kv, "transfer_ms");
  row.ttft_ms = number(*kv, "ttft_ms");
  return row;
}

void print_table(const std::vector<Row>& rows) {
  std::size_t width = 5;
  for (const Row& row : rows) width = std::max(width, row.codec.size());
  fmt::print("\n{:<{}}  {:>7}  {:>10}  {:>10}  {:>8}  {:>8}  {:>9}  {:>11}  {:>7}\n", "codec",
             width, "prompt", "raw KV", "bytes", "bits on", "bits", "encode", "transfer", "first");
  fmt::print("{:<{}}  {:>7}  {:>10}  {:>10}  {:>8}  {:>8}  {:>9}  {:>11}  {:>7}\n", "", width,
             "tokens", "bytes", "sent", "closed", "all-in", "ms", "ms", "tok. ms");
  for (const Row& row : rows) {
    fmt::print(
        "{:<{}}  {:>7.0f}  {:>10.0f}  {:>10.0f}  {:>8.3f}  {:>8.3f}  {:>9.2f}  {:>11.2f}  "
        "{:>7.1f}\n",
        row.codec, width, row.prompt_tokens, row.raw_bytes, row.sent_bytes, row.closed_bits,
        row.bits, row.encode_ms, row.transfer_ms, row.ttft_ms);
  }
  fmt::print(
      "\nBits are those of one KV value: all bytes on the wire, headers included, over the values\n"
      "(all-in), and of a closed block of 64 tokens alone. bf16 is 16.\n");
}

// For other clients to ask, with the value to find as `answer`.
Status print_question() {
  const DemoPrompt prompt = make_demo_prompt(kSeed, kEntries);
  json::object question = request_of(prompt);
  question["answer"] = prompt.answer;
  fmt::print("{}\n", json::serialize(question));
  return ok_status();
}

Status demo(const DemoOptions& options) {
  if (options.print_question) return print_question();
  KVF_ASSIGN_OR_RETURN(HttpUrl url, HttpUrl::parse(options.url));
  url.api_key = options.api_key;
  KVF_RETURN_IF_ERROR(wait_ready(url, options.wait_s));
  const DemoPrompt prompt = make_demo_prompt(kSeed, kEntries);
  std::vector<std::string> codecs = options.codecs;
  if (codecs.empty()) {
    codecs = {"raw", std::string(codec::kDefaultSpec), "hadamard | hack(k=2,v=2)"};
  }
  fmt::print("The question: a JSON object of {} keys, then  \"{}\":\nThe value to find: \"{}\"\n\n",
             kEntries, prompt.key, prompt.answer);
  // The first request pays for pages touched for the first time; it is not in the table.
  KVF_RETURN_IF_ERROR(ask(url, prompt, codecs.front()).status());
  std::vector<Row> rows;
  std::string wrong;
  for (const std::string& codec : codecs) {
    KVF_ASSIGN_OR_RETURN(Row row, ask(url, prompt, codec));
    fmt::print("{:<26} answers {}  {}\n", row.codec, row.answer, row.right ? "(right)" : "(wrong)");
    std::fflush(stdout);
    if (row.answer.empty()) return internal_error("the answer with " + codec + " is empty");
    if (!row.right) wrong += (wrong.empty() ? "" : ", ") + codec;
    rows.push_back(std::move(row));
  }
  print_table(rows);
  if (!wrong.empty()) return internal_error("the answer is wrong with " + wrong);
  return ok_status();
}

}  // namespace

int run_demo(const DemoOptions& options) { return report("demo", demo(options)); }

}  // namespace kvferry::cli
