#include "memory_barrier.h"

namespace cuda_emulator {

std::string name_of_shared(const void* place) {
  const char* address = static_cast<const char*>(place);
  auto describe = [&](const GuardedMemory& memory, bool is_array) -> std::string {
    auto offset = address - reinterpret_cast<const char*>(memory.data());
    if (is_array) return memory.name() + "[" + std::to_string(offset / 8) + "]";
    return "the barrier at byte " + std::to_string(offset) + " of dynamic shared memory";
  };
  for (const auto& [where, array] : block->shared_arrays)
    if (array->holds(place)) return describe(*array, true);
  if (block->dynamic_shared && block->dynamic_shared->holds(place)) return describe(*block->dynamic_shared, false);
  fail("a barrier that is not in shared memory");
}

MemoryBarrierState& memory_barrier(const void* place, const char* what) {
  auto found = block->memory_barriers.find(place);
  if (found == block->memory_barriers.end())
    fail("%s on %s before it was initialised", what, name_of_shared(place).c_str());
  return found->second;
}

std::string describe_memory_barrier(const void* place, unsigned parity) {
  const MemoryBarrierState& barrier = block->memory_barriers.at(place);
  return " (for parity " + std::to_string(parity) + " of " + barrier.name + ": " + std::to_string(barrier.phase) +
         " phases are complete, " + std::to_string(barrier.pending) + " arrivals and " + std::to_string(barrier.bytes) +
         " bytes are missing)";
}

void settle(const void* place, MemoryBarrierState& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.phase++;
  barrier.pending = barrier.expected;
  for (Thread& thread : block->threads)
    if (thread.state == State::at_memory_barrier && thread.memory_barrier == place &&
        is_complete(barrier, thread.parity))
      thread.state = State::ready;
}

void initialise_memory_barrier(const void* place, int count) {
  if (reinterpret_cast<uintptr_t>(place) & 7) fail("a barrier that is not aligned to 8 bytes");
  if (block->memory_barriers.count(place)) fail("%s is initialised twice", name_of_shared(place).c_str());
  block->memory_barriers[place] = {name_of_shared(place), count, count, 0, 0, current->linear};
}

void fence_memory_barriers() {
  for (auto& [place, barrier] : block->memory_barriers)
    if (barrier.initialiser == current->linear) barrier.initialiser = -1;
}

void arrive_at_memory_barrier(const void* place, int bytes) {
  MemoryBarrierState& barrier = memory_barrier(place, "arrival");
  if (barrier.pending == 0) fail("%s has more arrivals than the %d of a phase", barrier.name.c_str(), barrier.expected);
  barrier.bytes += bytes;
  barrier.pending--;
  settle(place, barrier);
  maybe_let_others_go_on();
}

void wait_for_memory_barrier(const void* place, unsigned parity, const Location& where) {
  if (parity > 1) fail("a parity of %u at %s", parity, file_line(where).c_str());
  while (!is_complete(memory_barrier(place, "wait"), parity)) {
    current->memory_barrier = place;
    current->parity = parity;
    wait(State::at_memory_barrier, "a wait", where);
  }
}
}  // namespace cuda_emulator
