// attention_latent_<T>: causal attention where keys and values have different widths, as in latent attention (one KV head
// as wide as the latent, and all query heads share it); for prefill and decode alike. Plain: sums in float32 without tensor
// cores, and one thread block goes through all positions of its query.
// q [tokens, q_stride], from the pointer on num_heads * k_dim elements a row · positions, sequences [tokens]
// k_cache [num_blocks, num_kv_heads, 16, k_dim] · v_cache [num_blocks, num_kv_heads, 16, v_dim] · block_tables [...],
// those of a sequence from block_table_start_loc[sequence] on · sinks [num_heads]: scores of a place that adds nothing, or null
// out [tokens, num_heads * v_dim]
// window 0: all earlier tokens are visible; softcap 0: none.
// Launch: (num_kv_heads * ceil(num_heads / num_kv_heads / 4), tokens) thread blocks of 128; a thread block has up to four
// query heads of one token that share a KV head. Needs k_dim <= 576, v_dim <= 512, both multiples of 4; caches aligned to 16.
// Order: tiles of 32 positions at multiples of 32, ascending. A score is the sum of four lanes, each with every fourth four
// elements ascending, by tree; maxima and sums of a tile by warp tree; outputs ascending over positions, a sink last. A function
// of the query's position alone. Tiles that the window hides are not visited, nor are their blocks' ids looked at.
// Bytes: positions * (k_dim + v_dim) * sizeof(T) per token and four query heads. Oracle: reference.attention
// Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1
#include "reductions.cuh"

constexpr int HEADS = 4;  // of a thread block: as many as warps, each of which has the softmax of one
constexpr int TILE = 32;
constexpr int MAX_K_DIM = 576;
constexpr int BLOCK_SIZE = 16;
constexpr float LOWEST = -3.0e38f;

__device__ __forceinline__ float dot_four(float sum, float4 a, float4 b) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

