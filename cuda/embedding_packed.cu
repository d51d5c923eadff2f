// embedding_packed_<T>_<W>: out[t] = table[token_ids[t]] * scale, rounded once to T, from a packed matrix
// table [vocab_size, width] packed (weights.cuh), its values rounded to T as products read them · token_ids [tokens]
// out [tokens, width]
// Launch: (tokens) thread blocks of 128. Needs width % 32 == 0, token ids inside the table, codes aligned to 16 bytes, out
// to 4. The bits are those of `embedding` over the unpacked values, so one array does for looking up and for lm_head.
// Bytes: width * sizeof(T) and 2 rows of codes per token. Oracle: numpy over the dequantized weights
#include "weights.cuh"

template <class T, class W>
__device__ void embedding_packed(T* out, const uint32_t* codes, const float* scales, const int* token_ids, int width,
                                 int group, float scale) {
  int token = token_ids[blockIdx.x], pairs = width / PAIR_COLUMNS;
  int panel = token / PANEL_ROWS, row = token % PANEL_ROWS;
  bool is_lower = row >= 8;
  T* target = out + static_cast<size_t>(blockIdx.x) * width;
  for (int i = threadIdx.x; i < pairs * 4; i += 128) {
    int pair = i / 4, quarter = i % 4;
    FragmentPair found = W::load(codes, scales, panel, pair, pairs, group, row % 8 * 4 + quarter);
    uint32_t elements[4] = {is_lower ? found.low[1] : found.low[0], is_lower ? found.low[3] : found.low[2],
                            is_lower ? found.high[1] : found.high[0], is_lower ? found.high[3] : found.high[2]};
#pragma unroll
    for (int part = 0; part < 4; part++) {
      T first = {static_cast<uint16_t>(elements[part])}, second = {static_cast<uint16_t>(elements[part] >> 16)};
      *reinterpret_cast<uint32_t*>(target + pair * PAIR_COLUMNS + part * 8 + quarter * 2) =
          pack_pair<T>(to_float(first) * scale, to_float(second) * scale);
    }
  }
}

#define EMBEDDING_PACKED(NAME, T, W)                                                                                     \
  extern "C" __global__ void __launch_bounds__(128) embedding_packed_##NAME(                                            \
      T* out, const uint32_t* codes, const float* scales, const int* token_ids, int width, int group, float scale) {    \
    embedding_packed<T, W<T>>(out, codes, scales, token_ids, width, group, scale);                                      \
  }                                                                                                                     \
  KERNEL(embedding_packed_##NAME)

EMBEDDING_PACKED(bf16_bf16, bfloat16, Float16Bits)
EMBEDDING_PACKED(bf16_int8, bfloat16, Int8)
EMBEDDING_PACKED(bf16_int4, bfloat16, Int4)
EMBEDDING_PACKED(bf16_e4m3, bfloat16, E4m3)
EMBEDDING_PACKED(f16_f16, float16, Float16Bits)
EMBEDDING_PACKED(f16_int8, float16, Int8)
EMBEDDING_PACKED(f16_int4, float16, Int4)
EMBEDDING_PACKED(f16_e4m3, float16, E4m3)
