#include "text/stop_buffer.h"

#include <gtest/gtest.h>

#include <random>

#include "text/utf8.h"

namespace kvferry::text {
namespace {

struct Outcome {
  std::string text;
  int hit = -1;
  bool operator==(const Outcome&) const = default;
};

Outcome run(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopBuffer buffer = StopBuffer::make(stops).value();
  Outcome outcome;
  for (const std::string& piece : pieces) outcome.text += buffer.feed(piece);
  outcome.text += buffer.finish();
  outcome.hit = buffer.hit();
  return outcome;
}

// The rule in its plainest form: the first place where a stop string is complete.
Outcome expected(const std::vector<std::string>& stops, const std::string& text) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    Outcome best;
    std::size_t longest = 0;
    for (std::size_t i = 0; i < stops.size(); ++i) {
      if (stops[i].size() > longest && text.substr(0, end).ends_with(stops[i])) {
        longest = stops[i].size();
        best = {text.substr(0, end - longest), static_cast<int>(i)};
      }
    }
    if (best.hit >= 0) return best;
  }
  return {text, -1};
}

TEST(StopBufferTest, EverySplitPosition) {
  const std::string text = "one STOP two";
  for (std::size_t a = 0; a <= text.size(); ++a) {
    for (std::size_t b = a; b <= text.size(); ++b) {
      const Outcome outcome =
          run({"STOP"}, {text.substr(0, a), text.substr(a, b - a), text.substr(b)});
      EXPECT_EQ(outcome.text, "one ") << a << " " << b;
      EXPECT_EQ(outcome.hit, 0);
    }
  }
}

TEST(StopBufferTest, HoldsBackOnlyWhatMayBecomeAStop) {
  StopBuffer buffer = StopBuffer::make({"\nQuestion:", "###"}).value();
  EXPECT_EQ(buffer.feed("An answer\nQ"), "An answer");
  EXPECT_EQ(buffer.feed("uest"), "");
  EXPECT_EQ(buffer.feed("s"), "\nQuests");
  EXPECT_EQ(buffer.feed("##"), "");
  EXPECT_EQ(buffer.hit(), -1);
  EXPECT_EQ(buffer.feed("# more"), "");
  EXPECT_EQ(buffer.hit(), 1);
  EXPECT_EQ(buffer.feed("more"), "");
  EXPECT_EQ(buffer.finish(), "");
}

TEST(StopBufferTest, FinishGivesWhatWasHeldBack) {
  EXPECT_EQ(run({"STOP"}, {"not a STO"}), (Outcome{"not a STO", -1}));
  EXPECT_EQ(run({}, {"a", "", "b"}), (Outcome{"ab", -1}));
}

TEST(StopBufferTest, OverlappingStops) {
  EXPECT_EQ(run({"abcd", "bc"}, {"xabcd"}), (Outcome{"xa", 1}));  // complete first
  EXPECT_EQ(run({"c", "abc"}, {"xabc"}), (Outcome{"x", 1}));      // the longest at one place
  EXPECT_EQ(run({"aab"}, {"aaaab"}), (Outcome{"aa", 0}));         // falls back within itself
  EXPECT_EQ(run({"abab!"}, {"ababab!"}), (Outcome{"ab", 0}));
}

TEST(StopBufferTest, RandomTextsSplitAnywhere) {
  for (unsigned seed = 0; seed < 3000; ++seed) {
    std::mt19937 random(seed);
    const auto word = [&](std::size_t max) {
      std::string made;
      for (std::size_t n = 1 + random() % max; n > 0; --n) made += "abc"[random() % 3];
      return made;
    };
    std::vector<std::string> stops;
    for (unsigned n = random() % 4; n > 0; --n) stops.push_back(word(5));
    const std::string text = word(30);
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, random() % 4));
      at += pieces.back().size();
    }
    ASSERT_EQ(run(stops, pieces), expected(stops, text)) << seed;
  }
}

TEST(StopBufferTest, CutsAtCharacterBorders) {
  const std::string text = "éèéê日本";
  StopBuffer buffer = StopBuffer::make({"éê日a", "è日"}).value();
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_step(std::string_view(text).substr(at)).length;
    const std::string piece = buffer.feed(text.substr(at, length));
    EXPECT_TRUE(is_utf8(piece));
    out += piece;
    at += length;
  }
  EXPECT_EQ(out + buffer.finish(), text);
}

TEST(StopBufferTest, Limits) {
  EXPECT_EQ(StopBuffer::make({""}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(StopBuffer::make({std::string(1025, 'x')}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(StopBuffer::make(std::vector<std::string>(17, "x")).status().code(),
            Code::kInvalidArgument);
  EXPECT_TRUE(StopBuffer::make(std::vector<std::string>(16, std::string(1024, 'x'))).ok());
}

}  // namespace
}  // namespace kvferry::text
