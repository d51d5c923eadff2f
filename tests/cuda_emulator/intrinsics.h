// Built-in variables, atomics and arithmetic.
#pragma once
#include <cmath>
#include "thread_block.h"

#define threadIdx (cuda_emulator::current->index)
#define blockIdx (cuda_emulator::block->index)
#define blockDim (cuda_emulator::block->dim)
#define gridDim (cuda_emulator::block->grid)

template <class T> T min(T a, T b) { return a < b ? a : b; }
template <class T> T max(T a, T b) { return a > b ? a : b; }

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() {}
template <class T> T __ldg(const T* address) { return *address; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }

// Thread blocks run one after the other, so plain operations are atomic. There is no atomicAdd of floats on purpose:
// its result depends on the order of arrival.
inline int atomicAdd(int* address, int value) { int old = *address; *address += value; return old; }
inline unsigned atomicAdd(unsigned* address, unsigned value) { unsigned old = *address; *address += value; return old; }
inline int atomicMax(int* address, int value) { int old = *address; *address = max(old, value); return old; }
inline int atomicMin(int* address, int value) { int old = *address; *address = min(old, value); return old; }
inline unsigned atomicExch(unsigned* address, unsigned value) { unsigned old = *address; *address = value; return old; }
inline unsigned atomicCAS(unsigned* address, unsigned expected, unsigned value) {
  unsigned old = *address;
  if (old == expected) *address = value;
  return old;
}
