// head_linear_f32_<W>: each head's slice of a row times that head's own matrix, behind `pass` elements that are copied;
// float32 throughout: the family of precision="exact"
// x [rows, heads, pass + k] · weight [heads, n, k] of W · out [rows, heads, pass + n], not x
// Launch: (ceil((pass + n) / 4), ceil(rows / 8), heads) thread blocks of 128; a warp has one element of a head and up to
// eight rows, and reads the weight once for them. Needs pass % 4 == 0, k % 4 == 0.
// The bits are those of linear_f32. Order: four neighbours ascending, every 32nd four of a lane ascending, warp tree:
// whatever the number of rows.
// Bytes: heads * n * k * sizeof(W) per eight rows. Oracle: numpy, head by head
#include "reductions.cuh"

constexpr int ROWS = 8;

template <class W>
__device__ void head_linear(float* out, const float* x, const W* weight, int rows, int n, int k, int pass) {
  int column = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (column >= pass + n) return;
  int head = blockIdx.z, heads = gridDim.z, first = blockIdx.y * ROWS, count = min(ROWS, rows - first);
  size_t x_stride = static_cast<size_t>(heads) * (pass + k), out_stride = static_cast<size_t>(heads) * (pass + n);
  const float* x_row = x + first * x_stride + static_cast<size_t>(head) * (pass + k);
  float* target = out + first * out_stride + static_cast<size_t>(head) * (pass + n) + column;
  if (column < pass) {
    if (lane < count) target[lane * out_stride] = x_row[lane * x_stride + column];
    return;
  }
  const W* w_row = weight + (static_cast<size_t>(head) * n + column - pass) * k;
  float sums[ROWS] = {};
  for (int i = lane * 4; i < k; i += 128) {
    float4 w = load_four(w_row + i);
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
      if (row >= count) break;
      float4 v = load_four(x_row + row * x_stride + pass + i);
      sums[row] = fmaf(v.w, w.w, fmaf(v.z, w.z, fmaf(v.y, w.y, fmaf(v.x, w.x, sums[row]))));
    }
  }
#pragma unroll
  for (int row = 0; row < ROWS; row++) {
    if (row >= count) break;
    float sum = warp_sum(sums[row]);
    if (lane == 0) target[row * out_stride] = sum;
  }
}

#define HEAD_LINEAR_F32(NAME, W)                                                                                      \
  extern "C" __global__ void __launch_bounds__(128) head_linear_f32_##NAME(                                           \
      float* out, const float* x, const W* weight, int rows, int n, int k, int pass) {                                \
    head_linear(out, x, weight, rows, n, k, pass);                                                                    \
  }                                                                                                                   \
  KERNEL(head_linear_f32_##NAME)

HEAD_LINEAR_F32(f32, float)
HEAD_LINEAR_F32(bf16, bfloat16)
HEAD_LINEAR_F32(f16, float16)
