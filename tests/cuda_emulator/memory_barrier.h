// mbarrier: arrivals, announced bytes, waiting for a phase by its parity. A thread that waits in vain is reported with
// the barrier's name, since that is where wrong parities and forgotten arrivals end.
#pragma once
#include "thread_block.h"

namespace cuda_emulator {

/// "full[2]": the shared array and the element.
std::string name_of_shared(const void* place);

MemoryBarrierState& memory_barrier(const void* place, const char* what);

std::string describe_memory_barrier(const void* place, unsigned parity);

inline bool is_complete(const MemoryBarrierState& barrier, unsigned parity) { return (barrier.phase & 1) != parity; }

/// End the phase if nothing is missing, and wake who waited for it.
void settle(const void* place, MemoryBarrierState& barrier);

void initialise_memory_barrier(const void* place, int count);

/// `fence.mbarrier_init`, and what makes barriers seen by the unit that loads tensors.
void fence_memory_barriers();

void arrive_at_memory_barrier(const void* place, int bytes);

void wait_for_memory_barrier(const void* place, unsigned parity, const Location& where);
}  // namespace cuda_emulator
