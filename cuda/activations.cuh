// Activations in float32.
#pragma once
#include "primitives.cuh"

struct Silu {
  __device__ static float apply(float x) { return x / (1.0f + expf(-x)); }
};
struct GeluTanh {
  __device__ static float apply(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
  }
};
struct Gelu {
  __device__ static float apply(float x) { return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f)); }
};
