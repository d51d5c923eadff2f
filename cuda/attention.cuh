// Attention over KV blocks with mma.sync: what attention_prefill and attention_decode share, so that a query has the same
// bits from both, whatever is beside it.
//
// Rows. The queries of one sequence that share a KV head: row r is token r / G, query head r % G of the group of G heads.
// A warp has 16 rows. Keys and values come in tiles of 32 positions at multiples of 32, in segments of 256 at multiples
// of 256. Within a segment tiles ascend, with an online softmax (base 2; P rounded to T for the second product); segments
// start anew and are folded in ascending order. A tile that a row does not see changes none of its bits, so who visits
// how much does not matter. Source: Milakov and Gimelshein 2018; Dao et al. 2022.
#pragma once
#include "primitives.cuh"

constexpr int BLOCK_SIZE = 16;
constexpr int WARP_ROWS = 16;
constexpr int TILE = 32;
constexpr int SEGMENT = 256;
constexpr int STAGES = 2;
constexpr float LOWEST = -1.0e30f;
constexpr float LOG2_E = 1.4426950408889634f;

// What all rows of a launch have in common. window 0: none; softcap 0: none; sinks [num_heads]: scores of a place that adds
// nothing, or null.
template <class T> struct Attention {
  const T *q, *k_cache, *v_cache;
  const int *positions, *query_start_loc, *block_tables, *block_table_start_loc;
  const float* sinks;
  int q_stride, num_heads, num_kv_heads, window;
  float scale, softcap;
};

// The sixteen rows of a warp, as one of its lanes sees them: rows lane / 4 and lane / 4 + 8.
struct Rows {
  int token[2], head[2], position[2];
  bool is_there[2];
};

template <class T>
__device__ __forceinline__ Rows rows_of(const Attention<T>& a, int sequence, int kv_head, int first_row, int lane) {
  Rows rows;
  int group = a.num_heads / a.num_kv_heads, start = a.query_start_loc[sequence];
  int count = (a.query_start_loc[sequence + 1] - start) * group;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first_row + lane / 4 + half * 8;
    rows.is_there[half] = row < count;
    rows.token[half] = start + (rows.is_there[half] ? row / group : 0);
    rows.head[half] = kv_head * group + row % group;
    rows.position[half] = rows.is_there[half] ? a.positions[rows.token[half]] : -1;
  }
  return rows;
}

// Positions that rows first_row … first_row + num_rows - 1 of a sequence see: [first, last].
struct Span {
  int first, last;
};

template <class T>
__device__ __forceinline__ Span span_of(const Attention<T>& a, int sequence, int first_row, int num_rows) {
  int group = a.num_heads / a.num_kv_heads, start = a.query_start_loc[sequence];
  int count = (a.query_start_loc[sequence + 1] - start) * group;
  int first = a.positions[start + first_row / group];
  int last = a.positions[start + (min(count, first_row + num_rows) - 1) / group];
  return {a.window ? max(0, first - a.window + 1) : 0, last};
}

// A warp's queries as left-hand fragments: in registers, or where those would not do in shared memory, each lane's own.
template <int HEAD_DIM> struct Query {
  static constexpr bool IS_SHARED = HEAD_DIM > 128;
  static constexpr int SHARED_BYTES = IS_SHARED ? WARP_ROWS * HEAD_DIM * 2 : 0;  // of a warp
  uint32_t fragments[IS_SHARED ? 1 : HEAD_DIM / 16][4];
  uint4* shared;

  template <class T>
  __device__ __forceinline__ void load(const Attention<T>& a, const Rows& rows, int lane, unsigned char* warp_bytes) {
    shared = reinterpret_cast<uint4*>(warp_bytes) + lane;
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
      uint32_t (&fragment)[4] = fragments[IS_SHARED ? 0 : step];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int half = i % 2;
        const T* row = a.q + static_cast<size_t>(rows.token[half]) * a.q_stride + rows.head[half] * HEAD_DIM;
        const T* pair = row + step * 16 + i / 2 * 8 + lane % 4 * 2;
        fragment[i] = rows.is_there[half] ? *reinterpret_cast<const uint32_t*>(pair) : 0;
      }
      if (IS_SHARED) shared[step * 32] = make_uint4(fragment[0], fragment[1], fragment[2], fragment[3]);
    }
  }

  __device__ __forceinline__ void get(uint32_t (&fragment)[4], int step) const {
    if (IS_SHARED) {
      uint4 bits = shared[step * 32];
      fragment[0] = bits.x, fragment[1] = bits.y, fragment[2] = bits.z, fragment[3] = bits.w;
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) fragment[i] = fragments[IS_SHARED ? 0 : step][i];
    }
  }
};

