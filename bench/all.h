// The benchmarks that `kvferry bench` runs.
#pragma once

#include "bench/attention_bench.h"
#include "bench/attention_peer.h"
#include "bench/codec_bench.h"
#include "bench/codec_measure.h"
#include "bench/decode_bench.h"
#include "bench/decoded_head.h"
#include "bench/kv_data.h"
#include "bench/layer_errors.h"
#include "bench/load_bench.h"
#include "bench/machine.h"
#include "bench/oracle.h"
#include "bench/passages.h"
#include "bench/prefill_bench.h"
#include "bench/spread.h"
#include "bench/tokenize_bench.h"
#include "bench/wire_bench.h"
