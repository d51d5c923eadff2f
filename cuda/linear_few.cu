// linear_few_<T>_<W>_<OUT>: out = x @ weight^T + bias for 1 … 8 rows, rounded once to OUT
// x [rows, k] of T · weight [n, k] packed (weights.cuh; `group` is int8's) · bias [n] of float32 or null
// out [rows, out_stride] of OUT, n columns of it from the pointer on
// Launch: (ceil(n / 16)) thread blocks of 128, ceil(k / 512) * 512 bytes of dynamic shared memory. Needs k % 32 == 0,
// x aligned to 4 bytes, codes to 16.
// The bits are those of linear_many; see few_rows.cuh.
// Bytes: the packed matrix once; x from L1 and L2. Oracle: numpy matmul over the dequantized weights
#include "few_rows.cuh"

template <class T, class W, class OUT>
__device__ void linear_few(OUT* out, const T* x, const uint32_t* codes, const float* scales, const float* bias, int rows,
                           int n, int k, int group, int out_stride) {
  DYNAMIC_SHARED(shared);
  float* partial = reinterpret_cast<float*>(shared);
  stream_panel<T, W>(partial, x, codes, scales, blockIdx.x, rows, k, group);
  __syncthreads();

  int output = blockIdx.x * PANEL_ROWS + threadIdx.x / MAX_ROWS, token = threadIdx.x % MAX_ROWS;
  if (output >= n || token >= rows) return;
  float total = panel_total(partial, k);
  out[static_cast<size_t>(token) * out_stride + output] = from_float<OUT>(total + (bias ? bias[output] : 0.0f));
}

#define LINEAR_FEW(NAME, T, W, OUT)                                                                                  \
  extern "C" __global__ void __launch_bounds__(128) linear_few_##NAME(                                               \
      OUT* out, const T* x, const uint32_t* codes, const float* scales, const float* bias, int rows, int n, int k,   \
      int group, int out_stride) {                                                                                                   \
    linear_few<T, W<T>, OUT>(out, x, codes, scales, bias, rows, n, k, group, out_stride);                                        \
  }                                                                                                                  \
  KERNEL(linear_few_##NAME)

LINEAR_FEW(bf16_bf16_bf16, bfloat16, Float16Bits, bfloat16)
LINEAR_FEW(bf16_int8_bf16, bfloat16, Int8, bfloat16)
LINEAR_FEW(bf16_int4_bf16, bfloat16, Int4, bfloat16)
LINEAR_FEW(bf16_bf16_f32, bfloat16, Float16Bits, float)
LINEAR_FEW(bf16_int8_f32, bfloat16, Int8, float)
LINEAR_FEW(bf16_int4_f32, bfloat16, Int4, float)
LINEAR_FEW(f16_f16_f16, float16, Float16Bits, float16)
LINEAR_FEW(f16_int8_f16, float16, Int8, float16)
LINEAR_FEW(f16_int4_f16, float16, Int4, float16)
LINEAR_FEW(f16_f16_f32, float16, Float16Bits, float)
LINEAR_FEW(f16_int8_f32, float16, Int8, float)
LINEAR_FEW(f16_int4_f32, float16, Int4, float)
LINEAR_FEW(bf16_e4m3_bf16, bfloat16, E4m3, bfloat16)
LINEAR_FEW(bf16_e4m3_f32, bfloat16, E4m3, float)
LINEAR_FEW(bf16_e5m2_bf16, bfloat16, E5m2, bfloat16)
LINEAR_FEW(bf16_e5m2_f32, bfloat16, E5m2, float)
LINEAR_FEW(f16_e4m3_f16, float16, E4m3, float16)
LINEAR_FEW(f16_e4m3_f32, float16, E4m3, float)
LINEAR_FEW(f16_e5m2_f16, float16, E5m2, float16)
LINEAR_FEW(f16_e5m2_f32, float16, E5m2, float)
