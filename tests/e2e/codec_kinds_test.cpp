// Codecs of every kind through a real cluster: what the two workers answer together equals what one
// process answers alone. The three codecs that are served by default have tests of their own.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "cluster_fixture.h"
#include "codec/codec.h"
#include "program.h"

namespace kvferry::e2e {
namespace {

constexpr std::uint32_t kLengths[] = {63, 128, 129, 700};

// Of the bundled model's four layers. The workers get the file from the gateway.
constexpr const char* kProfile =
    "default: hack(k=4,v=2)\n0: {nbits_key: 8, nbits_value: 8}\n3: hack(k=3,v=3)\n";

class CodecKinds : public ::testing::Test {
 protected:
  CodecKinds() : profile_(std::filesystem::temp_directory_path() / "kvferry-profile-XXXXXX") {
    std::string pattern = profile_.string();
    const int fd = mkstemp(pattern.data());
    EXPECT_GE(fd, 0);
    close(fd);
    profile_ = pattern;
    std::ofstream(profile_) << kProfile;
  }
  ~CodecKinds() override { std::filesystem::remove(profile_); }

  std::filesystem::path profile_;
};

TEST_F(CodecKinds, AnswerAsOneProcessDoes) {
  const std::vector<std::string> specs = {
      "profile(" + profile_.string() + ")",
      "hadamard | hack(k=2,v=2,group=128)",
      "hack(k=2,v=2,layout=paper,group=32)",
      "hack(k=2,v=2,layout=paper,group=64)",
  };
  ClusterOptions options;
  std::vector<Ask> asks;
  std::uint64_t seed = 500;
  for (const std::string& spec : specs) {
    const auto codec = codec::make_codec(spec);
    ASSERT_TRUE(codec.ok()) << codec.status().to_string();
    options.arguments.insert(options.arguments.end(), {"--codec", spec});
    for (const std::uint32_t length : kLengths) {
      asks.push_back({random_prompt(++seed, length), (*codec)->spec(), 0.9f, seed, 80});
    }
  }
  const auto single = Undisturbed::create(model_directory(), specs);
  ASSERT_TRUE(single.ok()) << single.status().to_string();
  const auto cluster = Cluster::start(options);
  ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
  for (const Ask& ask : asks) {
    const auto expected = (*single)->answer(ask);
    const auto answer = complete((*cluster)->url(), ask);
    ASSERT_TRUE(expected.ok() && answer.ok()) << ask.codec;
    EXPECT_EQ(answer->status, 200) << answer->error;
    EXPECT_EQ(answer->ids, expected->ids) << ask.codec << ", length " << ask.prompt.size();
  }
  const auto status = (*cluster)->stop();
  ASSERT_TRUE(status.ok()) << status.status().to_string();
  EXPECT_EQ(*status, 0);
}

// Its pool is made for the one prompt, its codec may name a file.
TEST_F(CodecKinds, AreWhatGenerateTakes) {
  std::string prompt;
  for (int i = 0; i < 60; ++i) prompt += "One day Tom went to the lake. ";
  for (const std::string& codec :
       {"profile(" + profile_.string() + ")", std::string("raw | lossless"),
        std::string("hack(k=2,v=2) | rans"), std::string("kvarn(k=4,v=2)")}) {
    const Outcome outcome = run({"generate", "--model", model_directory().string(), "--prompt",
                                 prompt, "--codec", codec, "--max-tokens", "2"});
    EXPECT_EQ(outcome.status, 0) << codec << ": " << outcome.output;
  }
}

}  // namespace
}  // namespace kvferry::e2e
