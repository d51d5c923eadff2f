// Small kernels that try barriers in shared memory, tensor loads and products of warpgroups, and mistakes with each.
#include "primitives_sm90.cuh"

// What goes wrong in hopper_multiply_*; the tests know the names by their order.
enum Mistake {
  NONE, NO_INITIAL_FENCE, NO_INITIAL_BARRIER, NO_EMPTY_WAIT, NO_FULL_WAIT, WRONG_PARITY, NO_FENCE, NO_PRODUCT_WAIT,
  ARRIVAL_BEFORE_WAIT, WRONG_STRIDE, WRONG_BYTES
};

// d[64, columns] = a[64, k] b[columns, k]^T: 128 threads multiply, a warp loads 64 columns of both at a time into a ring of
// two stages.
template <int COLUMNS> __device__ void multiply(float* d, const TensorMap& a, const TensorMap& b, int k, int mistake) {
  SWIZZLED_SHARED(shared);
  SHARED(MemoryBarrier, full, 2);
  SHARED(MemoryBarrier, empty, 2);
  constexpr int LEFT_BYTES = 64 * 128, STAGE_BYTES = LEFT_BYTES + COLUMNS * 128;
  int chunks = (k + 63) / 64;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < 2; stage++) {
      initialise_barrier(full + stage, 1);
      initialise_barrier(empty + stage, 128);
    }
    if (mistake != NO_INITIAL_FENCE) fence_barriers();
  }
  if (mistake != NO_INITIAL_BARRIER) __syncthreads();
  if (threadIdx.x >= 128) {
    if (threadIdx.x != 128) return;
    for (int chunk = 0; chunk < chunks; chunk++) {
      int stage = chunk % 2;
      if (mistake != NO_EMPTY_WAIT) wait_for(empty + stage, (chunk / 2 & 1) ^ 1);
      arrive_and_expect(full + stage, STAGE_BYTES + (mistake == WRONG_BYTES ? 16 : 0));
      start_load(shared + stage * STAGE_BYTES, a, full + stage, chunk * 64, 0);
      start_load(shared + stage * STAGE_BYTES + LEFT_BYTES, b, full + stage, chunk * 64, 0);
    }
    return;
  }
  float sums[COLUMNS / 2];
  for (int i = 0; i < COLUMNS / 2; i++) sums[i] = 0;
  for (int chunk = 0; chunk < chunks; chunk++) {
    int stage = chunk % 2;
    if (mistake != NO_FULL_WAIT) wait_for(full + stage, (chunk / 2 & 1) ^ (mistake == WRONG_PARITY));
    if (mistake != NO_FENCE) fence_products();
    uint64_t left = tile_descriptor(shared + stage * STAGE_BYTES, mistake == WRONG_STRIDE ? ATOM_BYTES / 2 : ATOM_BYTES);
    uint64_t right = tile_descriptor(shared + stage * STAGE_BYTES + LEFT_BYTES);
    for (int step = 0; step < 4; step++) start_product<bfloat16>(sums, left + step * 2, right + step * 2, true);
    commit_products();
    if (mistake == ARRIVAL_BEFORE_WAIT) arrive(empty + stage);
    if (mistake != NO_PRODUCT_WAIT) wait_products<0>(sums);
    if (mistake != ARRIVAL_BEFORE_WAIT) arrive(empty + stage);
  }
  int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  for (int i = 0; i < COLUMNS / 2; i++) d[(row + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + column + i % 2] = sums[i];
}
#define MULTIPLY(COLUMNS)                                                                                               \
  extern "C" __global__ void hopper_multiply_##COLUMNS(float* d, const __grid_constant__ TensorMap a,                    \
                                                       const __grid_constant__ TensorMap b, int k, int mistake) {       \
    multiply<COLUMNS>(d, a, b, k, mistake);                                                                                   \
  }                                                                                                                     \
  KERNEL(hopper_multiply_##COLUMNS)
MULTIPLY(8)
MULTIPLY(64)
MULTIPLY(128)

// d[64, 64] = a[64, 32] v[32, 64] of float16: `a` from registers, `v` across its rows, a tile of planes [2, 16, 64].
extern "C" __global__ void hopper_multiply_registers(float* d, const float16* a, const __grid_constant__ TensorMap v) {
  SWIZZLED_SHARED(shared);
  SHARED(MemoryBarrier, full, 1);
  if (threadIdx.x == 0) {
    initialise_barrier(full, 1);
    fence_barriers();
    arrive_and_expect(full, 32 * 128);
    for (int plane = 0; plane < 2; plane++) start_load(shared + plane * 2048, v, full, 0, 0, plane);
  }
  __syncthreads();
  wait_for(full, 0);
  int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  float sums[32] = {};
  fence_products();
  for (int step = 0; step < 2; step++) {
    uint32_t left[4];
    for (int i = 0; i < 4; i++)
      left[i] = *reinterpret_cast<const uint32_t*>(a + (row + i % 2 * 8) * 32 + step * 16 + i / 2 * 8 + column);
    start_product_of_registers<float16>(sums, left, tile_descriptor(shared + step * 2048), step > 0);
  }
  commit_products();
  wait_products<0>(sums);
  for (int i = 0; i < 32; i++) d[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = sums[i];
}
KERNEL(hopper_multiply_registers)

// y = the box of x at (column, row, plane), as it lies in shared memory.
extern "C" __global__ void hopper_box(bfloat16* y, const __grid_constant__ TensorMap x, int column, int row, int plane, int pieces) {
  SWIZZLED_SHARED(shared);
  SHARED(MemoryBarrier, full, 1);
  if (threadIdx.x == 0) {
    initialise_barrier(full, 1);
    fence_barriers();
    arrive_and_expect(full, pieces * 16);
    start_load(shared, x, full, column, row, plane);
  }
  __syncthreads();
  wait_for(full, 0);
  for (int i = threadIdx.x; i < pieces; i += 32) reinterpret_cast<uint4*>(y)[i] = reinterpret_cast<const uint4*>(shared)[i];
}
KERNEL(hopper_box)

extern "C" __global__ void hopper_forgotten_load(const __grid_constant__ TensorMap x) {
  SWIZZLED_SHARED(shared);
  SHARED(MemoryBarrier, full, 1);
  initialise_barrier(full, 1);
  fence_barriers();
  start_load(shared, x, full, 0, 0);
}
KERNEL(hopper_forgotten_load)

extern "C" __global__ void hopper_too_many_arrivals() {
  SHARED(MemoryBarrier, full, 1);
  if (threadIdx.x == 0) {
    initialise_barrier(full, 2);
    fence_barriers();
    arrive_and_expect(full, 16);  // never come
  }
  __syncthreads();
  arrive(full);
}
KERNEL(hopper_too_many_arrivals)

// One warp of four gives another operand.
extern "C" __global__ void hopper_disagreeing_warps() {
  SWIZZLED_SHARED(shared);
  for (int i = threadIdx.x; i < 4096; i += 128) reinterpret_cast<uint32_t*>(shared)[i] = 0;
  __syncthreads();
  float sums[4] = {};
  fence_products();
  uint64_t operand = tile_descriptor(shared);
  start_product<bfloat16>(sums, threadIdx.x < 32 ? operand + 2 : operand, operand, true);
  commit_products();
  wait_products<0>(sums);
}
KERNEL(hopper_disagreeing_warps)
