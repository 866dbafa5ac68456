// One answer of a chat over HTTP, as it streams.
// Thread contract: one thread; ask_chat blocks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cli/http_client.h"

namespace kvferry::cli {

struct ChatTurn {
  std::string role;
  std::string content;
};

struct ChatQuestion {
  std::string model;  // as /v1/models has it
  std::string codec;  // empty: the gateway's default
  std::uint32_t max_tokens = 0;
  double temperature = 0;
  std::vector<ChatTurn> turns;
};

struct ChatAnswer {
  std::string text;
  bool stopped = false;  // by `stop`: the text is what had come, and there are no figures
  double first_token_ms = 0, total_ms = 0;  // as seen here
  // What the server says; the last four are kvferry's, and 0 or empty when another one answers.
  std::uint64_t prompt_tokens = 0, completion_tokens = 0;
  std::uint64_t raw_bytes = 0, sent_bytes = 0;
  double bits_per_value = 0;
  std::string codec;
};

// The data of server-sent events, given in whatever pieces the network makes.
class EventReader {
 public:
  void feed(std::string_view bytes, const std::function<void(std::string_view data)>& event);

 private:
  std::string line_;
};

// The name of the one model that a server has, or of its first.
Result<std::string> first_model(const HttpUrl& url);

// text: called with each piece. stop: asked several times a second; true closes the connection.
// Errors are the server's own words.
Result<ChatAnswer> ask_chat(const HttpUrl& url, const ChatQuestion& question,
                            const std::function<void(std::string_view)>& text,
                            const std::function<bool()>& stop);

}  // namespace kvferry::cli
