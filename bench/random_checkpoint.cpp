#include "bench/random_checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "model/random_model.h"

namespace kvferry::bench {
namespace {

namespace json = boost::json;

struct Tensor {
  std::string name;
  std::uint32_t rows, columns;  // rows 0: a vector
  std::uint64_t begin = 0;
  std::uint64_t row_bytes() const { return std::uint64_t{columns} * 2; }
  std::uint64_t bytes() const { return std::max(rows, 1u) * row_bytes(); }
};

// Random models are Llamas.
std::vector<Tensor> list_tensors(const model::ModelConfig& c) {
  const std::uint32_t q = c.q_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  std::vector<Tensor> tensors{{"model.embed_tokens.weight", c.vocab, c.hidden},
                              {"model.norm.weight", 0, c.hidden}};
  if (!c.tied_embeddings) tensors.push_back({"lm_head.weight", c.vocab, c.hidden});
  for (std::uint32_t i = 0; i < c.layers; ++i) {
    const std::string p = "model.layers." + std::to_string(i) + ".";
    const Tensor layer[] = {{"input_layernorm", 0, c.hidden},
                            {"post_attention_layernorm", 0, c.hidden},
                            {"self_attn.q_proj", q, c.hidden},
                            {"self_attn.k_proj", kv, c.hidden},
                            {"self_attn.v_proj", kv, c.hidden},
                            {"self_attn.o_proj", c.hidden, q},
                            {"mlp.gate_proj", c.intermediate, c.hidden},
                            {"mlp.up_proj", c.intermediate, c.hidden},
                            {"mlp.down_proj", c.hidden, c.intermediate}};
    for (const Tensor& t : layer) tensors.push_back({p + t.name + ".weight", t.rows, t.columns});
  }
  std::uint64_t at = 0;
  for (Tensor& tensor : tensors) {
    tensor.begin = at;
    at += tensor.bytes();
  }
  return tensors;
}

std::string header_of(const std::vector<Tensor>& tensors) {
  json::object header;
  for (const Tensor& t : tensors) {
    json::array shape;
    if (t.rows > 0) shape.push_back(t.rows);
    shape.push_back(t.columns);
    header[t.name] = {
        {"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {t.begin, t.begin + t.bytes()}}};
  }
  std::string text = json::serialize(header);
  text.resize((text.size() + 63) / 64 * 64, ' ');
  std::string bytes(8, '\0');
  const std::uint64_t n = text.size();
  std::memcpy(bytes.data(), &n, 8);
  return bytes + text;
}

void write_config(const model::ModelConfig& c, const std::filesystem::path& path) {
  const json::object config{{"architectures", {"LlamaForCausalLM"}},
                            {"hidden_size", c.hidden},
                            {"intermediate_size", c.intermediate},
                            {"num_hidden_layers", c.layers},
                            {"num_attention_heads", c.q_heads},
                            {"num_key_value_heads", c.kv_heads},
                            {"head_dim", c.head_dim},
                            {"vocab_size", c.vocab},
                            {"max_position_embeddings", c.context},
                            {"rms_norm_eps", c.rms_eps},
                            {"rope_theta", c.rope_theta},
                            {"tie_word_embeddings", c.tied_embeddings}};
  std::ofstream(path) << json::serialize(config) << "\n";
}

bool write_at(int fd, const std::byte* data, std::size_t bytes, std::uint64_t offset) {
  while (bytes > 0) {
    const ssize_t n = pwrite(fd, data, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    bytes -= static_cast<std::size_t>(n);
    offset += static_cast<std::uint64_t>(n);
  }
  return true;
}

// A piece of a tensor that one task makes and writes.
struct Piece {
  model::TensorRef tensor;
  std::uint32_t row0, rows;
  std::uint64_t offset;
};

}  // namespace

Status write_random_checkpoint(const std::string& name, const std::filesystem::path& directory,
                               ComputePool& pool) {
  KVF_ASSIGN_OR_RETURN(const auto config, model::random_model_config(name));
  write_config(config, directory / "config.json");
  const auto source = model::make_random_source();
  const auto tensors = list_tensors(config);
  const std::string header = header_of(tensors);
  std::vector<Piece> pieces;
  for (const Tensor& t : tensors) {
    KVF_ASSIGN_OR_RETURN(const auto tensor, source->find(t.name, t.rows, t.columns));
    constexpr std::uint64_t kPieceBytes = 4 << 20;
    const auto step =
        static_cast<std::uint32_t>(std::max<std::uint64_t>(1, kPieceBytes / t.row_bytes()));
    for (std::uint32_t row = 0; row < tensor.rows; row += step) {
      pieces.push_back({tensor, row, std::min(step, tensor.rows - row),
                        header.size() + t.begin + row * t.row_bytes()});
    }
  }
  const std::string path = directory / "model.safetensors";
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return resource_exhausted("cannot write " + path + ": " + std::strerror(errno));
  std::atomic<bool> written =
      write_at(fd, reinterpret_cast<const std::byte*>(header.data()), header.size(), 0);
  pool.parallel_for(pieces.size(), [&](std::size_t i, int) {
    const Piece& p = pieces[i];
    std::vector<std::byte> bytes(std::size_t{p.rows} * p.tensor.columns * 2);
    source->read_rows(p.tensor, p.row0, p.rows, model::Compute::kBf16, bytes.data());
    if (!write_at(fd, bytes.data(), bytes.size(), p.offset)) written = false;
  });
  const bool flushed = ::fsync(fd) == 0;
  ::close(fd);
  if (written && flushed) return ok_status();
  return resource_exhausted("cannot write all of " + path + ": " + std::strerror(errno) +
                            "; set TMPDIR to a directory with room");
}

}  // namespace kvferry::bench
