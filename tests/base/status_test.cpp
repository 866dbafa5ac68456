#include "base/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>

namespace kvferry {
namespace {

TEST(StatusTest, SaysItsCodeAndMessage) {
  EXPECT_EQ(Status().to_string(), "ok");
  EXPECT_EQ(data_loss("layer 3: checksum differs").to_string(),
            "data_loss: layer 3: checksum differs");
  EXPECT_EQ(not_found("").to_string(), "not_found");
}

TEST(StatusTest, ContextGoesBeforeTheMessage) {
  const Status status = unavailable("connection refused").with_context("worker p0");
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_EQ(status.message(), "worker p0: connection refused");
  EXPECT_TRUE(ok_status().with_context("worker p0").ok());
  EXPECT_EQ(ok_status().with_context("worker p0").message(), "");
}

TEST(StatusTest, EveryCodeHasItsOwnName) {
  std::set<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(Code::kInternal); ++code) {
    names.insert(code_name(static_cast<Code>(code)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(Code::kInternal) + 1);
  EXPECT_EQ(names.count("unknown"), 0u);
  EXPECT_EQ(code_name(static_cast<Code>(99)), "unknown");
}

Result<std::unique_ptr<int>> half(int number) {
  if (number % 2 != 0) return invalid_argument("odd");
  return std::make_unique<int>(number / 2);
}

Result<int> quarter(int number) {
  KVF_ASSIGN_OR_RETURN(const auto first, half(number));
  KVF_ASSIGN_OR_RETURN(auto second, half(*first));
  KVF_RETURN_IF_ERROR(*second == 0 ? not_found("nothing left") : ok_status());
  return *second;
}

TEST(ResultTest, CarriesAValueOrAStatus) {
  EXPECT_EQ(*quarter(12), 3);
  EXPECT_TRUE(quarter(12).status().ok());
  EXPECT_EQ(quarter(6).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(quarter(7).status().message(), "odd");
  EXPECT_EQ(quarter(0).status().code(), Code::kNotFound);
}

TEST(ResultDeathTest, ValueOfAFailureAborts) {
  EXPECT_DEATH(static_cast<void>(quarter(7).value()), "");
  EXPECT_DEATH(static_cast<void>(Result<int>(ok_status())), "");
}

}  // namespace
}  // namespace kvferry
