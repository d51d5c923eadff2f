// head_linear_<T>_<W>: each head's slice of a row times that head's own matrix, behind `pass` elements that are copied;
// rounded once to T
// x [rows, heads, pass + k] of T · packed matrices [n, k] of all heads, one behind the other, codes_step and scales_step
// elements apart (weights.cuh) · out [rows, heads, pass + n] of T, not x
// Launch: (ceil(n / 128), ceil(rows / 64), heads) thread blocks of 128. Needs pass % 8 == 0, k % 8 == 0, x and codes
// aligned to 16; the packed matrices have zeros up to a multiple of 32 columns.
// The bits are those of linear_few and linear_many, whatever the number of rows. Order of sums: many_rows.cuh.
// Bytes: the matrices of all heads once per 64 rows. Oracle: numpy, head by head
#include "many_rows.cuh"

// The slices of one head, in the rows of a tile.
template <class T> struct Slices {
  const T* x;  // the first row's
  size_t stride;
  int count, k;
  __device__ __forceinline__ const T* find(int row) const { return row < count ? x + row * stride : nullptr; }
};

template <class T, class W>
__device__ void head_linear(T* out, const T* x, const uint32_t* codes, const float* scales, int rows, int n, int k,
                            int pass, int group, int codes_step, int scales_step) {
  SHARED(T, ring, STAGES * TILE_ROWS * STRIDE);
  int head = blockIdx.z, heads = gridDim.z, first = blockIdx.y * TILE_ROWS, count = min(TILE_ROWS, rows - first);
  int first_panel = (blockIdx.x * 4 + threadIdx.x / 32) * WARP_PANELS, lane = threadIdx.x % 32;
  int panels = (n + PANEL_ROWS - 1) / PANEL_ROWS, columns = (k + PAIR_COLUMNS - 1) / PAIR_COLUMNS * PAIR_COLUMNS;
  size_t x_stride = static_cast<size_t>(heads) * (pass + k), out_stride = static_cast<size_t>(heads) * (pass + n);
  x += first * x_stride + static_cast<size_t>(head) * (pass + k);
  out += first * out_stride + static_cast<size_t>(head) * (pass + n);
  codes += static_cast<size_t>(head) * codes_step;
  scales += static_cast<size_t>(head) * scales_step;
  if (blockIdx.x == 0)
    for (int i = threadIdx.x; i < count * pass; i += 128)
      out[i / pass * out_stride + i % pass] = x[i / pass * x_stride + i % pass];

  float totals[WARP_PANELS][ROW_GROUPS][4] = {};
  const Panel pair[WARP_PANELS] = {{codes, scales, first_panel, first_panel < panels},
                                   {codes, scales, first_panel + 1, first_panel + 1 < panels}};
  multiply_rows<T, W>(totals, ring, x, Slices<T>{x + pass, x_stride, count, k}, pair, columns, group);

#pragma unroll
  for (int p = 0; p < WARP_PANELS; p++)
#pragma unroll
    for (int g = 0; g < ROW_GROUPS; g++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int output = (first_panel + p) * PANEL_ROWS + lane / 4 + i / 2 * 8, row = g * 8 + lane % 4 * 2 + i % 2;
        if (output < n && row < count) out[row * out_stride + pass + output] = from_float<T>(totals[p][g][i]);
      }
}

#define HEAD_LINEAR(NAME, T, W)                                                                                       \
  extern "C" __global__ void __launch_bounds__(128) head_linear_##NAME(                                               \
      T* out, const T* x, const uint32_t* codes, const float* scales, int rows, int n, int k, int pass, int group,    \
      int codes_step, int scales_step) {                                                                              \
    head_linear<T, W<T>>(out, x, codes, scales, rows, n, k, pass, group, codes_step, scales_step);                    \
  }                                                                                                                   \
  KERNEL(head_linear_##NAME)

HEAD_LINEAR(bf16_bf16, bfloat16, Float16Bits)
HEAD_LINEAR(bf16_int8, bfloat16, Int8)
HEAD_LINEAR(bf16_int4, bfloat16, Int4)
HEAD_LINEAR(f16_f16, float16, Float16Bits)
HEAD_LINEAR(f16_int8, float16, Int8)
HEAD_LINEAR(f16_int4, float16, Int4)
