// Warp collectives: every lane deposits a pointer to its argument; the last lane of the mask to come computes for all.
#pragma once
#include <type_traits>
#include "thread_block.h"

namespace cuda_emulator {

/// Meet the other lanes of `mask`; the last one calls `compute(mask, deposits)`, indexed by lane.
template <class Compute>
void collective(const char* name, unsigned mask, void* deposit, const Location& where, Compute compute) {
  Thread* lanes = &block->threads[current->warp * 32];
  int num_lanes = std::min(32, block->num_threads - current->warp * 32);
  if (num_lanes < 32 && mask == 0xffffffffu) mask = (1u << num_lanes) - 1;
  if (!(mask >> current->lane & 1))
    fail("lane %d is not in the mask %08x that it gave to %s at %s", current->lane, mask, name,
         file_line(where).c_str());
  current->mask = mask;
  current->deposit = deposit;
  auto& meetings = block->warps[current->warp].meetings;
  auto meeting = std::find_if(meetings.begin(), meetings.end(), [&](const Meeting& m) { return m.mask == mask; });
  if (meeting == meetings.end()) meeting = meetings.insert(meetings.end(), {mask, 0, name});
  if (strcmp(meeting->name, name))
    fail("lanes of mask %08x meet in %s and in %s at %s", mask, meeting->name, name, file_line(where).c_str());
  meeting->arrived |= 1u << current->lane;
  if (meeting->arrived != mask) {
    wait(State::in_collective, name, where);
    return;
  }
  meetings.erase(meeting);
  void* deposits[32] = {};
  for (int lane = 0; lane < num_lanes; lane++)
    if (mask >> lane & 1) deposits[lane] = lanes[lane].deposit;
  compute(mask, deposits);
  for (int lane = 0; lane < num_lanes; lane++)
    if ((mask >> lane & 1) && &lanes[lane] != current) lanes[lane].state = State::ready;
}

/// Every lane gets the value of the lane that it names; one outside the mask is an error, since its value is undefined.
template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, const Location& where) {
  static_assert(std::is_trivially_copyable_v<T>);
  struct Deposit { T in, out; int source; } deposit{value, value, source};
  collective(name, mask, &deposit, where, [&](unsigned met, void** deposits) {
    for (int lane = 0; lane < 32; lane++) {
      if (!(met >> lane & 1)) continue;
      auto* mine = static_cast<Deposit*>(deposits[lane]);
      if (!(met >> (mine->source & 31) & 1))
        fail("lane %d reads from lane %d, which is not in mask %08x of %s at %s", lane, mine->source, met, name,
             file_line(where).c_str());
      mine->out = static_cast<Deposit*>(deposits[mine->source & 31])->in;
    }
  });
  return deposit.out;
}

template <class T, class Combine>
T reduce(const char* name, unsigned mask, T value, const Location& where, Combine combine) {
  struct Deposit { T value; } deposit{value};
  collective(name, mask, &deposit, where, [&](unsigned met, void** deposits) {
    bool is_first = true;
    T result{};
    for (int lane = 0; lane < 32; lane++) {
      if (!(met >> lane & 1)) continue;
      T next = static_cast<Deposit*>(deposits[lane])->value;
      result = is_first ? next : combine(result, next);
      is_first = false;
    }
    for (int lane = 0; lane < 32; lane++)
      if (met >> lane & 1) static_cast<Deposit*>(deposits[lane])->value = result;
  });
  return deposit.value;
}

inline unsigned ballot(const char* name, unsigned mask, bool predicate, const Location& where) {
  unsigned bit = predicate ? 1u << current->lane : 0;
  return reduce(name, mask, bit, where, [](unsigned a, unsigned b) { return a | b; });
}
}  // namespace cuda_emulator

#define WHERE cuda_emulator::Location where = cuda_emulator::Location::current()

inline void __syncthreads(WHERE) { cuda_emulator::arrive_and_wait(0, 0, "__syncthreads", where); }
inline void __syncwarp(unsigned mask = 0xffffffffu, WHERE) {
  cuda_emulator::collective("__syncwarp", mask, nullptr, where, [](unsigned, void**) {});
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, WHERE) {
  int lane = cuda_emulator::current->lane;
  return cuda_emulator::shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) | (source & (width - 1)), where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, WHERE) {
  int lane = cuda_emulator::current->lane, source = lane ^ bits;
  bool is_inside = (source & ~(width - 1)) <= (lane & ~(width - 1));
  return cuda_emulator::shuffle("__shfl_xor_sync", mask, value, is_inside ? source : lane, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, WHERE) {
  int lane = cuda_emulator::current->lane;
  bool is_inside = (lane & (width - 1)) + static_cast<int>(delta) < width;
  return cuda_emulator::shuffle("__shfl_down_sync", mask, value, is_inside ? lane + static_cast<int>(delta) : lane, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, WHERE) {
  int lane = cuda_emulator::current->lane;
  bool is_inside = (lane & (width - 1)) >= static_cast<int>(delta);
  return cuda_emulator::shuffle("__shfl_up_sync", mask, value, is_inside ? lane - static_cast<int>(delta) : lane, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, WHERE) {
  return cuda_emulator::ballot("__ballot_sync", mask, predicate, where);
}
inline int __any_sync(unsigned mask, int predicate, WHERE) {
  return cuda_emulator::ballot("__any_sync", mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, WHERE) {
  return cuda_emulator::ballot("__all_sync", mask, !predicate, where) == 0;
}
inline int __reduce_max_sync(unsigned mask, int value, WHERE) {
  return cuda_emulator::reduce("__reduce_max_sync", mask, value, where, [](int a, int b) { return std::max(a, b); });
}
inline int __reduce_min_sync(unsigned mask, int value, WHERE) {
  return cuda_emulator::reduce("__reduce_min_sync", mask, value, where, [](int a, int b) { return std::min(a, b); });
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, WHERE) {
  return cuda_emulator::reduce("__reduce_add_sync", mask, value, where, [](unsigned a, unsigned b) { return a + b; });
}
