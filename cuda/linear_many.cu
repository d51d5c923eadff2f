// linear_many_<T>_<W>_<OUT>: out = x @ weight^T + bias for any number of rows, rounded once to OUT
// x [rows, k] of T · weight [n, k] packed (weights.cuh; `group` is int8's) · bias [n] of float32 or null
// out [rows, out_stride] of OUT, n columns of it from the pointer on
// Launch: (ceil(n / 128), ceil(rows / 64)) thread blocks of 128. Needs k % 32 == 0, x and codes aligned to 16 bytes.
// A warp has two panels (32 outputs) and all 64 rows of the tile; weights go from memory to registers, x through a ring of
// three chunks of 64 columns in shared memory. The bits are those of linear_few.
// Bytes: the packed matrix once per 64 rows, x once per 128 outputs (L2). Oracle: numpy matmul over dequantized weights
#include "weights.cuh"

constexpr int TILE_ROWS = 64;
constexpr int CHUNK = 64;
constexpr int STRIDE = CHUNK + 8;  // elements: rows of ldmatrix on different banks
constexpr int STAGES = 3;
constexpr int WARP_PANELS = 2;
constexpr int ROW_GROUPS = TILE_ROWS / 8;

template <class T>
__device__ __forceinline__ void start_chunk(T* stage, const T* x, int first_row, int rows, int column, int k) {
  for (int piece = threadIdx.x; piece < TILE_ROWS * CHUNK / 8; piece += 128) {
    int row = piece / (CHUNK / 8), offset = piece % (CHUNK / 8) * 8;
    bool is_inside = first_row + row < rows && column + offset < k;
    const T* source = is_inside ? x + static_cast<size_t>(first_row + row) * k + column + offset : x;
    start_copy(stage + row * STRIDE + offset, source, is_inside);
  }
}

template <class T, class W, class OUT>
__device__ void linear_many(OUT* out, const T* x, const uint32_t* codes, const float* scales, const float* bias, int rows,
                            int n, int k, int group, int out_stride) {
  SHARED(T, ring, STAGES * TILE_ROWS * STRIDE);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first_row = blockIdx.y * TILE_ROWS;
  int first_panel = (blockIdx.x * 4 + warp) * WARP_PANELS, panels = (n + PANEL_ROWS - 1) / PANEL_ROWS;
  int pairs = k / PAIR_COLUMNS, chunks = (k + CHUNK - 1) / CHUNK;
  float totals[WARP_PANELS][ROW_GROUPS][4] = {}, sums[WARP_PANELS][ROW_GROUPS][4] = {};

  for (int chunk = 0; chunk < STAGES - 1; chunk++) {
    if (chunk < chunks) start_chunk(ring + chunk * TILE_ROWS * STRIDE, x, first_row, rows, chunk * CHUNK, k);
    commit_copies();
  }
  for (int chunk = 0; chunk < chunks; chunk++) {
    wait_copies<STAGES - 2>();
    __syncthreads();  // the chunk is there for all, and nobody reads the one that is overwritten now
    int next = chunk + STAGES - 1;
    if (next < chunks) start_chunk(ring + next % STAGES * TILE_ROWS * STRIDE, x, first_row, rows, next * CHUNK, k);
    commit_copies();

    const T* tile = ring + chunk % STAGES * TILE_ROWS * STRIDE;
    const T* matrix_row = tile + ((lane & 7) + (lane >> 4) * 8) * STRIDE + (lane >> 3 & 1) * 8;
    for (int pair = chunk * (CHUNK / PAIR_COLUMNS); pair < min(pairs, (chunk + 1) * (CHUNK / PAIR_COLUMNS)); pair++) {
      int column = pair * PAIR_COLUMNS - chunk * CHUNK;
#pragma unroll
      for (int p = 0; p < WARP_PANELS; p++) {
        if (first_panel + p >= panels) break;
        FragmentPair left = W::load(codes, scales, first_panel + p, pair, pairs, group, lane);
#pragma unroll
        for (int g = 0; g < ROW_GROUPS; g += 2) {
          uint32_t right[4];
          load_matrices(right, matrix_row + g * 8 * STRIDE + column);
          multiply_add<T>(sums[p][g], left.low, right[0], right[1]);
          multiply_add<T>(sums[p][g + 1], left.low, right[2], right[3]);
          load_matrices(right, matrix_row + g * 8 * STRIDE + column + 16);
          multiply_add<T>(sums[p][g], left.high, right[0], right[1]);
          multiply_add<T>(sums[p][g + 1], left.high, right[2], right[3]);
        }
      }
    }
    if ((chunk + 1) % (SLICE_COLUMNS / CHUNK) == 0 || chunk + 1 == chunks) {
#pragma unroll
      for (int p = 0; p < WARP_PANELS; p++)
#pragma unroll
        for (int g = 0; g < ROW_GROUPS; g++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            totals[p][g][i] += sums[p][g][i];
            sums[p][g][i] = 0;
          }
    }
  }
  wait_copies<0>();

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

#define LINEAR_MANY(NAME, T, W, OUT)                                                                                 \
  extern "C" __global__ void __launch_bounds__(128) linear_many_##NAME(                                              \
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
