#include "gateway/api_keys.h"

#include <gtest/gtest.h>

namespace kvferry::gateway {
namespace {

Result<ApiKeys> parse(const std::string& yaml) {
  KVF_ASSIGN_OR_RETURN(YamlReader reader, YamlReader::parse(yaml, "keys.yaml"));
  ApiKeys keys = ApiKeys::read(reader);
  KVF_RETURN_IF_ERROR(reader.finish());
  return keys;
}

std::string entry(const std::string& name, const std::string& secret, const std::string& more) {
  return "  - {name: " + name + ", sha256: " + to_hex(sha256(secret)) + more + "}\n";
}

TEST(ApiKeys, FindsByBearerAlone) {
  const auto keys = parse("keys:\n" + entry("a", "one", "") + entry("b", "two", ""));
  ASSERT_TRUE(keys.ok()) << keys.status().to_string();
  ASSERT_NE(keys->find("Bearer one"), nullptr);
  EXPECT_EQ(keys->find("Bearer one")->name, "a");
  EXPECT_EQ(keys->find("bearer two")->name, "b");
  for (const char* wrong : {"", "one", "Bearer", "Bearer ", "Bearer  one", "Bearer on",
                            "Bearer onee", "Basic one", "Bearer one "}) {
    EXPECT_EQ(keys->find(wrong), nullptr) << wrong;
  }
}

TEST(ApiKeys, LongestKey) {
  const std::string longest(ApiKeys::kMaxKeyBytes, 'k');
  const auto keys = parse("keys:\n" + entry("a", longest, "") + entry("b", longest + "k", ""));
  ASSERT_TRUE(keys.ok());
  EXPECT_NE(keys->find("Bearer " + longest), nullptr);
  EXPECT_EQ(keys->find("Bearer " + longest + "k"), nullptr);
}

TEST(ApiKeys, TheHashOfNothingOpensNothing) {
  const auto keys = parse("keys:\n" + entry("a", "", ""));
  ASSERT_TRUE(keys.ok());
  EXPECT_EQ(keys->find("Bearer "), nullptr);
  EXPECT_EQ(keys->find("Bearer " + std::string(ApiKeys::kMaxKeyBytes + 1, 'k')), nullptr);
}

TEST(ApiKeys, ConcurrencyIsHeldAsLongAsThePermit) {
  auto keys = parse("keys:\n" + entry("a", "one", ", concurrent: 2") + entry("b", "two", ""));
  ASSERT_TRUE(keys.ok());
  const ApiKey& two_at_once = *keys->find("Bearer one");
  auto first = keys->enter(two_at_once);
  const auto second = keys->enter(two_at_once);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(keys->enter(two_at_once), nullptr);
  EXPECT_EQ(keys->running(two_at_once), 2u);
  first.reset();
  EXPECT_NE(keys->enter(two_at_once), nullptr);
  const ApiKey& unlimited = *keys->find("Bearer two");
  std::vector<std::shared_ptr<const void>> many;
  for (int i = 0; i < 100; ++i) many.push_back(keys->enter(unlimited));
  EXPECT_EQ(keys->running(unlimited), 100u);
  EXPECT_NE(many.back(), nullptr);
}

TEST(ApiKeys, MistakesAreNamed) {
  const std::pair<std::string, std::string> cases[] = {
      {"keys: []\n", "at least one"},
      {"", "at least one"},
      {"keys:\n  - {name: a}\n", "sha256"},
      {"keys:\n  - {name: a, sha256: abc}\n", "64 hexadecimal digits"},
      {"keys:\n" + entry("'a b'", "one", ""), "name"},
      {"keys:\n" + entry("a", "one", "") + entry("a", "two", ""), "twice"},
      {"keys:\n" + entry("a", "one", "") + entry("b", "one", ""), "twice"},
      {"keys:\n" + entry("a", "one", ", key: one"), "key"},
  };
  for (const auto& [yaml, words] : cases) {
    const auto keys = parse(yaml);
    ASSERT_FALSE(keys.ok()) << yaml;
    EXPECT_NE(keys.status().message().find(words), std::string::npos) << keys.status().message();
  }
}

TEST(ApiKeys, ANewKeyOpensWithItsLine) {
  const auto made = make_api_key("alice", 3);
  ASSERT_TRUE(made.ok());
  const auto keys = parse("keys:\n" + made->line + "\n");
  ASSERT_TRUE(keys.ok()) << keys.status().to_string();
  const ApiKey* key = keys->find("Bearer " + made->secret);
  ASSERT_NE(key, nullptr);
  EXPECT_EQ(key->name, "alice");
  EXPECT_EQ(key->concurrent, 3u);
  EXPECT_NE(make_api_key("alice", 3)->secret, made->secret);
  EXPECT_FALSE(make_api_key("a b", 0).ok());
}

}  // namespace
}  // namespace kvferry::gateway
