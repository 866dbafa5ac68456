#include "base/yaml_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

namespace kvferry {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

YamlReader reader(std::string_view text) {
  auto made = YamlReader::parse(text, "test.yaml");
  EXPECT_TRUE(made.ok()) << made.status().to_string();
  return std::move(made).value();
}

std::string parse_error(std::string_view text) {
  const Status status = YamlReader::parse(text, "test.yaml").status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument) << text;
  return status.message();
}

TEST(YamlReaderTest, ReadsEveryType) {
  YamlReader config = reader(
      "name: d0\n"
      "codec: hadamard | hack(k=4,v=2)\n"
      "port: 8080\n"
      "bytes: 18446744073709551615\n"
      "share: 0.25\n"
      "on: true\n"
      "off: false\n"
      "peers: [a, \"b c\", 3]\n"
      "pool:\n  size: 7\n"
      "workers:\n  - {name: x}\n  - name: y\n    port: 2\n");
  EXPECT_EQ(config.string("name", ""), "d0");
  EXPECT_EQ(config.required_string("codec"), "hadamard | hack(k=4,v=2)");
  EXPECT_EQ(config.u32("port", 1, 1, 65535), 8080u);
  EXPECT_EQ(config.u64("bytes", 0), ~std::uint64_t{0});
  EXPECT_EQ(config.f64("share", 0, 0, 1), 0.25);
  EXPECT_TRUE(config.boolean("on", false));
  EXPECT_FALSE(config.boolean("off", true));
  EXPECT_THAT(config.strings("peers"), ElementsAre("a", "b c", "3"));
  EXPECT_EQ(config.map("pool").u32("size", 0), 7u);
  std::vector<YamlReader> workers = config.maps("workers");
  ASSERT_EQ(workers.size(), 2u);
  EXPECT_EQ(workers[0].string("name", ""), "x");
  EXPECT_EQ(workers[0].u32("port", 1), 1u);
  EXPECT_EQ(workers[1].string("name", ""), "y");
  EXPECT_EQ(workers[1].u32("port", 1), 2u);
  EXPECT_TRUE(config.finish().ok()) << config.finish().to_string();
}

TEST(YamlReaderTest, AbsentKeysMeanTheDefault) {
  for (const char* text : {"", "# only a comment\n", "{}"}) {
    YamlReader config = reader(text);
    EXPECT_FALSE(config.has("port"));
    EXPECT_EQ(config.u32("port", 5, 1, 9), 5u);
    EXPECT_EQ(config.f64("share", 0.5, 0, 1), 0.5);
    EXPECT_TRUE(config.boolean("on", true));
    EXPECT_EQ(config.string("name", "n"), "n");
    EXPECT_THAT(config.strings("peers", {"p"}), ElementsAre("p"));
    EXPECT_EQ(config.map("pool").u32("size", 3), 3u);
    EXPECT_TRUE(config.maps("workers").empty());
    EXPECT_TRUE(config.finish().ok());
  }
}

TEST(YamlReaderTest, UnknownKeysAreRefusedWithLineAndWhatIsKnown) {
  YamlReader config = reader("port: 1\npool:\n  size: 1\n  sise: 2\nlist:\n  - {a: 1}\n  - b: 2\n");
  config.u32("port", 0);
  YamlReader pool = config.map("pool");
  pool.u32("size", 0);
  pool.u32("age", 0);
  for (YamlReader& item : config.maps("list")) item.u32("a", 0);
  const std::string message = config.finish().message();
  EXPECT_EQ(message,
            "test.yaml:4: unknown key 'pool.sise'; known here: age, size; "
            "test.yaml:7: unknown key 'list[1].b'; known here: a");
}

TEST(YamlReaderTest, ASectionNobodyReadsIsUnknown) {
  YamlReader config = reader("pool:\n  size: 1\n");
  EXPECT_EQ(config.finish().message(), "test.yaml:1: unknown key 'pool'; known here: none");
}

