// lm_head_argmax_<T>_<W>: the largest logit of each panel of 16 outputs, for 1 … 8 rows; lm_head_argmax_combine: of all
// Logits are float32(x @ weight^T), capped if softcap > 0: bit for bit those of linear_few_<T>_<W>_f32 and softcap_f32, and
// the ids are those of argmax_f32: the lowest of equals, failed = 1 where a logit is NaN or +inf or where all are -inf.
// x [rows, k] of T · weight [n, k] packed (weights.cuh) · values, indices [panels, 8]
// combine: ids, failed [rows]
// Launch: (ceil(n / 16)) thread blocks of 128, ceil(k / 512) * 512 bytes of dynamic shared memory; combine: (rows) thread
// blocks of 1024. Needs k % 32 == 0, x aligned to 4 bytes, codes to 16. Order of sums: few_rows.cuh.
// Bytes: the packed matrix once, 64 per panel; the logits stay on the chip. Oracle: numpy.argmax over linear_few's logits
#include "best.cuh"
#include "few_rows.cuh"

template <class T, class W>
__device__ void lm_head_argmax(float* values, int* indices, const T* x, const uint32_t* codes, const float* scales, int rows,
                               int n, int k, int group, float softcap) {
  DYNAMIC_SHARED(shared);
  SHARED(float, warp_values, WARPS * MAX_ROWS);
  SHARED(int, warp_indices, WARPS * MAX_ROWS);
  float* partial = reinterpret_cast<float*>(shared);
  stream_panel<T, W>(partial, x, codes, scales, blockIdx.x, rows, k, group);
  __syncthreads();

  int output = blockIdx.x * PANEL_ROWS + threadIdx.x / MAX_ROWS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float logit = panel_total(partial, k);
  if (softcap > 0) logit = softcap * tanhf(logit / softcap);
  // What is no number wins, so that nobody overlooks it.
  Best best = {output < n ? (logit < infinity() ? logit : infinity()) : -infinity(), output};
  best = best_of_lanes<16, MAX_ROWS>(best);
  if (lane < MAX_ROWS) {
    warp_values[warp * MAX_ROWS + lane] = best.value;
    warp_indices[warp * MAX_ROWS + lane] = best.index;
  }
  __syncthreads();
  if (threadIdx.x >= static_cast<unsigned>(rows)) return;
  for (int other = 1; other < WARPS; other++) {
    Best next = {warp_values[other * MAX_ROWS + lane], warp_indices[other * MAX_ROWS + lane]};
    if (is_better(next, best)) best = next;
  }
  values[blockIdx.x * MAX_ROWS + lane] = best.value;
  indices[blockIdx.x * MAX_ROWS + lane] = best.index;
}

extern "C" __global__ void __launch_bounds__(1024) lm_head_argmax_combine(int* ids, int* failed, const float* values,
                                                                          const int* indices, int panels) {
  SHARED(float, warp_values, 32);
  SHARED(int, warp_indices, 32);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x;
  Best best = {-infinity(), 0x7fffffff};
  for (int panel = threadIdx.x; panel < panels; panel += 1024) {
    Best next = {values[panel * MAX_ROWS + row], indices[panel * MAX_ROWS + row]};
    if (is_better(next, best)) best = next;
  }
  best = warp_best(best);
  if (lane == 0) {
    warp_values[warp] = best.value;
    warp_indices[warp] = best.index;
  }
  __syncthreads();
  if (warp) return;
  best = warp_best({warp_values[lane], warp_indices[lane]});
  if (lane == 0) {
    bool has_token = best.value < infinity() && best.value > -infinity();
    ids[row] = has_token ? best.index : 0;
    failed[row] = !has_token;
  }
}
KERNEL(lm_head_argmax_combine)

#define LM_HEAD_ARGMAX(NAME, T, W)                                                                                      \
  extern "C" __global__ void __launch_bounds__(128) lm_head_argmax_##NAME(                                              \
      float* values, int* indices, const T* x, const uint32_t* codes, const float* scales, int rows, int n, int k,      \
      int group, float softcap) {                                                                                       \
    lm_head_argmax<T, W<T>>(values, indices, x, codes, scales, rows, n, k, group, softcap);                             \
  }                                                                                                                     \
  KERNEL(lm_head_argmax_##NAME)

LM_HEAD_ARGMAX(bf16_bf16, bfloat16, Float16Bits)
LM_HEAD_ARGMAX(bf16_int8, bfloat16, Int8)
LM_HEAD_ARGMAX(bf16_int4, bfloat16, Int4)
LM_HEAD_ARGMAX(bf16_e4m3, bfloat16, E4m3)
LM_HEAD_ARGMAX(f16_f16, float16, Float16Bits)
LM_HEAD_ARGMAX(f16_int8, float16, Int8)
LM_HEAD_ARGMAX(f16_int4, float16, Int4)
LM_HEAD_ARGMAX(f16_e4m3, float16, E4m3)
