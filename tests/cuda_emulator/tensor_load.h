// cp.async.bulk.tensor: boxes of a tensor land in shared memory some time later, and only then count down the bytes of
// their barrier. Until then the target is poison, and what the source holds when the box lands is what arrives.
#pragma once
#include "memory_barrier.h"

namespace cuda_emulator {

/// Where byte `offset` of swizzled shared memory lies: pieces of 16 bytes change places by the row of 128 bytes.
inline uint32_t swizzled(uint32_t offset) { return offset ^ (offset >> 7 & 7) << 4; }

/// The offset in dynamic shared memory, which stands for the address that descriptors hold.
uint32_t shared_offset(const void* address, const char* what);

unsigned char* swizzled_shared();

inline uint32_t box_bytes(const TensorMap& map) { return map.box[0] * map.box[1] * map.box[2] * map.element_bytes; }

void start_tensor_load(void* target, const TensorMap& map, const void* barrier, std::array<int, 3> at);

void land(const PendingLoad& load);

/// Land some loads, or one where nobody else can go on; whether any did.
bool land_loads(Shuffler& shuffler, bool is_shuffled, bool is_idle);
}  // namespace cuda_emulator
