#include "text/chat_formats.h"

#include <algorithm>
#include <array>
#include <boost/json/parse.hpp>

#include "base/sha256.h"
#include "text/python_json.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace kvferry::text {
namespace {

using Messages = std::span<const ChatMessage>;

// Generation prompts, by which an answer begins.
constexpr std::string_view kImAnswer = "<|im_start|>assistant\n";
constexpr std::string_view kImThought = "<|im_start|>assistant\n<think>\n";
constexpr std::string_view kLlamaAnswer = "<|start_header_id|>assistant<|end_header_id|>\n\n";
// Of an answer that is not to think: it has thought.
constexpr std::string_view kNoThoughts = "<think>\n\n</think>\n\n";

// str.strip() of Python: white space, and the separators U+001C to U+001F.
std::string_view trim(std::string_view text) {
  const auto is_space = [](char32_t c) { return is_white_space(c) || (c >= 0x1c && c <= 0x1f); };
  while (!text.empty()) {
    const std::size_t length = utf8_step(text).length;
    if (!is_space(decode_utf8(text.substr(0, length)))) break;
    text.remove_prefix(length);
  }
  while (!text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<std::uint8_t>(text[begin]) & 0xc0) == 0x80) --begin;
    if (!is_space(decode_utf8(text.substr(begin)))) break;
    text = text.substr(0, begin);
  }
  return text;
}

std::string_view strip_newlines_left(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}

std::string_view strip_newlines_right(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

bool is_system_first(Messages messages) { return messages.front().role == "system"; }

Result<std::string> arguments_of(const ChatMessage::ToolCall& call) {
  boost::json::error_code error;
  const boost::json::value arguments = boost::json::parse(call.arguments, error);
  if (error) return invalid_argument("the arguments of the call of " + call.name + " are not JSON");
  return python_json(arguments);
}

Result<ChatPrompt> plain(Messages messages, const ChatContext& context) {
  ChatPrompt prompt;
  prompt.markup(context.bos_token);
  for (const ChatMessage& message : messages) prompt.said(message.content).markup("\n");
  return prompt;
}

// ---- ChatML: Qwen and many others

void im_message(const ChatMessage& message, ChatPrompt& prompt) {
  prompt.markup("<|im_start|>").said(message.role).markup("\n");
  prompt.said(message.content).markup("<|im_end|>\n");
}

Result<ChatPrompt> chatml_after(std::string_view begin, Messages messages) {
  ChatPrompt prompt;
  prompt.markup(begin);
  for (const ChatMessage& message : messages) im_message(message, prompt);
  return prompt;
}

Result<ChatPrompt> chatml(Messages messages, const ChatContext&) {
  return chatml_after("", messages);
}

Result<ChatPrompt> qwen2(Messages messages, const ChatContext&) {
  constexpr std::string_view kSystem =
      "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
  return chatml_after(is_system_first(messages) ? "" : kSystem, messages);
}

Status qwen_tool_call(const ChatMessage::ToolCall& call, ChatPrompt& prompt) {
  KVF_ASSIGN_OR_RETURN(const std::string arguments, arguments_of(call));
  prompt.markup("<tool_call>\n{\"name\": \"").said(call.name).markup("\", \"arguments\": ");
  prompt.said(arguments).markup("}\n</tool_call>");
  return {};
}

// Answers of tools that follow each other are one turn of the user.
void qwen_tool_answer(Messages messages, std::size_t i, ChatPrompt& prompt) {
  const auto is_tool = [&](std::size_t at) { return messages[at].role == "tool"; };
  if (i == 0 || !is_tool(i - 1)) prompt.markup("<|im_start|>user");
  prompt.markup("\n<tool_response>\n").said(messages[i].content).markup("\n</tool_response>");
  if (i + 1 == messages.size() || !is_tool(i + 1)) prompt.markup("<|im_end|>\n");
}

Result<ChatPrompt> qwen2_5_any(Messages messages, std::string_view system) {
  ChatPrompt prompt;
  if (!is_system_first(messages)) {
    prompt.markup("<|im_start|>system\n").markup(system).markup("<|im_end|>\n");
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role == "tool") {
      qwen_tool_answer(messages, i, prompt);
    } else if (message.tool_calls.empty()) {
      im_message(message, prompt);
    } else {
      prompt.markup("<|im_start|>assistant");
      if (!message.content.empty()) prompt.markup("\n").said(message.content);
      for (const ChatMessage::ToolCall& call : message.tool_calls) {
        prompt.markup("\n");
        KVF_RETURN_IF_ERROR(qwen_tool_call(call, prompt));
      }
      prompt.markup("<|im_end|>\n");
    }
  }
  return prompt;
}

