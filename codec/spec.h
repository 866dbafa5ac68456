// The text of a codec: a pipeline of stages, parsed but not yet understood.
//   spec      = stage { "|" stage }
//   stage     = name [ "(" [ argument { "," argument } ] ")" ]
//   argument  = [ key "=" ] value
//   name, key = a letter or "_", then letters, digits, "_"
//   value     = one or more of letters, digits and "_.-+/", or anything between two '"', where \"
//               and \\ stand for '"' and '\'
// Blanks may stand between any two of these. At most kMaxSpecBytes. Positions count characters
// from 1. docs/codecs.md describes the stages.
//
// Thread contract: values and pure functions. Errors: kInvalidArgument, "codec spec, character P:
// what was expected".
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace kvferry::codec {

inline constexpr std::size_t kMaxSpecBytes = 4096;

struct SpecArgument {
  std::string key;  // empty for a bare value
  std::string value;
  std::size_t position = 0;  // of the key, or of a bare value
  std::size_t value_position = 0;
};

struct SpecStage {
  std::string name;
  std::size_t position = 0;
  std::vector<SpecArgument> arguments;
};

Result<std::vector<SpecStage>> parse_spec(std::string_view text);

// The specs of a list, which `;` separates outside of quoted values; as they stand there.
std::vector<std::string> split_specs(std::string_view list);

// "codec spec, character 12: expected ...".
Status spec_error(std::size_t position, std::string_view expected);

// Reads the arguments of one stage by key, each at most once, and says where and what a wrong one
// is. Not copied; the stage must outlive it.
class SpecArguments {
 public:
  explicit SpecArguments(const SpecStage& stage) : stage_(stage) {}

  // Every argument must have a key out of `keys`, and none twice.
  Status check_keys(std::initializer_list<std::string_view> keys) const;
  // No argument has a key out of `keys`, which go with `companion` alone: "layout=paper", say.
  Status check_beside(std::string_view companion,
                      std::initializer_list<std::string_view> keys) const;
  // The value of `key` as an integer out of `allowed`, or `fallback` when it is not given.
  Result<std::uint32_t> integer(std::string_view key, std::initializer_list<std::uint32_t> allowed,
                                std::uint32_t fallback) const;
  // The value of `key` as a number from 0 to max, or `fallback` when it is not given.
  Result<std::uint64_t> number(std::string_view key, std::uint64_t max,
                               std::uint64_t fallback) const;
  // An empty key is that of a bare word. The index of the value of `key` in `allowed`, or
  // `fallback` when it is not given.
  Result<std::size_t> word(std::string_view key, std::initializer_list<std::string_view> allowed,
                           std::size_t fallback) const;
  // The position of `key`, or 0 when it is not given.
  std::size_t position(std::string_view key) const;

 private:
  const SpecArgument* find(std::string_view key) const;
  const SpecStage& stage_;
};

}  // namespace kvferry::codec
