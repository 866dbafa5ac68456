#include "base/checkpoint_name.h"

#include <system_error>

namespace kvferry {

std::string checkpoint_name(const std::filesystem::path& directory) {
  constexpr std::string_view kRepository = "models--", kSeparator = "--";
  std::error_code error;
  std::filesystem::path path = std::filesystem::absolute(directory, error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  const std::filesystem::path snapshots = path.parent_path();
  std::string repository = snapshots.parent_path().filename();
  if (snapshots.filename() == "snapshots" && repository.starts_with(kRepository)) {
    repository.erase(0, kRepository.size());
    const std::size_t at = repository.find(kSeparator);
    if (at == std::string::npos) return repository;
    return repository.replace(at, kSeparator.size(), "/");
  }
  return path.filename();
}

}  // namespace kvferry
