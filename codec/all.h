// The codec room: everything public.
#pragma once

#include "codec/artifacts.h"
#include "codec/codec.h"
#include "codec/codec_set.h"
#include "codec/dense.h"
#include "codec/describe.h"
#include "codec/frequency_table.h"
#include "codec/geometry.h"
#include "codec/plane_coder.h"
#include "codec/pooled_sequence.h"
#include "codec/segment.h"
#include "codec/sequence_kv.h"
#include "codec/spec.h"
#include "codec/stage.h"
#include "codec/wire_forms.h"
