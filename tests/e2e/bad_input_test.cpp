// Bad input of every kind: a clear error that says what to do, and a server that goes on serving.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "base/clock.h"
#include "cluster_fixture.h"
#include "program.h"

namespace kvferry::e2e {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// A copy of the bundled checkpoint that a test may spoil.
class SpoiledModel : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "kvferry-bad-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    fs::copy(model_directory(), directory_,
             fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    for (const auto& entry : fs::directory_iterator(directory_)) {
      fs::permissions(entry.path(), fs::perms::owner_write, fs::perm_options::add);
    }
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string read(const char* name) {
    std::ifstream file(directory_ / name, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void write(const char* name, const std::string& text) {
    std::ofstream(directory_ / name, std::ios::binary) << text;
  }
  void replace(const char* name, const std::string& from, const std::string& to) {
    std::string text = read(name);
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    write(name, text);
  }
  Outcome generate() {
    return run({"generate", "--model", directory_.string(), "--prompt", "x", "--max-tokens", "1"});
  }
  void expect_refused(const char* words) {
    const Outcome outcome = generate();
    EXPECT_EQ(outcome.status, 1) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(words));
  }

  fs::path directory_;
};

TEST_F(SpoiledModel, TheCopyItselfWorks) { EXPECT_EQ(generate().status, 0); }

TEST_F(SpoiledModel, TruncatedWeights) {
  fs::resize_file(directory_ / "model.safetensors", 5'000'000);
  expect_refused("model.safetensors");
}

TEST_F(SpoiledModel, EmptyWeights) {
  fs::resize_file(directory_ / "model.safetensors", 0);
  expect_refused("model.safetensors");
}

TEST_F(SpoiledModel, OffsetsOutsideTheFile) {
  // As long as before, so that nothing else moves.
  replace("model.safetensors", "[6819840, 6820352]", "[9919840, 9920352]");
  expect_refused("model.norm.weight");
}

TEST_F(SpoiledModel, WrongDtype) {
  replace("model.safetensors", "\"dtype\": \"BF16\"", "\"dtype\":  \"I16\"");
  expect_refused("I16");
}

TEST_F(SpoiledModel, OverflowingShape) {
  replace("config.json", "\"hidden_size\": 256", "\"hidden_size\": 18446744073709551615");
  expect_refused("hidden_size");
}

TEST_F(SpoiledModel, BadConfigJson) {
  write("config.json", "{\"architectures\": [");
  expect_refused("config.json");
}

TEST_F(SpoiledModel, AnotherArchitecture) {
  replace("config.json", "LlamaForCausalLM", "MambaForCausalLM");
  expect_refused("MambaForCausalLM");
}

TEST_F(SpoiledModel, MissingTokenizer) {
  fs::remove(directory_ / "tokenizer.json");
  expect_refused("tokenizer.json");
}

TEST(Arguments, MissingCheckpoint) {
  const Outcome outcome = run({"up", "--model", "/nowhere/at-all"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("/nowhere/at-all"));
}

TEST(Arguments, MissingKeys) {
  const Outcome outcome =
      run({"up", "--model", model_directory().string(), "--api-keys", "/nowhere/keys.yaml"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("/nowhere/keys.yaml"));
}

TEST(Arguments, UnknownCodecNamesThePosition) {
  const Outcome outcome = run({"generate", "--model", model_directory().string(), "--prompt", "x",
                               "--codec", "hadamard | hcak(k=2,v=2)"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("12"));
  EXPECT_THAT(outcome.output, HasSubstr("hack"));
}

TEST(Arguments, AShapeSaysEachNumberOnce) {
  const auto describe = [](const std::string& shape) {
    return run({"codec", "describe", "raw", "--model-shape", shape});
  };
  EXPECT_EQ(describe("head_dim=64,layers=2,kv_heads=2").status, 0);
  const Outcome twice = describe("layers=2,kv_heads=2,head_dim=64,layers=3");
  EXPECT_NE(twice.status, 0);
  EXPECT_THAT(twice.output, HasSubstr("has layers twice"));
  EXPECT_NE(describe("layers=2,kv_heads=2").status, 0);
}

TEST(Arguments, StagesAreListedForPeopleAndPrograms) {
  EXPECT_THAT(run({"codec", "list"}).output, HasSubstr("of=kv|k|v"));
  const Outcome listed = run({"codec", "list", "--json"});
  EXPECT_EQ(listed.status, 0);
  EXPECT_THAT(listed.output, HasSubstr(R"({"key":"of","choices":["kv","k","v"],"default":"kv"})"));
}

TEST(Arguments, WrongUsageIsStatusTwo) {
  EXPECT_EQ(run({"generate"}).status, 2);
  EXPECT_EQ(run({"frobnicate"}).status, 2);
  EXPECT_EQ(run({"doctor", "up"}).status, 2);
  EXPECT_EQ(run({"codec", "list", "--isa", "neon"}).status, 2);
  EXPECT_EQ(run({"codec", "list", "--isa", "scalar"}).status, 0);
  EXPECT_EQ(run({"--isa", "scalar", "codec", "list"}).status, 0);
  EXPECT_EQ(run({"--help"}).status, 0);
}

class ConfigFile : public SpoiledModel {
 protected:
  Outcome decode(const std::string& more) {
    write("worker.yaml", "name: d\nmodel: " + directory_.string() + "\n" + more);
    return run({"decode", "--config", (directory_ / "worker.yaml").string()});
  }
};

TEST_F(ConfigFile, UnknownKeyNamesItAndItsLine) {
  const Outcome outcome = decode("threads: 1\nthraeds: 2\n");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("thraeds"));
  EXPECT_THAT(outcome.output, HasSubstr("4"));
}

TEST_F(ConfigFile, NoMemoryForThePool) {
  const Outcome outcome = decode("pool_mib: 16000000\n");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("resource_exhausted"));
}

TEST_F(ConfigFile, NoSuchFile) {
  const Outcome outcome = run({"gateway", "--config", "/nowhere/gateway.yaml"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("/nowhere/gateway.yaml"));
}

class Serving : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto cluster = Cluster::start({});
    ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
    cluster_ = std::move(*cluster).release();
  }
  static void TearDownTestSuite() { delete cluster_; }

  // The status and the message of the error object; the server must answer properly afterwards.
  void expect_error(int status, const std::string& body, const char* words) {
    const auto answer = cli::http_post_json(cluster_->url(), "/v1/completions", body, 30 * kSecond);
    ASSERT_TRUE(answer.ok()) << answer.status().to_string();
    EXPECT_EQ(answer->status, status) << answer->body;
    EXPECT_THAT(answer->body, HasSubstr("\"error\""));
    EXPECT_THAT(answer->body, HasSubstr(words));
    const auto good = complete(cluster_->url(), {random_prompt(1, 70), "raw"});
    ASSERT_TRUE(good.ok()) << good.status().to_string();
    EXPECT_EQ(good->status, 200);
  }

  static Cluster* cluster_;
};
Cluster* Serving::cluster_ = nullptr;

TEST_F(Serving, APromptBeyondTheContext) {
  boost::json::array ids;
  for (int i = 0; i < 2049; ++i) ids.push_back(5);
  expect_error(400, boost::json::serialize(boost::json::object{{"prompt", ids}}), "2048");
}
TEST_F(Serving, InvalidJson) { expect_error(400, "{\"prompt\": ", "JSON"); }
TEST_F(Serving, WrongTypes) {
  expect_error(400, "{\"prompt\": 7}", "prompt");
  expect_error(400, "{\"prompt\": \"x\", \"max_tokens\": \"many\"}", "max_tokens");
  expect_error(400, "{\"prompt\": [1, 99999]}", "1023");
}
TEST_F(Serving, UnknownModel) {
  expect_error(404, "{\"model\": \"gpt-9\", \"prompt\": \"x\"}", "gpt-9");
}
TEST_F(Serving, UnknownCodec) {
  expect_error(400, "{\"prompt\": \"x\", \"kv_codec\": \"hack(k=3\"}", "kv_codec");
  expect_error(400, "{\"prompt\": \"x\", \"kv_codec\": \"hack(k=8,v=8)\"}", "allowed");
}
TEST_F(Serving, ThePortIsInUse) {
  const Outcome outcome = run({"up", "--model", model_directory().string(), "--port",
                               std::to_string(cluster_->url().port)});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("--port"));
}

}  // namespace
}  // namespace kvferry::e2e
