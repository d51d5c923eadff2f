// cp.async: the copy lands only when its group is waited for, and its target is poison until then. So a missing wait,
// and a missing barrier behind it, read NaN.
#pragma once
#include "thread_block.h"

namespace cuda_emulator {

/// `cp.async target, source, bytes, source_bytes`: the rest of the target is zero.
void async_copy(void* target, const void* source, int bytes, int source_bytes);

inline void commit_async_copies() { current->copy_group++; }

/// `cp.async.wait_group keep`: all but the last `keep` groups land.
void wait_async_copies(int keep);
}  // namespace cuda_emulator
