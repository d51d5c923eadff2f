// Packed weights: matrices whose bytes lie in the order in which a warp's lanes want them for mma.sync.
//
// A matrix [n, k] is cut into panels of 16 rows (the last one filled up with zeros) and pairs of 32 columns. In each, a
// lane finds the elements of its two left-hand fragments (m16n8k16, k ascending) side by side, so that a warp reads whole
// lines: 32 bytes a lane for T, 16 for int8 and fp8, 8 for int4. python/inferlib/executors/cuda_weights.py packs them.
//
// int8: value = scale * code, a scale per row and `group` (16 or 32) columns: GGUF's Q8_0, Q6_K.
// int4: value = scale * code + minimum per row and 32 columns, codes 0 … 15: Q4_0, Q4_1, Q4_K.
// e4m3, e5m2 (fp8): value = scale * number, a scale per row and `group` columns, a multiple of 32 (k: one per row).
// Values are rounded to T. Scales are float32, [panels, k / group, 16], for int4 [panels, k / 32, 16, 2].
//
// Sums over k have one order for every number of rows: slices of 512 columns, each summed pair after pair by mma.sync,
// are added in ascending order. linear_few and linear_many differ in who computes what, not in this.
#pragma once
#include "primitives.cuh"

constexpr int PANEL_ROWS = 16;
constexpr int PAIR_COLUMNS = 32;
constexpr int SLICE_COLUMNS = 512;

// The fragments of columns 0 … 15 and 16 … 31 of a pair.
struct FragmentPair {
  uint32_t low[4], high[4];
};

template <class T> struct Float16Bits {
  __device__ __forceinline__ static FragmentPair load(const uint32_t* codes, const float*, int panel, int pair, int pairs,
                                                      int, int lane) {
    const uint4* tiles = reinterpret_cast<const uint4*>(codes) + (static_cast<size_t>(panel) * pairs + pair) * 64 + lane;
    uint4 low = load_streamed(tiles), high = load_streamed(tiles + 32);
    return {{low.x, low.y, low.z, low.w}, {high.x, high.y, high.z, high.w}};
  }
};

template <class T> struct Int8 {
  // Four codes, of row g and then of row g + 8, as two registers.
  __device__ __forceinline__ static void decode(uint32_t (&fragment)[4], int at, uint32_t codes, float low, float high) {
    int32_t c = static_cast<int32_t>(codes);
    fragment[at] = pack_pair<T>(low * static_cast<float>(c << 24 >> 24), low * static_cast<float>(c << 16 >> 24));
    fragment[at + 1] = pack_pair<T>(high * static_cast<float>(c << 8 >> 24), high * static_cast<float>(c >> 24));
  }

  __device__ __forceinline__ static FragmentPair load(const uint32_t* codes, const float* scales, int panel, int pair,
                                                      int pairs, int group, int lane) {
    uint4 bytes = load_streamed(reinterpret_cast<const uint4*>(codes) + (static_cast<size_t>(panel) * pairs + pair) * 32 + lane);
    int per_pair = PAIR_COLUMNS / group;
    const float* first = scales + (static_cast<size_t>(panel) * pairs + pair) * per_pair * PANEL_ROWS + lane / 4;
    const float* second = first + (per_pair - 1) * PANEL_ROWS;
    FragmentPair result;
    decode(result.low, 0, bytes.x, first[0], first[8]);
    decode(result.low, 2, bytes.y, first[0], first[8]);
    decode(result.high, 0, bytes.z, second[0], second[8]);
    decode(result.high, 2, bytes.w, second[0], second[8]);
    return result;
  }
};

template <class T> struct Int4 {
  __device__ __forceinline__ static uint32_t decode(uint32_t codes, float2 scale) {
    return pack_pair<T>(fmaf(scale.x, static_cast<float>(codes & 15), scale.y),
                        fmaf(scale.x, static_cast<float>(codes >> 4 & 15), scale.y));
  }

  __device__ __forceinline__ static FragmentPair load(const uint32_t* codes, const float* scales, int panel, int pair,
                                                      int pairs, int, int lane) {
    size_t place = static_cast<size_t>(panel) * pairs + pair;
    uint2 bytes = load_streamed(reinterpret_cast<const uint2*>(codes) + place * 32 + lane);
    const float2* rows = reinterpret_cast<const float2*>(scales) + place * PANEL_ROWS + lane / 4;
    float2 low = rows[0], high = rows[8];
    return {{decode(bytes.x, low), decode(bytes.x >> 8, high), decode(bytes.x >> 16, low), decode(bytes.x >> 24, high)},
            {decode(bytes.y, low), decode(bytes.y >> 8, high), decode(bytes.y >> 16, low), decode(bytes.y >> 24, high)}};
  }
};

// Numbers of 8 bits: their bits, moved, are those of a float32 whose exponent has another bias. NaN and infinity are no
// weights (python/inferlib/executors/fp8_weights.py refuses them). Their exponents are brought back before the scale.
template <class T, int EXPONENT_BITS> struct Fp8 {
  __device__ __forceinline__ static float value(uint32_t codes, int byte) {
    constexpr float BIAS = EXPONENT_BITS == 4 ? 0x1p120f : 0x1p112f;  // 2^(127 - 7), 2^(127 - 15)
    uint32_t code = codes >> (8 * byte) & 0xff;
    return __uint_as_float((code & 0x80) << 24 | (code & 0x7f) << (16 + EXPONENT_BITS)) * BIAS;
  }

  // Four numbers, of row g and then of row g + 8, as two registers.
  __device__ __forceinline__ static void decode(uint32_t (&fragment)[4], int at, uint32_t codes, float low, float high) {
    fragment[at] = pack_pair<T>(low * value(codes, 0), low * value(codes, 1));
    fragment[at + 1] = pack_pair<T>(high * value(codes, 2), high * value(codes, 3));
  }

  __device__ __forceinline__ static FragmentPair load(const uint32_t* codes, const float* scales, int panel, int pair,
                                                      int pairs, int group, int lane) {
    uint4 bytes = load_streamed(reinterpret_cast<const uint4*>(codes) + (static_cast<size_t>(panel) * pairs + pair) * 32 + lane);
    int groups = pairs * PAIR_COLUMNS / group, place = pair * PAIR_COLUMNS / group;
    const float* rows = scales + (static_cast<size_t>(panel) * groups + place) * PANEL_ROWS + lane / 4;
    float low = rows[0], high = rows[8];
    FragmentPair result;
    decode(result.low, 0, bytes.x, low, high);
    decode(result.low, 2, bytes.y, low, high);
    decode(result.high, 0, bytes.z, low, high);
    decode(result.high, 2, bytes.w, low, high);
    return result;
  }
};
template <class T> using E4m3 = Fp8<T, 4>;
template <class T> using E5m2 = Fp8<T, 5>;
