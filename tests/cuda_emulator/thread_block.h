// One thread block: its threads as fibers, their barriers, its shared memory, and the schedule.
//
// A schedule is a seed. Seed 0 runs warps and lanes in order, each until it waits. Any other seed shuffles warps and
// lanes anew in every round: what is missing a barrier then reads poison or old values in some schedule.
#pragma once
#include <setjmp.h>
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>
#include "asynchronous.h"
#include "fiber.h"
#include "guarded_memory.h"
#include "language.h"

namespace cuda_emulator {

constexpr size_t STACK_BYTES = 64 * 1024;
constexpr int NUM_BARRIERS = 16;
constexpr size_t STATIC_SHARED_LIMIT = 48 * 1024;
constexpr size_t SHARED_LIMIT = 227 * 1024;

enum class State : uint8_t { ready, in_collective, at_barrier, at_memory_barrier, done };

/// A copy of cp.async that has not landed.
struct PendingCopy {
  void* target;
  const void* source;
  int bytes, group;
};

struct Thread {
  Context context;
  uint3 index{};
  int linear = 0, lane = 0, warp = 0;
  State state = State::ready;
  const char* waits_in = "";   // what, where and for whom, while it waits
  Location where{};
  int barrier = 0;
  const void* memory_barrier = nullptr;
  unsigned parity = 0;
  unsigned mask = 0;
  void* deposit = nullptr;     // its argument of a warp collective
  std::vector<PendingCopy> copies;
  int copy_group = 0;
};

struct Barrier {
  int arrived = 0, expected = 0;
  Location where{};
};

/// Lanes of one warp that are on their way into the same collective.
struct Meeting {
  unsigned mask, arrived;
  const char* name;
};

struct Warp {
  std::vector<Meeting> meetings;
  WarpProducts products;
};

class Shuffler;
bool land_loads(Shuffler& shuffler, bool is_shuffled, bool is_idle);
std::string describe_memory_barrier(const void* place, unsigned parity);
void check_nothing_is_pending();

struct Block {
  const char* kernel = "";
  uint3 index{};
  dim3 dim{}, grid{};
  int num_threads = 0, num_warps = 0, num_alive = 0;
  Barrier barriers[NUM_BARRIERS];
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::map<const void*, MemoryBarrierState> memory_barriers;  // by address
  std::vector<PendingLoad> loads;
  std::map<int, std::map<int, Agreement>> agreements;  // warpgroup → number of the product
  uint64_t seed = 0;
  uint64_t coin = 0;  // of `toss`
  bool leaves_warp = false;
  std::map<const void*, std::unique_ptr<GuardedMemory>> shared_arrays;  // by the place in the source
  std::unique_ptr<GuardedMemory> dynamic_shared;
  size_t static_shared_bytes = 0;
  Context scheduler;
  void (*run_kernel)(void*) = nullptr;
  void* run_argument = nullptr;
  std::string message;
  sigjmp_buf failed;
};

inline thread_local Block* block = nullptr;
inline thread_local Thread* current = nullptr;

/// End the launch with a message that names kernel, thread block and thread.
[[noreturn]] void fail(const char* format, ...);

std::string file_line(const Location& where);

inline void yield_to_scheduler() { switch_context(current->context, block->scheduler); }

void wait(State state, const char* name, const Location& where);

/// A decision that differs between schedules; always true in the one in order.
inline bool toss() {
  if (!block->seed) return true;
  block->coin = block->coin * 6364136223846793005ull + 1442695040888963407ull;
  return block->coin >> 63;
}

/// Where it may matter who goes on first: let others, in some schedules.
void maybe_let_others_go_on();

void release_barrier(int id);

/// `bar.sync id, count`; a count of 0 means all threads that have not ended.
void arrive_and_wait(int id, int count, const char* name, const Location& where);

void fiber_entry();

/// Say who waits where, and end the launch.
[[noreturn]] void report_deadlock();

/// A small generator with a state of its own: schedules repeat.
class Shuffler {
 public:
  explicit Shuffler(uint64_t seed) : state_(seed) {}
  unsigned next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<unsigned>(state_ >> 33);
  }
  void shuffle(std::vector<int>& order) {
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[next() % i]);
  }

 private:
  uint64_t state_;
};

/// Run all threads of the block to their end.
void run_schedule(uint64_t seed);

/// The array that belongs to one place in the source: the same for all threads, poisoned for each thread block.
void* shared_array(const void* place, const char* name, size_t bytes);

void check_shared_memory();
}  // namespace cuda_emulator
