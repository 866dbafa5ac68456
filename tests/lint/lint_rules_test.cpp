// Each rule finds what it is there for, in trees made to break it, and passes their clean twins.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/lint/tree_lint.h"

namespace kvferry::lint {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::vector<std::string> kHeader = {"// What it is.", "// Thread contract: none.",
                                          "#pragma once"};

TEST(LintRules, UpwardInclude) {
  const File status{"base/status.h", kHeader};
  const File codec{"codec/codec.h", kHeader};
  EXPECT_THAT(check_room_includes({status, codec, {"codec/a.cpp", {"#include \"base/status.h\""}}}),
              IsEmpty());
  EXPECT_THAT(check_room_includes({status, codec, {"base/a.cpp", {"#include \"codec/codec.h\""}}}),
              ElementsAre(HasSubstr("base/a.cpp:1: base/ may not include codec/")));
  EXPECT_THAT(check_room_includes({status, {"kernels/a.cpp", {"#include \"base/status.h\""}}}),
              ElementsAre(HasSubstr("kernels/ may not include base/")));
  EXPECT_THAT(check_room_includes({status, codec, {"tests/x.cpp", {"#include \"codec/codec.h\""}}}),
              IsEmpty());
}

TEST(LintRules, IncludesAreWrittenFromTheRoot) {
  EXPECT_THAT(check_room_includes({{"cluster/a.cpp", {"#include \"control.pb.h\""}}}), IsEmpty());
  EXPECT_THAT(check_room_includes({{"codec/a.cpp", {"#include \"control.pb.h\""}}}),
              ElementsAre(HasSubstr("may not include proto/")));
  const File status{"base/status.h", kHeader};
  EXPECT_THAT(check_room_includes({status, {"base/a.cpp", {"#include \"status.h\""}}}),
              ElementsAre(HasSubstr("from the root")));
  EXPECT_THAT(check_room_includes({status, {"base/a.cpp", {"#include \"base/gone.h\""}}}),
              ElementsAre(HasSubstr("does not exist")));
  const File helper{"tests/codec/oracle.h", kHeader};
  EXPECT_THAT(check_room_includes({helper, {"tests/codec/a.cpp", {"#include \"oracle.h\""}}}),
              IsEmpty());
  EXPECT_THAT(check_room_includes({{"attic/a.cpp", {}}}), ElementsAre(HasSubstr("is no room")));
}

TEST(LintRules, UpwardLink) {
  EXPECT_THAT(check_room_links({{"text/CMakeLists.txt",
                                 {"kvferry_room(text", "  SOURCES a.cpp", "  DEPENDS base",
                                  "  LIBRARIES PkgConfig::pcre2 Boost::json)"}}}),
              IsEmpty());
  EXPECT_THAT(
      check_room_links({{"text/CMakeLists.txt", {"kvferry_room(text", "  DEPENDS base model)"}}}),
      ElementsAre(HasSubstr("text/ may not link model/")));
}

TEST(LintRules, HeaderWithoutContract) {
  EXPECT_THAT(check_header_contracts({{"base/a.h", kHeader}}), IsEmpty());
  EXPECT_THAT(check_header_contracts({{"base/a.h", {"#pragma once"}}}),
              ElementsAre(HasSubstr("what it is for")));
  EXPECT_THAT(check_header_contracts({{"base/a.h", {"// What.", "#pragma once", "class A {"}}}),
              ElementsAre(HasSubstr("which threads")));
  EXPECT_THAT(check_header_contracts({{"base/a.h", {"// What.", "#pragma once", "class A;"}}}),
              IsEmpty());
  EXPECT_THAT(check_header_contracts({{"base/a.h", {"// Two", "// lines."}}}),
              ElementsAre(HasSubstr("#pragma once")));
}

TEST(LintRules, Umbrella) {
  const File list{"base/CMakeLists.txt", {}};
  const File readme{"base/README.md", {}};
  const File umbrella{"base/all.h", {"#include \"base/status.h\""}};
  const File user{"codec/a.cpp", {"#include \"base/status.h\""}};
  const File other_user{"codec/b.cpp", {"#include \"base/hash.h\""}};
  EXPECT_THAT(check_umbrellas({list, readme, umbrella, user}), IsEmpty());
  EXPECT_THAT(check_umbrellas({list, readme, umbrella, other_user}),
              ElementsAre(HasSubstr("\"base/hash.h\" is used by other rooms")));
  EXPECT_THAT(check_umbrellas({list}),
              ElementsAre(HasSubstr("README.md is missing"), HasSubstr("umbrella")));
}

TEST(LintRules, OwnHeaderFirst) {
  const File header{"base/a.h", kHeader};
  EXPECT_THAT(
      check_own_header_first({header, {"base/a.cpp", {"#include \"base/a.h\"", "#include <map>"}}}),
      IsEmpty());
  EXPECT_THAT(
      check_own_header_first({header, {"base/a.cpp", {"#include <map>", "#include \"base/a.h\""}}}),
      ElementsAre(HasSubstr("first")));
}

TEST(LintRules, UnfinishedWork) {
  for (const char* line :
       {"// TODO: later", "// FIXME", "  // XXX", "return not_implemented;  // stub",
        "// not implemented", "TEST(A, DISABLED_B)", "GTEST_SKIP() << \"later\";",
        "// HACK: until then"}) {
    EXPECT_EQ(check_unfinished({{"base/a.cpp", {line}}}).size(), 1u) << line;
  }
  for (const char* line : {"mkstemp(\"/tmp/fXXXXXX\")", "// HACK's paper has sums", "// as in HACK",
                           "GTEST_SKIP() << \"the CPU has no AVX-512\";", "// stubborn"}) {
    EXPECT_THAT(check_unfinished({{"base/a.cpp", {line}}}), IsEmpty()) << line;
  }
}

TEST(LintRules, Layout) {
  const auto lines = [](std::string line) { return Tree{{"base/a.cpp", {std::move(line)}}}; };
  EXPECT_THAT(check_layout(lines(std::string(100, 'x'))), IsEmpty());
  EXPECT_THAT(check_layout(lines(std::string(101, 'x'))), ElementsAre(HasSubstr("100 columns")));
  EXPECT_THAT(check_layout(lines("a\tb")), ElementsAre(HasSubstr("tab")));
  EXPECT_THAT(check_layout(lines("a ")), ElementsAre(HasSubstr("trailing")));
  EXPECT_THAT(check_layout({{"base/a.cpp", std::vector<std::string>(700)}}), IsEmpty());
  EXPECT_THAT(check_layout({{"base/a.cpp", std::vector<std::string>(701)}}),
              ElementsAre(HasSubstr("split it")));
}

TEST(LintRules, BannedCalls) {
  const File sleeping{"tests/base/a_test.cpp", {"std::this_thread::sleep_for(1ms);"}};
  EXPECT_THAT(check_banned_calls({sleeping}), ElementsAre(HasSubstr("sleep_for")));
  EXPECT_THAT(check_banned_calls({{"base/a.cpp", sleeping.lines}}), IsEmpty());
  EXPECT_THAT(check_banned_calls({{"tests/e2e/a.cpp", sleeping.lines}}), IsEmpty());
  for (const char* line : {"std::rand()", "strcpy(a, b)", "sprintf(a, b)", "atoi(a)",
                           "std::cout << 1", "using namespace std;", "system(command)"}) {
    EXPECT_EQ(check_banned_calls({{"base/a.cpp", {line}}}).size(), 1u) << line;
  }
  for (const char* line : {"std::snprintf(a, n, b)", "// atoi(a) would not do", "grand(x)"}) {
    EXPECT_THAT(check_banned_calls({{"base/a.cpp", {line}}}), IsEmpty()) << line;
  }
}

TEST(LintRules, SourceThatNobodyBuilds) {
  const File list{"kernels/CMakeLists.txt", {"  SOURCES isa.cpp cpu/dense.cpp)"}};
  EXPECT_THAT(check_sources_built({list, {"kernels/isa.cpp", {}}, {"kernels/cpu/dense.cpp", {}}}),
              IsEmpty());
  EXPECT_THAT(check_sources_built({list, {"kernels/sa.cpp", {}}}),
              ElementsAre(HasSubstr("kernels/sa.cpp: named in no")));
  EXPECT_THAT(check_sources_built({{"tests/base/new_test.cpp", {}}}),
              ElementsAre(HasSubstr("new_test.cpp")));
}

TEST(LintRules, Metrics) {
  const File code{"decode/a.cpp", {"m.counter(\"kvferry_frames_total\", \"Frames.\");"}};
  const File docs{"docs/metrics.md", {"| `kvferry_frames_total` | counter |"}};
  const File alert{"deploy/a.yml", {"expr: rate(kvferry_frames_total[5m]) > 0"}};
  EXPECT_THAT(check_metrics({code, docs, alert}), IsEmpty());
  EXPECT_THAT(check_metrics({code}), ElementsAre(HasSubstr("no row in docs/metrics.md")));
  EXPECT_THAT(check_metrics({docs}), ElementsAre(HasSubstr("docs/metrics.md:1")));
  EXPECT_THAT(check_metrics({alert}), ElementsAre(HasSubstr("deploy/a.yml:1")));
}

TEST(LintRules, BrokenLink) {
  const File readme{"README.md", {"see [the docs](docs/a.md#part) and [us](https://example.org)"}};
  EXPECT_THAT(check_links({readme, {"docs/a.md", {}}}), IsEmpty());
  EXPECT_THAT(check_links({readme}), ElementsAre(HasSubstr("README.md:1: link to docs/a.md")));
}

}  // namespace
}  // namespace kvferry::lint
