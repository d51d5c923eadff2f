// Products of 1 … 8 rows with packed weights: what linear_few and gated_few share.
//
// A warp streams whole slices of a panel (weights are the left operand, the rows are the 8 columns); the thread block
// adds the slices in ascending order. The bits are those of many_rows.cuh.
#pragma once
#include "weights.cuh"

constexpr int WARPS = 4;
constexpr int MAX_ROWS = 8;

// A panel's products, partial [slices][16][8] in shared memory; a barrier must follow.
template <class T, class W>
__device__ __forceinline__ void stream_panel(float* partial, const T* x, const uint32_t* codes, const float* scales, int panel,
                                             int rows, int k, int group) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
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
}

// Of thread t: output t / 8 of the panel, row t % 8.
__device__ __forceinline__ float panel_total(const float* partial, int k) {
  float total = 0;
  for (int slice = 0; slice < (k + SLICE_COLUMNS - 1) / SLICE_COLUMNS; slice++)
    total += partial[slice * (PANEL_ROWS * MAX_ROWS) + threadIdx.x];
  return total;
}
