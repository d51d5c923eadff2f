// store_kv_<T>: each token's keys and values, of different widths or not side by side, are written to their slots
// x [tokens, stride]: from k_start on k_dim elements of each KV head, from v_start on v_dim; they may overlap
// slot_mapping [tokens]; slot = block * 16 + offset
// k_cache [num_blocks, num_kv_heads, 16, k_dim] · v_cache [num_blocks, num_kv_heads, 16, v_dim]
// Launch: (tokens) thread blocks of 128.
// Bytes: 2 * num_kv_heads * (k_dim + v_dim) * sizeof(T) per token. Oracle: numpy, moved bits
#include "primitives.cuh"

constexpr int BLOCK_SIZE = 16;

template <class T>
__device__ __forceinline__ void store_heads(T* cache, const T* row, int slot, int num_kv_heads, int dim) {
  T* block = cache + static_cast<size_t>(slot / BLOCK_SIZE) * num_kv_heads * BLOCK_SIZE * dim;
  for (int i = threadIdx.x; i < num_kv_heads * dim; i += 128)
    block[(i / dim * BLOCK_SIZE + slot % BLOCK_SIZE) * dim + i % dim] = row[i];
}

template <class T>
__device__ void store_kv(const T* x, T* k_cache, T* v_cache, const int* slot_mapping, int stride, int k_start,
                         int v_start, int num_kv_heads, int k_dim, int v_dim) {
  const T* row = x + static_cast<size_t>(blockIdx.x) * stride;
  int slot = slot_mapping[blockIdx.x];
  store_heads(k_cache, row + k_start, slot, num_kv_heads, k_dim);
  store_heads(v_cache, row + v_start, slot, num_kv_heads, v_dim);
}

#define STORE_KV(NAME, T)                                                                                             \
  extern "C" __global__ void __launch_bounds__(128) store_kv_##NAME(                                                  \
      const T* x, T* k_cache, T* v_cache, const int* slot_mapping, int stride, int k_start, int v_start,              \
      int num_kv_heads, int k_dim, int v_dim) {                                                                       \
    store_kv(x, k_cache, v_cache, slot_mapping, stride, k_start, v_start, num_kv_heads, k_dim, v_dim);                \
  }                                                                                                                   \
  KERNEL(store_kv_##NAME)

STORE_KV(f32, float)
STORE_KV(bf16, bfloat16)
STORE_KV(f16, float16)
