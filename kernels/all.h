// The kernels room: everything public.
#pragma once

#include "kernels/attention_state.h"
#include "kernels/byte_kernels.h"
#include "kernels/ceilings.h"
#include "kernels/dense_kernels.h"
#include "kernels/hack_encode_kernels.h"
#include "kernels/hack_kernels.h"
#include "kernels/isa.h"
#include "kernels/paper_kernels.h"
#include "kernels/rans_kernels.h"
#include "kernels/reconstruct_kernels.h"
