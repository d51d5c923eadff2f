// Sums and maxima over a warp and over a thread block, each in one fixed order.
#pragma once
#include "primitives.cuh"

// The same bits in every lane: lane pairs at distance 16, 8, 4, 2, 1.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int distance = 16; distance; distance >>= 1) value += __shfl_xor_sync(ALL_LANES, value, distance);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int distance = 16; distance; distance >>= 1) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

// Warp sums, then the warps in ascending order; the same bits in every thread. `WARPS` is the thread block's number.
template <int WARPS> __device__ __forceinline__ float block_sum(float value) {
  SHARED(float, sums, WARPS);
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float total = sums[0];
#pragma unroll
  for (int warp = 1; warp < WARPS; warp++) total += sums[warp];
  __syncthreads();  // the array may be used again
  return total;
}
