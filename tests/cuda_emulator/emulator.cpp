// The emulator itself: what all kernel files are linked with, compiled once.
#include "emulator.h"
// in the order of its headers
#include "thread_block.cpp"
#include "warp.cpp"
#include "async_copy.cpp"
#include "matrix.cpp"
#include "memory_barrier.cpp"
#include "tensor_load.cpp"
#include "warpgroup.cpp"
#include "launch.cpp"
