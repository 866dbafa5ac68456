// The room's public headers.
#pragma once

#include "model/attention.h"
#include "model/choice_sampler.h"
#include "model/gemm_rates.h"
#include "model/logits.h"
#include "model/model.h"
#include "model/random_model.h"
#include "model/sampling.h"
