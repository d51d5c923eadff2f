// sample_f32: draw a token per row: temperature, top_k, top_p, min_p, then by inversion with a counter RNG
// logits [rows, vocab_size] · temperature, top_p, min_p [rows] of float32 · top_k [rows] (0 keeps all)
// seeds [rows, 2]: low and high word · sequence_indices, positions [rows] · ids, failed [rows]
// A weight is exp((x - max) / temperature); temperature 0 takes the largest, the lowest id on a tie. Each cut keeps a
// prefix of the ranking (larger first, lower id on a tie): the k best, the fewest whose weight reaches top_p of that of
// the k best, those of at least min_p. failed = 1 (and id 0) where a logit is NaN or +inf, or all are -inf.
// Launch: (rows) thread blocks of 1024. Needs vocab_size < 2^23.
// Order: none. Weights become integers of 40 bits and all sums are integer, so they are exact: no sort, no float sum.
// Ends of prefixes are found by their 32-bit key, eight bits at a time. The uniform is Philox4x32-10 of
// (seed, sequence, position), as on the CPU.
// Bytes: 4 * vocab_size per pass, from L2 after the first: 3 passes, 4 more for top_k, 5 for top_p.
// Oracle: test_sampling.py. Source: Salmon et al. 2011 (Philox).
#include "reductions.cuh"

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;
constexpr int BINS = 256;
constexpr float MASS_UNIT = 1099511627776.0f;  // 2^40
constexpr float LOG2_E = 1.4426950408889634f;

// Larger values have smaller keys.
__device__ __forceinline__ uint32_t key_of(float value) {
  uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes 0
  return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

struct Row {
  const float* logits;
  int vocab_size;
  float largest, scale;

  __device__ __forceinline__ uint64_t mass(int i) const {
    return static_cast<uint64_t>(exp2_approximate((logits[i] - largest) * scale) * MASS_UNIT);
  }
};

// A prefix of the ranking: all keys below `key`, and the first `num_ties` ids of those that have it.
struct Prefix {
  uint32_t key;
  uint64_t num_ties;
};

// The sum over the thread block, in every thread.
__device__ __forceinline__ uint64_t block_sum_of(uint64_t value) {
  SHARED(uint64_t, sums, WARPS);
  for (int distance = 16; distance; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  uint64_t total = 0;
  for (int warp = 0; warp < WARPS; warp++) total += sums[warp];
  __syncthreads();
  return total;
}

// The sum over all threads before this one.
__device__ __forceinline__ uint64_t sum_before(uint64_t value) {
  SHARED(uint64_t, sums, WARPS);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint64_t running = value;
  for (int distance = 1; distance < 32; distance *= 2) {
    uint64_t other = __shfl_up_sync(ALL_LANES, running, distance);
    if (lane >= distance) running += other;
  }
  if (lane == 31) sums[warp] = running;
  __syncthreads();
  uint64_t before = running - value;
  for (int i = 0; i < warp; i++) before += sums[i];
  __syncthreads();
  return before;
}

// The shortest prefix whose weight reaches `target`: of counts, or of masses. Everything, if nothing does.
template <bool IS_COUNT> __device__ Prefix find_prefix(const Row& row, uint64_t target) {
  SHARED(uint64_t, bins, BINS);
  SHARED(uint64_t, found, 2);  // digit, and the weight in front of it
  uint32_t prefix = 0, mask = 0;
  uint64_t before = 0, ties = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < BINS) bins[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < row.vocab_size; i += THREADS) {
      uint32_t key = key_of(row.logits[i]);
      if ((key & mask) == prefix) add_shared(bins + (key >> shift & 255), IS_COUNT ? 1 : row.mass(i));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      uint64_t running = before;
      int digit = 0, last = 255;
      while (last > 0 && !bins[last]) last--;
      for (; digit < last && running + bins[digit] < target; digit++) running += bins[digit];
      found[0] = digit;
      found[1] = running;
    }
    __syncthreads();
    prefix |= static_cast<uint32_t>(found[0]) << shift;
    mask |= 255u << shift;
    before = found[1];
    ties = bins[found[0]];
    __syncthreads();
  }
  // All ties weigh the same; `ties` is their weight together.
  uint64_t wanted = target > before ? target - before : 0;
  if (IS_COUNT) return {prefix, wanted < ties ? wanted : ties};
  uint64_t count = 0;
  for (int i = threadIdx.x; i < row.vocab_size; i += THREADS) count += key_of(row.logits[i]) == prefix;
  count = block_sum_of(count);
  uint64_t each = ties / (count ? count : 1);
  uint64_t needed = each ? (wanted + each - 1) / each : count;
  return {prefix, needed < 1 ? 1 : needed < count ? needed : count};
}

__device__ __forceinline__ uint64_t random_bits(uint32_t low, uint32_t high, uint32_t sequence, uint32_t position) {
  uint32_t counter[4] = {position, sequence, 0, 0};
  for (int round = 0; round < 10; round++) {
    uint64_t first = static_cast<uint64_t>(0xD2511F53u) * counter[0], second = static_cast<uint64_t>(0xCD9E8D57u) * counter[2];
    uint32_t next[4] = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ low, static_cast<uint32_t>(second),
                        static_cast<uint32_t>(first >> 32) ^ counter[3] ^ high, static_cast<uint32_t>(first)};
    for (int i = 0; i < 4; i++) counter[i] = next[i];
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  return static_cast<uint64_t>(counter[1]) << 32 | counter[0];
}

