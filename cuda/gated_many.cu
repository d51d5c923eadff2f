// gated_many_<T>_<W>_<activation>, any number of rows:
// out = act(x @ gate^T + gate_bias) * (x @ up^T + up_bias)
// Both products are rounded to T before the activation and the result once more: the bits are those of linear_many and
// act_and_mul. x [rows, k] of T · gate, up [width, k] packed alike (weights.cuh) · biases [width] of float32 or null
// out [rows, width] of T
// Launch: (ceil(width / 64), ceil(rows / 64)) thread blocks of 128. Needs k % 32 == 0, x and codes aligned to 16 bytes.
// A warp has a panel of the gate and the same one of the other matrix. Order of sums: many_rows.cuh.
// Bytes: both packed matrices once per 64 rows, x once per 64 outputs (L2). Oracle: numpy, ACTIVATIONS
#include "activations.cuh"
#include "many_rows.cuh"

template <class T, class W, class Activation>
__device__ void gated_many(T* out, const T* x, const uint32_t* gate_codes, const float* gate_scales, const float* gate_bias,
                           const uint32_t* up_codes, const float* up_scales, const float* up_bias, int rows, int width,
                           int k, int group) {
  SHARED(T, ring, STAGES * TILE_ROWS * STRIDE);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first_row = blockIdx.y * TILE_ROWS;
  int panel = blockIdx.x * 4 + warp;
  bool is_there = panel * PANEL_ROWS < width;
  float totals[WARP_PANELS][ROW_GROUPS][4] = {};
  const Panel pair[WARP_PANELS] = {{gate_codes, gate_scales, panel, is_there}, {up_codes, up_scales, panel, is_there}};
  multiply_rows<T, W>(totals, ring, x, Rows<T>{x, first_row, rows, k}, pair, k, group);

#pragma unroll
  for (int g = 0; g < ROW_GROUPS; g++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int output = panel * PANEL_ROWS + lane / 4 + i / 2 * 8, row = first_row + g * 8 + lane % 4 * 2 + i % 2;
      if (output >= width || row >= rows) continue;
      float gate = rounded<T>(totals[0][g][i] + (gate_bias ? gate_bias[output] : 0.0f));
      float up = rounded<T>(totals[1][g][i] + (up_bias ? up_bias[output] : 0.0f));
      out[static_cast<size_t>(row) * width + output] = from_float<T>(activate_gated<Activation>(gate, up));
    }
}

#define GATED_MANY(NAME, T, W, ACTIVATION)                                                                              \
  extern "C" __global__ void __launch_bounds__(128) gated_many_##NAME(                                                  \
      T* out, const T* x, const uint32_t* gate_codes, const float* gate_scales, const float* gate_bias,                 \
      const uint32_t* up_codes, const float* up_scales, const float* up_bias, int rows, int width, int k, int group) {  \
    gated_many<T, W<T>, ACTIVATION>(out, x, gate_codes, gate_scales, gate_bias, up_codes, up_scales, up_bias, rows,     \
                                    width, k, group);                                                                   \
  }                                                                                                                     \
  KERNEL(gated_many_##NAME)

GATED_MANY(bf16_bf16_silu, bfloat16, Float16Bits, Silu)
GATED_MANY(bf16_bf16_gelu_tanh, bfloat16, Float16Bits, GeluTanh)
GATED_MANY(bf16_int8_silu, bfloat16, Int8, Silu)
GATED_MANY(bf16_int8_gelu_tanh, bfloat16, Int8, GeluTanh)
GATED_MANY(bf16_int4_silu, bfloat16, Int4, Silu)
GATED_MANY(bf16_int4_gelu_tanh, bfloat16, Int4, GeluTanh)
GATED_MANY(bf16_e4m3_silu, bfloat16, E4m3, Silu)
GATED_MANY(bf16_e4m3_gelu_tanh, bfloat16, E4m3, GeluTanh)
GATED_MANY(f16_f16_silu, float16, Float16Bits, Silu)
GATED_MANY(f16_f16_gelu_tanh, float16, Float16Bits, GeluTanh)
GATED_MANY(f16_int8_silu, float16, Int8, Silu)
GATED_MANY(f16_int8_gelu_tanh, float16, Int8, GeluTanh)
GATED_MANY(f16_int4_silu, float16, Int4, Silu)
GATED_MANY(f16_int4_gelu_tanh, float16, Int4, GeluTanh)
GATED_MANY(f16_e4m3_silu, float16, E4m3, Silu)
GATED_MANY(f16_e4m3_gelu_tanh, float16, E4m3, GeluTanh)
