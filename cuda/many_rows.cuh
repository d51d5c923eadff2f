// Products of any number of rows with packed weights: what linear_many, gated_many and moe_* share.
//
// A warp has two panels (16 outputs each) and all 64 rows of the tile; weights go from memory to registers, rows through a
// ring of three chunks of 64 columns in shared memory. The bits are those of few_rows.cuh.
#pragma once
#include "weights.cuh"

constexpr int TILE_ROWS = 64;
constexpr int CHUNK = 64;
constexpr int STRIDE = CHUNK + 8;  // elements: rows of ldmatrix on different banks
constexpr int STAGES = 3;
constexpr int WARP_PANELS = 2;
constexpr int ROW_GROUPS = TILE_ROWS / 8;

// What a warp multiplies: a panel of a packed matrix.
struct Panel {
  const uint32_t* codes;
  const float* scales;
  int number;
  bool is_there;
};

// Rows from `first` on, one behind the other.
template <class T> struct Rows {
  const T* x;
  int first, count, k;
  // Row `row` of the tile, or null.
  __device__ __forceinline__ const T* find(int row) const {
    return first + row < count ? x + static_cast<size_t>(first + row) * k : nullptr;
  }
};

template <class T, class ROWS>
__device__ __forceinline__ void start_chunk(T* stage, const T* any, const ROWS& rows, int column) {
  for (int piece = threadIdx.x; piece < TILE_ROWS * CHUNK / 8; piece += 128) {
    int row = piece / (CHUNK / 8), offset = piece % (CHUNK / 8) * 8;
    const T* source = rows.find(row);
    bool is_inside = source && column + offset < rows.k;
    start_copy(stage + row * STRIDE + offset, is_inside ? source + column + offset : any, is_inside);
  }
}

// Rows have rows.k columns, the panels k: a multiple of PAIR_COLUMNS, not less; what rows lack counts as zeros.
// totals[p][g][i]: panel p, output lane / 4 + i / 2 * 8, row g * 8 + lane % 4 * 2 + i % 2.
template <class T, class W, class ROWS>
__device__ __forceinline__ void multiply_rows(float (&totals)[WARP_PANELS][ROW_GROUPS][4], T* ring, const T* any,
                                              const ROWS& rows, const Panel (&panels)[WARP_PANELS], int k, int group) {
  int lane = threadIdx.x % 32, pairs = k / PAIR_COLUMNS, chunks = (k + CHUNK - 1) / CHUNK;
  float sums[WARP_PANELS][ROW_GROUPS][4] = {};

  for (int chunk = 0; chunk < STAGES - 1; chunk++) {
    if (chunk < chunks) start_chunk(ring + chunk * TILE_ROWS * STRIDE, any, rows, chunk * CHUNK);
    commit_copies();
  }
  for (int chunk = 0; chunk < chunks; chunk++) {
    wait_copies<STAGES - 2>();
    __syncthreads();  // the chunk is there for all, and nobody reads the one that is overwritten now
    int next = chunk + STAGES - 1;
    if (next < chunks) start_chunk(ring + next % STAGES * TILE_ROWS * STRIDE, any, rows, next * CHUNK);
    commit_copies();

    const T* tile = ring + chunk % STAGES * TILE_ROWS * STRIDE;
    const T* matrix_row = tile + ((lane & 7) + (lane >> 4) * 8) * STRIDE + (lane >> 3 & 1) * 8;
    for (int pair = chunk * (CHUNK / PAIR_COLUMNS); pair < min(pairs, (chunk + 1) * (CHUNK / PAIR_COLUMNS)); pair++) {
      int column = pair * PAIR_COLUMNS - chunk * CHUNK;
#pragma unroll
      for (int p = 0; p < WARP_PANELS; p++) {
        if (!panels[p].is_there) break;
        FragmentPair left = W::load(panels[p].codes, panels[p].scales, panels[p].number, pair, pairs, group, lane);
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
}