Result<ChatPrompt> qwen2_5(Messages messages, const ChatContext&) {
  return qwen2_5_any(messages,
                     "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.");
}

Result<ChatPrompt> qwen2_5_1m(Messages messages, const ChatContext&) {
  return qwen2_5_any(messages, "You are a helpful assistant.");
}

Result<ChatPrompt> qwen2_5_math(Messages messages, const ChatContext&) {
  return qwen2_5_any(messages,
                     "Please reason step by step, and put your final answer within \\boxed{}.");
}

// An answer of Qwen3: what it thought, and what it said. Without "</think>" all of it was said.
struct Answer {
  std::string_view thought, said;
};

Answer split_answer(std::string_view content) {
  constexpr std::string_view kBegin = "<think>", kEnd = "</think>";
  const std::size_t first = content.find(kEnd);
  if (first == std::string_view::npos) return {{}, content};
  std::string_view thought = strip_newlines_right(content.substr(0, first));
  const std::size_t begin = thought.rfind(kBegin);
  if (begin != std::string_view::npos) thought.remove_prefix(begin + kBegin.size());
  return {strip_newlines_left(thought),
          strip_newlines_left(content.substr(content.rfind(kEnd) + kEnd.size()))};
}

// The last message of a user that is not an answer of a tool: thoughts before it are left out.
std::size_t last_question(Messages messages) {
  for (std::size_t i = messages.size(); i-- > 0;) {
    const std::string_view content = messages[i].content;
    if (messages[i].role != "user") continue;
    if (content.starts_with("<tool_response>") && content.ends_with("</tool_response>")) continue;
    return i;
  }
  return messages.size() - 1;
}

Result<ChatPrompt> qwen3_any(Messages messages, bool thinks) {
  ChatPrompt prompt;
  const std::size_t question = last_question(messages);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role == "tool") {
      qwen_tool_answer(messages, i, prompt);
      continue;
    }
    if (message.role != "assistant") {
      im_message(message, prompt);
      continue;
    }
    const Answer answer = thinks ? split_answer(message.content) : Answer{{}, message.content};
    prompt.markup("<|im_start|>assistant\n");
    if (thinks && i > question && (i + 1 == messages.size() || !answer.thought.empty())) {
      prompt.markup("<think>\n").said(strip_newlines_right(answer.thought));
      prompt.markup("\n</think>\n\n").said(strip_newlines_left(answer.said));
    } else {
      prompt.said(answer.said);
    }
    for (const ChatMessage::ToolCall& call : message.tool_calls) {
      const bool is_first = &call == &message.tool_calls.front();
      if (!is_first || !answer.said.empty()) prompt.markup("\n");
      KVF_RETURN_IF_ERROR(qwen_tool_call(call, prompt));
    }
    prompt.markup("<|im_end|>\n");
  }
  return prompt;
}

Result<ChatPrompt> qwen3(Messages messages, const ChatContext&) {
  return qwen3_any(messages, true);
}

Result<ChatPrompt> qwen3_2507(Messages messages, const ChatContext&) {
  return qwen3_any(messages, false);
}

// ---- Llama 3

ChatPrompt& llama_header(std::string_view role, ChatPrompt& prompt) {
  return prompt.markup("<|start_header_id|>").said(role).markup("<|end_header_id|>\n\n");
}

Result<ChatPrompt> llama3(Messages messages, const ChatContext& context) {
  ChatPrompt prompt;
  prompt.markup(context.bos_token);
  for (const ChatMessage& message : messages) {
    llama_header(message.role, prompt).said(trim(message.content)).markup("<|eot_id|>");
  }
  return prompt;
}

// As first published: its generation prompt is there whether it is asked for or not.
Result<ChatPrompt> llama3_first(Messages messages, const ChatContext& context) {
  KVF_ASSIGN_OR_RETURN(ChatPrompt prompt, llama3(messages, context));
  return prompt.markup(kLlamaAnswer);
}

