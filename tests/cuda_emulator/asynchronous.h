// What a thread block has set going and not yet waited for: barriers in shared memory, tensor loads, matrix products of
// warpgroups. The words of each are in a header of its own: memory_barrier.h, tensor_load.h, warpgroup.h.
#pragma once
#include <array>
#include <map>
#include <string>
#include <vector>
#include "language.h"

namespace cuda_emulator {

/// A barrier in shared memory (mbarrier). The state lives here, not in the kernel's eight bytes, which stay poison.
struct MemoryBarrierState {
  std::string name;
  int expected = 0;      // arrivals in a phase
  int pending = 0;       // of those, still to come
  int64_t bytes = 0;     // announced and not yet landed
  uint64_t phase = 0;    // how many are complete
  int initialiser = -1;  // the thread that made it, until its fence
};

/// What cuTensorMapEncodeTiled says of an array in global memory; the innermost dimension comes first.
struct TensorMap {
  static constexpr const char* type_name = "tensor_map";
  unsigned char* base;
  uint64_t sizes[3], strides[3];  // elements; bytes (of a step in that dimension)
  uint32_t box[3];                // elements
  uint32_t element_bytes, is_swizzled, dimensions, filler;
};
static_assert(sizeof(TensorMap) == 88);

/// A box on its way to shared memory.
struct PendingLoad {
  TensorMap map;
  unsigned char* target;
  const void* barrier;
  std::array<int, 3> at;
};

constexpr int MAX_ACCUMULATORS = 256;

/// One wgmma as a warp sees it: its sixteen rows of the sixty-four.
struct PendingProduct {
  uint64_t left = 0, right = 0;  // descriptors; `left` is unused where the fragments come from registers
  bool is_left_in_registers = false, is_right_transposed = false, adds = false;
  int columns = 0, group = 0;
  float (*to_float)(uint16_t) = nullptr;
  std::array<std::array<uint32_t, 4>, 32> fragments{};
  std::array<float*, 32> sums{};  // the lanes' registers
};

/// Registers that a warp's products own until they are waited for; the kernel sees NaN.
struct OwnedSums {
  std::array<float*, 32> registers{};
  std::array<std::array<float, MAX_ACCUMULATORS / 2>, 32> values{};
  int count = 0;
};

struct WarpProducts {
  std::vector<PendingProduct> queue;  // in order; those that were computed are gone
  std::vector<OwnedSums> owned;
  std::vector<int> groups_of_owned;   // the last group that adds to each
  int group = 0;                      // the open one
  int num_issued = 0;
  bool is_fenced = false;
};

/// What the warps of a warpgroup must agree about: the operands of each product that not all four have issued yet.
struct Agreement {
  uint64_t left, right;
  int columns;
};
}  // namespace cuda_emulator