template <class T>
__device__ void attention(T* out, const T* q, const T* k_cache, const T* v_cache, const int* positions,
                          const int* sequences, const int* block_tables, const int* block_table_start_loc,
                          const float* sinks, int q_stride, int num_heads, int num_kv_heads, int k_dim, int v_dim,
                          int window, float scale, float softcap) {
  SHARED(float, queries, HEADS * MAX_K_DIM);
  SHARED(float, scores, HEADS * TILE);
  SHARED(float, weights, HEADS * TILE);
  SHARED(float, corrections, HEADS);
  SHARED(float, totals, HEADS);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, token = blockIdx.y, position = positions[token];
  int group = num_heads / num_kv_heads, per_kv_head = (group + HEADS - 1) / HEADS;
  int kv_head = blockIdx.x / per_kv_head, first_of_group = blockIdx.x % per_kv_head * HEADS;
  int first_head = kv_head * group + first_of_group, count = min(HEADS, group - first_of_group);
  const int* blocks = block_tables + block_table_start_loc[sequences[token]];

  const T* query = q + static_cast<size_t>(token) * q_stride + static_cast<size_t>(first_head) * k_dim;
  for (int i = threadIdx.x; i < HEADS * k_dim; i += 128)  // heads that are not there ask for nothing
    queries[i / k_dim * MAX_K_DIM + i % k_dim] = i < count * k_dim ? to_float(query[i]) : 0.0f;
  __syncthreads();

  float largest = LOWEST, total = 0;  // of the warp's head
  float4 sums[HEADS] = {};            // of the thread's four columns
  int column = threadIdx.x * 4;
  int first_visible = window ? max(0, position - window + 1) : 0;
  for (int start = first_visible / TILE * TILE; start <= position; start += TILE) {
    // Scores: eight positions a warp, four lanes a position.
    int mine = start + warp * 8 + lane / 4;
    float dots[HEADS] = {};
    if (mine >= first_visible && mine <= position) {
      size_t block = blocks[mine / BLOCK_SIZE];
      const T* key = k_cache + ((block * num_kv_heads + kv_head) * BLOCK_SIZE + mine % BLOCK_SIZE) * k_dim;
      for (int i = lane % 4 * 4; i < k_dim; i += 16) {
        float4 k = load_four(key + i);
#pragma unroll
        for (int head = 0; head < HEADS; head++)
          dots[head] = dot_four(dots[head], load_four(queries + head * MAX_K_DIM + i), k);
      }
    }
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
      float dot = dots[head];
      dot += __shfl_xor_sync(ALL_LANES, dot, 2);
      dot += __shfl_xor_sync(ALL_LANES, dot, 1);
      if (lane % 4 == 0) scores[head * TILE + warp * 8 + lane / 4] = dot;
    }
    __syncthreads();  // the scores are there, and nobody reads the last weights

    int seen = start + lane;
    bool is_visible = seen >= first_visible && seen <= position;
    float score = scores[warp * TILE + lane] * scale;
    if (softcap > 0) score = softcap * tanhf(score / softcap);
    if (!is_visible) score = LOWEST;
    float new_largest = fmaxf(largest, warp_max(score));
    float correction = expf(largest - new_largest), weight = is_visible ? expf(score - new_largest) : 0.0f;
    largest = new_largest;
    total = total * correction + warp_sum(weight);
    weights[warp * TILE + lane] = weight;
    if (lane == 0) corrections[warp] = correction;
    __syncthreads();  // the weights are there

    if (column < v_dim) {
#pragma unroll
      for (int head = 0; head < HEADS; head++) {
        float share = corrections[head];
        sums[head] = make_float4(sums[head].x * share, sums[head].y * share, sums[head].z * share, sums[head].w * share);
      }
      int end = min(TILE, position - start + 1);
      for (int j = max(0, first_visible - start); j < end; j++) {
        size_t block = blocks[(start + j) / BLOCK_SIZE];
        size_t row = (block * num_kv_heads + kv_head) * BLOCK_SIZE + (start + j) % BLOCK_SIZE;
        float4 value = load_four(v_cache + row * v_dim + column);
#pragma unroll
        for (int head = 0; head < HEADS; head++) {
          float share = weights[head * TILE + j];
          sums[head] = make_float4(fmaf(share, value.x, sums[head].x), fmaf(share, value.y, sums[head].y),
                                   fmaf(share, value.z, sums[head].z), fmaf(share, value.w, sums[head].w));
        }
      }
    }
  }
  __syncthreads();  // nobody reads the last tile's corrections
  float correction = 1;
  if (sinks && warp < count) {
    float score = sinks[first_head + warp], new_largest = fmaxf(largest, score);
    correction = expf(largest - new_largest);
    total = total * correction + expf(score - new_largest);
  }
  if (lane == 0) {
    corrections[warp] = correction;
    totals[warp] = total;
  }
  __syncthreads();
  if (column >= v_dim) return;
  T* target = out + (static_cast<size_t>(token) * num_heads + first_head) * v_dim + column;
#pragma unroll
  for (int head = 0; head < HEADS; head++) {
    if (head >= count) break;
    float share = corrections[head], divisor = totals[head];
    store_four(target + static_cast<size_t>(head) * v_dim,
               make_float4(sums[head].x * share / divisor, sums[head].y * share / divisor,
                           sums[head].z * share / divisor, sums[head].w * share / divisor));
  }
}

#define ATTENTION_LATENT(NAME, T)                                                                                     \
  extern "C" __global__ void __launch_bounds__(128, 1) attention_latent_##NAME(                                       \
      T* out, const T* q, const T* k_cache, const T* v_cache, const int* positions, const int* sequences,             \
      const int* block_tables, const int* block_table_start_loc, const float* sinks, int q_stride, int num_heads,     \
      int num_kv_heads, int k_dim, int v_dim, int window, float scale, float softcap) {                               \
    attention(out, q, k_cache, v_cache, positions, sequences, block_tables, block_table_start_loc, sinks, q_stride,   \
              num_heads, num_kv_heads, k_dim, v_dim, window, scale, softcap);                                         \
  }                                                                                                                   \
  KERNEL(attention_latent_##NAME)

ATTENTION_LATENT(f32, float)
ATTENTION_LATENT(bf16, bfloat16)
ATTENTION_LATENT(f16, float16)
