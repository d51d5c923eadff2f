// moe_linear_<T>_<W>: out[c] = x[c / divisor] @ weight^T + bias with the matrix of choice c's expert, rounded once to T
// x [tokens, k] and divisor = top_k, or x [tokens * top_k, k] and divisor = 1 · bias [experts, n] of float32 or null
// out [tokens * top_k, out_stride] of T, n columns of it from the pointer on
// start_loc [experts + 1] and order [tokens * top_k] of moe_sort · packed matrices of all experts, one behind the other,
// codes_step and scales_step elements apart (weights.cuh)
// Launch: (ceil(n / 128), tiles) thread blocks of 128, tiles as in moe_gated. Needs k % 8 == 0, x and codes aligned to
// 16; the packed matrices have zeros up to a multiple of 32 columns.
// The bits are those of linear_few and linear_many. Order of sums: many_rows.cuh.
// Bytes: the matrices of the chosen experts once per 64 of their choices. Oracle: numpy, row by row
#include "grouped_rows.cuh"

template <class T, class W>
__device__ void moe_linear(T* out, const T* x, const int* start_loc, const int* order, const uint32_t* codes,
                           const float* scales, const float* bias, int experts, int divisor, int n, int k, int group,
                           int codes_step, int scales_step, int out_stride) {
  SHARED(T, ring, STAGES * TILE_ROWS * STRIDE);
  ExpertTile tile = find_tile<TILE_ROWS>(start_loc, experts, blockIdx.y);
  if (tile.count <= 0) return;
  int first_panel = (blockIdx.x * 4 + threadIdx.x / 32) * WARP_PANELS, lane = threadIdx.x % 32;
  int panels = (n + PANEL_ROWS - 1) / PANEL_ROWS;
  codes += static_cast<size_t>(tile.expert) * codes_step;
  scales += static_cast<size_t>(tile.expert) * scales_step;
  if (bias) bias += static_cast<size_t>(tile.expert) * n;
  float totals[WARP_PANELS][ROW_GROUPS][4] = {};
  const Panel pair[WARP_PANELS] = {{codes, scales, first_panel, first_panel < panels},
                                   {codes, scales, first_panel + 1, first_panel + 1 < panels}};
  const int* choices = order + tile.first;
  SHARED(int, sources, TILE_ROWS);
  if (threadIdx.x < TILE_ROWS && static_cast<int>(threadIdx.x) < tile.count) sources[threadIdx.x] = choices[threadIdx.x] / divisor;
  __syncthreads();
  multiply_rows<T, W>(totals, ring, x, ChosenRows<T>{x, sources, tile.count, 1, k}, pair, packed_columns(k),
                      group);

#pragma unroll
  for (int p = 0; p < WARP_PANELS; p++)
#pragma unroll
    for (int g = 0; g < ROW_GROUPS; g++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int output = (first_panel + p) * PANEL_ROWS + lane / 4 + i / 2 * 8, row = g * 8 + lane % 4 * 2 + i % 2;
        if (output < n && row < tile.count)
          out[static_cast<size_t>(choices[row]) * out_stride + output] =
              from_float<T>(totals[p][g][i] + (bias ? bias[output] : 0.0f));
      }
}

// The last argument: thread blocks that an SM must hold, where more would leave too few registers to each.
#define MOE_LINEAR(NAME, T, W, ...)                                                                                     \
  extern "C" __global__ void __launch_bounds__(128, ##__VA_ARGS__) moe_linear_##NAME(                                   \
      T* out, const T* x, const int* start_loc, const int* order, const uint32_t* codes, const float* scales,           \
      const float* bias, int experts, int divisor, int n, int k, int group, int codes_step, int scales_step,            \
      int out_stride) {                                                                                                 \
    moe_linear<T, W<T>>(out, x, start_loc, order, codes, scales, bias, experts, divisor, n, k, group, codes_step,       \
                        scales_step, out_stride);                                                                       \
  }                                                                                                                     \
  KERNEL(moe_linear_##NAME)

MOE_LINEAR(bf16_bf16, bfloat16, Float16Bits)
MOE_LINEAR(bf16_int8, bfloat16, Int8)
MOE_LINEAR(bf16_int4, bfloat16, Int4)
MOE_LINEAR(bf16_e4m3, bfloat16, E4m3, 2)
MOE_LINEAR(f16_f16, float16, Float16Bits)
MOE_LINEAR(f16_int8, float16, Int8)
MOE_LINEAR(f16_int4, float16, Int4)
MOE_LINEAR(f16_e4m3, float16, E4m3, 2)
