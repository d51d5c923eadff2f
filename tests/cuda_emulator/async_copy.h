// cp.async: the copy lands only when its group is waited for, and its target is poison until then. So a missing wait,
// and a missing barrier behind it, read NaN.
#pragma once
#include "thread_block.h"

namespace cuda_emulator {

/// `cp.async target, source, bytes, source_bytes`: the rest of the target is zero.
inline void async_copy(void* target, const void* source, int bytes, int source_bytes) {
  if ((reinterpret_cast<uintptr_t>(target) | (source_bytes ? reinterpret_cast<uintptr_t>(source) : 0)) & (bytes - 1))
    fail("cp.async of %d bytes is not aligned", bytes);
  std::memset(target, POISON, bytes);
  current->copies.push_back({target, source_bytes ? source : nullptr, bytes, current->copy_group});
}

inline void commit_async_copies() { current->copy_group++; }

/// `cp.async.wait_group keep`: all but the last `keep` groups land.
inline void wait_async_copies(int keep) {
  auto& copies = current->copies;
  size_t landed = 0;
  for (; landed < copies.size() && copies[landed].group < current->copy_group - keep; landed++) {
    const PendingCopy& copy = copies[landed];
    if (copy.source) std::memcpy(copy.target, copy.source, copy.bytes);
    else std::memset(copy.target, 0, copy.bytes);
  }
  copies.erase(copies.begin(), copies.begin() + landed);
}
}  // namespace cuda_emulator
