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
struct Relu {
  __device__ static float apply(float x) { return x < 0 ? 0.0f : x; }  // NaN stays
};

// What a gated MLP makes of its two products.
template <class Activation> __device__ __forceinline__ float activate_gated(float gate, float up) {
  return Activation::apply(gate) * up;
}

// gpt-oss: both are clamped (NaN stays), silu(1.702 x) / 1.702, and one is added to `up`.
struct ClampedSwiglu {};
template <> __device__ __forceinline__ float activate_gated<ClampedSwiglu>(float gate, float up) {
  gate = gate > 7 ? 7.0f : gate;
  up = up > 7 ? 7.0f : up < -7 ? -7.0f : up;
  return gate / (1.0f + expf(-1.702f * gate)) * (up + 1.0f);
}
