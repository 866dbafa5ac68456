// `kvferry chat` on a cluster of its own and on one that is there, and the help of every command.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <sstream>

#include "cli/chat_client.h"
#include "cluster_fixture.h"
#include "program.h"

namespace kvferry::e2e {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kStory = "Once upon a time there was a little girl named Lily.\n";
// Over 64 tokens, so that its KV travels.
constexpr const char* kLookUp =
    "{\"QIRN\": \"PTRAT\", \"LOVE\": \"MAKSU\", \"TENB\": \"ORILA\", \"XARD\": \"BEMOL\", "
    "\"FING\": \"SOTEP\"} \"LOVE\":\n";

std::string url_of(const Cluster& cluster) {
  return "http://127.0.0.1:" + std::to_string(cluster.url().port);
}

TEST(Chat, OnAClusterOfItsOwn) {
  const Outcome outcome =
      run({"chat", "--model", model_directory().string(), "--max-tokens", "12"}, kLookUp);
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr(" tokens; KV "));
  EXPECT_THAT(outcome.output, HasSubstr(" B sent, "));
  EXPECT_THAT(outcome.output, HasSubstr("(hadamard | hack(k=4,v=2)); first token after "));
}

TEST(Chat, NoSuchModel) {
  const Outcome outcome = run({"chat", "--model", "/nowhere/at-all"}, kStory);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("/nowhere/at-all"));
}

TEST(Chat, NobodyThere) {
  const Outcome outcome = run({"chat", "--url", "http://127.0.0.1:1"}, kStory);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("GET /v1/models: Connection refused"));
}

class ChatOnACluster : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto cluster = Cluster::start({});
    ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
    cluster_ = std::move(*cluster).release();
  }
  static void TearDownTestSuite() { delete cluster_; }

  static std::vector<std::string> chat(const std::vector<std::string>& more) {
    std::vector<std::string> all = {"chat", "--url", url_of(*cluster_)};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  // The lines of figures.
  static std::vector<std::string> figures(const std::string& output) {
    std::vector<std::string> lines;
    std::istringstream stream(output);
    for (std::string line; std::getline(stream, line);) {
      if (line.starts_with("[") && line.find(" tokens; ") != std::string::npos) {
        lines.push_back(line);
      }
    }
    return lines;
  }
  static int prompt_tokens(const std::string& line) { return std::atoi(line.c_str() + 1); }

  static Cluster* cluster_;
};
Cluster* ChatOnACluster::cluster_ = nullptr;

TEST_F(ChatOnACluster, EachQuestionCarriesWhatWasSaidUntilItIsForgotten) {
  const Outcome outcome = run(chat({"--max-tokens", "10"}),
                              std::string(kStory) + kStory + "/reset\n" + kStory + "/quit\nmore\n");
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  const auto lines = figures(outcome.output);
  ASSERT_EQ(lines.size(), 3u) << outcome.output;
  EXPECT_GT(prompt_tokens(lines[1]), 2 * prompt_tokens(lines[0]));
  EXPECT_EQ(prompt_tokens(lines[2]), prompt_tokens(lines[0]));
}

TEST_F(ChatOnACluster, HelpListsTheCommandsAndAsksNothing) {
  const Outcome outcome = run(chat({}), "/help\n");
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  for (const char* command : {"/help ", "/reset ", "/quit "}) {
    EXPECT_THAT(outcome.output, HasSubstr(command));
  }
  EXPECT_TRUE(figures(outcome.output).empty()) << outcome.output;
}

TEST_F(ChatOnACluster, AnUnknownCommandIsNoMessage) {
  for (const char* command : {"/rest", "/", "/reset all"}) {
    const Outcome outcome = run(chat({"--max-tokens", "2"}), std::string(command) + "\n" + kStory);
    EXPECT_EQ(outcome.status, 1) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(std::string("there is no command ") + command));
    EXPECT_TRUE(figures(outcome.output).empty()) << outcome.output;
  }
}