// A stage of the ring holds a tile of K and one of V, [32, HEAD_DIM + 8] each.
template <int HEAD_DIM> constexpr int tile_elements() { return TILE * (HEAD_DIM + 8); }

// Start copying the tile at position `start` (THREADS threads do it); positions outside `span` become zeros, and their
// blocks are not looked at.
template <class T, int HEAD_DIM, int THREADS>
__device__ __forceinline__ void start_tile(T* stage, const Attention<T>& a, int sequence, int kv_head, int start, Span span) {
  const int* blocks = a.block_tables + a.block_table_start_loc[sequence];
  constexpr int PIECES = HEAD_DIM / 8;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#pragma unroll 1  // copies go through registers there, which the outputs of wide heads need
#endif
  for (int piece = threadIdx.x; piece < TILE * PIECES; piece += THREADS) {
    int row = piece / PIECES, offset = piece % PIECES * 8, position = start + row;
    bool is_wanted = position >= span.first && position <= span.last;
    size_t block = is_wanted ? blocks[position / BLOCK_SIZE] : 0;
    size_t place = ((block * a.num_kv_heads + kv_head) * BLOCK_SIZE + position % BLOCK_SIZE) * HEAD_DIM + offset;
    T* target = stage + row * (HEAD_DIM + 8) + offset;
    start_copy(target, a.k_cache + place, is_wanted);
    start_copy(target + tile_elements<HEAD_DIM>(), a.v_cache + place, is_wanted);
  }
}

// What a warp knows of its rows: maxima (base 2), sums of this lane's columns, outputs [16, HEAD_DIM] as fragments.
template <int HEAD_DIM> struct Softmax {
  float largest[2], total[2], output[HEAD_DIM / 8][4];

  __device__ __forceinline__ void clear() {
    for (int half = 0; half < 2; half++) {
      largest[half] = LOWEST;
      total[half] = 0;
    }
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) output[i][j] = 0;
  }

  // The totals of whole rows, in every lane.
  __device__ __forceinline__ void finish() {
    for (int half = 0; half < 2; half++) {
      total[half] += __shfl_xor_sync(ALL_LANES, total[half], 1);
      total[half] += __shfl_xor_sync(ALL_LANES, total[half], 2);
    }
  }
};

// What the scores of a tile change: maxima, totals and the scale of the outputs. Returns the shares of the values, rounded
// to T, as left-hand fragments.
template <class T, int HEAD_DIM>
__device__ __forceinline__ void take_scores(Softmax<HEAD_DIM>& state, float (&scores)[TILE / 8][4],
                                            uint32_t (&shares)[TILE / 16][4], const Attention<T>& a, const Rows& rows,
                                            int start, int lane) {
  float new_largest[2] = {state.largest[0], state.largest[1]};
  bool is_visible[TILE / 8][4];
#pragma unroll
  for (int i = 0; i < TILE / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int position = start + i * 8 + lane % 4 * 2 + j % 2, query_position = rows.position[j / 2];
      is_visible[i][j] = position <= query_position && (!a.window || position > query_position - a.window);
      float score = scores[i][j] * a.scale;
      if (a.softcap > 0) score = a.softcap * tanhf(score / a.softcap);
      scores[i][j] = score * LOG2_E;
      if (is_visible[i][j]) new_largest[j / 2] = fmaxf(new_largest[j / 2], scores[i][j]);
    }
  float correction[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    new_largest[half] = fmaxf(new_largest[half], __shfl_xor_sync(ALL_LANES, new_largest[half], 1));
    new_largest[half] = fmaxf(new_largest[half], __shfl_xor_sync(ALL_LANES, new_largest[half], 2));
    correction[half] = exp2_approximate(state.largest[half] - new_largest[half]);
    state.largest[half] = new_largest[half];
    state.total[half] *= correction[half];
  }
#pragma unroll
  for (int i = 0; i < TILE / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      scores[i][j] = is_visible[i][j] ? exp2_approximate(scores[i][j] - new_largest[j / 2]) : 0.0f;
      state.total[j / 2] += scores[i][j];
    }
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) state.output[i][j] *= correction[j / 2];
#pragma unroll
  for (int step = 0; step < TILE / 16; step++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float* two = scores[2 * step + i / 2] + i % 2 * 2;
      shares[step][i] = pack_pair<T>(two[0], two[1]);
    }
}

