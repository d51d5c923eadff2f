// embedding_<T>_<W>: out[t] = table[token_ids[t]] * scale, rounded once to T
// table [vocab_size, width] of W · token_ids [tokens] · out [tokens, width]
// Launch: (tokens) thread blocks of 128. Needs width % 4 == 0 and token ids inside the table.
// Bytes: width * (sizeof(W) + sizeof(T)) per token. Oracle: reference.py, "embedding".
#include "primitives.cuh"

template <class T, class W>
__device__ void embedding(T* out, const W* table, const int* token_ids, int width, float scale) {
  const W* row = table + static_cast<size_t>(token_ids[blockIdx.x]) * width;
  T* target = out + static_cast<size_t>(blockIdx.x) * width;
  for (int i = threadIdx.x * 4; i < width; i += 128 * 4) {
    float4 v = load_four(row + i);
    store_four(target + i, make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale));
  }
}

#define EMBEDDING(NAME, T, W)                                                                       \
  extern "C" __global__ void __launch_bounds__(128) embedding_##NAME(                               \
      T* out, const W* table, const int* token_ids, int width, float scale) {                       \
    embedding<T, W>(out, table, token_ids, width, scale);                                           \
  }                                                                                                 \
  KERNEL(embedding_##NAME)

EMBEDDING(f32_f32, float, float)
EMBEDDING(f32_bf16, float, bfloat16)
EMBEDDING(f32_f16, float, float16)
EMBEDDING(bf16_bf16, bfloat16, bfloat16)
EMBEDDING(f16_f16, float16, float16)