TEST_F(ChatOnACluster, TwoSlashesBeginAMessageWithOne) {
  // To the bundled model "a" and "//" are a token each, "///" is two.
  std::vector<int> tokens;
  for (const char* typed : {"a\n", "///\n", "////\n"}) {
    const Outcome outcome = run(chat({"--max-tokens", "2"}), typed);
    ASSERT_EQ(outcome.status, 0) << outcome.output;
    ASSERT_EQ(figures(outcome.output).size(), 1u) << outcome.output;
    tokens.push_back(prompt_tokens(figures(outcome.output)[0]));
  }
  EXPECT_EQ(tokens[1], tokens[0]);
  EXPECT_EQ(tokens[2], tokens[0] + 1);
}

TEST_F(ChatOnACluster, TheSystemMessageStays) {
  const Outcome with =
      run(chat({"--max-tokens", "1", "--system", "Be brief."}), std::string("/reset\n") + kStory);
  const Outcome without = run(chat({"--max-tokens", "1"}), kStory);
  ASSERT_EQ(figures(with.output).size(), 1u) << with.output;
  ASSERT_EQ(figures(without.output).size(), 1u) << without.output;
  EXPECT_GT(prompt_tokens(figures(with.output)[0]), prompt_tokens(figures(without.output)[0]));
}

TEST_F(ChatOnACluster, CtrlCStopsTheAnswerAndNotTheProgram) {
  // A prefill worker that stands still: the answer cannot come before the interrupt does.
  const auto worker = cluster_->process("prefill-0");
  ASSERT_TRUE(worker.ok()) << worker.status().to_string();
  ASSERT_EQ(kill(*worker, SIGSTOP), 0);
  Program program(chat({"--max-tokens", "4"}));
  program.type(kLookUp);
  EXPECT_TRUE(cluster_
                  ->wait_metric("gateway", "kvferry_gateway_running",
                                [](double running) { return running == 1; })
                  .ok());
  program.interrupt();
  EXPECT_TRUE(program.says("[stopped after "));
  ASSERT_EQ(kill(*worker, SIGCONT), 0);
  EXPECT_TRUE(cluster_
                  ->wait_metric("gateway", "kvferry_gateway_running",
                                [](double running) { return running == 0; })
                  .ok());
  program.type(kStory);
  EXPECT_TRUE(program.says(" + 4 tokens; "));
  EXPECT_EQ(program.finish().status, 0);
}

TEST_F(ChatOnACluster, TheServersWordsEndAScript) {
  const Outcome outcome = run(chat({"--codec", "hack(k=8,v=8)"}), kStory);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("allowed"));
}

// ---- events, cut anywhere ----

TEST(EventReader, AnyPieces) {
  const std::string stream = "data: {\"a\":1}\r\n\r\n: comment\ndata:two\n\ndata: [DONE]\n\n";
  for (std::size_t cut = 0; cut <= stream.size(); ++cut) {
    cli::EventReader reader;
    std::vector<std::string> events;
    const auto add = [&](std::string_view data) { events.emplace_back(data); };
    reader.feed(stream.substr(0, cut), add);
    reader.feed(stream.substr(cut), add);
    EXPECT_EQ(events, (std::vector<std::string>{"{\"a\":1}", "two", "[DONE]"})) << cut;
  }
}

// ---- help ----

// The commands that a help names, each as its words.
std::vector<std::vector<std::string>> commands_of(const std::string& help,
                                                  const std::vector<std::string>& parent) {
  std::vector<std::vector<std::string>> commands;
  std::istringstream stream(help);
  bool listed = false;
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("Subcommands:")) {
      listed = true;
    } else if (!line.starts_with("  ")) {
      listed = false;
    } else if (listed && line[2] != ' ') {
      commands.push_back(parent);
      commands.back().push_back(line.substr(2, line.find(' ', 2) - 2));
    }
  }
  return commands;
}

TEST(Help, EveryCommandHasExamples) {
  std::vector<std::vector<std::string>> commands = {{}};
  for (std::size_t i = 0; i < commands.size(); ++i) {
    std::vector<std::string> arguments = commands[i];
    arguments.push_back("--help");
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 0);
    EXPECT_THAT(outcome.output, HasSubstr("\nExamples:\n  kvferry "));
    EXPECT_THAT(outcome.output, Not(HasSubstr("Example:")));
    for (auto& command : commands_of(outcome.output, commands[i])) {
      commands.push_back(std::move(command));
    }
  }
  EXPECT_GT(commands.size(), 13u);
}

}  // namespace
}  // namespace kvferry::e2e
