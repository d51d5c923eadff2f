// rope_store_kv_<T>: for each token, its q and k heads are normalised (qk-norm, where there is a weight), turned by the
// token's position (RoPE, where num_pairs > 0) and stored in place; k and v heads are also written to their slots.
// qkv [tokens, stride]: q heads, then kv heads of k, then of v, head_dim elements each, from the pointer on
// positions, slot_mapping [tokens] · inv_freq [num_pairs] · q_norm, k_norm [head_dim] of float32 or null
// k_cache, v_cache [num_blocks, num_kv_heads, 16, head_dim]; slot = block * 16 + offset
// Pair i is (i, i + num_pairs); each value is rounded to T after the norm and after the turn, as two ops would.
// Launch: (ceil((num_heads + 2 * num_kv_heads) / 4), tokens) thread blocks of 128, one warp per head.
// Needs head_dim <= 256. Order of the norm's sum: every 32nd element of a lane ascending, warp tree.
// Bytes: 2 * stride * sizeof(T) + the cache's part per token. Oracle: reference.rms_norm, reference.rope
#include "reductions.cuh"

constexpr int MAX_PER_LANE = 8;
constexpr int BLOCK_SIZE = 16;

template <class T>
__device__ void rope_store_kv(T* qkv, T* k_cache, T* v_cache, const int* positions, const int* slot_mapping,
                              const float* inv_freq, const float* q_norm, const float* k_norm, int stride,
                              int num_heads, int num_kv_heads, int head_dim, int num_pairs, float rope_scale, float eps) {
  SHARED(float, turned, 4 * 32 * MAX_PER_LANE);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, token = blockIdx.y;
  int head = blockIdx.x * 4 + warp;
  if (head >= num_heads + 2 * num_kv_heads) return;
  T* row = qkv + static_cast<size_t>(token) * stride + static_cast<size_t>(head) * head_dim;
  bool is_value = head >= num_heads + num_kv_heads;

  float* values = turned + warp * 32 * MAX_PER_LANE;
  const float* norm = head < num_heads ? q_norm : k_norm;
  float sum = 0;
  for (int i = lane; i < head_dim; i += 32) {
    values[i] = to_float(row[i]);
    sum = fmaf(values[i], values[i], sum);
  }
  if (norm && !is_value) {
    float scale = 1.0f / sqrtf(warp_sum(sum) / head_dim + eps);
    for (int i = lane; i < head_dim; i += 32) values[i] = rounded<T>(values[i] * scale * norm[i]);
  }
  __syncwarp();
  if (!is_value) {
    float position = static_cast<float>(positions[token]);
    for (int i = lane; i < num_pairs; i += 32) {
      float angle = position * inv_freq[i];
      float cosine = cosf(angle) * rope_scale, sine = sinf(angle) * rope_scale;
      float first = values[i], second = values[i + num_pairs];
      values[i] = first * cosine - second * sine;
      values[i + num_pairs] = second * cosine + first * sine;
    }
    __syncwarp();
    for (int i = lane; i < head_dim; i += 32) row[i] = from_float<T>(values[i]);
  }
  if (head >= num_heads) {
    int slot = slot_mapping[token], kv_head = (head - num_heads) % num_kv_heads;
    size_t place = (static_cast<size_t>(slot / BLOCK_SIZE) * num_kv_heads + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE;
    T* target = (is_value ? v_cache : k_cache) + place * head_dim;
    for (int i = lane; i < head_dim; i += 32) target[i] = from_float<T>(values[i]);
  }
}

#define ROPE_STORE_KV(NAME, T)                                                                                        \
  extern "C" __global__ void __launch_bounds__(128) rope_store_kv_##NAME(                                             \
      T* qkv, T* k_cache, T* v_cache, const int* positions, const int* slot_mapping, const float* inv_freq,           \
      const float* q_norm, const float* k_norm, int stride, int num_heads, int num_kv_heads, int head_dim,            \
      int num_pairs, float rope_scale, float eps) {                                                                   \
    rope_store_kv(qkv, k_cache, v_cache, positions, slot_mapping, inv_freq, q_norm, k_norm, stride, num_heads,        \
                  num_kv_heads, head_dim, num_pairs, rope_scale, eps);                                                \
  }                                                                                                                   \
  KERNEL(rope_store_kv_##NAME)

ROPE_STORE_KV(f32, float)
ROPE_STORE_KV(bf16, bfloat16)
ROPE_STORE_KV(f16, float16)
