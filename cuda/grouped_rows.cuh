// Rows of experts: which tile of which expert a thread block has, and where its rows are.
#pragma once
#include "many_rows.cuh"

// Choices first … first + count - 1 of `order` belong to the tile; count 0: there is no such tile.
struct ExpertTile {
  int expert, first, count;
};

// Tiles are numbered through the experts, ROWS choices each; who asks for one too many has nothing to do.
template <int ROWS> __device__ __forceinline__ ExpertTile find_tile(const int* start_loc, int experts, int tile) {
  int lane = threadIdx.x % 32;
  for (int base = 0; base < experts; base += 32) {
    int expert = min(base + lane, experts - 1), start = start_loc[expert];
    int count = base + lane < experts ? start_loc[expert + 1] - start : 0;
    int end = (count + ROWS - 1) / ROWS;  // of its tiles, among those of these 32 experts
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      int other = __shfl_up_sync(ALL_LANES, end, distance);
      if (lane >= distance) end += other;
    }
    unsigned behind = __ballot_sync(ALL_LANES, end > tile);
    if (behind) {
      int found = __ffs(static_cast<int>(behind)) - 1;
      int first_tile = found ? __shfl_sync(ALL_LANES, end, found - 1) : 0;
      int row = (tile - first_tile) * ROWS;
      return {base + found, __shfl_sync(ALL_LANES, start, found) + row,
              min(ROWS, __shfl_sync(ALL_LANES, count, found) - row)};
    }
    tile -= __shfl_sync(ALL_LANES, end, 31);
  }
  return {0, 0, 0};
}

// Columns of a packed matrix with k columns.
__device__ __forceinline__ int packed_columns(int k) { return (k + PAIR_COLUMNS - 1) / PAIR_COLUMNS * PAIR_COLUMNS; }

// The row of x of each choice: its token's, or its own where `divisor` is 1.
template <class T> struct ChosenRows {
  const T* x;
  const int* order;
  int count, divisor, k;
  __device__ __forceinline__ const T* find(int row) const {
    return row < count ? x + static_cast<size_t>(order[row] / divisor) * k : nullptr;
  }
};
