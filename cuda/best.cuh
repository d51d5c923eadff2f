// The largest value and where it is; the lowest index on a tie, so the order of comparisons does not matter.
#pragma once
#include "primitives.cuh"

struct Best {
  float value;
  int index;
};

__device__ __forceinline__ bool is_better(Best a, Best b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index);
}

// Over lanes at distances FIRST, FIRST / 2, … LAST.
template <int FIRST, int LAST> __device__ __forceinline__ Best best_of_lanes(Best best) {
#pragma unroll
  for (int distance = FIRST; distance >= LAST; distance /= 2) {
    Best other = {__shfl_xor_sync(ALL_LANES, best.value, distance), __shfl_xor_sync(ALL_LANES, best.index, distance)};
    if (is_better(other, best)) best = other;
  }
  return best;
}

__device__ __forceinline__ Best warp_best(Best best) { return best_of_lanes<16, 1>(best); }
