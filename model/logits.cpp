#include "model/logits.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <utility>

#include "codec/codec.h"
#include "codec/sequence_kv.h"

namespace kvferry::model {
namespace {

namespace json = boost::json;

constexpr std::uintmax_t kMaxIdsFileBytes = 256 << 20;

Result<std::shared_ptr<const codec::Codec>> choose_codec(const Model& model,
                                                         std::string_view spec) {
  if (spec.empty() && model.compute() == Compute::kF32) return codec::make_exact_codec();
  KVF_ASSIGN_OR_RETURN(auto codec, codec::make_codec(spec.empty() ? "raw" : spec));
  KVF_RETURN_IF_ERROR(codec->supports(model.config().kv_geometry()));
  return codec;
}

}  // namespace

Result<LogitsTable> compute_logits(Model& model, std::span<const std::int32_t> ids,
                                   std::string_view codec_spec, std::uint32_t prefill) {
  const ModelConfig& config = model.config();
  if (ids.empty()) return invalid_argument("no token ids were given");
  if (ids.size() > config.context) {
    return invalid_argument(std::to_string(ids.size()) + " tokens exceed the model's context of " +
                            std::to_string(config.context));
  }
  KVF_ASSIGN_OR_RETURN(const auto codec, choose_codec(model, codec_spec));
  LogitsTable table;
  table.tokens = static_cast<std::uint32_t>(ids.size());
  table.vocab = config.vocab;
  codec::OwnedSequenceKv kv(codec, config.kv_geometry(), table.tokens);
  std::vector<float> logits;
  for (std::size_t done = 0; done < ids.size();) {
    const std::size_t wanted = done == 0 ? std::max<std::size_t>(prefill, 1) : 1;
    const std::size_t n = std::min(wanted, ids.size() - done);
    const SequenceChunk chunk{&kv.kv(), ids.subspan(done, n), SequenceChunk::Logits::kAll};
    KVF_RETURN_IF_ERROR(model.forward(std::span(&chunk, 1), logits, nullptr));
    if (n == ids.size()) {
      table.values = std::move(logits);
      break;
    }
    table.values.insert(table.values.end(), logits.begin(), logits.end());
    done += n;
  }
  return table;
}

Result<std::vector<std::int32_t>> parse_ids(std::string_view text) {
  std::vector<std::int32_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto skip_spaces = [&] {
    while (at != end && *at == ' ') ++at;
  };
  while (true) {
    skip_spaces();
    std::int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || id < 0) break;
    ids.push_back(id);
    at = next;
    skip_spaces();
    if (at == end) return ids;
    if (*at++ != ',') break;
  }
  return invalid_argument("token ids must be whole numbers separated by commas, such as 1,2,3: '" +
                          std::string(text.substr(0, 80)) + "'");
}

Result<std::vector<std::int32_t>> read_ids_file(const std::filesystem::path& path) {
  std::error_code size_error;
  const auto bytes = std::filesystem::file_size(path, size_error);
  if (size_error) return not_found("cannot read " + path.string() + ": " + size_error.message());
  if (bytes > kMaxIdsFileBytes) return invalid_argument(path.string() + " is over 256 MiB long");
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  const json::value* list = &value;
  if (!error && value.is_object()) list = value.get_object().if_contains("ids");
  if (error || list == nullptr || !list->is_array()) {
    return invalid_argument(path.string() + " is neither a JSON array of ids nor {\"ids\": [...]}");
  }
  std::vector<std::int32_t> ids;
  for (const auto& id : list->get_array()) {
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() > INT32_MAX) {
      return invalid_argument(path.string() + ": " + json::serialize(id) + " is not a token id");
    }
    ids.push_back(static_cast<std::int32_t>(id.get_int64()));
  }
  return ids;
}

Status write_npy(const LogitsTable& table, const std::filesystem::path& path) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" +
                       std::to_string(table.tokens) + ", " + std::to_string(table.vocab) + "), }";
  constexpr std::size_t kPreamble = 10;  // magic, version, header length
  header.append(63 - (kPreamble + header.size()) % 64, ' ');
  header += '\n';
  std::string preamble("\x93NUMPY\x01\x00", 8);
  preamble += static_cast<char>(header.size() & 0xff);
  preamble += static_cast<char>(header.size() >> 8);

  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << preamble << header;
  out.write(reinterpret_cast<const char*>(table.values.data()),
            static_cast<std::streamsize>(table.values.size() * sizeof(float)));
  out.close();
  if (!out) {
    return unavailable("cannot write " + path.string() +
                       "; check that the folder exists and has room");
  }
  return ok_status();
}

Status run_logits(const LogitsCommand& command) {
  ComputePool pool(std::max(1, command.threads));
  LoadOptions options;
  options.compute = command.compute;
  options.pool = &pool;
  options.progress = command.progress;
  KVF_ASSIGN_OR_RETURN(const auto model, load_model(command.model, options));
  const auto all = static_cast<std::uint32_t>(command.ids.size());
  KVF_ASSIGN_OR_RETURN(const auto table, compute_logits(*model, command.ids, command.codec,
                                                        command.prefill.value_or(all)));
  return write_npy(table, command.out);
}

}  // namespace kvferry::model
