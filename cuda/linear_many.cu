// linear_many_<T>_<W>_<OUT>: out = x @ weight^T + bias for any number of rows, rounded once to OUT
// x [rows, k] of T · weight [n, k] packed (weights.cuh; `group` is int8's) · bias [n] of float32 or null
// out [rows, out_stride] of OUT, n columns of it from the pointer on
// Launch: (ceil(n / 128), ceil(rows / 64)) thread blocks of 128. Needs k % 32 == 0, x and codes aligned to 16 bytes.
// A warp has 32 outputs and all 64 rows of the tile. The bits are those of linear_few; see many_rows.cuh.
// Bytes: the packed matrix once per 64 rows, x once per 128 outputs (L2). Oracle: numpy matmul over dequantized weights
#include "many_rows.cuh"

template <class T, class W, class OUT>
__device__ void linear_many(OUT* out, const T* x, const uint32_t* codes, const float* scales, const float* bias, int rows,
                            int n, int k, int group, int out_stride) {
  SHARED(T, ring, STAGES * TILE_ROWS * STRIDE);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first_row = blockIdx.y * TILE_ROWS;
  int first_panel = (blockIdx.x * 4 + warp) * WARP_PANELS, panels = (n + PANEL_ROWS - 1) / PANEL_ROWS;
  float totals[WARP_PANELS][ROW_GROUPS][4] = {};
  const Panel pair[WARP_PANELS] = {{codes, scales, first_panel, first_panel < panels},
                                   {codes, scales, first_panel + 1, first_panel + 1 < panels}};
  multiply_rows<T, W>(totals, ring, x, Rows<T>{x, first_row, rows, k}, pair, k, group);

#pragma unroll
  for (int p = 0; p < WARP_PANELS; p++)
#pragma unroll
    for (int g = 0; g < ROW_GROUPS; g++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int output = (first_panel + p) * PANEL_ROWS + lane / 4 + i / 2 * 8;
        int row = first_row + g * 8 + lane % 4 * 2 + i % 2;
        if (output < n && row < rows)
          out[static_cast<size_t>(row) * out_stride + output] = from_float<OUT>(totals[p][g][i] + (bias ? bias[output] : 0.0f));
      }
}

// The last argument: thread blocks that an SM must hold, where more would leave too few registers to each.
#define LINEAR_MANY(NAME, T, W, OUT, ...)                                                                            \
  extern "C" __global__ void __launch_bounds__(128, ##__VA_ARGS__) linear_many_##NAME(                               \
      OUT* out, const T* x, const uint32_t* codes, const float* scales, const float* bias, int rows, int n, int k,   \
      int group, int out_stride) {                                                                                                   \
    linear_many<T, W<T>, OUT>(out, x, codes, scales, bias, rows, n, k, group, out_stride);                                       \
  }                                                                                                                  \
  KERNEL(linear_many_##NAME)

LINEAR_MANY(bf16_bf16_bf16, bfloat16, Float16Bits, bfloat16)
LINEAR_MANY(bf16_int8_bf16, bfloat16, Int8, bfloat16)
LINEAR_MANY(bf16_int4_bf16, bfloat16, Int4, bfloat16)
LINEAR_MANY(bf16_bf16_f32, bfloat16, Float16Bits, float)
LINEAR_MANY(bf16_int8_f32, bfloat16, Int8, float)
LINEAR_MANY(bf16_int4_f32, bfloat16, Int4, float)
LINEAR_MANY(f16_f16_f16, float16, Float16Bits, float16)
LINEAR_MANY(f16_int8_f16, float16, Int8, float16)
LINEAR_MANY(f16_int4_f16, float16, Int4, float16)
LINEAR_MANY(f16_f16_f32, float16, Float16Bits, float)
LINEAR_MANY(f16_int8_f32, float16, Int8, float)
LINEAR_MANY(f16_int4_f32, float16, Int4, float)
LINEAR_MANY(bf16_e4m3_bf16, bfloat16, E4m3, bfloat16, 2)
LINEAR_MANY(bf16_e4m3_f32, bfloat16, E4m3, float, 2)
LINEAR_MANY(bf16_e5m2_bf16, bfloat16, E5m2, bfloat16, 2)
LINEAR_MANY(bf16_e5m2_f32, bfloat16, E5m2, float, 2)
LINEAR_MANY(f16_e4m3_f16, float16, E4m3, float16, 2)
LINEAR_MANY(f16_e4m3_f32, float16, E4m3, float, 2)
LINEAR_MANY(f16_e5m2_f16, float16, E5m2, float16, 2)
LINEAR_MANY(f16_e5m2_f32, float16, E5m2, float, 2)