TEST(YamlReaderTest, WrongValuesNameKeyLineAndWhatWasExpected) {
  YamlReader config = reader(
      "a: many\nb: 10\nc: \"5\"\nd: yes\ne: [1]\nf: 2.5\ng: x\nh: {k: v}\ni:\nj: -1\nk: 1e400\n"
      "l: nan\nm: 0x10\nn: [[1]]\no: [3]\np: 99999999999\n");
  EXPECT_EQ(config.u32("a", 4), 4u);
  EXPECT_EQ(config.u32("b", 4, 1, 9), 4u);
  EXPECT_EQ(config.u32("c", 4), 4u);
  EXPECT_TRUE(config.boolean("d", true));
  EXPECT_EQ(config.string("e", "s"), "s");
  EXPECT_EQ(config.u64("f", 4), 4u);
  EXPECT_EQ(config.map("g").u32("x", 2), 2u);
  EXPECT_TRUE(config.strings("h").empty());
  EXPECT_EQ(config.string("i", "s"), "s");
  EXPECT_EQ(config.u32("j", 4), 4u);
  EXPECT_EQ(config.f64("k", 0.5, 0, 1), 0.5);
  EXPECT_EQ(config.f64("l", 0.5, 0, 1), 0.5);
  EXPECT_EQ(config.u32("m", 4), 4u);
  EXPECT_TRUE(config.strings("n").empty());
  EXPECT_TRUE(config.maps("o").empty());
  EXPECT_EQ(config.u32("p", 4), 4u);
  const std::string message = config.finish().message();
  for (const char* part :
       {"test.yaml:1: a: expected a whole number from 0 to 4294967295, found 'many'",
        "test.yaml:2: b: expected a whole number from 1 to 9, found '10'",
        "test.yaml:3: c: expected a whole number from 0 to 4294967295, found the text \"5\"",
        "test.yaml:4: d: expected true or false, found 'yes'",
        "test.yaml:5: e: expected a text, found a list", "test.yaml:6: f: expected a whole",
        "test.yaml:7: g: expected a map, found 'x'",
        "test.yaml:8: h: expected a list of texts, found a map",
        "test.yaml:9: i: expected a text, found nothing", "test.yaml:10: j: ",
        "test.yaml:11: k: expected a number from 0 to 1, found '1e400'", "test.yaml:12: l: ",
        "test.yaml:13: m: ", "test.yaml:14: n: expected a list of texts, found a list",
        "test.yaml:15: o[0]: expected a map, found '3'", "test.yaml:16: p: "}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(YamlReaderTest, RequiredText) {
  YamlReader config = reader("worker:\n  a: \"\"\n");
  YamlReader worker = config.map("worker");
  EXPECT_EQ(worker.required_string("a"), "");
  EXPECT_EQ(worker.required_string("b"), "");
  EXPECT_EQ(config.map("none").required_string("c"), "");
  const std::string message = config.finish().message();
  EXPECT_THAT(message, HasSubstr("test.yaml:2: worker.a: expected a text that is not empty"));
  EXPECT_THAT(message, HasSubstr("worker.b is missing"));
  EXPECT_THAT(message, HasSubstr("none.c is missing"));
}

TEST(YamlReaderTest, KeysThatTheUserChooses) {
  YamlReader config = reader("models:\n  small: 1\n  large: 2\n");
  YamlReader models = config.map("models");
  EXPECT_THAT(models.keys(), ElementsAre("small", "large"));
  EXPECT_TRUE(config.finish().ok());
  models.refuse("large", "does not fit");
  EXPECT_EQ(config.finish().message(), "test.yaml:3: models.large: does not fit");
}

TEST(YamlReaderTest, WhatIsNotYamlIsRefusedWithItsLine) {
  EXPECT_THAT(parse_error("a: 1\nb: [1, 2\n"), HasSubstr("test.yaml:"));
  EXPECT_THAT(parse_error("a: 1\n  b: 2\n"), HasSubstr("test.yaml:2: "));
  EXPECT_EQ(parse_error("a: 1\nb: 2\na: 3\n"), "test.yaml:3: key 'a' is given twice");
  EXPECT_EQ(parse_error("- a\n- b\n"), "test.yaml:1: expected a map, found a list");
  EXPECT_EQ(parse_error("text"), "test.yaml:1: expected a map, found a value");
  EXPECT_THAT(parse_error("a: 1\n---\nb: 2\n"), HasSubstr("more than one document"));
  EXPECT_THAT(parse_error("a: !!binary abc\n"), HasSubstr("test.yaml:1: tags are not used here"));
  // These are what yaml-cpp does not come back from.
  for (const char* endless :
       {"!a,b", "\n[!a,b]", "{\"x\":!a,b}", "a: \"#\" !b,", "? !,", "- &a !b,"}) {
    EXPECT_THAT(parse_error(endless), HasSubstr("tags are not used here")) << endless;
  }
  EXPECT_THAT(parse_error("{a: 1},\n"), HasSubstr("more than one document"));
  EXPECT_THAT(parse_error("a: 1\r\nb: !c,\n"), HasSubstr("test.yaml:2: "));
  YamlReader calm = reader("a: yes! # no !tag\n# !this, either\nb: 'so!'\n");
  EXPECT_EQ(calm.string("a", ""), "yes!");
  EXPECT_EQ(calm.string("b", ""), "so!");
  EXPECT_THAT(parse_error("[a, b]: 1\n"), HasSubstr("a key must be plain text"));
  EXPECT_THAT(parse_error("a: *nowhere\n"), HasSubstr("test.yaml:1: "));
}

TEST(YamlReaderTest, Limits) {
  EXPECT_THAT(parse_error(std::string(YamlReader::kMaxBytes + 1, ' ')), HasSubstr("larger than"));
  EXPECT_THAT(parse_error("a: " + std::string(40, '[') + std::string(40, ']')),
              HasSubstr("nested more than 32 deep"));
  // Aliases that would expand to 10^9 values.
  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 9; ++i) {
    const std::string last = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + last;
    for (int n = 0; n < 9; ++n) bomb += "," + last;
    bomb += "]\n";
  }
  EXPECT_THAT(parse_error(bomb), HasSubstr("more than 20000 values"));
}

TEST(YamlReaderTest, Files) {
  const std::string file = testing::TempDir() + "/kvferry_yaml_config_test.yaml";
  std::ofstream(file) << "port: 12\n";
  auto config = YamlReader::load(file);
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->u32("port", 0), 12u);
  EXPECT_TRUE(config->finish().ok());
  std::filesystem::remove(file);
  EXPECT_EQ(YamlReader::load(file).status().code(), Code::kNotFound);
  EXPECT_EQ(YamlReader::load(testing::TempDir()).status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace kvferry
