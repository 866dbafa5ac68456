// The program: parses the command line and calls the command (cli/commands.h).

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "bench/passages.h"
#include "cli/commands.h"
#include "kernels/isa.h"

namespace {

using namespace kvferry::cli;  // NOLINT: the commands are all that this file is about

// What stands at the end of a command's help: lines that can be typed as they are.
void examples(CLI::App* app, const std::vector<std::string>& lines) {
  std::string text = "Examples:";
  for (const std::string& line : lines) text += "\n  " + line;
  app->footer(text);
}

void add_engine_options(CLI::App* app, EngineOptions& engine,
                        const char* model = "Directory of a checkpoint, or random:NAME") {
  app->add_option("--model", engine.model, model)->required();
  app->add_option("--compute", engine.compute, "auto, bf16 or f32")
      ->check(CLI::IsMember({"auto", "bf16", "f32"}));
  app->add_option("--threads", engine.threads, "Compute threads; 0: one a core")
      ->check(CLI::Range(0, 1024));
}

// What each subcommand runs once the command line is parsed.
using Command = std::function<int()>;

Command add_generate(CLI::App& app, GenerateOptions& options) {
  CLI::App* sub = app.add_subcommand("generate", "Answer one prompt in this process");
  add_engine_options(sub, options.engine, "Directory of a checkpoint");
  auto* text = sub->add_option("--prompt", options.prompt, "The prompt");
  sub->add_option("--prompt-file", options.prompt_file, "A file that holds the prompt")
      ->excludes(text);
  sub->add_option("--codec", options.codec, "Codec of the KV cache")->capture_default_str();
  sub->add_option("--max-tokens", options.max_tokens, "Tokens to generate at most")
      ->check(CLI::Range(1u, 1u << 20));
  sub->add_option("--temperature", options.temperature, "0: greedy")->check(CLI::Range(0.0, 2.0));
  sub->add_option("--top-k", options.top_k, "0: all");
  sub->add_option("--top-p", options.top_p, "")->check(CLI::Range(1e-6, 1.0));
  sub->add_option("--seed", options.seed, "Of the sampling");
  sub->add_option("--stop", options.stop, "Strings that end the answer")->take_all();
  sub->add_flag("--json", options.json, "Print one JSON object");
  examples(sub,
           {"kvferry generate --model models/mini --prompt 'Once upon a time'",
            "kvferry generate --model models/mini --prompt-file question.txt --codec raw --json"});
  return [&options] { return run_generate(options); };
}

Command add_logits(CLI::App& app, LogitsOptions& options) {
  CLI::App* sub = app.add_subcommand("logits", "Write the logits of a sequence of ids as .npy");
  add_engine_options(sub, options.engine);
  auto* ids = sub->add_option("--ids", options.ids, "1,2,3");
  sub->add_option("--ids-file", options.ids_file, "A JSON array of ids")->excludes(ids);
  sub->add_option("--out", options.out, "The .npy file, float32 [tokens, vocab]")->required();
  auto* codec =
      sub->add_option("--codec", options.codec, "Codec of the KV cache; none unless said");
  sub->add_option("--prefill", options.prefill, "Tokens in the first step; the rest one at a time")
      ->needs(codec);
  examples(sub, {"kvferry logits --model models/mini --ids 0,5,7,9 --out logits.npy",
                 "kvferry logits --model models/mini --ids-file ids.json --codec raw --prefill 64 "
                 "--out logits.npy"});
  return [&options] { return run_logits(options); };
}

Command add_describe(CLI::App* codec, DescribeOptions& options) {
  CLI::App* sub = codec->add_subcommand("describe", "Where every byte of a codec goes");
  sub->add_option("spec", options.spec, "For example 'hadamard | hack(k=4,v=2)'")->required();
  sub->add_option("--model-shape", options.model_shape, "layers=,kv_heads=,head_dim=")
      ->capture_default_str();
  sub->add_option("--tokens", options.tokens, "Sequence lengths")->delimiter(',');
  sub->add_flag("--json", options.json, "Print one JSON object");
  examples(sub, {"kvferry codec describe 'hadamard | hack(k=4,v=2)'",
                 "kvferry codec describe 'hack(k=2,v=2)' --model-shape "
                 "layers=32,kv_heads=8,head_dim=128 --tokens 2048,32768 --json"});
  return [&options] { return run_codec_describe(options); };
}

Command add_measure(CLI::App* codec, MeasureOptions& options) {
  CLI::App* sub = codec->add_subcommand(
      "measure", "What codecs cost in quality: attention's errors by layer, and KL against raw");
  add_engine_options(sub, options.engine, "Directory of a checkpoint");
  auto* text =
      sub->add_option("--text", options.text, "A file of UTF-8; a form feed starts a new document");
  sub->add_option("--questions", options.questions,
                  "A file instead, a JSON array a line: prompt, answer, prompt, answer...")
      ->excludes(text);
  sub->add_option("--codecs", options.codecs, "Specs, separated by ;");
  sub->add_option("--window", options.window, "Tokens of a window of the text")
      ->check(CLI::Range(kvferry::bench::kLeastWindow, 1u << 20))
      ->capture_default_str();
  sub->add_option("--passages", options.passages, "Windows or lines at most; 0: all");
  sub->add_flag("--json", options.json, "Print one JSON object");
  examples(sub, {"kvferry codec measure --model models/mini --text bench/mini.txt",
                 "kvferry codec measure --model models/mini --text bench/mini.txt --json "
                 "--codecs 'hack(k=4,v=4);hadamard | hack(k=2,v=2)'",
                 "KL: of the next token's distributions, raw's against the codec's, in nats.",
                 "K scores, V out: relative errors, by layer, of q . k about their mean, and of",
                 "attention's output with raw's weights; docs/codecs.md has the formulas."});
  return [&options] { return run_codec_measure(options); };
}

Command add_bench_prefill(CLI::App* bench, BenchPrefillOptions& options) {
  CLI::App* sub = bench->add_subcommand("prefill", "Speed of prefill beside the GEMM peak");
  options.engine.model = "random:llama-3.2-1b";
  add_engine_options(sub, options.engine);
  sub->get_option("--model")->required(false);
  sub->add_option("--tokens", options.tokens, "Of the prompt")->check(CLI::Range(1u, 1u << 20));
  sub->add_option("--codec", options.codec, "")->capture_default_str();
  sub->add_flag("--json", options.json, "Print one JSON object");
  examples(sub, {"kvferry bench prefill --model random:llama-3.2-1b --tokens 2048",
                 "kvferry bench prefill --model models/mini --tokens 1024 --threads 1 --json"});
  return [&options] { return run_bench_prefill(options); };
}

Command add_bench_tokenize(CLI::App* bench, BenchTokenizeOptions& options) {
  CLI::App* sub = bench->add_subcommand("tokenize", "Speed of a tokenizer on a text, one thread");
  sub->add_option("--model", options.model, "A checkpoint's directory")->required();
  sub->add_option("--text", options.text, "A file of UTF-8")->required();
  sub->add_option("--runs", options.runs, "Of which the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  sub->add_flag("--json", options.json, "Print one JSON object");
  examples(sub, {"kvferry bench tokenize --model models/mini --text README.md --json"});
  return [&options] { return run_bench_tokenize(options); };
}

Command add_bench_attention(CLI::App* bench, BenchAttentionOptions& options) {
  CLI::App* sub =
      bench->add_subcommand("attention", "Decode attention beside bf16 and the roofline");
  auto& b = options.bench;
  sub->add_option("--codec", b.codec, "")->capture_default_str();
  sub->add_option("--tokens", b.tokens, "Of the cache, in multiples of 128")->capture_default_str();
  sub->add_option("--kv-heads", b.kv_heads, "")->check(CLI::Range(1u, 1024u));
  sub->add_option("--head-dim", b.head_dim, "")->check(CLI::Range(16u, 256u));
  sub->add_option("--group", b.group, "Query heads of a KV head")->check(CLI::Range(1u, 64u));
  sub->add_flag("--k-bias", b.k_bias, "Also with K's bias left out of the codes, as of Qwen2.5");
  sub->add_option("--queries", b.queries, "Query tokens; 512 stands for a prefill's chunk")
      ->check(CLI::Range(1u, 4096u));
  sub->add_option("--threads", b.threads, "")->check(CLI::Range(1, 1024));
  sub->add_option("--runs", b.runs, "The median of")->check(CLI::Range(1, 1000));
  sub->add_flag("--json", options.json, "Print one JSON object");
  examples(sub, {"kvferry bench attention --codec 'hack(k=2,v=2)' --json",
                 "kvferry bench attention --codec 'hack(k=4,v=4)' --tokens 8192 --queries 512"});
  return [&options] { return run_bench_attention(options); };
}

Command add_bench_codec(CLI::App* bench, BenchCodecOptions& options) {
  CLI::App* sub =
      bench->add_subcommand("codec", "Speed of encoding on one core, bits and errors of a codec");
  auto& b = options.bench;
  sub->add_option("--codec", b.codec, "")->capture_default_str();
  sub->add_option("--kv-heads", b.kv_heads, "")->check(CLI::Range(1u, 1024u));
  sub->add_option("--head-dim", b.head_dim, "")->check(CLI::Range(16u, 256u));
  sub->add_option("--tiles", b.tiles, "Of a run")->check(CLI::Range(1u, 4096u));
  sub->add_option("--runs", b.runs, "The median of")->check(CLI::Range(1, 1000));
  sub->add_flag("--json", options.json, "Print one JSON object");
  examples(sub, {"kvferry bench codec --codec 'hack(k=2,v=2,range=minmax)' --json"});
  return [&options] { return run_bench_codec(options); };
}

Command add_bench_decode(CLI::App* bench, BenchDecodeOptions& options) {
  CLI::App* sub = bench->add_subcommand("decode", "Tokens a second of a batch of long sequences");
  auto& b = options.bench;
  options.engine.model = b.model;
  add_engine_options(sub, options.engine);
  sub->get_option("--model")->required(false);
  sub->add_option("--context", b.context, "Tokens that each sequence has")
      ->check(CLI::Range(1u, 1u << 20))
      ->capture_default_str();
  sub->add_option("--batch", b.batch, "Sequences")->check(CLI::Range(1u, 512u));
  sub->add_option("--codec", b.codec, "")->capture_default_str();
  sub->add_option("--steps", b.steps, "The median of")->check(CLI::Range(1, 1000));
  sub->add_flag("--json", options.json, "Print one JSON object");
  examples(sub, {"kvferry bench decode --context 32768 --batch 4 --codec 'hack(k=2,v=2)' --json",
                 "kvferry bench decode --model models/mini --context 1024 --threads 1"});
  return [&options] { return run_bench_decode(options); };
}

Command add_bench_load(CLI::App* bench, BenchLoadOptions& options) {
  CLI::App* sub = bench->add_subcommand("load", "Speed of loading beside the disk's and memory's");
  options.engine.model = "random:llama-3.2-1b";
  add_engine_options(sub, options.engine);
  sub->get_option("--model")->required(false);
  sub->add_option("--runs", options.runs, "With the files in the page cache")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  sub->add_flag("--json", options.json, "Print one JSON object");
  examples(sub, {"kvferry bench load --model models/mini", "kvferry bench load --json"});
  return [&options] { return run_bench_load(options); };
}

Command add_doctor(CLI::App& app, DoctorOptions& options) {
  CLI::App* sub =
      app.add_subcommand("doctor", "What this machine has and what to do about the rest");
  sub->add_option("--model", options.model, "Also the numerics class with this model");
  sub->add_option("--ucx-tls", options.ucx_tls, "UCX transports to test, as UCX_TLS");
  examples(sub, {"kvferry doctor", "kvferry doctor --model models/mini --ucx-tls shm,tcp,self"});
  return [&options] { return run_doctor(options); };
}

void add_chat_template_option(CLI::App* app, std::string& choice) {
  app->add_option(
      "--chat-template", choice,
      "Format of chats: a name of docs/operations.md (qwen2.5, llama-3.1, none...), or a "
      "file with a template; the checkpoint's own unless said");
}

Command add_up(CLI::App& app, UpOptions& options) {
  CLI::App* sub = app.add_subcommand("up", "A whole cluster on this machine");
  sub->add_option("--model", options.model, "Directory of a checkpoint with its tokenizer")
      ->required();
  sub->add_option("--codec", options.codecs,
                  "Allowed codecs, the first being the default; may be given several times")
      ->take_all();
  sub->add_option("--prefill", options.prefill, "Prefill workers")->check(CLI::Range(0, 64));
  sub->add_option("--decode", options.decode, "Decode workers")->check(CLI::Range(1, 64));
  sub->add_option("--transport", options.transport, "ucx")->check(CLI::IsMember({"ucx"}));
  sub->add_option("--ucx-tls", options.ucx_tls, "UCX transports, as UCX_TLS");
  sub->add_option("--host", options.host, "Address of the gateway's API")->capture_default_str();
  sub->add_option("--port", options.port, "Of the gateway's API; 0: any free one")
      ->capture_default_str();
  sub->add_option("--compute", options.compute, "")->check(CLI::IsMember({"auto", "bf16", "f32"}));
  sub->add_option("--threads", options.threads, "Of each worker; 0: the cores divided among them")
      ->check(CLI::Range(0, 1024));
  sub->add_option("--pool-mib", options.pool_mib, "KV memory of each worker, MiB")
      ->check(CLI::Range(1u, 1u << 20));
  sub->add_option("--local-prefill-tokens", options.local_prefill_tokens,
                  "Shorter prompts are prefilled on the decode worker")
      ->capture_default_str();
  sub->add_option("--lease-ms", options.lease_ms, "Lease of a transfer without progress")
      ->check(CLI::Range(100u, 3600000u));
  sub->add_option("--served-model-name", options.served_model_name,
                  "Of the model in the API; its directory's unless said");
  add_chat_template_option(sub, options.chat_template);
  sub->add_option("--api-keys", options.api_keys, "File of the API's keys; see kvferry api-key");
  sub->add_option("--directory", options.directory,
                  "Of the processes' configs; temporary unless said");
  examples(sub, {"kvferry up --model models/mini",
                 "kvferry up --model models/mini --prefill 2 --decode 2 --port 9000 --directory "
                 "build/cluster",
                 "kvferry up --model models/mini --codec raw --codec 'hack(k=2,v=2)' --api-keys "
                 "keys.yaml"});
  return [&options] { return run_up(options); };
}

void add_api_key_option(CLI::App* app, std::string& key) {
  app->add_option("--api-key", key, "Key of the API, where it asks for one")
      ->envname("KVFERRY_API_KEY");
}

Command add_api_key(CLI::App& app, ApiKeyOptions& options) {
  CLI::App* sub = app.add_subcommand("api-key", "Make a key of the gateway's API");
  sub->add_option("name", options.name, "Of the key, in logs and metrics")->required();
  sub->add_option("--concurrent", options.concurrent, "Generations it may have at once; 0: any")
      ->check(CLI::Range(0u, 65536u));
  examples(sub, {"kvferry api-key alice", "kvferry api-key batch --concurrent 8"});
  return [&options] { return run_api_key(options); };
}

Command add_demo(CLI::App& app, DemoOptions& options) {
  CLI::App* sub = app.add_subcommand("demo", "Ask a running cluster a retrieval question");
  sub->add_option("--url", options.url, "Of the gateway")->capture_default_str();
  add_api_key_option(sub, options.api_key);
  sub->add_option("--codec", options.codecs, "Codecs to compare")->take_all();
  sub->add_option("--wait", options.wait_s, "Seconds to wait until the cluster is ready");
  sub->add_flag("--print-question", options.print_question,
                "Print the fields of the request and `answer`, as JSON, and ask nobody");
  examples(sub, {"kvferry demo", "kvferry demo --url http://10.0.0.3:8080 --codec raw"});
  return [&options] { return run_demo(options); };
}

Command add_chat(CLI::App& app, ChatOptions& options) {
  CLI::App* sub = app.add_subcommand("chat", "Talk to a model in the terminal");
  auto* url = sub->add_option("--url", options.url, "Of a gateway, or any server of OpenAI's API")
                  ->capture_default_str();
  sub->add_option("--model", options.model, "A checkpoint to start a cluster with, for this chat")
      ->excludes(url);
  add_chat_template_option(sub, options.chat_template);
  sub->get_option("--chat-template")->needs("--model");
  add_api_key_option(sub, options.api_key);
  sub->add_option("--codec", options.codec, "Codec of the KV cache; the server's unless said");
  sub->add_option("--system", options.system, "The system message");
  sub->add_option("--max-tokens", options.max_tokens, "Of each answer")
      ->check(CLI::Range(1u, 1u << 20))
      ->capture_default_str();
  sub->add_option("--temperature", options.temperature, "0: greedy")->check(CLI::Range(0.0, 2.0));
  examples(sub, {"kvferry chat --model models/mini",
                 "kvferry chat --url http://127.0.0.1:8080 --codec raw --temperature 0.7",
                 "echo 'Once upon a time' | kvferry chat --url http://127.0.0.1:8080"});
  return [&options] { return run_chat(options); };
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"kvferry: disaggregated LLM serving with a KV cache that stays compressed"};
  app.set_version_flag("--version", "kvferry " KVFERRY_VERSION);
  app.require_subcommand(1);
  examples(&app, {"kvferry up --model models/mini", "kvferry chat --model models/mini",
                  "kvferry COMMAND --help"});
  std::string isa;
  app.add_option("--isa", isa, "Kernels to use: scalar, avx2, avx512; the best unless said")
      ->envname("KVFERRY_ISA")
      ->check(CLI::IsMember({"scalar", "avx2", "avx512"}));
  app.fallthrough();  // --isa may also stand behind the command

  GenerateOptions generate;
  LogitsOptions logits;
  DescribeOptions describe;
  MeasureOptions measure;
  BenchPrefillOptions bench_prefill;
  BenchTokenizeOptions bench_tokenize;
  BenchAttentionOptions bench_attention;
  BenchCodecOptions bench_codec;
  BenchDecodeOptions bench_decode;
  BenchLoadOptions bench_load;
  DoctorOptions doctor;
  UpOptions up;
  DemoOptions demo;
  ChatOptions chat;
  ApiKeyOptions api_key;
  std::string config_file;
  std::vector<std::pair<CLI::App*, Command>> commands;
  auto add = [&](CLI::App* parent, const char* name, Command command) {
    commands.emplace_back(parent->get_subcommand(name), std::move(command));
  };
  add(&app, "generate", add_generate(app, generate));
  add(&app, "logits", add_logits(app, logits));
  CLI::App* codec = app.add_subcommand("codec", "Codecs and what they cost");
  codec->require_subcommand(1);
  add(codec, "describe", add_describe(codec, describe));
  add(codec, "measure", add_measure(codec, measure));
  examples(codec, {"kvferry codec list", "kvferry codec describe 'hack(k=2,v=2)'"});
  bool list_as_json = false;
  CLI::App* list =
      codec->add_subcommand("list", "The stages that exist, and what they may be told");
  list->add_flag("--json", list_as_json, "Print one JSON object");
  examples(list, {"kvferry codec list", "kvferry codec list --json"});
  add(codec, "list", [&list_as_json] { return run_codec_list(list_as_json); });
  CLI::App* bench = app.add_subcommand("bench", "Measurements, each beside its ceiling");
  bench->require_subcommand(1);
  examples(bench, {"kvferry bench prefill --model random:llama-3.2-1b",
                   "kvferry bench load --model models/mini"});
  add(bench, "prefill", add_bench_prefill(bench, bench_prefill));
  add(bench, "tokenize", add_bench_tokenize(bench, bench_tokenize));
  add(bench, "attention", add_bench_attention(bench, bench_attention));
  add(bench, "codec", add_bench_codec(bench, bench_codec));
  add(bench, "decode", add_bench_decode(bench, bench_decode));
  add(bench, "load", add_bench_load(bench, bench_load));
  add(&app, "doctor", add_doctor(app, doctor));
  add(&app, "up", add_up(app, up));
  add(&app, "demo", add_demo(app, demo));
  add(&app, "chat", add_chat(app, chat));
  add(&app, "api-key", add_api_key(app, api_key));
  for (const char* role : {"gateway", "prefill", "decode"}) {
    CLI::App* sub = app.add_subcommand(role, std::string("Run a ") + role + " process");
    sub->add_option("--config", config_file, "YAML; docs/operations.md lists the keys")->required();
    examples(sub, {std::string("kvferry ") + role + " --config " + role + ".yaml"});
    add(&app, role, [&config_file, name = std::string(role)] {
      return name == "gateway" ? run_gateway_command(config_file)
                               : run_worker_command(name, config_file);
    });
  }

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : 2;
  }
  if (!isa.empty()) {
    if (!kvferry::kernels::force_isa(*kvferry::kernels::parse_isa(isa))) {
      std::fprintf(stderr, "kvferry: this CPU has no %s\n", isa.c_str());
      return kExitFailed;
    }
    setenv("KVFERRY_ISA", isa.c_str(), 1);  // for child processes
  }
  for (const auto& [sub, command] : commands) {
    if (sub->parsed()) return command();
  }
  return 2;
}
