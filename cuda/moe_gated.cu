// moe_gated_<T>_<W>_<activation>: out[c] = act(x[c / top_k] @ gate^T + gate_bias, x[c / top_k] @ up^T + up_bias) with the
// matrices of choice c's expert; act: silu(gate) * up, or clamped_swiglu (activations.cuh)
// x [tokens, k] of T · out [tokens * top_k, width] of T · gate, up [width, k] of each expert · biases [experts, width] of
// float32 or null
// start_loc [experts + 1] and order [tokens * top_k] of moe_sort · packed matrices of all experts, one behind the other,
// codes_step and scales_step elements apart (weights.cuh)
// Launch: (ceil(width / 64), tiles) thread blocks of 128, tiles >= sum over experts of ceil(choices / 64), which
// min(tokens * top_k, tokens * top_k / 64 + experts) is. Needs k % 8 == 0, x and codes aligned to 16 bytes; the packed
// matrices have zeros up to a multiple of 32 columns.
// Both products are rounded to T first: the bits are those of gated_few and gated_many, and of moe_linear and act_and_mul. Order of sums: many_rows.cuh.
// Bytes: the matrices of the chosen experts once per 64 of their choices. Oracle: numpy, row by row
#include "activations.cuh"
#include "grouped_rows.cuh"

template <class T, class W, class Activation>
__device__ void moe_gated(T* out, const T* x, const int* start_loc, const int* order, const uint32_t* gate_codes,
                          const float* gate_scales, const float* gate_bias, const uint32_t* up_codes,
                          const float* up_scales, const float* up_bias, int experts, int top_k, int width, int k, int group,
                          int codes_step, int scales_step) {
  SHARED(T, ring, STAGES * TILE_ROWS * STRIDE);
  ExpertTile tile = find_tile<TILE_ROWS>(start_loc, experts, blockIdx.y);
  if (tile.count <= 0) return;
  int panel = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  bool is_there = panel * PANEL_ROWS < width;
  size_t codes_at = static_cast<size_t>(tile.expert) * codes_step, scales_at = static_cast<size_t>(tile.expert) * scales_step;
  float totals[WARP_PANELS][ROW_GROUPS][4] = {};
  const Panel pair[WARP_PANELS] = {{gate_codes + codes_at, gate_scales + scales_at, panel, is_there},
                                   {up_codes + codes_at, up_scales + scales_at, panel, is_there}};
  const int* choices = order + tile.first;
  multiply_rows<T, W>(totals, ring, x, ChosenRows<T>{x, choices, tile.count, top_k, k}, pair, packed_columns(k),
                      group);
  size_t bias_at = static_cast<size_t>(tile.expert) * width;

#pragma unroll
  for (int g = 0; g < ROW_GROUPS; g++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int output = panel * PANEL_ROWS + lane / 4 + i / 2 * 8, row = g * 8 + lane % 4 * 2 + i % 2;
      if (output >= width || row >= tile.count) continue;
      float gate = rounded<T>(totals[0][g][i] + (gate_bias ? gate_bias[bias_at + output] : 0.0f));
      float up = rounded<T>(totals[1][g][i] + (up_bias ? up_bias[bias_at + output] : 0.0f));
      out[static_cast<size_t>(choices[row]) * width + output] = from_float<T>(activate_gated<Activation>(gate, up));
    }
}

#define MOE_GATED(NAME, T, W, ACTIVATION)                                                                               \
  extern "C" __global__ void __launch_bounds__(128) moe_gated_##NAME(                                                   \
      T* out, const T* x, const int* start_loc, const int* order, const uint32_t* gate_codes,                           \
      const float* gate_scales, const float* gate_bias, const uint32_t* up_codes, const float* up_scales,               \
      const float* up_bias, int experts, int top_k, int width, int k, int group, int codes_step, int scales_step) {     \
    moe_gated<T, W<T>, ACTIVATION>(out, x, start_loc, order, gate_codes, gate_scales, gate_bias, up_codes, up_scales,   \
                                   up_bias, experts, top_k, width, k, group, codes_step, scales_step);                  \
  }                                                                                                                     \
  KERNEL(moe_gated_##NAME)

MOE_GATED(bf16_bf16_silu, bfloat16, Float16Bits, Silu)
MOE_GATED(bf16_bf16_clamped_swiglu, bfloat16, Float16Bits, ClampedSwiglu)
MOE_GATED(bf16_int8_silu, bfloat16, Int8, Silu)
MOE_GATED(bf16_int4_silu, bfloat16, Int4, Silu)
MOE_GATED(bf16_e4m3_silu, bfloat16, E4m3, Silu)
MOE_GATED(f16_f16_silu, float16, Float16Bits, Silu)
MOE_GATED(f16_f16_clamped_swiglu, float16, Float16Bits, ClampedSwiglu)
MOE_GATED(f16_int8_silu, float16, Int8, Silu)
MOE_GATED(f16_int4_silu, float16, Int4, Silu)
MOE_GATED(f16_e4m3_silu, float16, E4m3, Silu)
