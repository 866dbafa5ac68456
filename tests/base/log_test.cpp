#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvferry {
namespace {

std::string logged(LogLevel level, std::string_view message) {
  testing::internal::CaptureStderr();
  log(level, "test", message);
  return testing::internal::GetCapturedStderr();
}

TEST(LogTest, OneLineWithTimeLevelAndComponent) {
  set_log_level(LogLevel::kInfo);
  EXPECT_THAT(logged(LogLevel::kWarn, "hello"),
              testing::MatchesRegex(
                  "[0-9]+-[0-9]+-[0-9]+T[0-9]+:[0-9]+:[0-9]+\\.[0-9]+Z warning test: hello\n"));
}

TEST(LogTest, LevelsFilter) {
  set_log_level(LogLevel::kWarn);
  EXPECT_FALSE(log_enabled(LogLevel::kInfo));
  EXPECT_TRUE(log_enabled(LogLevel::kError));
  EXPECT_EQ(logged(LogLevel::kInfo, "quiet"), "");
  EXPECT_NE(logged(LogLevel::kError, "loud"), "");
  set_log_level(LogLevel::kDebug);
  EXPECT_NE(logged(LogLevel::kDebug, "everything"), "");
  set_log_level(LogLevel::kInfo);
}

// What a client sends cannot forge a second line or act on a terminal.
TEST(LogTest, ControlCharactersAreTakenOut) {
  const std::string line = logged(LogLevel::kError, "a\nb\r\x1b[2Jc {} %s");
  EXPECT_THAT(line, testing::EndsWith("test: a\\nb??[2Jc {} %s\n"));
}

}  // namespace
}  // namespace kvferry
