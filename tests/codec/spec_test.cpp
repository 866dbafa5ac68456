#include "codec/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "base/hash.h"
#include "codec/codec.h"
#include "codec/codec_set.h"
#include "codec/stage.h"

namespace kvferry::codec {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string spec_of(std::string_view text) {
  const auto codec = make_codec(text);
  return codec.ok() ? (*codec)->spec() : codec.status().to_string();
}

TEST(Spec, EqualMeaningHasEqualText) {
  EXPECT_EQ(spec_of("hadamard | hack(k=4,v=2)"), "hadamard | hack(k=4,v=2)");
  EXPECT_EQ(spec_of("  hadamard|hack ( v = 2 ,\tk = 4 )\n"), "hadamard | hack(k=4,v=2)");
  EXPECT_EQ(spec_of("hadamard() | hack(k=4,v=2,first_bits=8)"), "hadamard | hack(k=4,v=2)");
  EXPECT_EQ(spec_of("hack"), "hack(k=4,v=2)");
  EXPECT_EQ(spec_of("hack(k=2,v=2,range=search)"), "hack(k=2,v=2)");
  EXPECT_EQ(spec_of("hack(k=2,v=2,range=minmax)"), "hack(k=2,v=2,range=minmax)");
  EXPECT_EQ(spec_of("hack(k=8,v=4,range=minmax)"), "hack(k=8,v=4)");
  EXPECT_EQ(spec_of("hack(k=8,v=4,range=search)"), "hack(k=8,v=4,range=search)");
  EXPECT_EQ(spec_of("hack(k=4,v=2,range=search)"), "hack(k=4,v=2,range=search)");
  EXPECT_EQ(spec_of("hack(k=4,v=2,range=minmax)"), "hack(k=4,v=2,range=minmax)");
  EXPECT_EQ(spec_of("hack(first_bits=none,balance=dual,group=128,range=lsq,v=1,k=3)"),
            "hack(k=3,v=1,range=lsq,group=128,balance=dual,first_bits=none)");
  EXPECT_EQ(spec_of("hack(k=2,v=2,balance=none,group=64,first_bits=8)"), "hack(k=2,v=2)");
  EXPECT_EQ(spec_of("raw"), "raw");
  EXPECT_EQ(spec_of("mean(of=kv)|int"), "mean | int(k=2,v=2)");
  EXPECT_EQ(spec_of("dequantize|mean(of=k)|int8"), "dequantize | mean(of=k) | int8");
  EXPECT_EQ(spec_of("hack(tile=64)"), "hack(k=4,v=2)");
  EXPECT_EQ(spec_of("hack(tile=128,group=128)"), "hack(k=4,v=2,group=128)");
  EXPECT_EQ(spec_of("hack(tile=128)"), "hack(k=4,v=2,tile=128)");
  EXPECT_EQ(spec_of("kivi"), "hack(k=2,v=2,range=minmax,group=32,tile=128,first_bits=none)");
  EXPECT_EQ(spec_of("kivi(k=4,v=4,group=64,residual=64)"), "hack(k=4,v=4,first_bits=none)");
  EXPECT_EQ(spec_of("kvarn"),
            "hadamard | hack(k=4,v=2,range=minmax,group=128,balance=dual,first_bits=16)");
  EXPECT_EQ(spec_of("kvarn(k=2,v=2,group=64)"),
            "hadamard | hack(k=2,v=2,range=minmax,tile=128,balance=dual,first_bits=16)");
  EXPECT_EQ(spec_of("dequantize | kvarn"),
            "hadamard | dequantize | hack(k=4,v=2,range=minmax,group=128,balance=dual,"
            "first_bits=16)");
  EXPECT_EQ(spec_of("hack(k=\"2\",v = \"2\")"), "hack(k=2,v=2)");
  EXPECT_EQ(spec_of("fp8"), "fp8(e4m3)");
  EXPECT_EQ(spec_of("fp8( e5m2 )"), "fp8(e5m2)");
  EXPECT_EQ(spec_of("int8()"), "int8");
  EXPECT_EQ(spec_of("int"), "int(k=2,v=2)");
  EXPECT_EQ(spec_of("int(group=64,v=3)"), "int(k=2,v=3)");
  EXPECT_EQ(spec_of("int(group=32)"), "int(k=2,v=2,group=32)");
  EXPECT_EQ(spec_of("hadamard|dequantize()|hack(k=2)"), "hadamard | dequantize | hack(k=2,v=2)");
  EXPECT_EQ(spec_of("hadamard|raw"), "hadamard | raw");
}

// The first tile is as the rest where the rest has 8 bits and min-max too.
TEST(Spec, AFirstTileOf8BitsAmong8BitsIsNoOption) {
  EXPECT_EQ(spec_of("hack(k=8,v=8,first_bits=none)"), "hack(k=8,v=8)");
  EXPECT_EQ(spec_of("kivi(k=8,v=8,group=64,residual=64)"), "hack(k=8,v=8)");
  EXPECT_EQ(spec_of("hack(k=8,v=8,group=128,balance=dual,first_bits=none)"),
            "hack(k=8,v=8,group=128,balance=dual)");
  EXPECT_EQ(spec_of("hack(k=8,v=4,first_bits=none)"), "hack(k=8,v=4,first_bits=none)");
  EXPECT_EQ(spec_of("hack(k=8,v=8,first_bits=16)"), "hack(k=8,v=8,first_bits=16)");
  EXPECT_EQ(spec_of("hack(k=8,v=8,range=search,first_bits=none)"),
            "hack(k=8,v=8,range=search,first_bits=none)");
  EXPECT_EQ(spec_of("hack(k=8,v=8,layout=paper,first_bits=8)"), "hack(k=8,v=8,layout=paper)");
  EXPECT_EQ(spec_of("hack(k=8,v=7,layout=paper,first_bits=8)"),
            "hack(k=8,v=7,layout=paper,first_bits=8)");
}

// What attends on bf16 anyway.
TEST(Spec, DequantizeSaysNothingOfWhatHasNoKernel) {
  EXPECT_EQ(spec_of("dequantize | raw"), "raw");
  EXPECT_EQ(spec_of("hadamard | dequantize | fp8(e5m2) | zstd"), "hadamard | fp8(e5m2) | zstd");
  EXPECT_EQ(spec_of("dequantize | int8"), "int8");
  EXPECT_EQ(spec_of("dequantize | int(k=4,v=2)"), "int(k=4,v=2)");
  EXPECT_EQ(spec_of("mean | dequantize | int8"), "mean | int8");
  EXPECT_EQ(spec_of("dequantize | mean | int8"), "dequantize | mean | int8");
  EXPECT_EQ(spec_of("dequantize | hack(layout=paper)"), "dequantize | hack(k=4,v=2,layout=paper)");
}

TEST(Spec, NormalisedSpecsAreFixedPoints) {
  std::set<CodecId> ids;
  for (const char* prefix : {"", "hadamard | "}) {
    for (const char* k : {"2", "4", "8"}) {
      for (const char* v : {"2", "4", "8"}) {
        for (const char* range : {"", ",range=minmax", ",range=search", ",range=lsq"}) {
          const std::string text = std::string(prefix) + "hack(k=" + k + ",v=" + v + range + ")";
          const std::string normal = spec_of(text);
          EXPECT_EQ(spec_of(normal), normal) << text;
          ids.insert((*make_codec(text))->id());
        }
      }
    }
  }
  // Of the four ways to write a range, two mean the same, except where K and V have different
  // defaults (4 of the 9 pairs): there all four differ.
  EXPECT_EQ(ids.size(), 2u * (5 * 3 + 4 * 4));
}

// Ids are on the wire and in stored keys: they never change.
TEST(Spec, IdsAreStable) {
  EXPECT_EQ((*make_codec("raw"))->id(), 0x1dddc59c28b3ac7eu);
  EXPECT_EQ((*make_codec("hadamard | hack(k=4,v=2)"))->id(), 0x58068a07885fbcaau);
  EXPECT_EQ((*make_codec("hack(k=2,v=2)"))->id(), 0xba0eaa6a47d0dae6u);
  EXPECT_EQ((*make_codec("hack(k=2,v=2)"))->id(), hash64("hack(k=2,v=2)"));
  EXPECT_EQ((*make_codec(kDefaultSpec))->spec(), kDefaultSpec);
}

struct Wrong {
  std::string text;
  std::size_t position;
  std::string expected;
};

TEST(Spec, ErrorsPointAtTheCharacter) {
  const Wrong cases[] = {
      {"", 1, "the name of a stage"},
      {"  ", 3, "the name of a stage"},
      {"hack(k=4,v=2) |", 16, "the name of a stage"},
      {"4hack", 1, "the name of a stage"},
      {"rawx", 1, "which are: hadamard, dequantize, "},
      {"hadamard | hak(k=2)", 12, "not \"hak\""},
      {"hack(k=9)", 8, "1, 2, 3, 4, 5, 6, 7 or 8 for \"k\""},
      {"hack(k=-2)", 8, "7 or 8"},
      {"hack(k=2x)", 8, "7 or 8"},
      {"hack(k=99999999999999999999)", 8, "7 or 8"},
      {"hack(k=2,v=16)", 12, "7 or 8 for \"v\""},
      {"hack(first_bits=4)", 17, "8, 16 or none for \"first_bits\""},
      {"hack(range=mse)", 12, "minmax, search or lsq"},
      {"hack(k=2,k=2)", 10, "\"k\" only once"},
      {"hack(bits=2)", 6, "k, v, layout, range, group, tile, balance or first_bits"},
      {"hack(2)", 6, "k, v, layout, range, group, tile, balance or first_bits"},
      {"hack(rounding=stochastic)", 6, "layout=paper beside \"rounding\""},
      {"hack(k=2,seed=7)", 10, "layout=paper beside \"seed\""},
      {"hack(layout=channel,se=off)", 21, "layout=paper beside \"se\""},
      {"hack(rqe=off)", 6, "layout=paper beside \"rqe\""},
      {"hack(layout=paper,range=lsq)", 19, "layout=channel, not paper, beside \"range\""},
      {"hack(balance=dual,layout=paper)", 6, "layout=channel, not paper, beside \"balance\""},
      {"hack(layout=paper,tile=64)", 19, "layout=channel, not paper, beside \"tile\""},
      {"hack(layout=paper,seed=7)", 19, "rounding=stochastic beside \"seed\""},
      {"hack(layout=paper,bits=2)", 19, "first_bits, rounding, seed, se or rqe"},
      {"hack(k=)", 8, "a value for \"k\""},
      {"hack(k=2", 9, "\",\" or \")\""},
      {"hack(k=2 v=2)", 10, "\",\" or \")\""},
      {"hack(,k=2)", 6, "key=value"},
      {"hack(k-1=2)", 6, "a key"},
      {"hack(k=2))", 10, "\"|\" or the end"},
      {"hack raw", 6, "\"|\" or the end"},
      {"raw(x=1)", 5, "takes none"},
      {"raw | hack", 7, "the end or a wire stage behind raw"},
      {"kivi(group=128,residual=64)", 16, "a residual of at least one group, here 128"},
      {"kivi(residual=64,group=128)", 6, "a residual of at least one group, here 128"},
      {"hadamard", 9, "must store"},
      {"hadamard | hadamard | raw", 12, "there already"},
      {"hack(group=128,tile=64)", 16, "at least one group"},
      {"kivi(residual=32)", 15, "64 or 128 for \"residual\""},
      {"kivi(range=lsq)", 6, "k, v, group or residual"},
      {"raw | kivi", 7, "the end or a wire stage"},
      {"hadamard | kvarn", 12, "there already"},
      {"hadamard | dequantize | kvarn", 25, "there already"},
      {"dequantize | kvarn | hadamard", 22, "the end or a wire stage"},
      {"profile(\"a b)", 14, "\" behind the value"},
      {"profile(\"a\\b\")", 12, "\" or \\ behind \\"},
      {"profile(\"a\\", 12, "\" or \\ behind \\"},
      {"fp8(\"\")", 5, "something between the quotation marks"},
      {"profile(\"\")", 9, "something between the quotation marks"},
      {"hack(\"k\"=4)", 6, "a key"},
      {"hack(k=\"4\"4)", 11, "\",\" or \")\""},
      {"mean(of=q) | raw", 9, "kv, k or v for \"of\""},
      {"mean | mean(of=k) | raw", 8, "there already"},
      {"fp8(e3m4)", 5, "expected e4m3 or e5m2"},
      {"fp8(k=e4m3)", 5, "a bare word"},
      {"fp8(e4m3,e5m2)", 10, "one bare word only"},
      {"int8(k=8)", 6, "takes none"},
      {"int(k=2,group=16)", 15, "32, 64 or 128 for \"group\""},
      {"int(range=lsq)", 5, "k, v or group"},
      {"dequantize | hadamard | raw", 14, "which come before adapter stages"},
      {"dequantize | dequantize | raw", 14, "there already"},
      {"dequantize(k=2) | raw", 12, "takes none"},
      {"dequantize", 11, "must store"},
      {"raw | dequantize", 7, "the end or a wire stage"},
      {"exact", 1, "a stage"},
      {"raw\x01", 4, "\"|\" or the end"},
      {std::string("raw\0", 4), 4, "\"|\" or the end"},
      {std::string(5000, ' '), 4097, "4096"},
  };
  for (const Wrong& wrong : cases) {
    const auto codec = make_codec(wrong.text);
    ASSERT_FALSE(codec.ok()) << wrong.text;
    EXPECT_EQ(codec.status().code(), Code::kInvalidArgument);
    EXPECT_THAT(
        codec.status().message(),
        StartsWith("codec spec, character " + std::to_string(wrong.position) + ": expected "))
        << wrong.text;
    EXPECT_THAT(codec.status().message(), HasSubstr(wrong.expected)) << wrong.text;
  }
  EXPECT_TRUE(make_codec("raw" + std::string(kMaxSpecBytes - 3, ' ')).ok());
}

TEST(Spec, ListsAreSplitOutsideOfQuotes) {
  using ::testing::ElementsAre;
  EXPECT_THAT(split_specs("raw"), ElementsAre("raw"));
  EXPECT_THAT(split_specs("raw;hack(k=2) ; int"), ElementsAre("raw", "hack(k=2) ", " int"));
  EXPECT_THAT(split_specs("profile(\"a;b\");raw"), ElementsAre("profile(\"a;b\")", "raw"));
  EXPECT_THAT(split_specs("profile(\"\\\";\");raw"), ElementsAre("profile(\"\\\";\")", "raw"));
  EXPECT_THAT(split_specs("profile(\"a;b"), ElementsAre("profile(\"a;b"));
  EXPECT_THAT(split_specs("raw;"), ElementsAre("raw", ""));
}

// The grammar has room for stages to come: bare values, decimals, file names.
TEST(Spec, ParsesWhatOtherStagesNeed) {
  const auto stages =
      parse_spec("score(snapkv, window=32) | allocate(pyramid,keep=0.25) | profile(a/b-1.yaml)");
  ASSERT_TRUE(stages.ok()) << stages.status().to_string();
  ASSERT_EQ(stages->size(), 3u);
  EXPECT_EQ((*stages)[0].arguments[0].key, "");
  EXPECT_EQ((*stages)[0].arguments[0].value, "snapkv");
  EXPECT_EQ((*stages)[0].arguments[1].position, 15u);
  EXPECT_EQ((*stages)[0].arguments[1].value_position, 22u);
  EXPECT_EQ((*stages)[1].arguments[1].value, "0.25");
  EXPECT_EQ((*stages)[2].arguments[0].value, "a/b-1.yaml");
}

TEST(Spec, EveryListedStageCanBeMade) {
  for (const StageEntry& entry : list_stages()) {
    if (entry.kind == StageKind::kPreset) {
      const auto text = entry.expand(SpecStage{std::string(entry.name), 1, {}});
      ASSERT_TRUE(text.ok()) << entry.name;
      EXPECT_EQ(spec_of(std::string(entry.name)), spec_of(*text));
      continue;
    }
    if (entry.takes_file) continue;  // there is no file by default
    const auto made = entry.make(SpecStage{std::string(entry.name), 1, {}});
    ASSERT_TRUE(made.ok()) << entry.name;
    EXPECT_EQ(made->index(), static_cast<std::size_t>(entry.kind)) << entry.name;
  }
}

// What a stage is said to be when an argument is not given is what it is, and each choice is one.
TEST(Spec, ArgumentsAreAsListed) {
  for (const StageEntry& entry : list_stages()) {
    if (entry.takes_file || entry.kind == StageKind::kWire) continue;
    const bool stores = entry.kind == StageKind::kStorage || entry.kind == StageKind::kPreset;
    for (const StageForm& form : entry.forms) {
      const auto with = [&](const std::string& argument) {
        std::string arguments(form.fixed);
        if (!argument.empty()) arguments += (arguments.empty() ? "" : ",") + argument;
        return spec_of(std::string(entry.name) + "(" + arguments + ")" + (stores ? "" : " | hack"));
      };
      for (const StageArgument& argument : form.arguments) {
        const std::string key(argument.key), equals = key.empty() ? "" : key + "=";
        const auto choices = list_choices(argument);
        const std::string otherwise(argument.otherwise);
        if (std::find(choices.begin(), choices.end(), otherwise) != choices.end()) {
          EXPECT_EQ(with(equals + otherwise), with("")) << entry.name << " " << equals << otherwise;
        }
        for (const std::string& choice : choices) {
          if (choice == "N") continue;
          EXPECT_THAT(with(equals + choice), Not(HasSubstr("expected")));
        }
        EXPECT_THAT(with(equals + "no-such"), HasSubstr("expected"));
      }
    }
  }
}

TEST(Spec, SetsOfAllowedCodecs) {
  const auto set = CodecSet::parse({"hack(v=2,k=2)", "raw", "hack(k=2,v=2,range=search)"});
  ASSERT_TRUE(set.ok());
  EXPECT_THAT(set->specs(), ::testing::ElementsAre("hack(k=2,v=2)", "raw"));
  EXPECT_EQ((*set->find(""))->spec(), "hack(k=2,v=2)");
  EXPECT_EQ((*set->find(" raw "))->spec(), "raw");
  EXPECT_THAT(set->find("hack").status().message(), HasSubstr("hack(k=2,v=2); raw"));
  EXPECT_FALSE(CodecSet::parse({}).ok());
}

TEST(Spec, GeometriesThatAreNotServed) {
  const auto why_not = [](const char* spec, KvGeometry geometry) {
    return (*make_codec(spec))->supports(geometry).message();
  };
  EXPECT_EQ(why_not("hadamard | hack", {4, 2, 8, 64}), "");
  EXPECT_EQ(why_not("raw", {4, 2, 8, 80}), "");
  EXPECT_THAT(why_not("hack", {4, 2, 8, 80}), HasSubstr("64, 128 or 256; use raw"));
  EXPECT_EQ(why_not("fp8", {4, 2, 8, 80}), "");
  EXPECT_EQ(why_not("int8", {4, 2, 8, 80}), "");
  EXPECT_EQ(why_not("mean | int8", {4, 2, 8, 80}), "");
  EXPECT_THAT(why_not("mean(of=k) | int8", {4, 2, 8, 80}), HasSubstr("multiple of 32"));
  EXPECT_THAT(why_not("int", {4, 2, 8, 80}), HasSubstr("not a multiple of group=64"));
  EXPECT_THAT(why_not("dequantize | hack", {4, 2, 8, 80}), HasSubstr("64, 128 or 256"));
  EXPECT_THAT(why_not("hadamard | raw", {4, 2, 8, 80}), HasSubstr("power of two"));
  EXPECT_THAT(why_not("raw", {4, 3, 8, 64}), HasSubstr("not a multiple of 3"));
  EXPECT_THAT(why_not("raw", {4, 2, 8, 512}), HasSubstr("head_dim 512"));
  EXPECT_THAT(why_not("raw", {4, 0, 8, 64}), HasSubstr("not be zero"));
  EXPECT_THAT(why_not("raw", {70000, 2, 8, 64}), HasSubstr("65535"));
  EXPECT_EQ(why_not("raw", {1, 65535, 65535, 256}), "");
  EXPECT_THAT(make_exact_codec()->supports({1, 65535, 65535, 256}).message(), HasSubstr("4 GiB"));
}

}  // namespace
}  // namespace kvferry::codec
