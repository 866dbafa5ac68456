#include "tests/codec/random_spec.h"

#include <string_view>

namespace kvferry::codec {
namespace {

std::vector<std::string> values_of(const StageArgument& argument) {
  if (argument.choices == "N") return {"0", "7", "4294967295"};
  return list_choices(argument);
}

StageText draw(const StageEntry& entry) {
  StageText text{std::string(entry.name), {}};
  const StageForm form = *rc::gen::elementOf(entry.forms);
  if (!form.fixed.empty()) text.arguments.emplace_back(form.fixed);
  for (const StageArgument& argument : form.arguments) {
    if (!argument.otherwise.empty() && *rc::gen::arbitrary<bool>()) continue;
    const std::string value = *rc::gen::elementOf(values_of(argument));
    const std::string key(argument.key);
    text.arguments.push_back(key.empty() ? value : key + "=" + value);
  }
  return text;
}

// Of one kind; `or_kind` counts as the same.
std::vector<StageEntry> entries_of_kind(StageKind kind, StageKind or_kind) {
  std::vector<StageEntry> entries;
  for (const StageEntry& entry : list_stages()) {
    if (entry.kind == kind || entry.kind == or_kind) entries.push_back(entry);
  }
  return entries;
}

}  // namespace

std::string join_spec(const SpecText& spec, const std::string& blank) {
  std::string text;
  for (const StageText& stage : spec) {
    if (!text.empty()) text += blank + "|" + blank;
    text += stage.name;
    for (std::size_t i = 0; i < stage.arguments.size(); ++i) {
      text += (i == 0 ? blank + "(" : ",") + blank + stage.arguments[i] + blank;
    }
    if (!stage.arguments.empty()) text += ")";
  }
  return text;
}

rc::Gen<SpecText> random_spec() {
  return rc::gen::exec([] {
    SpecText spec;
    const auto perhaps = [&](StageKind kind) {
      for (const StageEntry& entry : entries_of_kind(kind, kind)) {
        if (*rc::gen::inRange(0, 4) == 0) spec.push_back(draw(entry));
      }
    };
    perhaps(StageKind::kDomain);
    perhaps(StageKind::kAdapter);
    // hack has the most arguments, and two forms.
    const auto storages = entries_of_kind(StageKind::kStorage, StageKind::kPreset);
    spec.push_back(draw(*rc::gen::elementOf(storages)));
    if (*rc::gen::arbitrary<bool>()) {
      const auto wire = entries_of_kind(StageKind::kWire, StageKind::kWire);
      spec.push_back(draw(*rc::gen::elementOf(wire)));
    }
    return spec;
  });
}

}  // namespace kvferry::codec
