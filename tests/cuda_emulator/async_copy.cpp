#include "async_copy.h"

namespace cuda_emulator {

void async_copy(void* target, const void* source, int bytes, int source_bytes) {
  if ((reinterpret_cast<uintptr_t>(target) | (source_bytes ? reinterpret_cast<uintptr_t>(source) : 0)) & (bytes - 1))
    fail("cp.async of %d bytes is not aligned", bytes);
  std::memset(target, POISON, bytes);
  current->copies.push_back({target, source_bytes ? source : nullptr, bytes, current->copy_group});
}

void wait_async_copies(int keep) {
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