Result<ChatPrompt> llama3_with_date(Messages messages, const ChatContext& context,
                                    std::string_view date) {
  ChatPrompt prompt;
  prompt.markup(context.bos_token);
  llama_header("system", prompt).markup("Cutting Knowledge Date: December 2023\nToday Date: ");
  prompt.markup(date).markup("\n\n");
  if (is_system_first(messages)) {
    prompt.said(trim(messages.front().content));
    messages = messages.subspan(1);
  }
  prompt.markup("<|eot_id|>");
  for (const ChatMessage& message : messages) {
    if (message.tool_calls.size() > 1) {
      return invalid_argument("this model's chat format has one tool call in a message, no more");
    }
    if (!message.tool_calls.empty()) {
      const ChatMessage::ToolCall& call = message.tool_calls.front();
      KVF_ASSIGN_OR_RETURN(const std::string arguments, arguments_of(call));
      llama_header("assistant", prompt).markup("{\"name\": \"").said(call.name);
      prompt.markup("\", \"parameters\": ").said(arguments).markup("}");
    } else if (message.role == "tool") {
      llama_header("ipython", prompt).said(python_json_string(message.content));
    } else {
      llama_header(message.role, prompt).said(trim(message.content));
    }
    prompt.markup("<|eot_id|>");
  }
  return prompt;
}

Result<ChatPrompt> llama3_1(Messages messages, const ChatContext& context) {
  return llama3_with_date(messages, context, "26 Jul 2024");
}

Result<ChatPrompt> llama3_2(Messages messages, const ChatContext& context) {
  return llama3_with_date(messages, context, context.today);
}

// ---- Mistral

Status turns_alternate(Messages messages) {
  std::size_t turn = 0;
  for (const ChatMessage& message : messages) {
    if (message.role == "tool" || !message.tool_calls.empty()) continue;
    if (message.role != (turn++ % 2 == 0 ? "user" : "assistant")) {
      return invalid_argument(
          "this model's chat format has the roles user and assistant in turn, "
          "user first, after at most one system message");
    }
  }
  return {};
}

Status only_turns(Messages messages) {
  for (const ChatMessage& message : messages) {
    if (message.role == "tool" || !message.tool_calls.empty()) {
      return invalid_argument("this model's chat format has no tools");
    }
  }
  return turns_alternate(messages);
}

Result<ChatPrompt> mistral_v0(Messages messages, const ChatContext& context,
                              std::string_view after_answer) {
  KVF_RETURN_IF_ERROR(only_turns(messages));
  ChatPrompt prompt;
  prompt.markup(context.bos_token);
  for (const ChatMessage& message : messages) {
    if (message.role == "user") {
      prompt.markup("[INST] ").said(message.content).markup(" [/INST]");
    } else {
      prompt.said(message.content).markup(context.eos_token).markup(after_answer);
    }
  }
  return prompt;
}

Result<ChatPrompt> mistral_v0_1(Messages messages, const ChatContext& context) {
  return mistral_v0(messages, context, " ");
}

Result<ChatPrompt> mistral_v0_2(Messages messages, const ChatContext& context) {
  return mistral_v0(messages, context, "");
}

// From here on the system message is split off.
struct WithSystem {
  const ChatMessage* system = nullptr;
  Messages turns;
};

WithSystem split_system(Messages messages) {
  if (!is_system_first(messages)) return {nullptr, messages};
  return {&messages.front(), messages.subspan(1)};
}

Result<ChatPrompt> mistral_v1(Messages messages, const ChatContext& context) {
  const WithSystem split = split_system(messages);
  KVF_RETURN_IF_ERROR(only_turns(split.turns));
  ChatPrompt prompt;
  prompt.markup(context.bos_token);
  for (const ChatMessage& message : split.turns) {
    if (message.role == "user") {
      prompt.markup(" [INST] ");
      const bool is_first = &message == &split.turns.front();
      if (is_first && split.system != nullptr) prompt.said(split.system->content).markup("\n\n");
      prompt.said(message.content).markup(" [/INST]");
    } else {
      prompt.markup(" ").said(message.content).markup(context.eos_token);
    }
  }
  return prompt;
}

constexpr std::size_t kMistralIdBytes = 9;

Status mistral_calls(const ChatMessage& message, std::string_view space, const ChatContext& context,
                     ChatPrompt& prompt) {
  prompt.markup("[TOOL_CALLS]").markup(space).markup("[");
  for (const ChatMessage::ToolCall& call : message.tool_calls) {
    if (call.id.size() != kMistralIdBytes) {
      return invalid_argument("this model's chat format has ids of tool calls with 9 characters");
    }
    KVF_ASSIGN_OR_RETURN(const std::string arguments, arguments_of(call));
    if (&call != &message.tool_calls.front()) prompt.markup(", ");
    prompt.markup("{\"name\": ").said(python_json_string(call.name)).markup(", \"arguments\": ");
    prompt.said(arguments).markup(", \"id\": \"").said(call.id).markup("\"}");
  }
  prompt.markup("]").markup(context.eos_token);
  return {};
}

