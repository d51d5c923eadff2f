#include "tensor_load.h"

namespace cuda_emulator {

uint32_t shared_offset(const void* address, const char* what) {
  if (!block->dynamic_shared || !block->dynamic_shared->holds(address)) fail("%s is not in dynamic shared memory", what);
  return static_cast<uint32_t>(static_cast<const unsigned char*>(address) - block->dynamic_shared->data());
}

unsigned char* swizzled_shared() {
  if (!block->dynamic_shared || reinterpret_cast<uintptr_t>(block->dynamic_shared->data()) % SWIZZLE_ATOM)
    fail("swizzled tiles want a launch with a multiple of 1024 bytes of dynamic shared memory");
  return block->dynamic_shared->data();
}

void start_tensor_load(void* target, const TensorMap& map, const void* barrier, std::array<int, 3> at) {
  MemoryBarrierState& state = memory_barrier(barrier, "a tensor load");
  if (state.initialiser >= 0) fail("a tensor load counts on %s, which no fence has made visible", state.name.c_str());
  if (shared_offset(target, "the target of a tensor load") % (map.is_swizzled ? SWIZZLE_ATOM : 128))
    fail("the target of a tensor load is not aligned to %d bytes", map.is_swizzled ? 1024 : 128);
  std::memset(target, POISON, box_bytes(map));
  block->loads.push_back({map, static_cast<unsigned char*>(target), barrier, at});
}

void land(const PendingLoad& load) {
  const TensorMap& map = load.map;
  uint32_t start = static_cast<uint32_t>(load.target - block->dynamic_shared->data()), offset = start;
  for (uint32_t z = 0; z < map.box[2]; z++)
    for (uint32_t y = 0; y < map.box[1]; y++)
      for (uint32_t x = 0; x < map.box[0]; x++, offset += map.element_bytes) {
        int64_t place[3] = {load.at[0] + int64_t{x}, load.at[1] + int64_t{y}, load.at[2] + int64_t{z}};
        const unsigned char* source = map.base;
        bool is_inside = true;
        for (int d = 0; d < 3; d++) {
          is_inside = is_inside && place[d] >= 0 && place[d] < static_cast<int64_t>(map.sizes[d]);
          source += place[d] * static_cast<int64_t>(map.strides[d]);
        }
        unsigned char* target = block->dynamic_shared->data() + (map.is_swizzled ? swizzled(offset) : offset);
        if (is_inside) std::memcpy(target, source, map.element_bytes);
        else std::memset(target, 0, map.element_bytes);
      }
  MemoryBarrierState& barrier = memory_barrier(load.barrier, "a tensor load");
  barrier.bytes -= box_bytes(map);
  settle(load.barrier, barrier);
}

bool land_loads(Shuffler& shuffler, bool is_shuffled, bool is_idle) {
  auto& loads = block->loads;
  bool landed = false;
  while (!loads.empty() && (is_shuffled ? shuffler.next() % 3 == 0 : is_idle && !landed)) {
    size_t which = is_shuffled ? shuffler.next() % loads.size() : 0;
    PendingLoad load = loads[which];
    loads.erase(loads.begin() + static_cast<std::ptrdiff_t>(which));
    current = nullptr;
    land(load);
    landed = true;
  }
  if (is_idle && !landed && !loads.empty()) {
    PendingLoad load = loads.back();
    loads.pop_back();
    current = nullptr;
    land(load);
    landed = true;
  }
  return landed;
}
}  // namespace cuda_emulator
