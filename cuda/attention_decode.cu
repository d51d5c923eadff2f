// attention_decode_<T>_<head_dim>: one segment of attention for few rows: partial results, for
// attention_decode_combine_<T>_<head_dim>, which folds a row's segments in ascending order. See attention.cuh.
// q [tokens, q_stride], from the pointer on num_heads * head_dim elements a row · positions [tokens]
// query_start_loc [num_seqs + 1] · k_cache, v_cache [num_blocks, num_kv_heads, 16, head_dim] · block_tables, from
// block_table_start_loc[sequence] on · sinks [num_heads] or null (used by combine) · items [num_items, 3]: sequence, first row, segment
// outputs [num_items, num_kv_heads, 16, head_dim], softmax [num_items, num_kv_heads, 16, 2] (maximum and sum), float32
// tiles [num_tiles, 4]: sequence, first row, its first item, their number (segments ascending)
// out [tokens, num_heads * head_dim]
// Launch: (num_items, num_kv_heads) thread blocks of 32, 256 * (head_dim + 8) bytes of dynamic shared memory,
// and 8192 more where head_dim is above 128;
// combine: (num_tiles, num_kv_heads, 16) thread blocks of 128. Caches aligned to 16 bytes, q to 4.
// Bytes: K and V of a segment once per KV head (all query heads of it share them) + 4 * 16 * head_dim of partials.
// Oracle: reference.attention
#include "attention.cuh"

template <class T, int HEAD_DIM>
__device__ void attention_segment(const Attention<T>& a, float* outputs, float* softmax, const int* items) {
  DYNAMIC_SHARED(shared);
  T* ring = reinterpret_cast<T*>(shared);
  constexpr int STAGE = 2 * tile_elements<HEAD_DIM>();
  int lane = threadIdx.x, item = blockIdx.x, kv_head = blockIdx.y;
  int sequence = items[item * 3], first_row = items[item * 3 + 1], segment = items[item * 3 + 2];
  Rows rows = rows_of(a, sequence, kv_head, first_row, lane);
  Span span = span_of(a, sequence, first_row, WARP_ROWS);
  Query<HEAD_DIM> query;
  query.load(a, rows, lane, shared + STAGES * STAGE * sizeof(T));
  int first = max(span.first, segment * SEGMENT) / TILE * TILE;
  int last = min(span.last, segment * SEGMENT + SEGMENT - 1);

  Softmax<HEAD_DIM> state;
  state.clear();
  start_tile<T, HEAD_DIM, 32>(ring, a, sequence, kv_head, first, span);
  commit_copies();
  for (int start = first, stage = 0; start <= last; start += TILE, stage ^= 1) {
    if (start + TILE <= last)
      start_tile<T, HEAD_DIM, 32>(ring + (stage ^ 1) * STAGE, a, sequence, kv_head, start + TILE, span);
    commit_copies();
    wait_copies<1>();
    __syncwarp();
    attend<T, HEAD_DIM>(state, query, ring + stage * STAGE, a, rows, start, lane);
    __syncwarp();  // the stage is overwritten next
  }
  wait_copies<0>();
  state.finish();

  size_t place = (static_cast<size_t>(item) * a.num_kv_heads + kv_head) * WARP_ROWS;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    size_t row = place + lane / 4 + half * 8;
    if (lane % 4 == 0) {
      softmax[row * 2] = state.largest[half];
      softmax[row * 2 + 1] = state.total[half];
    }
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i++)
      *reinterpret_cast<float2*>(outputs + row * HEAD_DIM + i * 8 + lane % 4 * 2) =
          make_float2(state.output[i][half * 2], state.output[i][half * 2 + 1]);
  }
}

template <class T, int HEAD_DIM>
__device__ void combine(T* out, const float* outputs, const float* softmax, const int* tiles, const int* query_start_loc,
                        const float* sinks, int num_heads, int num_kv_heads) {
  int kv_head = blockIdx.y, line = blockIdx.z, group = num_heads / num_kv_heads;
  const int* tile = tiles + blockIdx.x * 4;
  int row = tile[1] + line, start = query_start_loc[tile[0]];
  if (row >= (query_start_loc[tile[0] + 1] - start) * group) return;
  int head = kv_head * group + row % group;
  T* target = out + (static_cast<size_t>(start + row / group) * num_heads + head) * HEAD_DIM;
  for (int i = threadIdx.x; i < HEAD_DIM; i += 128) {
    float largest = LOWEST, total = 0, output = 0;
    for (int item = tile[2]; item < tile[2] + tile[3]; item++) {
      size_t place = (static_cast<size_t>(item) * num_kv_heads + kv_head) * WARP_ROWS + line;
      Fold f = start_fold(largest, softmax[place * 2]);
      largest = f.largest;
      total = fold(f, total, softmax[place * 2 + 1]);
      output = fold(f, output, outputs[place * HEAD_DIM + i]);
    }
    Ending end = end_row(largest, total, sinks, head);
    target[i] = from_float<T>(output * end.share / end.total);
  }
}

#define ATTENTION_DECODE(NAME, T, HEAD_DIM)                                                                             \
  extern "C" __global__ void __launch_bounds__(32) attention_decode_##NAME(                                             \
      float* outputs, float* softmax, const int* items, ATTENTION_PARAMETERS(T)) {                                      \
    attention_segment<T, HEAD_DIM>(ATTENTION_ARGUMENTS, outputs, softmax, items);                                       \
  }                                                                                                                     \
  KERNEL(attention_decode_##NAME)                                                                                       \
  extern "C" __global__ void __launch_bounds__(128) attention_decode_combine_##NAME(                                    \
      T* out, const float* outputs, const float* softmax, const int* tiles, const int* query_start_loc,                 \
      const float* sinks, int num_heads, int num_kv_heads) {                                                            \
    combine<T, HEAD_DIM>(out, outputs, softmax, tiles, query_start_loc, sinks, num_heads, num_kv_heads);                \
  }                                                                                                                     \
  KERNEL(attention_decode_combine_##NAME)

ATTENTION_DECODE(bf16_16, bfloat16, 16)
ATTENTION_DECODE(bf16_32, bfloat16, 32)
ATTENTION_DECODE(bf16_64, bfloat16, 64)
ATTENTION_DECODE(bf16_80, bfloat16, 80)
ATTENTION_DECODE(bf16_96, bfloat16, 96)
ATTENTION_DECODE(bf16_112, bfloat16, 112)
ATTENTION_DECODE(bf16_128, bfloat16, 128)
ATTENTION_DECODE(bf16_192, bfloat16, 192)
ATTENTION_DECODE(bf16_256, bfloat16, 256)
ATTENTION_DECODE(f16_64, float16, 64)
ATTENTION_DECODE(f16_128, float16, 128)
ATTENTION_DECODE(f16_256, float16, 256)