// The largest logit, and whether the row is sound.
__device__ __forceinline__ bool scan_row(const float* logits, int vocab_size, float& largest) {
  SHARED(float, values, WARPS);
  SHARED(int, sound, WARPS);
  float best = -infinity();
  bool is_sound = true;
  for (int i = threadIdx.x; i < vocab_size; i += THREADS) {
    is_sound = is_sound && logits[i] < infinity();
    best = fmaxf(best, logits[i]);
  }
  best = warp_max(best);
  is_sound = __all_sync(ALL_LANES, is_sound);
  if (threadIdx.x % 32 == 0) {
    values[threadIdx.x / 32] = best;
    sound[threadIdx.x / 32] = is_sound;
  }
  __syncthreads();
  for (int warp = 0; warp < WARPS; warp++) {
    best = fmaxf(best, values[warp]);
    is_sound = is_sound && sound[warp];
  }
  __syncthreads();
  largest = best;
  return is_sound && best > -infinity();
}

extern "C" __global__ void __launch_bounds__(THREADS)
    sample_f32(int* ids, int* failed, const float* logits, const float* temperature, const int* top_k, const float* top_p,
               const float* min_p, const uint32_t* seeds, const int* sequence_indices, const int* positions, int vocab_size) {
  SHARED(int, chosen, 1);
  int line = blockIdx.x;
  Row row = {logits + static_cast<size_t>(line) * vocab_size, vocab_size, 0, 0};
  bool is_sound = scan_row(row.logits, vocab_size, row.largest);
  if (threadIdx.x == 0) {
    failed[line] = !is_sound;
    chosen[0] = 0;
  }
  if (!is_sound) {
    if (threadIdx.x == 0) ids[line] = 0;
    return;
  }
  bool is_greedy = !(temperature[line] > 0);
  row.scale = is_greedy ? LOG2_E : fminf(LOG2_E / temperature[line], 3.0e38f);

  Prefix prefix = {0xffffffffu, 0};  // everything
  if (is_greedy) {
    prefix = {key_of(row.largest), 1};
  } else {
    bool has_top_k = top_k[line] > 0 && top_k[line] < vocab_size;
    if (has_top_k) prefix = find_prefix<true>(row, top_k[line]);
    if (top_p[line] < 1) {
      uint64_t mass = 0;
      for (int i = threadIdx.x; i < vocab_size; i += THREADS)
        if (key_of(row.logits[i]) < prefix.key) mass += row.mass(i);
      mass = block_sum_of(mass);
      if (has_top_k) {
        SHARED(uint64_t, tie_mass, 1);
        for (int i = threadIdx.x; i < vocab_size; i += THREADS)
          if (key_of(row.logits[i]) == prefix.key) tie_mass[0] = row.mass(i);  // every writer the same
        __syncthreads();
        mass += tie_mass[0] * prefix.num_ties;
      }
      // The share is known to 24 bits: reaching it but for that error is reaching it.
      double share = static_cast<double>(top_p[line]) * (1.0 - 5.9604644775390625e-8);
      uint64_t target = static_cast<uint64_t>(ceil(share * static_cast<double>(mass)));
      prefix = find_prefix<false>(row, target);
    }
  }
  uint64_t floor_mass = static_cast<uint64_t>(fmaxf(min_p[line], 0.0f) * MASS_UNIT);

  // A thread has a run of ids: how many ties come before it, then how much mass, then who has the drawn one.
  int run = (vocab_size + THREADS - 1) / THREADS;
  int first = min(static_cast<int>(threadIdx.x) * run, vocab_size), end = min(first + run, vocab_size);
  uint64_t ties = 0;
  for (int i = first; i < end; i++) ties += key_of(row.logits[i]) == prefix.key;
  uint64_t ties_before = sum_before(ties);
  auto kept_mass = [&](int i, uint64_t& tie) -> uint64_t {
    uint32_t key = key_of(row.logits[i]);
    if (key > prefix.key || (key == prefix.key && tie++ >= prefix.num_ties)) return 0;
    uint64_t mass = row.mass(i);
    return is_greedy || mass >= floor_mass ? mass : 0;
  };
  uint64_t mine = 0, tie = ties_before;
  for (int i = first; i < end; i++) mine += kept_mass(i, tie);
  uint64_t before = sum_before(mine), total = block_sum_of(mine);
  uint64_t bits = random_bits(seeds[line * 2], seeds[line * 2 + 1], sequence_indices[line], positions[line]);
  uint64_t target = multiply_high(bits, total);  // below total
  if (before <= target && target < before + mine) {
    tie = ties_before;
    for (int i = first; i < end; i++) {
      before += kept_mass(i, tie);
      if (before > target) {
        chosen[0] = i;
        break;
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) ids[line] = chosen[0];
}
KERNEL(sample_f32)
