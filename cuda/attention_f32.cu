// attention_f32: causal attention from this step's queries to their sequences' KV blocks, float32 throughout: the family
// of precision="exact", for prefill and decode alike
// q [tokens, q_stride], num_heads * head_dim elements from the pointer on · positions, sequences [tokens]
// k_cache, v_cache [num_blocks, num_kv_heads, 16, head_dim] · block_tables [...], those of a sequence from
// block_table_start_loc[sequence] on · sinks [num_heads]: scores of a place that adds nothing, or null
// out [tokens, num_heads * head_dim]
// window 0: all earlier tokens are visible; softcap 0: none.
// Launch: (num_heads / 4 rounded up, tokens) thread blocks of 128, one warp per query head. Needs head_dim <= 256,
// head_dim % 4 == 0.
// Order: tiles of 32 positions at multiples of 32, ascending; within a tile a lane has one position (its product is
// summed ascending over head_dim), maxima and sums by warp tree, outputs ascending over positions, a sink last. A function of the
// query's position alone. Tiles that the window hides are not visited, nor are their blocks' ids looked at.
// Bytes: 2 * positions * head_dim * 4 per query head. Oracle: reference.attention
#include "reductions.cuh"

constexpr int MAX_PER_LANE = 8;
constexpr int BLOCK_SIZE = 16;
constexpr float LOWEST = -3.0e38f;

extern "C" __global__ void __launch_bounds__(128, 1)
    attention_f32(float* out, const float* q, const float* k_cache, const float* v_cache, const int* positions,
                  const int* sequences, const int* block_tables, const int* block_table_start_loc, const float* sinks,
                  int q_stride, int num_heads, int num_kv_heads, int head_dim, int window, float scale, float softcap) {
  SHARED(float, queries, 4 * 32 * MAX_PER_LANE);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, token = blockIdx.y, head = blockIdx.x * 4 + warp;
  if (head >= num_heads) return;
  int kv_head = head / (num_heads / num_kv_heads), position = positions[token];
  const int* blocks = block_tables + block_table_start_loc[sequences[token]];

  float* query = queries + warp * 32 * MAX_PER_LANE;
  for (int i = lane; i < head_dim; i += 32) query[i] = q[static_cast<size_t>(token) * q_stride + head * head_dim + i];
  __syncwarp();

  float largest = LOWEST, total = 0, sums[MAX_PER_LANE] = {};
  int first_visible = window ? max(0, position - window + 1) : 0;
  for (int start = first_visible / 32 * 32; start <= position; start += 32) {
    int mine = start + lane;
    bool is_visible = mine >= first_visible && mine <= position;
    float score = LOWEST;
    if (is_visible) {
      size_t block = blocks[mine / BLOCK_SIZE];
      const float* key = k_cache + ((block * num_kv_heads + kv_head) * BLOCK_SIZE + mine % BLOCK_SIZE) * head_dim;
      float dot = 0;
      for (int i = 0; i < head_dim; i += 4) {
        float4 k = load_four(key + i);
        dot = fmaf(query[i + 3], k.w, fmaf(query[i + 2], k.z, fmaf(query[i + 1], k.y, fmaf(query[i], k.x, dot))));
      }
      score = dot * scale;
      if (softcap > 0) score = softcap * tanhf(score / softcap);
    }
    float new_largest = fmaxf(largest, warp_max(score));
    float correction = expf(largest - new_largest);
    float weight = is_visible ? expf(score - new_largest) : 0.0f;
    largest = new_largest;
    total = total * correction + warp_sum(weight);
    for (int i = 0; i < MAX_PER_LANE; i++) sums[i] *= correction;
    for (int j = 0; j < 32; j++) {
      int at = start + j;
      if (at < first_visible || at > position) continue;  // the same for all lanes
      float share = __shfl_sync(ALL_LANES, weight, j);
      size_t block = blocks[at / BLOCK_SIZE];
      const float* value = v_cache + ((block * num_kv_heads + kv_head) * BLOCK_SIZE + at % BLOCK_SIZE) * head_dim;
#pragma unroll
      for (int i = 0; i < MAX_PER_LANE; i++)
        if (i * 32 + lane < head_dim) sums[i] = fmaf(share, value[i * 32 + lane], sums[i]);
    }
  }
  if (sinks) {
    float score = sinks[head], new_largest = fmaxf(largest, score), correction = expf(largest - new_largest);
    total = total * correction + expf(score - new_largest);
#pragma unroll
    for (int i = 0; i < MAX_PER_LANE; i++) sums[i] *= correction;
  }
  float* target = out + (static_cast<size_t>(token) * num_heads + head) * head_dim;
#pragma unroll
  for (int i = 0; i < MAX_PER_LANE; i++)
    if (i * 32 + lane < head_dim) target[i * 32 + lane] = sums[i] / total;
}
KERNEL(attention_f32)
