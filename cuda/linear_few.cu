// linear_few_<T>_<W>_<OUT>: out = x @ weight^T + bias for 1 … 8 rows, rounded once to OUT
// x [rows, k] of T · weight [n, k] packed (weights.cuh; `group` is int8's) · bias [n] of float32 or null
// out [rows, out_stride] of OUT, n columns of it from the pointer on
// Launch: (ceil(n / 16)) thread blocks of 128, ceil(k / 512) * 512 bytes of dynamic shared memory. Needs k % 32 == 0,
// x aligned to 4 bytes, codes to 16.
// A warp streams whole slices of a panel (weights are the left operand, the rows are the 8 columns); the thread block
// adds the slices in ascending order. The bits are those of linear_many.
// Bytes: the packed matrix once; x from L1 and L2. Oracle: numpy matmul over the dequantized weights
#include "weights.cuh"

constexpr int WARPS = 4;
constexpr int MAX_ROWS = 8;

template <class T, class W, class OUT>
__device__ void linear_few(OUT* out, const T* x, const uint32_t* codes, const float* scales, const float* bias, int rows,
                           int n, int k, int group, int out_stride) {
  DYNAMIC_SHARED(shared);
  float* partial = reinterpret_cast<float*>(shared);  // [slices][16][8]
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, panel = blockIdx.x;
  int pairs = k / PAIR_COLUMNS, slices = (k + SLICE_COLUMNS - 1) / SLICE_COLUMNS;
  int row = lane / 4, column = lane % 4 * 2;
  bool has_row = row < rows;
  const T* x_row = x + static_cast<size_t>(has_row ? row : 0) * k + column;

  for (int slice = warp; slice < slices; slice += WARPS) {
    int end = min(pairs, (slice + 1) * (SLICE_COLUMNS / PAIR_COLUMNS));
    float sums[4] = {};
#pragma unroll 4
    for (int pair = slice * (SLICE_COLUMNS / PAIR_COLUMNS); pair < end; pair++) {
      FragmentPair left = W::load(codes, scales, panel, pair, pairs, group, lane);
      uint32_t right[4] = {};
      if (has_row)
        for (int i = 0; i < 4; i++) right[i] = *reinterpret_cast<const uint32_t*>(x_row + pair * PAIR_COLUMNS + i * 8);
      multiply_add<T>(sums, left.low, right[0], right[1]);
      multiply_add<T>(sums, left.high, right[2], right[3]);
    }
    float* target = partial + slice * (PANEL_ROWS * MAX_ROWS);
    for (int i = 0; i < 4; i++) target[(row + i / 2 * 8) * MAX_ROWS + column + i % 2] = sums[i];
  }
  __syncthreads();

  int output = panel * PANEL_ROWS + static_cast<int>(threadIdx.x) / MAX_ROWS, token = threadIdx.x % MAX_ROWS;
  if (output >= n || token >= rows) return;
  float total = 0;
  for (int slice = 0; slice < slices; slice++) total += partial[slice * (PANEL_ROWS * MAX_ROWS) + threadIdx.x];
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
