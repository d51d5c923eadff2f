// moe_linear_f32_<W>: out[c] = x[c / divisor] @ weight^T + bias with the matrix of choice c's expert, float32 throughout: the
// family of precision="exact"
// x [tokens, k] and divisor = top_k, or x [tokens * top_k, k] and divisor = 1 · weight [experts, n, k] of W
// bias [experts, n] or null · start_loc [experts + 1] and order [tokens * top_k] of moe_sort
// out [tokens * top_k, out_stride], n columns of it from the pointer on
// Launch: (ceil(n / 4), tiles) thread blocks of 128, tiles >= sum over experts of ceil(choices / 8), which
// min(tokens * top_k, tokens * top_k / 8 + experts) is; a warp has one n and up to eight choices of one expert, and reads
// the weight once for them. Needs k % 4 == 0.
// The bits are those of linear_f32. Order: four neighbours ascending, every 32nd four of a lane ascending, warp tree.
// Bytes: n * k * sizeof(W) per eight choices of an expert. Oracle: numpy, row by row
#include "grouped_rows.cuh"
#include "reductions.cuh"

constexpr int ROWS = 8;

template <class W>
__device__ void moe_linear(float* out, const float* x, const int* start_loc, const int* order, const W* weight,
                           const float* bias, int experts, int divisor, int n, int k, int out_stride) {
  ExpertTile tile = find_tile<ROWS>(start_loc, experts, blockIdx.y);
  int column = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (tile.count <= 0 || column >= n) return;
  size_t row_of_all = static_cast<size_t>(tile.expert) * n + column;
  const W* w_row = weight + row_of_all * k;
  const int* choices = order + tile.first;
  const float* x_rows[ROWS];
#pragma unroll
  for (int row = 0; row < ROWS; row++)
    x_rows[row] = x + static_cast<size_t>(choices[row < tile.count ? row : 0] / divisor) * k;
  float sums[ROWS] = {};
  for (int i = lane * 4; i < k; i += 128) {
    float4 w = load_four(w_row + i);
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
      if (row >= tile.count) break;
      float4 v = load_four(x_rows[row] + i);
      sums[row] = fmaf(v.w, w.w, fmaf(v.z, w.z, fmaf(v.y, w.y, fmaf(v.x, w.x, sums[row]))));
    }
  }
#pragma unroll
  for (int row = 0; row < ROWS; row++) {
    if (row >= tile.count) break;
    float sum = warp_sum(sums[row]);
    if (lane == 0)
      out[static_cast<size_t>(choices[row]) * out_stride + column] = sum + (bias ? bias[row_of_all] : 0.0f);
  }
}

#define MOE_LINEAR_F32(NAME, W)                                                                                         \
  extern "C" __global__ void __launch_bounds__(128) moe_linear_f32_##NAME(                                              \
      float* out, const float* x, const int* start_loc, const int* order, const W* weight, const float* bias,           \
      int experts, int divisor, int n, int k, int out_stride) {                                                         \
    moe_linear(out, x, start_loc, order, weight, bias, experts, divisor, n, k, out_stride);                             \
  }                                                                                                                     \
  KERNEL(moe_linear_f32_##NAME)

MOE_LINEAR_F32(f32, float)
MOE_LINEAR_F32(bf16, bfloat16)
MOE_LINEAR_F32(f16, float16)
