// <activation>_and_mul, all in act_and_mul_<activation>_<T>: out[i] = act(x[i]) * x[width + i], rounded once
// (clamped_swiglu: activations.cuh)
// x [rows, 2 * width] · out [rows, width]
// Launch: (ceil(width / 512), rows) thread blocks of 128, four elements a thread. Needs width % 4 == 0.
// Bytes: 3 * width * sizeof(T) per row. Oracle: reference.act_and_mul
#include "activations.cuh"

template <class T, class Activation> __device__ void act_and_mul(T* out, const T* x, int width) {
  int i = (blockIdx.x * 128 + threadIdx.x) * 4;
  if (i >= width) return;
  const T* row = x + static_cast<size_t>(blockIdx.y) * 2 * width;
  float4 gate = load_four(row + i), up = load_four(row + width + i);
  store_four(out + static_cast<size_t>(blockIdx.y) * width + i,
             make_float4(activate_gated<Activation>(gate.x, up.x), activate_gated<Activation>(gate.y, up.y),
                         activate_gated<Activation>(gate.z, up.z), activate_gated<Activation>(gate.w, up.w)));
}

#define ACT_AND_MUL(NAME, T, ACTIVATION)                                                                      \
  extern "C" __global__ void __launch_bounds__(128) act_and_mul_##NAME(T* out, const T* x, int width) {       \
    act_and_mul<T, ACTIVATION>(out, x, width);                                                                \
  }                                                                                                           \
  KERNEL(act_and_mul_##NAME)

ACT_AND_MUL(silu_f32, float, Silu)
ACT_AND_MUL(silu_bf16, bfloat16, Silu)
ACT_AND_MUL(silu_f16, float16, Silu)
ACT_AND_MUL(gelu_tanh_f32, float, GeluTanh)
ACT_AND_MUL(gelu_tanh_bf16, bfloat16, GeluTanh)
ACT_AND_MUL(gelu_tanh_f16, float16, GeluTanh)
ACT_AND_MUL(gelu_f32, float, Gelu)
ACT_AND_MUL(gelu_bf16, bfloat16, Gelu)
ACT_AND_MUL(gelu_f16, float16, Gelu)
ACT_AND_MUL(relu_f32, float, Relu)
ACT_AND_MUL(relu_bf16, bfloat16, Relu)
ACT_AND_MUL(relu_f16, float16, Relu)
ACT_AND_MUL(clamped_swiglu_f32, float, ClampedSwiglu)
ACT_AND_MUL(clamped_swiglu_bf16, bfloat16, ClampedSwiglu)
ACT_AND_MUL(clamped_swiglu_f16, float16, ClampedSwiglu)
