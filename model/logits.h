// What `kvferry logits` does: the logits of every token of a sequence, to a NumPy file.
// Thread contract: engine thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/model.h"

namespace kvferry::model {

struct LogitsTable {
  std::vector<float> values;  // [tokens][vocab]
  std::uint32_t tokens = 0, vocab = 0;
};

// The first `prefill` tokens run as one forward, the rest one at a time; every split gives equal
// bits. codec_spec: "" leaves KV in the compute type (exact in f32, `raw` in bf16).
Result<LogitsTable> compute_logits(Model& model, std::span<const std::int32_t> ids,
                                   std::string_view codec_spec, std::uint32_t prefill);

// "1,2,3", spaces allowed.
Result<std::vector<std::int32_t>> parse_ids(std::string_view text);
// A JSON array of ids, or an object with one under "ids". At most 256 MiB.
Result<std::vector<std::int32_t>> read_ids_file(const std::filesystem::path& path);

// Version 1.0 of NumPy's format, float32, C order, shape (tokens, vocab).
Status write_npy(const LogitsTable& table, const std::filesystem::path& path);

struct LogitsCommand {
  std::string model;  // directory or random:NAME
  std::vector<std::int32_t> ids;
  std::filesystem::path out;  // .npy
  Compute compute = Compute::kAuto;
  std::string codec;                     // spec, or "" for none
  std::optional<std::uint32_t> prefill;  // all tokens unless said
  int threads = 1;
  std::function<void(double fraction)> progress;  // of loading; may be empty
};
// Loads, computes, writes.
Status run_logits(const LogitsCommand& command);

}  // namespace kvferry::model
