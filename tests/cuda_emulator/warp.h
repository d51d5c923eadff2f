// Warp collectives: every lane deposits a pointer to its argument; the last lane of the mask to come computes for all.
#pragma once
#include <type_traits>
#include "thread_block.h"

namespace cuda_emulator {

/// Meet the other lanes of `mask`. For the last one to come: the mask, and what each lane of it deposited. For all others
/// 0, when the last one has computed what they came for.
unsigned meet(const char* name, unsigned mask, void* deposit, const Location& where, void** deposits);

/// The others of a mask may go on.
void part(unsigned mask);

/// Meet the other lanes of `mask`; the last one calls `compute(mask, deposits)`, indexed by lane.
template <class Compute>
void collective(const char* name, unsigned mask, void* deposit, const Location& where, Compute compute) {
  void* deposits[32];
  unsigned met = meet(name, mask, deposit, where, deposits);
  if (!met) return;
  compute(met, deposits);
  part(met);
}

/// Every lane gets the bytes of the lane that it names; one outside the mask is an error, since its value is undefined.
void shuffle_bytes(const char* name, unsigned mask, void* value, size_t bytes, int source, const Location& where);

template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, const Location& where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  shuffle_bytes(name, mask, &value, sizeof value, source, where);
  return value;
}

void sync_warp(unsigned mask, const Location& where);
unsigned ballot(const char* name, unsigned mask, bool predicate, const Location& where);
int reduce_max(unsigned mask, int value, const Location& where);
int reduce_min(unsigned mask, int value, const Location& where);
unsigned reduce_add(unsigned mask, unsigned value, const Location& where);
}  // namespace cuda_emulator

#define WHERE cuda_emulator::Location where = cuda_emulator::Location::current()

inline void __syncthreads(WHERE) { cuda_emulator::arrive_and_wait(0, 0, "__syncthreads", where); }
inline void __syncwarp(unsigned mask = 0xffffffffu, WHERE) {
  cuda_emulator::sync_warp(mask, where);
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
  return cuda_emulator::reduce_max(mask, value, where);
}
inline int __reduce_min_sync(unsigned mask, int value, WHERE) {
  return cuda_emulator::reduce_min(mask, value, where);
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, WHERE) {
  return cuda_emulator::reduce_add(mask, value, where);
}
