// linear_f32_<W>: out = x @ weight^T + bias in float32 throughout: the family of precision="exact"
// x [rows, k] · weight [n, k] of W · bias [n] or null · out [rows, n]
// Launch: (ceil(n / 4), ceil(rows / 8)) thread blocks of 128; a warp has one n and up to eight rows, and reads the weight
// once for them. Needs k % 4 == 0.
// Order: four neighbours ascending, every 32nd four of a lane ascending, warp tree: whatever the number of rows.
// Bytes: n * k * sizeof(W) per eight rows. Oracle: numpy matmul
#include "reductions.cuh"

constexpr int ROWS = 8;

template <class W>
__device__ void linear(float* out, const float* x, const W* weight, const float* bias, int rows, int n, int k) {
  int column = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (column >= n) return;
  int first = blockIdx.y * ROWS, count = min(ROWS, rows - first);
  const W* w_row = weight + static_cast<size_t>(column) * k;
  const float* x_row = x + static_cast<size_t>(first) * k;
  float sums[ROWS] = {};
  for (int i = lane * 4; i < k; i += 128) {
    float4 w = load_four(w_row + i);
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
      if (row >= count) break;
      float4 v = load_four(x_row + static_cast<size_t>(row) * k + i);
      sums[row] = fmaf(v.w, w.w, fmaf(v.z, w.z, fmaf(v.y, w.y, fmaf(v.x, w.x, sums[row]))));
    }
  }
  for (int row = 0; row < count; row++) {
    float sum = warp_sum(sums[row]);
    if (lane == 0) out[static_cast<size_t>(first + row) * n + column] = sum + (bias ? bias[column] : 0.0f);
  }
}

#define LINEAR(NAME, W)                                                                                               \
  extern "C" __global__ void __launch_bounds__(128) linear_f32_##NAME(                                                \
      float* out, const float* x, const W* weight, const float* bias, int rows, int n, int k) {                       \
    linear(out, x, weight, bias, rows, n, k);                                                                         \
  }                                                                                                                   \
  KERNEL(linear_f32_##NAME)

LINEAR(f32, float)
LINEAR(bf16, bfloat16)
LINEAR(f16, float16)
