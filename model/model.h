// The transformer: from token ids to logits, over a KV cache kept in a codec's form.
//
// Row determinism (docs/ARCHITECTURE.md, "one answer"): the logits and the KV of a token depend on
// the tokens before it, the weights, the compute type, the codec and the numerics class, and on
// nothing else: not on how tokens are cut into chunks, which sequences share a step, or threads.
//
// Thread contract: a Model is driven by one thread (the engine thread); it spreads the work over
// the ComputePool it was given.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/compute_pool.h"
#include "base/status.h"
#include "codec/codec.h"
#include "codec/sequence_kv.h"
#include "model/sampling.h"

namespace kvferry::model {

enum class Compute { kAuto, kBf16, kF32 };  // auto: bf16 where the CPU has AVX512_BF16, else f32

enum class Architecture : std::uint8_t { kLlama, kMistral, kQwen2, kQwen3 };

// How rope's frequencies are stretched for a longer context; model/rope.h has the formulas.
struct RopeScaling {
  enum class Type : std::uint8_t { kDefault, kLinear, kLlama3 } type = Type::kDefault;
  double factor = 1.0;
  double low_frequency = 0.0, high_frequency = 0.0, original_context = 0.0;  // llama3 alone
};

struct ModelConfig {
  std::string name;  // the directory's last component, or random:NAME
  Architecture architecture = Architecture::kLlama;
  std::uint32_t hidden = 0, intermediate = 0, layers = 0, q_heads = 0, kv_heads = 0, head_dim = 0;
  std::uint32_t vocab = 0, context = 0;
  float rms_eps = 1e-5f, rope_theta = 10000.0f;
  RopeScaling rope_scaling;
  bool tied_embeddings = false;
  bool qkv_bias = false;     // on the projections of Q, K and V
  bool output_bias = false;  // on attention's output projection
  bool qk_norm = false;      // RMSNorm of each head's Q and K before rope
  std::int32_t bos_id = -1;
  std::vector<std::int32_t> eos_ids;
  // Of a loaded model, because it depends on the weights: see KvGeometry. 0 before.
  std::uint64_t removed_bias = 0;

  codec::KvGeometry kv_geometry() const {
    return {layers, kv_heads, q_heads, head_dim, removed_bias};
  }
};

// The tokens of one sequence to run in a step. Their positions are kv->length ... ; forward appends
// their KV and advances kv->length. kv must have blocks for every tile that closes.
struct SequenceChunk {
  codec::SequenceKv* kv = nullptr;
  std::span<const std::int32_t> ids;
  enum class Logits { kNone, kLast, kAll } logits = Logits::kLast;
};

// Called on the engine thread after a layer's attention of a step: tiles [first, last) of this
// chunk's sequence have closed in this layer and their segments will not change any more. While it
// runs, the pool is idle; it should hand the segments on and return.
using TilesClosed = std::function<void(std::size_t chunk, std::uint32_t layer, std::uint32_t first,
                                       std::uint32_t last)>;

// What attention is given in a layer by rows that follow each other in one chunk, for those who
// measure it. Everything is valid during the call alone.
struct AttentionInputs {
  std::size_t chunk = 0;                         // index in forward's list
  std::uint32_t layer = 0, start = 0, rows = 0;  // of positions [start, start + rows)
  // Queries after rope, in the codec's domain, not yet multiplied by 1/sqrt(head_dim): rows of
  // `q_stride` floats, of which the first q_heads * head_dim are the query.
  const float* q = nullptr;
  std::size_t q_stride = 0;
  // K and V as they were before encoding, of a tile that one of the positions is in.
  std::function<codec::OpenTile(std::uint32_t tile)> dense_tile;
};
// Called on the engine thread once the tiles that close in this layer are encoded.
using AttentionObserver = std::function<void(const AttentionInputs&)>;

struct StepTimings {
  std::uint64_t total_ns = 0, gemm_ns = 0, attention_ns = 0;  // wall time of a step
  std::uint64_t encode_ns = 0;  // CPU time in the codec, summed over the pool's threads
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  virtual Compute compute() const = 0;  // never kAuto

  // Hash over the weights' bytes, the shapes, rope and compute type: two workers with equal
  // fingerprints and numerics classes compute the same answers.
  virtual std::uint64_t fingerprint() const = 0;
  // Hash of the output bits of a probe (GEMM, rope, attention, norms) run at load on this machine.
  virtual std::uint64_t numerics_class() const = 0;

  // Runs one step. logits is resized to [rows asked for][vocab], in chunk order. kInvalidArgument
  // for ids outside the vocabulary, a context overrun or KV memory that is too short; the
  // sequences are then unchanged. kInvalidArgument also if KV turned NaN or infinite (encode);
  // the sequences must then be discarded.
  virtual Status forward(std::span<const SequenceChunk> chunks, std::vector<float>& logits,
                         const TilesClosed& tiles_closed = nullptr) = 0;
  virtual const StepTimings& last_step() const = 0;

  // The pool that steps run on, for other work of the thread that runs them, between or in
  // tiles_closed.
  virtual ComputePool& pool() = 0;

  // Calls `observer` in every layer of later steps, once for each run of rows; an empty one ends
  // it. Changes no result.
  virtual void observe(AttentionObserver observer) = 0;
};

struct LoadOptions {
  Compute compute = Compute::kAuto;
  ComputePool* pool = nullptr;                    // not owned; outlives the model
  std::function<void(double fraction)> progress;  // called now and then while loading
};

// Reads config.json of a Hugging Face directory, or the shape of "random:NAME".
Result<ModelConfig> load_config(const std::string& model);

// Loads "DIR" (config.json, model.safetensors) or "random:NAME" (seeded random weights of a known
// shape: tiny, llama-3.2-1b, llama-3.1-8b-4layers). Every offset, shape and dtype is checked
// before use; what is not supported is refused by name.
Result<std::unique_ptr<Model>> load_model(const std::string& model, const LoadOptions& options);

}  // namespace kvferry::model
