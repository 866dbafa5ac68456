// `kvferry codec list`: the stages that specs are made of, and what each may be told.

#include <fmt/format.h>

#include <boost/json.hpp>
#include <string>
#include <utility>

#include "cli/commands.h"
#include "codec/stage.h"

namespace kvferry::cli {
namespace {

namespace json = boost::json;

json::object to_json(const codec::StageEntry& stage) {
  json::array forms;
  for (const codec::StageForm& form : stage.forms) {
    json::array arguments;
    for (const codec::StageArgument& argument : form.arguments) {
      json::array choices;
      for (const std::string& choice : codec::list_choices(argument)) {
        choices.emplace_back(choice);
      }
      arguments.push_back(json::object{
          {"key", argument.key}, {"choices", std::move(choices)}, {"default", argument.otherwise}});
    }
    forms.push_back(json::object{{"with", form.fixed}, {"arguments", std::move(arguments)}});
  }
  return {{"name", stage.name},
          {"kind", codec::stage_kind_name(stage.kind)},
          {"summary", stage.summary},
          {"forms", std::move(forms)}};
}

void print(const codec::StageEntry& stage) {
  fmt::print("{:<8} {:<11} {}\n", codec::stage_kind_name(stage.kind), stage.name, stage.summary);
  for (const codec::StageForm& form : stage.forms) {
    if (!form.fixed.empty()) fmt::print("{:21}with {}:\n", "", form.fixed);
    for (const codec::StageArgument& argument : form.arguments) {
      const std::string key(argument.key);
      fmt::print("{:21}{:<28} {}\n", "",
                 (key.empty() ? "" : key + "=") + std::string(argument.choices),
                 argument.otherwise.empty() ? "must be given" : argument.otherwise);
    }
  }
}

}  // namespace

int run_codec_list(bool as_json) {
  if (as_json) {
    json::array stages;
    for (const codec::StageEntry& stage : codec::list_stages()) stages.push_back(to_json(stage));
    fmt::print("{}\n", json::serialize(json::object{{"default", codec::kDefaultSpec},
                                                    {"stages", std::move(stages)}}));
    return kExitOk;
  }
  for (const codec::StageEntry& stage : codec::list_stages()) print(stage);
  fmt::print(
      "\nBeside an argument stands what it is when not given. A codec is stages joined by |: "
      "domain\n"
      "stages, adapters, one storage, a wire stage. A preset stands for others. For example\n"
      "\"{}\", the default.\n",
      codec::kDefaultSpec);
  return kExitOk;
}

}  // namespace kvferry::cli
