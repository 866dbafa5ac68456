#include "tests/codec/random_spec.h"

#include <cstdlib>
#include <string_view>

namespace kvferry::codec {
namespace {

std::vector<std::string> split(std::string_view text, std::string_view by) {
  std::vector<std::string> parts;
  for (std::size_t at; (at = text.find(by)) != std::string_view::npos;) {
    parts.emplace_back(text.substr(0, at));
    text.remove_prefix(at + by.size());
  }
  parts.emplace_back(text);
  return parts;
}

std::vector<std::string> values_of(std::string_view alternatives) {
  std::vector<std::string> values;
  for (const std::string& one : split(alternatives, "|")) {
    const auto range = split(one, "..");
    if (one == "N") {
      values.insert(values.end(), {"0", "7", "4294967295"});
    } else if (range.size() == 2) {
      for (int i = std::atoi(range[0].c_str()); i <= std::atoi(range[1].c_str()); ++i) {
        values.push_back(std::to_string(i));
      }
    } else {
      values.push_back(one);
    }
  }
  return values;
}

StageForm form_of(std::string_view text) {
  StageForm form;
  form.name = text.substr(0, text.find_first_of("(["));
  text.remove_prefix(form.name.size());
  bool optional = false;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of("()[],"), text.size());
    if (end != 0) {
      const auto item = split(text.substr(0, end), "=");
      form.arguments.push_back({item.size() == 2 ? item[0] : "", values_of(item.back()), optional});
    } else {
      if (text[0] == '[' || text[0] == ']') optional = text[0] == '[';
    }
    text.remove_prefix(end == 0 ? 1 : end);
  }
  return form;
}

StageText draw(const StageForm& form) {
  StageText text{form.name, {}};
  for (const StageForm::Argument& argument : form.arguments) {
    if (argument.optional && *rc::gen::arbitrary<bool>()) continue;
    const std::string value = *rc::gen::elementOf(argument.values);
    text.arguments.push_back(argument.key.empty() ? value : argument.key + "=" + value);
  }
  return text;
}

// Of one kind; `or_kind` counts as the same.
std::vector<StageForm> forms_of_kind(StageKind kind, StageKind or_kind) {
  std::vector<StageForm> forms;
  for (const StageEntry& entry : list_stages()) {
    if (entry.kind != kind && entry.kind != or_kind) continue;
    const auto of_stage = stage_forms(entry.usage);
    forms.insert(forms.end(), of_stage.begin(), of_stage.end());
  }
  return forms;
}

}  // namespace

std::vector<StageForm> stage_forms(std::string_view usage) {
  std::vector<StageForm> forms;
  for (const std::string& form : split(usage, " or ")) forms.push_back(form_of(form));
  return forms;
}

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
      for (const StageForm& form : forms_of_kind(kind, kind)) {
        if (*rc::gen::inRange(0, 4) == 0) spec.push_back(draw(form));
      }
    };
    perhaps(StageKind::kDomain);
    perhaps(StageKind::kAdapter);
    spec.push_back(
        draw(*rc::gen::elementOf(forms_of_kind(StageKind::kStorage, StageKind::kPreset))));
    const auto wire = forms_of_kind(StageKind::kWire, StageKind::kWire);
    if (!wire.empty() && *rc::gen::arbitrary<bool>())
      spec.push_back(draw(*rc::gen::elementOf(wire)));
    return spec;
  });
}

}  // namespace kvferry::codec
