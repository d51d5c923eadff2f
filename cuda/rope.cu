// rope_<T>: the first 2 * num_pairs elements of each head are turned by the token's position, in place; the rest stays
// x [tokens, stride], from the pointer on num_heads heads of head_dim elements · positions [tokens] · inv_freq [num_pairs]
// Pair i is (i, i + num_pairs); each value is rounded to T once. The values of rope_store_kv, where nothing is stored.
// Launch: (ceil(num_heads * num_pairs / 128), tokens) thread blocks of 128, a pair per thread.
// Bytes: 4 * num_heads * num_pairs * sizeof(T) per token. Oracle: reference.rope
#include "primitives.cuh"

template <class T>
__device__ void rope(T* x, const int* positions, const float* inv_freq, int stride, int num_heads, int head_dim,
                     int num_pairs, float rope_scale) {
  int index = blockIdx.x * 128 + threadIdx.x, head = index / num_pairs, pair = index % num_pairs;
  if (head >= num_heads) return;
  T* values = x + static_cast<size_t>(blockIdx.y) * stride + static_cast<size_t>(head) * head_dim + pair;
  float angle = static_cast<float>(positions[blockIdx.y]) * inv_freq[pair];
  float cosine = cosf(angle) * rope_scale, sine = sinf(angle) * rope_scale;
  float first = to_float(values[0]), second = to_float(values[num_pairs]);
  values[0] = from_float<T>(first * cosine - second * sine);
  values[num_pairs] = from_float<T>(second * cosine + first * sine);
}

#define ROPE(NAME, T)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(128) rope_##NAME(                                                      \
      T* x, const int* positions, const float* inv_freq, int stride, int num_heads, int head_dim, int num_pairs,      \
      float rope_scale) {                                                                                             \
    rope(x, positions, inv_freq, stride, num_heads, head_dim, num_pairs, rope_scale);                                 \
  }                                                                                                                   \
  KERNEL(rope_##NAME)

ROPE(f32, float)
ROPE(bf16, bfloat16)
ROPE(f16, float16)
