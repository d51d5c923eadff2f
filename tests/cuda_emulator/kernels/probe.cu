// Small kernels that try the emulator itself, and the mistakes that it must find.
#include "primitives.cuh"

// sums[b] = sum of x over thread block b's part; 128 threads.
extern "C" __global__ void probe_sum(float* sums, const float* x, int n) {
  SHARED(float, partial, 4);
  float sum = 0;
  for (int i = blockIdx.x * 128 + threadIdx.x; i < n; i += gridDim.x * 128) sum += x[i];
  for (int distance = 16; distance; distance /= 2) sum += __shfl_down_sync(ALL_LANES, sum, distance);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
#ifndef WITHOUT_BARRIER
  __syncthreads();
#endif
  if (threadIdx.x == 0) sums[blockIdx.x] = partial[0] + partial[1] + partial[2] + partial[3];
}
KERNEL(probe_sum)

// y = x through shared memory, 64 threads, 4 floats each; thread t writes what thread t + 1 copied.
extern "C" __global__ void probe_copy(float* y, const float* x) {
  SHARED(float, tile, 256);
  int t = threadIdx.x;
  start_copy(tile + 4 * t, x + 4 * t, true);
  commit_copies();
#ifndef WITHOUT_WAIT
  wait_copies<0>();
#endif
  __syncthreads();
  int other = (t + 1) % 64;
  for (int i = 0; i < 4; i++) y[4 * other + i] = tile[4 * other + i];
#ifdef WITHOUT_WAIT
  wait_copies<0>();
#endif
}
KERNEL(probe_copy)

extern "C" __global__ void probe_forgotten_copy(const float* x) {
  SHARED(float, tile, 4);
  if (threadIdx.x == 0) start_copy(tile, x, true);
}
KERNEL(probe_forgotten_copy)

// d[16, 8] = a[16, 16] b[8, 16]^T of bf16, or of f16.
template <class T> __device__ void multiply(float* d, const T* a, const T* b) {
  SHARED(T, left, 256);
  SHARED(T, right, 256);
  int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) {
    left[i] = a[i];
    right[i] = i < 128 ? b[i] : T{0};
  }
  __syncwarp();
  uint32_t l[4], r[4];
  load_matrices(l, left + (lane & 15) * 16 + (lane >> 4) * 8);
  load_matrices(r, right + ((lane & 7) + (lane >> 4) * 8) * 16 + ((lane >> 3) & 1) * 8);
  float sums[4] = {};
  multiply_add<T>(sums, l, r[0], r[1]);
  for (int i = 0; i < 4; i++) d[((lane >> 2) + (i >> 1) * 8) * 8 + (lane & 3) * 2 + (i & 1)] = sums[i];
}
extern "C" __global__ void probe_multiply_bf16(float* d, const bfloat16* a, const bfloat16* b) { multiply(d, a, b); }
KERNEL(probe_multiply_bf16)
extern "C" __global__ void probe_multiply_f16(float* d, const float16* a, const float16* b) { multiply(d, a, b); }
KERNEL(probe_multiply_f16)

// y[c, r] = x[r, c] of 8x8 matrices, four of them.
extern "C" __global__ void probe_transpose(float16* y, const float16* x) {
  SHARED(float16, tile, 256);
  int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) tile[i] = x[i];
  __syncwarp();
  uint32_t r[4];
  load_matrices_transposed(r, tile + lane * 8);
  for (int m = 0; m < 4; m++)
    for (int e = 0; e < 2; e++)
      y[m * 64 + (lane >> 2) * 8 + (lane & 3) * 2 + e] = float16{static_cast<uint16_t>(r[m] >> (16 * e))};
}
KERNEL(probe_transpose)

extern "C" __global__ void probe_round(bfloat16* b, float16* h, float* back, const float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  b[i] = from_float<bfloat16>(x[i]);
  h[i] = from_float<float16>(x[i]);
  back[i] = to_float(h[i]);
}
KERNEL(probe_round)

// Mistakes

extern "C" __global__ void probe_out_of_bounds(float* x, int offset) { x[static_cast<int>(threadIdx.x) + offset] = 1; }
KERNEL(probe_out_of_bounds)

extern "C" __global__ void probe_shared_out_of_bounds(int index) {
  SHARED(float, small, 6);
  small[index] = 1;
}
KERNEL(probe_shared_out_of_bounds)

extern "C" __global__ void probe_dynamic_out_of_bounds(int index) {
  DYNAMIC_SHARED(bytes);
  bytes[index] = 1;
}
KERNEL(probe_dynamic_out_of_bounds)

// Old values of the previous thread block must not be seen.
extern "C" __global__ void probe_uninitialised(float* y) {
  SHARED(float, value, 1);
  y[blockIdx.x] = value[0];
  value[0] = 1;
}
KERNEL(probe_uninitialised)

extern "C" __global__ void probe_divergent_barrier() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncwarp();
    __syncthreads();
  }
}
KERNEL(probe_divergent_barrier)

extern "C" __global__ void probe_deadlock(int* flag) {
  if (threadIdx.x < 32) __shfl_sync(ALL_LANES, *flag, threadIdx.x < 16 ? 0 : 1);
  if (threadIdx.x == 5) __shfl_sync(3u << 5, 1, 5);
  __syncthreads();
}
KERNEL(probe_deadlock)

extern "C" __global__ void probe_wrong_mask() { __ballot_sync(2, 1); }
KERNEL(probe_wrong_mask)

extern "C" __global__ void probe_read_from_ended_lane(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}
KERNEL(probe_read_from_ended_lane)

extern "C" __global__ void probe_misaligned(const float* x) {
  SHARED(float, tile, 8);
  start_copy(tile, x + 1, true);
  commit_copies();
  wait_copies<0>();
}
KERNEL(probe_misaligned)
