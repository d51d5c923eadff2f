// moe_combine_<T>: out[t] = sum over s of weights[t, s] * y[t * top_k + s], rounded once
// y [tokens * top_k, width] · weights [tokens, top_k] · out [tokens, width]
// Launch: (ceil(width / 512), tokens) thread blocks of 128, four elements a thread. Needs width % 4 == 0.
// Order: the token's own choices, best first. Bytes: (top_k + 1) * width * sizeof(T) per token. Oracle: numpy
#include "primitives.cuh"

template <class T> __device__ void moe_combine(T* out, const T* y, const float* weights, int top_k, int width) {
  int i = (blockIdx.x * 128 + threadIdx.x) * 4;
  if (i >= width) return;
  size_t token = blockIdx.y;
  float4 sum = make_float4(0, 0, 0, 0);
  for (int slot = 0; slot < top_k; slot++) {
    float weight = weights[token * top_k + slot];
    float4 value = load_four(y + (token * top_k + slot) * width + i);
    sum = make_float4(fmaf(weight, value.x, sum.x), fmaf(weight, value.y, sum.y), fmaf(weight, value.z, sum.z),
                      fmaf(weight, value.w, sum.w));
  }
  store_four(out + token * width + i, sum);
}

#define MOE_COMBINE(NAME, T)                                                                                            \
  extern "C" __global__ void __launch_bounds__(128) moe_combine_##NAME(T* out, const T* y, const float* weights,        \
                                                                       int top_k, int width) {                          \
    moe_combine<T>(out, y, weights, top_k, width);                                                                      \
  }                                                                                                                     \
  KERNEL(moe_combine_##NAME)

MOE_COMBINE(f32, float)
MOE_COMBINE(bf16, bfloat16)
MOE_COMBINE(f16, float16)
