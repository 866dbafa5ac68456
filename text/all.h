// Umbrella header of text/.
#pragma once

#include "text/chat_formats.h"   // IWYU pragma: export
#include "text/chat_prompt.h"    // IWYU pragma: export
#include "text/chat_template.h"  // IWYU pragma: export
#include "text/detokenizer.h"    // IWYU pragma: export
#include "text/stop_buffer.h"    // IWYU pragma: export
#include "text/tokenizer.h"      // IWYU pragma: export
#include "text/utf8.h"           // IWYU pragma: export
