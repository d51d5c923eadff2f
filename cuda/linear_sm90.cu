// linear_sm90_<T>_<OUT>_<tile>: out = x @ weight^T + bias with wgmma, rounded once to OUT; `tile` rows of x per thread block
// x [rows, k] of T and weight [n, k] of T as tensor maps, boxes [tile, 64] and [outputs, 64] · bias [n] of float32 or null
// out [rows, out_stride] of OUT, n columns of it from the pointer on
// Launch: (ceil(n / outputs), ceil(rows / tile)) thread blocks of 32 + 2 outputs threads, stages * 128 * (outputs + tile) bytes
// of dynamic shared memory; (tile, outputs, stages): (8, 64, 12), (64, 128, 6), (128, 128, 4). Needs k % 8 == 0.
// The last warp loads chunks of 64 columns into a ring; the other warpgroups have 64 outputs each (weights are the left
// operand). The order of sums is that of weights.cuh, k by k16 in slices of 512, whatever the tile: rows may choose it.
// Inside of one instruction wgmma may sum otherwise than mma.sync, so a weight belongs to this file or to linear_few and
// linear_many for all numbers of rows.
// Bytes: weight once per `tile` rows, x once per `outputs` (L2). Oracle: numpy matmul
#include "primitives_sm90.cuh"

constexpr int CHUNK = 64;
constexpr int CHUNK_BYTES = 2 * CHUNK;  // of a row
constexpr int SLICE_CHUNKS = 512 / CHUNK;

template <class T, class OUT, int TILE, int OUTPUTS, int STAGES>
__device__ void linear_sm90(OUT* out, const TensorMap& weight, const TensorMap& x, const float* bias, int rows, int n,
                            int k, int out_stride) {
  constexpr int CONSUMERS = 2 * OUTPUTS, STAGE_BYTES = (OUTPUTS + TILE) * CHUNK_BYTES;
  SWIZZLED_SHARED(shared);
  SHARED(MemoryBarrier, full, STAGES);
  SHARED(MemoryBarrier, empty, STAGES);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, chunks = (k + CHUNK - 1) / CHUNK;
  int first_output = blockIdx.x * OUTPUTS, first_row = blockIdx.y * TILE;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      initialise_barrier(full + stage, 1);
      initialise_barrier(empty + stage, CONSUMERS / 32);
    }
    fence_barriers();
  }
  __syncthreads();

  if (warp == CONSUMERS / 32) {
    if (lane) return;
    for (int chunk = 0, stage = 0, round = 0; chunk < chunks; chunk++) {
      unsigned char* target = shared + stage * STAGE_BYTES;
      wait_for(empty + stage, (round & 1) ^ 1);
      arrive_and_expect(full + stage, STAGE_BYTES);
      start_load(target, weight, full + stage, chunk * CHUNK, first_output);
      start_load(target + OUTPUTS * CHUNK_BYTES, x, full + stage, chunk * CHUNK, first_row);
      if (++stage == STAGES) stage = 0, round++;
    }
    return;
  }

  float totals[TILE / 2], sums[TILE / 2];
#pragma unroll
  for (int i = 0; i < TILE / 2; i++) totals[i] = sums[i] = 0;
  for (int first = 0, stage = 0, round = 0; first < chunks; first += SLICE_CHUNKS) {
    int last_stage = stage;
    for (int chunk = first; chunk < min(chunks, first + SLICE_CHUNKS); chunk++) {
      const unsigned char* tile = shared + stage * STAGE_BYTES;
      uint64_t left = tile_descriptor(tile + warp / 4 * 64 * CHUNK_BYTES);
      uint64_t right = tile_descriptor(tile + OUTPUTS * CHUNK_BYTES);
      wait_for(full + stage, round & 1);
      fence_products();
#pragma unroll
      for (int step = 0; step < CHUNK / 16; step++)
        start_product<T>(sums, left + step * 2, right + step * 2, chunk > first || step > 0);
      commit_products();
      wait_products<1>(sums);  // this chunk's may run on; the stage of the one before is free
      if (lane == 0 && chunk > first) arrive(empty + last_stage);
      last_stage = stage;
      if (++stage == STAGES) stage = 0, round++;
    }
    wait_products<0>(sums);
    if (lane == 0) arrive(empty + last_stage);
#pragma unroll
    for (int i = 0; i < TILE / 2; i++) totals[i] += sums[i];
  }

  // Through shared memory, so that neighbours in a row are stored together.
  sync_threads(1, CONSUMERS);  // nobody reads the ring any more
  OUT* staged = reinterpret_cast<OUT*>(shared);  // [TILE][OUTPUTS]
#pragma unroll
  for (int i = 0; i < TILE / 2; i++) {
    int output = warp * 16 + lane / 4 + i / 2 % 2 * 8, row = i / 4 * 8 + lane % 4 * 2 + i % 2;
    float value = totals[i] + (bias && first_output + output < n ? bias[first_output + output] : 0.0f);
    staged[row * OUTPUTS + output] = from_float<OUT>(value);
  }
  sync_threads(1, CONSUMERS);
  for (int i = threadIdx.x; i < TILE * OUTPUTS; i += CONSUMERS) {
    int output = first_output + i % OUTPUTS, row = first_row + i / OUTPUTS;
    if (output < n && row < rows) out[static_cast<size_t>(row) * out_stride + output] = staged[i];
  }
}

#define LINEAR_SM90(NAME, T, OUT, TILE, OUTPUTS, STAGES)                                                                 \
  extern "C" __global__ void __launch_bounds__(32 + 2 * OUTPUTS, 1) linear_sm90_##NAME(                                 \
      OUT* out, const __grid_constant__ TensorMap weight, const __grid_constant__ TensorMap x, const float* bias,       \
      int rows, int n, int k, int out_stride) {                                                                         \
    linear_sm90<T, OUT, TILE, OUTPUTS, STAGES>(out, weight, x, bias, rows, n, k, out_stride);                           \
  }                                                                                                                     \
  KERNEL(linear_sm90_##NAME)

LINEAR_SM90(bf16_bf16_8, bfloat16, bfloat16, 8, 64, 12)
LINEAR_SM90(bf16_bf16_64, bfloat16, bfloat16, 64, 128, 6)
LINEAR_SM90(bf16_bf16_128, bfloat16, bfloat16, 128, 128, 4)
LINEAR_SM90(bf16_f32_8, bfloat16, float, 8, 64, 12)
LINEAR_SM90(bf16_f32_64, bfloat16, float, 64, 128, 6)
LINEAR_SM90(bf16_f32_128, bfloat16, float, 128, 128, 4)
LINEAR_SM90(f16_f16_8, float16, float16, 8, 64, 12)
LINEAR_SM90(f16_f16_64, float16, float16, 64, 128, 6)
LINEAR_SM90(f16_f16_128, float16, float16, 128, 128, 4)
LINEAR_SM90(f16_f32_8, float16, float, 8, 64, 12)
LINEAR_SM90(f16_f32_64, float16, float, 64, 128, 6)
LINEAR_SM90(f16_f32_128, float16, float, 128, 128, 4)