// Mistral 7B v0.3 and, with `space` empty, Nemo and its successors.
Result<ChatPrompt> mistral_with_tools(Messages messages, const ChatContext& context,
                                      std::string_view space) {
  const WithSystem split = split_system(messages);
  KVF_RETURN_IF_ERROR(turns_alternate(split.turns));
  ChatPrompt prompt;
  prompt.markup(context.bos_token);
  for (const ChatMessage& message : split.turns) {
    const bool is_last = &message == &split.turns.back();
    if (message.role == "user") {
      prompt.markup("[INST]").markup(space);
      if (is_last && split.system != nullptr) prompt.said(split.system->content).markup("\n\n");
      prompt.said(message.content).markup("[/INST]");
    } else if (!message.tool_calls.empty()) {
      KVF_RETURN_IF_ERROR(mistral_calls(message, space, context, prompt));
    } else if (message.role == "tool") {
      if (message.tool_call_id.size() != kMistralIdBytes) {
        return invalid_argument("this model's chat format has a tool_call_id with 9 characters");
      }
      prompt.markup("[TOOL_RESULTS]").markup(space).markup("{\"content\": ");
      prompt.said(message.content).markup(", \"call_id\": \"").said(message.tool_call_id);
      prompt.markup("\"}[/TOOL_RESULTS]");
    } else {
      prompt.markup(space).said(space.empty() ? message.content : trim(message.content));
      prompt.markup(context.eos_token);
    }
  }
  return prompt;
}

Result<ChatPrompt> mistral_v3(Messages messages, const ChatContext& context) {
  return mistral_with_tools(messages, context, " ");
}

Result<ChatPrompt> mistral_v3_tekken(Messages messages, const ChatContext& context) {
  return mistral_with_tools(messages, context, "");
}

constexpr ChatFormat kFormats[] = {
    {"chatml", chatml, kImAnswer, ""},
    {"llama-3", llama3, kLlamaAnswer, ""},
    {"llama-3-first", llama3_first, "", ""},
    {"llama-3.1", llama3_1, kLlamaAnswer, ""},
    {"llama-3.2", llama3_2, kLlamaAnswer, ""},
    {"mistral-v0.1", mistral_v0_1, "", ""},
    {"mistral-v0.2", mistral_v0_2, "", ""},
    {"mistral-v1", mistral_v1, "", ""},
    {"mistral-v3", mistral_v3, "", ""},
    {"mistral-v3-tekken", mistral_v3_tekken, "", ""},
    {"plain", plain, "", ""},
    {"qwen2", qwen2, kImAnswer, ""},
    {"qwen2.5", qwen2_5, kImAnswer, ""},
    {"qwen2.5-1m", qwen2_5_1m, kImAnswer, ""},
    {"qwen2.5-math", qwen2_5_math, kImAnswer, ""},
    {"qwen3", qwen3, kImAnswer, kNoThoughts},
    {"qwen3-235b-2507", qwen3, kImAnswer, ""},
    {"qwen3-2507", qwen3_2507, kImAnswer, ""},
    {"qwen3-2507-thinking", qwen3, kImThought, ""},
};

