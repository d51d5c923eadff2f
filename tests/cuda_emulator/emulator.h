// Runs CUDA C++ on the host, with g++ and nothing else: one fiber per CUDA thread, one thread block at a time.
//
// `cuda/primitives.cuh` includes this file when INFERLIB_CUDA_EMULATOR is defined, and each of its primitives has a
// twin here; the kernels themselves are the same text that NVRTC compiles. What it catches: see test_emulator.py.
// What it cannot know: speed, occupancy, memory ordering between thread blocks, the rounding inside tensor cores.
#pragma once
#include "language.h"
// after the words of the language
#include "async_copy.h"
#include "intrinsics.h"
#include "launch.h"
#include "matrix.h"
#include "memory_barrier.h"
#include "numbers.h"
#include "tensor_load.h"
#include "warp.h"
#include "warpgroup.h"
