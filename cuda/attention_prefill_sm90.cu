// attention_prefill_sm90_<T>_<head_dim>: what attention_prefill computes, with wgmma over KV blocks loaded by TMA
// q [tokens, q_stride], from the pointer on num_heads * head_dim elements a row · positions [tokens]
// query_start_loc [num_seqs + 1] · keys, values: the caches [num_blocks * num_kv_heads, 16, head_dim] as tensor maps, boxes
// [1, 16, 64] · block_tables, from block_table_start_loc[sequence] on · sinks [num_heads] or null · tiles [num_tiles, 2]: sequence, first row (64 rows each)
// out [tokens, num_heads * head_dim]
// Launch: (num_tiles, num_kv_heads) thread blocks of 160, 896 * head_dim bytes of dynamic shared memory: queries, a ring of
// two tiles of 64 positions, folded outputs. q aligned to 16 bytes, q_stride % 8 == 0, out to 4.
// The last warp loads; the others have 64 rows. Tiles, segments and the online softmax are those of attention.cuh: two tiles
// of 32 positions share a load and the instructions of their scores. Inside of one instruction wgmma may sum otherwise
// than mma.sync, which decoding uses, so this kernel is admissible where a GPU has shown equal bits, or with
// deterministic=False.
// Bytes: K and V up to the tile's last position, once per 64 rows (L2 serves most). Oracle: reference.attention
#include "attention.cuh"
#include "primitives_sm90.cuh"

constexpr int CONSUMERS = 128;
constexpr int LOADED = 64;                            // positions of a stage
constexpr int COLUMNS = 64;                           // of a swizzled tile
constexpr int BLOCK_BYTES = BLOCK_SIZE * COLUMNS * 2;  // of a KV block in such a tile
constexpr int TILE_BYTES = LOADED * COLUMNS * 2;

template <class T, int HEAD_DIM>
__device__ __forceinline__ void load_blocks(unsigned char* ring, MemoryBarrier* full, MemoryBarrier* empty,
                                            const TensorMap& keys, const TensorMap& values, const int* blocks,
                                            int num_kv_heads, int kv_head, Span span) {
  constexpr int PARTS = HEAD_DIM / COLUMNS;
  for (int start = span.first / LOADED * LOADED, number = 0; start <= span.last; start += LOADED, number++) {
    int stage = number % STAGES, first = max(start, span.first) / BLOCK_SIZE;
    int last = min(start + LOADED - 1, span.last) / BLOCK_SIZE;
    unsigned char* target = ring + stage * 2 * PARTS * TILE_BYTES;
    wait_for(empty + stage, (number / STAGES & 1) ^ 1);
    arrive_and_expect(full + stage, (last - first + 1) * 2 * PARTS * BLOCK_BYTES);
    for (int block = first; block <= last; block++) {
      int plane = blocks[block] * num_kv_heads + kv_head;
      for (int part = 0; part < PARTS; part++) {
        unsigned char* place = target + part * TILE_BYTES + block % (LOADED / BLOCK_SIZE) * BLOCK_BYTES;
        start_load(place, keys, full + stage, part * COLUMNS, 0, plane);
        start_load(place + PARTS * TILE_BYTES, values, full + stage, part * COLUMNS, 0, plane);
      }
    }
  }
}

// Values outside of the span become zeros, since a share of zero does not make a NaN go away.
template <int HEAD_DIM> __device__ __forceinline__ void clear_values(unsigned char* values, int start, Span span) {
  constexpr int PIECES = HEAD_DIM / 8;
  for (int piece = threadIdx.x; piece < LOADED * PIECES; piece += CONSUMERS) {
    int row = piece / PIECES, place = piece % PIECES, position = start + row;
    if (position >= span.first && position <= span.last) continue;
    unsigned char* tile = values + place / 8 * TILE_BYTES + row * 128;
    *reinterpret_cast<uint4*>(tile + ((place % 8) ^ (row & 7)) * 16) = make_uint4(0, 0, 0, 0);
  }
}