// Add a tile that lies in shared memory.
template <class T, int HEAD_DIM>
__device__ __forceinline__ void attend(Softmax<HEAD_DIM>& state, const Query<HEAD_DIM>& query, const T* stage,
                                       const Attention<T>& a, const Rows& rows, int start, int lane) {
  constexpr int STRIDE = HEAD_DIM + 8;
  float scores[TILE / 8][4] = {};
  const T* key_row = stage + ((lane & 7) + (lane >> 4) * 8) * STRIDE + (lane >> 3 & 1) * 8;
  [[maybe_unused]] constexpr int UNROLLED = Query<HEAD_DIM>::IS_SHARED ? 2 : HEAD_DIM / 16;  // outputs take most registers
#pragma unroll UNROLLED
  for (int step = 0; step < HEAD_DIM / 16; step++) {
    uint32_t left[4];
    query.get(left, step);
#pragma unroll
    for (int i = 0; i < TILE / 8; i += 2) {
      uint32_t right[4];
      load_matrices(right, key_row + i * 8 * STRIDE + step * 16);
      multiply_add<T>(scores[i], left, right[0], right[1]);
      multiply_add<T>(scores[i + 1], left, right[2], right[3]);
    }
  }

  uint32_t shares[TILE / 16][4];
  take_scores(state, scores, shares, a, rows, start, lane);
  const T* value_row = stage + tile_elements<HEAD_DIM>() + ((lane & 7) + (lane >> 3 & 1) * 8) * STRIDE + (lane >> 4) * 8;
#pragma unroll
  for (int step = 0; step < TILE / 16; step++) {
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i += 2) {
      uint32_t right[4];
      load_matrices_transposed(right, value_row + step * 16 * STRIDE + i * 8);
      multiply_add<T>(state.output[i], shares[step], right[0], right[1]);
      multiply_add<T>(state.output[i + 1], shares[step], right[2], right[3]);
    }
  }
}

// Folding a segment into what came before it: maxima first, then `fold` for sums and outputs alike.
struct Fold {
  float largest, old_share, new_share;
};

__device__ __forceinline__ Fold start_fold(float old_largest, float new_largest) {
  float largest = fmaxf(old_largest, new_largest);
  return {largest, exp2_approximate(old_largest - largest), exp2_approximate(new_largest - largest)};
}

__device__ __forceinline__ float fold(const Fold& f, float old_value, float new_value) {
  return fmaf(new_value, f.new_share, old_value * f.old_share);
}

// What a row's outputs are multiplied by and divided by, when all of its segments are folded: a sink is folded behind them.
struct Ending {
  float share, total;
};

__device__ __forceinline__ Ending end_row(float largest, float total, const float* sinks, int head) {
  if (!sinks) return {1.0f, total};
  Fold f = start_fold(largest, sinks[head] * LOG2_E);
  return {f.old_share, fold(f, total, 1.0f)};
}

// The segments of a prefill's rows, folded as they end; outputs in shared memory, each thread its own.
template <int HEAD_DIM, int THREADS> struct FoldedRows {
  float largest[2] = {LOWEST, LOWEST}, total[2] = {};
  float* outputs;  // element e at outputs[e * THREADS]

  __device__ __forceinline__ explicit FoldedRows(float* shared) : outputs(shared + threadIdx.x) {
    for (int e = 0; e < HEAD_DIM / 2; e++) outputs[e * THREADS] = 0;
  }

  // Add a segment, and begin the next one.
  __device__ __forceinline__ void add(Softmax<HEAD_DIM>& state) {
    state.finish();
    Fold f[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      f[half] = start_fold(largest[half], state.largest[half]);
      largest[half] = f[half].largest;
      total[half] = fold(f[half], total[half], state.total[half]);
    }
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float* place = outputs + (i * 4 + j) * THREADS;
        *place = fold(f[j / 2], *place, state.output[i][j]);
      }
    state.clear();
  }

  // out [tokens, num_heads * HEAD_DIM]
  template <class T>
  __device__ __forceinline__ void store(T* out, const Rows& rows, const Attention<T>& a, int lane) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (!rows.is_there[half]) continue;
      Ending end = end_row(largest[half], total[half], a.sinks, rows.head[half]);
      T* target = out + (static_cast<size_t>(rows.token[half]) * a.num_heads + rows.head[half]) * HEAD_DIM + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < HEAD_DIM / 8; i++) {
        float first = outputs[(i * 4 + half * 2) * THREADS], second = outputs[(i * 4 + half * 2 + 1) * THREADS];
        *reinterpret_cast<uint32_t*>(target + i * 8) = pack_pair<T>(first * end.share / end.total, second * end.share / end.total);
      }
    }
  }
};

#define ATTENTION_PARAMETERS(T)                                                                                         \
  const T *q, const T *k_cache, const T *v_cache, const int *positions, const int *query_start_loc,                     \
      const int *block_tables, const int *block_table_start_loc, const float *sinks, int q_stride, int num_heads,       \
      int num_kv_heads, int window, float scale, float softcap
#define ATTENTION_ARGUMENTS                                                                                             \
  {q, k_cache, v_cache, positions, query_start_loc, block_tables, block_table_start_loc, sinks, q_stride, num_heads,    \
   num_kv_heads, window, scale, softcap}
