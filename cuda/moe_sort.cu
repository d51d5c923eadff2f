// moe_sort_i32: choices by expert, ascending within each: what the grouped products go through
// ids [count], of token i / top_k the expert of choice i % top_k · start_loc [experts + 1] · order [count]: indices into ids
// Launch: (experts) thread blocks of 256. Order: fixed, no atomics. Bytes: 8 * count per expert, from L2.
// Oracle: numpy.argsort(kind="stable")
#include "primitives.cuh"

constexpr int THREADS = 256;
constexpr int NUM_WARPS = THREADS / 32;

extern "C" __global__ void __launch_bounds__(THREADS) moe_sort_i32(int* start_loc, int* order, const int* ids, int count) {
  SHARED(int, sums, NUM_WARPS);
  int expert = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int before = 0;
  for (int i = threadIdx.x; i < count; i += THREADS) before += ids[i] < expert;
  for (int distance = 16; distance; distance /= 2) before += __shfl_xor_sync(ALL_LANES, before, distance);
  if (lane == 0) sums[warp] = before;
  __syncthreads();
  int next = 0;
  for (int w = 0; w < NUM_WARPS; w++) next += sums[w];
  if (threadIdx.x == 0) {
    start_loc[expert] = next;
    if (expert + 1 == static_cast<int>(gridDim.x)) start_loc[expert + 1] = count;
  }
  for (int first = 0; first < count; first += THREADS) {
    int i = first + threadIdx.x;
    bool is_mine = i < count && ids[i] == expert;
    unsigned found = __ballot_sync(ALL_LANES, is_mine);
    __syncthreads();  // the sums of before are read
    if (lane == 0) sums[warp] = __popc(found);
    __syncthreads();
    int place = next + __popc(found & ((1u << lane) - 1));
    for (int w = 0; w < NUM_WARPS; w++) {
      if (w < warp) place += sums[w];
      next += sums[w];
    }
    if (is_mine) order[place] = i;
  }
}
KERNEL(moe_sort_i32)
