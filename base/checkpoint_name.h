// What a checkpoint is called by the directory it lies in.
// Thread contract: a pure function, but for the working directory.
#pragma once

#include <filesystem>
#include <string>

namespace kvferry {

// The last component of the absolute path, so that ".", "DIR/." and "DIR/" mean what they name; of
// a snapshot in a Hugging Face cache (models--ORG--NAME/snapshots/REVISION) "ORG/NAME". Symbolic
// links are not followed: a link's name is a choice.
std::string checkpoint_name(const std::filesystem::path& directory);

}  // namespace kvferry
