// attention_prefill_<T>_<head_dim>: causal attention of many rows over KV blocks, this step's keys and values included
// (they are stored first). The bits are those of attention_decode and its combine. See attention.cuh.
// q [tokens, q_stride], from the pointer on num_heads * head_dim elements a row · positions [tokens]
// query_start_loc [num_seqs + 1] · k_cache, v_cache [num_blocks, num_kv_heads, 16, head_dim] · block_tables, from
// block_table_start_loc[sequence] on · sinks [num_heads] or null · tiles [num_tiles, 2]: sequence, first row (64 rows each)
// out [tokens, num_heads * head_dim]
// Launch: (num_tiles, num_kv_heads) thread blocks of 128, 256 * (head_dim + 8) + 256 * head_dim bytes of dynamic
// shared memory, the ring of tiles and the folded outputs (each thread its own), and 32768 more where head_dim is above
// 128. Caches aligned to 16 bytes, q and out to 4.
// Bytes: K and V up to the tile's last position, once per 64 rows (L2 serves most). Oracle: reference.attention
#include "attention.cuh"

constexpr int THREADS = 128;
constexpr int BLOCK_ROWS = THREADS / 32 * WARP_ROWS;

template <class T, int HEAD_DIM> __device__ void attention_prefill(const Attention<T>& a, T* out, const int* tiles) {
  DYNAMIC_SHARED(shared);
  constexpr int STAGE = 2 * tile_elements<HEAD_DIM>();
  T* ring = reinterpret_cast<T*>(shared);
  FoldedRows<HEAD_DIM, THREADS> folded(reinterpret_cast<float*>(ring + STAGES * STAGE));
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, kv_head = blockIdx.y;
  int sequence = tiles[blockIdx.x * 2], first_row = tiles[blockIdx.x * 2 + 1];
  Rows rows = rows_of(a, sequence, kv_head, first_row + warp * WARP_ROWS, lane);
  Span span = span_of(a, sequence, first_row, BLOCK_ROWS);
  Query<HEAD_DIM> query;
  unsigned char* behind = shared + STAGES * STAGE * sizeof(T) + THREADS * (HEAD_DIM / 2) * sizeof(float);
  query.load(a, rows, lane, behind + warp * Query<HEAD_DIM>::SHARED_BYTES);

  Softmax<HEAD_DIM> state;
  state.clear();

  int first = span.first / TILE * TILE;
  start_tile<T, HEAD_DIM, THREADS>(ring, a, sequence, kv_head, first, span);
  commit_copies();
  for (int start = first, stage = 0; start <= span.last; start += TILE, stage ^= 1) {
    if (start + TILE <= span.last)
      start_tile<T, HEAD_DIM, THREADS>(ring + (stage ^ 1) * STAGE, a, sequence, kv_head, start + TILE, span);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    attend<T, HEAD_DIM>(state, query, ring + stage * STAGE, a, rows, start, lane);
    if ((start + TILE) % SEGMENT == 0 || start + TILE > span.last) folded.add(state);
    __syncthreads();  // the stage is overwritten next
  }
  wait_copies<0>();
  // Looked up again: wide heads leave no registers to keep it in.
  folded.store(out, rows_of(a, sequence, kv_head, first_row + warp * WARP_ROWS, lane), a, lane);
}

#define ATTENTION_PREFILL(NAME, T, HEAD_DIM)                                                                            \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_prefill_##NAME(T* out, const int* tiles,              \
                                                                                 ATTENTION_PARAMETERS(T)) {             \
    attention_prefill<T, HEAD_DIM>(ATTENTION_ARGUMENTS, out, tiles);                                                    \
  }                                                                                                                     \
  KERNEL(attention_prefill_##NAME)

ATTENTION_PREFILL(bf16_16, bfloat16, 16)
ATTENTION_PREFILL(bf16_32, bfloat16, 32)
ATTENTION_PREFILL(bf16_64, bfloat16, 64)
ATTENTION_PREFILL(bf16_80, bfloat16, 80)
ATTENTION_PREFILL(bf16_96, bfloat16, 96)
ATTENTION_PREFILL(bf16_112, bfloat16, 112)
ATTENTION_PREFILL(bf16_128, bfloat16, 128)
ATTENTION_PREFILL(bf16_192, bfloat16, 192)
ATTENTION_PREFILL(bf16_256, bfloat16, 256)
ATTENTION_PREFILL(f16_64, float16, 64)
ATTENTION_PREFILL(f16_128, float16, 128)
ATTENTION_PREFILL(f16_256, float16, 256)
