// gated_few_<T>_<W>_<activation>, 1 … 8 rows:
// out = act(x @ gate^T + gate_bias) * (x @ up^T + up_bias)
// Both products are rounded to T before the activation and the result once more: the bits are those of linear_few and
// act_and_mul. x [rows, k] of T · gate, up [width, k] packed alike (weights.cuh) · biases [width] of float32 or null
// out [rows, width] of T
// Launch: (ceil(width / 16)) thread blocks of 128, 2 * ceil(k / 512) * 512 bytes of dynamic shared memory. Needs
// k % 32 == 0, x aligned to 4 bytes, codes to 16. Order of sums: few_rows.cuh.
// Bytes: both packed matrices once; the products of `rows * width` never leave the chip. Oracle: numpy, ACTIVATIONS
#include "activations.cuh"
#include "few_rows.cuh"

template <class T, class W, class Activation>
__device__ void gated_few(T* out, const T* x, const uint32_t* gate_codes, const float* gate_scales, const float* gate_bias,
                          const uint32_t* up_codes, const float* up_scales, const float* up_bias, int rows, int width,
                          int k, int group) {
  DYNAMIC_SHARED(shared);
  float* gates = reinterpret_cast<float*>(shared);
  float* ups = gates + (k + SLICE_COLUMNS - 1) / SLICE_COLUMNS * (PANEL_ROWS * MAX_ROWS);
  stream_panel<T, W>(gates, x, gate_codes, gate_scales, blockIdx.x, rows, k, group);
  stream_panel<T, W>(ups, x, up_codes, up_scales, blockIdx.x, rows, k, group);
  __syncthreads();

  int output = blockIdx.x * PANEL_ROWS + threadIdx.x / MAX_ROWS, token = threadIdx.x % MAX_ROWS;
  if (output >= width || token >= rows) return;
  float gate = rounded<T>(panel_total(gates, k) + (gate_bias ? gate_bias[output] : 0.0f));
  float up = rounded<T>(panel_total(ups, k) + (up_bias ? up_bias[output] : 0.0f));
  out[static_cast<size_t>(token) * width + output] = from_float<T>(activate_gated<Activation>(gate, up));
}

#define GATED_FEW(NAME, T, W, ACTIVATION)                                                                               \
  extern "C" __global__ void __launch_bounds__(128) gated_few_##NAME(                                                   \
      T* out, const T* x, const uint32_t* gate_codes, const float* gate_scales, const float* gate_bias,                 \
      const uint32_t* up_codes, const float* up_scales, const float* up_bias, int rows, int width, int k, int group) {  \
    gated_few<T, W<T>, ACTIVATION>(out, x, gate_codes, gate_scales, gate_bias, up_codes, up_scales, up_bias, rows,      \
                                   width, k, group);                                                                    \
  }                                                                                                                     \
  KERNEL(gated_few_##NAME)

GATED_FEW(bf16_bf16_silu, bfloat16, Float16Bits, Silu)
GATED_FEW(bf16_bf16_gelu_tanh, bfloat16, Float16Bits, GeluTanh)
GATED_FEW(bf16_int8_silu, bfloat16, Int8, Silu)
GATED_FEW(bf16_int8_gelu_tanh, bfloat16, Int8, GeluTanh)
GATED_FEW(bf16_int4_silu, bfloat16, Int4, Silu)
GATED_FEW(bf16_int4_gelu_tanh, bfloat16, Int4, GeluTanh)
GATED_FEW(bf16_e4m3_silu, bfloat16, E4m3, Silu)
GATED_FEW(bf16_e4m3_gelu_tanh, bfloat16, E4m3, GeluTanh)
GATED_FEW(f16_f16_silu, float16, Float16Bits, Silu)
GATED_FEW(f16_f16_gelu_tanh, float16, Float16Bits, GeluTanh)
GATED_FEW(f16_int8_silu, float16, Int8, Silu)
GATED_FEW(f16_int8_gelu_tanh, float16, Int8, GeluTanh)
GATED_FEW(f16_int4_silu, float16, Int4, Silu)
GATED_FEW(f16_int4_gelu_tanh, float16, Int4, GeluTanh)
GATED_FEW(f16_e4m3_silu, float16, E4m3, Silu)
GATED_FEW(f16_e4m3_gelu_tanh, float16, E4m3, GeluTanh)
