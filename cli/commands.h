// The commands of the program: what main parses, and a function for each. Every function prints its
// result to standard output, errors to standard error, and returns the exit status.
// Thread contract: called once, from main.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/attention_bench.h"
#include "bench/codec_bench.h"
#include "bench/decode_bench.h"
#include "codec/codec.h"

namespace kvferry::cli {

// Exit statuses: 0 done; 1 failed; 2 wrong usage (CLI11's own errors are mapped to it).
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;

struct EngineOptions {
  std::string model;
  std::string compute = "auto";  // auto, bf16, f32
  int threads = 0;               // 0: every core
};

struct GenerateOptions {
  EngineOptions engine;
  std::string prompt;
  std::string prompt_file;
  std::string codec{codec::kDefaultSpec};
  std::uint32_t max_tokens = 64;
  float temperature = 0;
  std::uint32_t top_k = 0;
  float top_p = 1;
  std::uint64_t seed = 0;
  std::vector<std::string> stop;
  bool json = false;
};
int run_generate(const GenerateOptions& options);

struct LogitsOptions {
  EngineOptions engine;
  std::string ids;       // "1,2,3"
  std::string ids_file;  // JSON array
  std::string out;
  std::string codec;                     // empty: none
  std::optional<std::uint32_t> prefill;  // all tokens unless said
};
int run_logits(const LogitsOptions& options);

struct DescribeOptions {
  std::string spec;
  std::string model_shape = "layers=32,kv_heads=8,head_dim=128";
  std::vector<std::uint32_t> tokens = {2048, 32768};
  bool json = false;
};
int run_codec_describe(const DescribeOptions& options);
int run_codec_list(bool as_json);

struct MeasureOptions {
  EngineOptions engine;
  std::string text, questions;  // a file; one of the two
  std::vector<std::string> codecs = {"hadamard | hack(k=8,v=8)", "hadamard | hack(k=4,v=4)",
                                     std::string(codec::kDefaultSpec), "hadamard | hack(k=2,v=2)",
                                     "hack(k=2,v=2)"};
  std::uint32_t window = 1024, passages = 0;
  bool json = false;
};
int run_codec_measure(const MeasureOptions& options);

struct BenchPrefillOptions {
  EngineOptions engine;
  std::uint32_t tokens = 2048;
  std::string codec = "raw";
  bool json = false;
};
int run_bench_prefill(const BenchPrefillOptions& options);

struct BenchTokenizeOptions {
  std::string model, text;
  int runs = 7;
  bool json = false;
};
int run_bench_tokenize(const BenchTokenizeOptions& options);

struct BenchAttentionOptions {
  bench::AttentionBenchOptions bench;
  bool json = false;
};
int run_bench_attention(const BenchAttentionOptions& options);

struct BenchCodecOptions {
  bench::CodecBenchOptions bench;
  bool json = false;
};
int run_bench_codec(const BenchCodecOptions& options);

struct BenchDecodeOptions {
  EngineOptions engine;
  bench::DecodeBenchOptions bench;  // but for what `engine` says
  bool json = false;
};
int run_bench_decode(const BenchDecodeOptions& options);

struct BenchLoadOptions {
  EngineOptions engine;
  int runs = 3;  // with the files in the page cache
  bool json = false;
};
int run_bench_load(const BenchLoadOptions& options);

struct DoctorOptions {
  std::string model;    // empty: no numerics class
  std::string ucx_tls;  // empty: UCX_TLS or UCX's own choice
};
int run_doctor(const DoctorOptions& options);

struct UpOptions {
  std::string model;
  std::string served_model_name;  // in the API; empty: the directory's
  std::string chat_template;  // a format's name, a file with a template, or empty: the checkpoint's
  std::vector<std::string> codecs;
  std::uint32_t prefill = 1, decode = 1;
  std::string transport = "ucx";
  std::string ucx_tls;
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;  // 0: any free one
  std::string compute = "auto";
  int threads = 0;  // of each worker; 0: the cores divided among the workers
  std::uint32_t pool_mib = 256;
  std::uint32_t local_prefill_tokens = 64;
  std::uint32_t lease_ms = 30000;
  std::string api_keys;   // a file of keys of the gateway's API; empty: none are asked for
  std::string directory;  // of configs and logs; empty: a temporary one, removed at the end
};
int run_up(const UpOptions& options);

struct DemoOptions {
  std::string url = "http://127.0.0.1:8080";
  std::string api_key;
  std::vector<std::string> codecs;
  std::uint32_t wait_s = 60;
  bool print_question = false;
};
int run_demo(const DemoOptions& options);

struct ChatOptions {
  std::string url = "http://127.0.0.1:8080";
  std::string model;  // a checkpoint's directory: starts a cluster with it, and url is not used
  std::string chat_template;  // of that cluster, as UpOptions has it
  std::string api_key;
  std::string codec;  // empty: the server's default
  std::string system;
  std::uint32_t max_tokens = 512;
  double temperature = 0;
};
int run_chat(const ChatOptions& options);

struct ApiKeyOptions {
  std::string name;
  std::uint32_t concurrent = 0;  // 0: no limit of its own
};
int run_api_key(const ApiKeyOptions& options);

int run_worker_command(const std::string& role, const std::string& config_file);
int run_gateway_command(const std::string& config_file);

}  // namespace kvferry::cli
