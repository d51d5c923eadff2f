// argmax_f32: the index of the largest logit of each row, the lowest on a tie; failed = 1 where a logit is NaN or +inf,
// or where all are -inf
// logits [rows, vocab_size] · ids, failed [rows]
// Launch: (rows) thread blocks of 1024. Order: no sums. Bytes: 4 * vocab_size per row. Oracle: numpy.argmax
#include "best.cuh"

constexpr int THREADS = 1024;

extern "C" __global__ void __launch_bounds__(THREADS) argmax_f32(int* ids, int* failed, const float* logits, int vocab_size) {
  SHARED(float, values, THREADS / 32);
  SHARED(int, indices, THREADS / 32);
  const float* row = logits + static_cast<size_t>(blockIdx.x) * vocab_size;
  Best best = {-infinity(), 0x7fffffff};
  bool is_sound = true;
  for (int i = threadIdx.x; i < vocab_size; i += THREADS) {
    Best next = {row[i], i};
    is_sound = is_sound && next.value < infinity();  // false for NaN too
    if (is_better(next, best)) best = next;
  }
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  best = warp_best(best);
  is_sound = __all_sync(ALL_LANES, is_sound);
  if (lane == 0) {
    values[warp] = best.value;
    indices[warp] = is_sound ? best.index : -1;
  }
  __syncthreads();
  if (warp == 0) {
    is_sound = __all_sync(ALL_LANES, indices[lane] >= 0);
    best = warp_best({values[lane], indices[lane]});
    if (lane == 0) {
      bool has_token = is_sound && best.value > -infinity();
      ids[blockIdx.x] = has_token ? best.index : 0;
      failed[blockIdx.x] = !has_token;
    }
  }
}
KERNEL(argmax_f32)
