// `kvferry chat`: a conversation in the terminal, or from a script's standard input, with any
// server of OpenAI's API or with a cluster started for it.
//
// Lines are read as they are: the terminal's own editing (backspace, Ctrl-U, Ctrl-W) is enough for
// a demonstration, and a script's input needs none; readline or libedit would be one more library.

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <optional>

#include "cli/chat_client.h"
#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "cli/local_cluster.h"

namespace kvferry::cli {
namespace {

constexpr std::size_t kMaxLineBytes = 1 << 20;
constexpr const char* kHint = "Ctrl-C stops an answer; Ctrl-D or /quit ends; /help says more.\n";
constexpr const char* kHelp =
    "/help   prints this\n"
    "/reset  forgets the conversation\n"
    "/quit   ends, as Ctrl-D does\n"
    "Ctrl-C stops an answer. A message that begins with a slash is written with two: //tmp is a "
    "path.\n";

volatile std::sig_atomic_t interrupted = 0;

// Without SA_RESTART, so that Ctrl-C also ends a read.
void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
}

class Lines {
 public:
  enum class Got { kLine, kInterrupt, kEnd };

  // The next line, without its end. kEnd: the input is over, or a line has over kMaxLineBytes.
  Got next(std::string& line) {
    while (true) {
      const std::size_t end = held_.find('\n');
      if (end != std::string::npos) {
        line = held_.substr(0, end);
        held_.erase(0, end + 1);
        return Got::kLine;
      }
      if (held_.size() > kMaxLineBytes) return Got::kEnd;
      std::array<char, 4096> bytes{};
      const ssize_t count = read(STDIN_FILENO, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) return Got::kInterrupt;
      if (count <= 0) {
        line = std::exchange(held_, {});
        return line.empty() ? Got::kEnd : Got::kLine;
      }
      held_.append(bytes.data(), static_cast<std::size_t>(count));
    }
  }

 private:
  std::string held_;
};

void print_figures(const ChatAnswer& answer) {
  if (answer.stopped) {
    fmt::print("[stopped after {:.0f} ms]\n", answer.total_ms);
    return;
  }
  std::string kv;
  if (!answer.codec.empty()) {
    kv =
        answer.sent_bytes > 0
            ? fmt::format("KV {} B raw, {} B sent, {:.2f} bits a value", answer.raw_bytes,
                          answer.sent_bytes, answer.bits_per_value)
            : fmt::format("KV {} B raw, not sent: prefilled where it is decoded", answer.raw_bytes);
    kv += fmt::format(" ({}); ", answer.codec);
  }
  fmt::print("[{} + {} tokens; {}first token after {:.0f} ms, all after {:.0f} ms]\n",
             answer.prompt_tokens, answer.completion_tokens, kv, answer.first_token_ms,
             answer.total_ms);
}

class Conversation {
 public:
  Conversation(HttpUrl url, ChatQuestion question)
      : url_(std::move(url)), question_(std::move(question)), opening_(question_.turns) {}

  void reset() { question_.turns = opening_; }

  Status say(const std::string& line) {
    question_.turns.push_back({"user", line});
    interrupted = 0;
    const auto print = [](std::string_view piece) {
      fmt::print("{}", piece);
      std::fflush(stdout);
    };
    const auto answer = ask_chat(url_, question_, print, [] { return interrupted != 0; });
    interrupted = 0;
    if (!answer.ok()) {
      question_.turns.pop_back();
      return answer.status();
    }
    if (!answer->text.ends_with('\n')) fmt::print("\n");
    question_.turns.push_back({"assistant", answer->text});
    print_figures(*answer);
    return ok_status();
  }

 private:
  HttpUrl url_;
  ChatQuestion question_;
  std::vector<ChatTurn> opening_;
};

// A line that begins with one slash, which must be a command.
Status obey(std::string_view command, Conversation& conversation) {
  if (command == "/help") {
    fmt::print(kHelp);
  } else if (command == "/reset") {
    conversation.reset();
  } else {
    return invalid_argument(fmt::format(
        "there is no command {}: /help lists them; a message that begins with a slash is written "
        "with two",
        command));
  }
  return ok_status();
}

// A person goes on after an error, a script ends with it.
Status converse(Conversation& conversation, bool terminal) {
  Lines lines;
  if (terminal) fmt::print(kHint);
  while (true) {
    if (terminal) fmt::print("> ");
    std::fflush(stdout);
    std::string line;
    const Lines::Got got = lines.next(line);
    if (got == Lines::Got::kInterrupt) {
      fmt::print("\n{}", kHint);
      continue;
    }
    if (got == Lines::Got::kEnd || line == "/quit") return ok_status();
    if (line.empty()) continue;
    const bool command = line.starts_with('/') && !line.starts_with("//");
    if (line.starts_with("//")) line.erase(0, 1);
    const Status status = command ? obey(line, conversation) : conversation.say(line);
    if (!status.ok() && !terminal) return status;
    if (!status.ok()) fmt::print("{}\n", status.message());
  }
}

Status chat(const ChatOptions& options) {
  const bool terminal = isatty(STDIN_FILENO) == 1;
  std::unique_ptr<LocalCluster> cluster;
  HttpUrl url;
  if (options.model.empty()) {
    KVF_ASSIGN_OR_RETURN(url, HttpUrl::parse(options.url));
    url.api_key = options.api_key;
  } else {
    KVF_ASSIGN_OR_RETURN(cluster,
                         LocalCluster::start(options.model, options.chat_template, options.codec));
    url = cluster->url();
  }
  ChatQuestion question;
  KVF_ASSIGN_OR_RETURN(question.model, first_model(url));
  // A cluster of its own has the codec for its default, which may be one that names a file.
  if (options.model.empty()) question.codec = options.codec;
  question.max_tokens = options.max_tokens;
  question.temperature = options.temperature;
  if (!options.system.empty()) question.turns.push_back({"system", options.system});
  catch_interrupts();
  Conversation conversation(std::move(url), std::move(question));
  return converse(conversation, terminal);
}

}  // namespace

int run_chat(const ChatOptions& options) {
  quiet_logs();
  return report("chat", chat(options));
}

}  // namespace kvferry::cli