template <class T, int HEAD_DIM>
__device__ void attention_prefill_sm90(const Attention<T>& a, T* out, const int* tiles, const TensorMap& keys,
                                       const TensorMap& values) {
  constexpr int PARTS = HEAD_DIM / COLUMNS;
  SWIZZLED_SHARED(shared);
  SHARED(MemoryBarrier, full, STAGES);
  SHARED(MemoryBarrier, empty, STAGES);
  unsigned char *queries = shared, *ring = shared + PARTS * TILE_BYTES;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, kv_head = blockIdx.y;
  int sequence = tiles[blockIdx.x * 2], first_row = tiles[blockIdx.x * 2 + 1];
  Span span = span_of(a, sequence, first_row, CONSUMERS / 2);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      initialise_barrier(full + stage, 1);
      initialise_barrier(empty + stage, CONSUMERS);
    }
    fence_barriers();
  }
  __syncthreads();
  if (warp == CONSUMERS / 32) {
    if (lane == 0)
      load_blocks<T, HEAD_DIM>(ring, full, empty, keys, values, a.block_tables + a.block_table_start_loc[sequence],
                               a.num_kv_heads, kv_head, span);
    return;
  }

  // Queries, swizzled as the loads would do it; rows that are not there are zeros.
  int group = a.num_heads / a.num_kv_heads, start_token = a.query_start_loc[sequence];
  int count = (a.query_start_loc[sequence + 1] - start_token) * group;
  for (int piece = threadIdx.x; piece < CONSUMERS / 2 * HEAD_DIM / 8; piece += CONSUMERS) {
    int row = piece / (HEAD_DIM / 8), place = piece % (HEAD_DIM / 8), source = first_row + row;
    uint4 bits = make_uint4(0, 0, 0, 0);
    if (source < count) {
      const T* q_row = a.q + static_cast<size_t>(start_token + source / group) * a.q_stride +
                       (kv_head * group + source % group) * HEAD_DIM;
      bits = *reinterpret_cast<const uint4*>(q_row + place * 8);
    }
    *reinterpret_cast<uint4*>(queries + place / 8 * TILE_BYTES + row * 128 + ((place % 8) ^ (row & 7)) * 16) = bits;
  }
  fence_shared_for_products();
  sync_threads(1, CONSUMERS);

  Rows rows = rows_of(a, sequence, kv_head, first_row + warp * WARP_ROWS, lane);
  FoldedRows<HEAD_DIM, CONSUMERS> folded(reinterpret_cast<float*>(ring + STAGES * 2 * PARTS * TILE_BYTES));
  Softmax<HEAD_DIM> state;
  state.clear();
  for (int start = span.first / LOADED * LOADED, number = 0; start <= span.last; start += LOADED, number++) {
    int stage = number % STAGES;
    unsigned char *key_tile = ring + stage * 2 * PARTS * TILE_BYTES, *value_tile = key_tile + PARTS * TILE_BYTES;
    wait_for(full + stage, number / STAGES & 1);
    if (start < span.first || start + LOADED - 1 > span.last) {
      clear_values<HEAD_DIM>(value_tile, start, span);
      fence_shared_for_products();
      sync_threads(1, CONSUMERS);
    }
    float scores[LOADED / 2] = {};
    fence_products();
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
      int offset = step / 4 * TILE_BYTES;
      start_product<T>(scores, tile_descriptor(queries + offset) + step % 4 * 2,
                       tile_descriptor(key_tile + offset) + step % 4 * 2, step > 0);
    }
    commit_products();
    wait_products<0>(scores);
#pragma unroll
    for (int half = 0; half < LOADED / TILE; half++) {
      float tile_scores[TILE / 8][4];
#pragma unroll
      for (int i = 0; i < TILE / 2; i++) tile_scores[i / 4][i % 4] = scores[half * (TILE / 2) + i];
      uint32_t shares[TILE / 16][4];
      take_scores(state, tile_scores, shares, a, rows, start + half * TILE, lane);
      fence_products();
#pragma unroll
      for (int step = 0; step < TILE / 16; step++)
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
          const unsigned char* block = value_tile + part * TILE_BYTES + (half * (TILE / 16) + step) * BLOCK_BYTES;
          start_product_of_registers<T>(reinterpret_cast<float (&)[32]>(state.output[part * 8]), shares[step],
                                        tile_descriptor(block), true);
        }
      commit_products();
#pragma unroll
      for (int part = 0; part < PARTS; part++)
        wait_products<0>(reinterpret_cast<float (&)[32]>(state.output[part * 8]));
    }
    arrive(empty + stage);
    if ((start + LOADED) % SEGMENT == 0 || start + LOADED > span.last) folded.add(state);
  }
  folded.store(out, rows, a, lane);
}

#define ATTENTION_PREFILL_SM90(NAME, T, HEAD_DIM)                                                                        \
  extern "C" __global__ void __launch_bounds__(CONSUMERS + 32, 1) attention_prefill_sm90_##NAME(                         \
      T* out, const int* tiles, const __grid_constant__ TensorMap keys, const __grid_constant__ TensorMap values,       \
      const T* q, const int* positions, const int* query_start_loc, const int* block_tables,                            \
      const int* block_table_start_loc, const float* sinks, int q_stride, int num_heads, int num_kv_heads, int window,  \
      float scale, float softcap) {                                                                                     \
    const T *k_cache = nullptr, *v_cache = nullptr;                                                                     \
    attention_prefill_sm90<T, HEAD_DIM>(ATTENTION_ARGUMENTS, out, tiles, keys, values);                                 \
  }                                                                                                                     \
  KERNEL(attention_prefill_sm90_##NAME)

ATTENTION_PREFILL_SM90(bf16_64, bfloat16, 64)
ATTENTION_PREFILL_SM90(bf16_128, bfloat16, 128)
ATTENTION_PREFILL_SM90(bf16_256, bfloat16, 256)
ATTENTION_PREFILL_SM90(f16_64, float16, 64)
ATTENTION_PREFILL_SM90(f16_128, float16, 128)
ATTENTION_PREFILL_SM90(f16_256, float16, 256)
