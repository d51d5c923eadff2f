// <activation> without a gate, all in activation_<activation>_<T>: out = act(x), rounded once; out may be x
// x, out [n]. Launch: (ceil(n / 1024)) thread blocks of 256, four elements a thread. Needs n % 4 == 0.
// Bytes: 2 * n * sizeof(T). Oracle: reference.py, ACTIVATIONS
#include "activations.cuh"

template <class T, class Activation> __device__ void activate(T* out, const T* x, int n) {
  int i = (blockIdx.x * 256 + threadIdx.x) * 4;
  if (i >= n) return;
  float4 v = load_four(x + i);
  store_four(out + i, make_float4(Activation::apply(v.x), Activation::apply(v.y), Activation::apply(v.z), Activation::apply(v.w)));
}

#define ACTIVATION(NAME, T, FUNCTION)                                                                         \
  extern "C" __global__ void __launch_bounds__(256) activation_##NAME(T* out, const T* x, int n) {            \
    activate<T, FUNCTION>(out, x, n);                                                                         \
  }                                                                                                           \
  KERNEL(activation_##NAME)

ACTIVATION(silu_f32, float, Silu)
ACTIVATION(silu_bf16, bfloat16, Silu)
ACTIVATION(silu_f16, float16, Silu)
ACTIVATION(gelu_tanh_f32, float, GeluTanh)
ACTIVATION(gelu_tanh_bf16, bfloat16, GeluTanh)
ACTIVATION(gelu_tanh_f16, float16, GeluTanh)
ACTIVATION(gelu_f32, float, Gelu)
ACTIVATION(gelu_bf16, bfloat16, Gelu)
ACTIVATION(gelu_f16, float16, Gelu)
ACTIVATION(relu_f32, float, Relu)
ACTIVATION(relu_bf16, bfloat16, Relu)
ACTIVATION(relu_f16, float16, Relu)
