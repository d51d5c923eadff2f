// copy_blocks_u32: cache[target] = cache[source] for pairs of KV blocks (copy-on-write), K and V of one layer
// k_cache, v_cache [num_blocks, words], as words of 4 bytes · pairs [2 * count]: source, target, source, target …
// Launch: (count) thread blocks of 256. No block is both a source and a target.
// Bytes: 16 * words per pair. Oracle: numpy
#include "primitives.cuh"

extern "C" __global__ void __launch_bounds__(256) copy_blocks_u32(uint32_t* k_cache, uint32_t* v_cache, const int* pairs,
                                                                  int k_words, int v_words) {
  size_t source = pairs[2 * blockIdx.x], target = pairs[2 * blockIdx.x + 1];
  for (int i = threadIdx.x; i < k_words; i += 256) k_cache[target * k_words + i] = k_cache[source * k_words + i];
  for (int i = threadIdx.x; i < v_words; i += 256) v_cache[target * v_words + i] = v_cache[source * v_words + i];
}
KERNEL(copy_blocks_u32)