// SHA-256 of published templates in the form of `normal_form`.
// tests/text/golden/make_chat_golden.py prints them.
struct KnownTemplate {
  std::string_view hash, name;
};
constexpr KnownTemplate kKnownTemplates[] = {
    {"153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3", "chatml"},
    {"58c1a1f04baa7adaeaba1f90267c3d57d9396f0c1f0129bdde9e76d3c6784af7", "chatml"},
    {"183c97c5d1eeab434cfe3023024e57265b6b7d44c483e85b10106d0aa216fa52", "llama-3.1"},
    {"171a71249db559e22dece844de4ff0f3eda8b76f17dde936a65097abda6e7bc8", "llama-3.2"},
    {"ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122", "llama-3"},
    {"68da1281c0c8bd7dd19f04fc1e8435b63858cb511819beafc270b70c8821a9bf", "llama-3"},
    {"b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2", "llama-3-first"},
    {"7e995b379ec01747807246483647cd99030abf331653f1119e16d7ac041a3495", "mistral-v0.1"},
    {"26a59556925c987317ce5291811ba3b7f32ec4c647c400c6cc7e3a9993007ba7", "mistral-v0.2"},
    {"1c6594f8393552ef16bbf3ddecb67d8258fb8d66339a1a092a8f8496061f02d3", "mistral-v1"},
    {"fe58a2aa0f864d151ec3337e87eff30427da3004fb792e17740d0d50e151b13e", "mistral-v1"},
    {"df6e6822032099b82feaa71bdaeaf984954977628a4883542ab271d4e7391ea7", "mistral-v3-tekken"},
    {"66d7da0d7aa0f91d48d24274184f1ddca3b68997db7bc85a3062fac7f3646b8e", "mistral-v3-tekken"},
    {"faed8bba80080d9957e72cf63467841e950dddbffae8e75a297916db83f0b73c", "mistral-v3-tekken"},
    {"9afff3ef0c3149d8b70d2ee88ad5bfc55f30da73bef523c06f1702068aa9055d", "mistral-v3"},
    {"4f7c71a644e2812b9d87446f205d4b0ae3d775db4b70b658f3247f14ca7e4127", "mistral-v3"},
    {"890815e14d020472839f0e76c7835bf6c02b7447e83cba574955d142df311b40", "plain"},
    {"3dc1f0588a19638912cbd0c269edb55fc4849fbc9874eab0ff20849d755fe58d", "qwen2.5-1m"},
    {"9cd07a776c8d2a2dc100cd524367b4155808cec8afa2b8922480c1af2d40a1da", "qwen2.5-1m"},
    {"c53bdb299278a976079da32fa064463de4a8c90e8762dfec3a88ccfc0f1a48e1", "qwen2.5-math"},
    {"afa83475670087941cf7455552a5f0d6847a5a95aad8b0088519cbd90683d55d", "qwen2.5"},
    {"f689e1d145a77d8eab374dd69a4f87b505163e77e17df1289192620e4790d015", "qwen2.5"},
    {"793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb", "qwen2"},
    {"ceab6058630dd1de899561b9c4fbffb4fb9d55a270191672d42086fb11690761", "qwen3-2507-thinking"},
    {"897b5e2a6ae5b0c3f573baddd0afb89a96456c6a5a889bf7c7359d0165ac0451", "qwen3-2507"},
    {"fad829077a86a9351ce82b9259b0fb792319ed2c3ba00a2c70a478d4fcb773be", "qwen3"},
    {"7e2d97101d6e79c7b9cf285802920e6dd2826850aa3f4b41d5fcf489dea87f82", "qwen3"},
    {"7083e052161944679d49fabf891a5bb1636771b3024fe8505b94c38dacabc1e1", "qwen3-235b-2507"},
};

std::string normal_form(std::string_view source) {
  std::string form;
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') continue;
    const bool is_escape = source.substr(i).starts_with("\\n");
    const char quote = source[i] == '"' ? '\'' : source[i];
    form += is_escape ? '\n' : quote;
    if (is_escape) ++i;
  }
  return std::string(trim(form));
}

}  // namespace

std::span<const ChatFormat> chat_formats() { return kFormats; }

const ChatFormat* find_chat_format(std::string_view name) {
  const auto* const found =
      std::find_if(std::begin(kFormats), std::end(kFormats),
                   [&](const ChatFormat& format) { return format.name == name; });
  return found == std::end(kFormats) ? nullptr : found;
}

Result<ChatPrompt> render_chat(const ChatFormat& format, std::span<const ChatMessage> messages,
                               const ChatContext& context, const ChatOptions& options) {
  KVF_ASSIGN_OR_RETURN(ChatPrompt prompt, format.render(messages, context));
  if (!options.add_generation_prompt) return prompt;
  prompt.markup(format.generation_prompt);
  if (!options.enable_thinking) prompt.markup(format.no_thoughts);
  return prompt;
}

const ChatFormat* find_chat_format_by_hash(std::string_view hex) {
  const auto* const found =
      std::find_if(std::begin(kKnownTemplates), std::end(kKnownTemplates),
                   [&](const KnownTemplate& known) { return known.hash == hex; });
  return found == std::end(kKnownTemplates) ? nullptr : find_chat_format(found->name);
}

const ChatFormat* recognise_chat_template(std::string_view source) {
  if (!is_utf8(source)) return nullptr;
  return find_chat_format_by_hash(to_hex(sha256(normal_form(source))));
}

}  // namespace kvferry::text
