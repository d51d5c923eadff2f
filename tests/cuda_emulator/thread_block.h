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
[[noreturn]] inline void fail(const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  char place[160];
  int length = snprintf(place, sizeof place, "%s, thread block (%u, %u, %u)", block->kernel, block->index.x,
                        block->index.y, block->index.z);
  if (current)
    snprintf(place + length, sizeof place - length, ", thread (%u, %u, %u)", current->index.x, current->index.y,
             current->index.z);
  block->message = std::string(place) + ": " + text;
  siglongjmp(block->failed, 1);
}

inline std::string file_line(const Location& where) {
  const char* slash = strrchr(where.file_name(), '/');
  return std::string(slash ? slash + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

inline void yield_to_scheduler() { switch_context(current->context, block->scheduler); }

inline void wait(State state, const char* name, const Location& where) {
  current->state = state;
  current->waits_in = name;
  current->where = where;
  yield_to_scheduler();
}

/// A decision that differs between schedules; always true in the one in order.
inline bool toss() {
  if (!block->seed) return true;
  block->coin = block->coin * 6364136223846793005ull + 1442695040888963407ull;
  return block->coin >> 63;
}

/// Where it may matter who goes on first: let others, in some schedules.
inline void maybe_let_others_go_on() {
  if (!block->seed || !toss()) return;
  block->leaves_warp = true;
  yield_to_scheduler();
}

inline void release_barrier(int id) {
  block->barriers[id] = Barrier{};
  for (Thread& thread : block->threads)
    if (thread.state == State::at_barrier && thread.barrier == id) thread.state = State::ready;
}

/// `bar.sync id, count`; a count of 0 means all threads that have not ended.
inline void arrive_and_wait(int id, int count, const char* name, const Location& where) {
  if (id < 0 || id >= NUM_BARRIERS) fail("barrier %d does not exist: there are %d", id, NUM_BARRIERS);
  Barrier& barrier = block->barriers[id];
  if (barrier.arrived == 0) {
    barrier.expected = count;
    barrier.where = where;
  } else if (barrier.expected != count) {
    fail("barrier %d counts %d threads at %s but %d at %s", id, barrier.expected, file_line(barrier.where).c_str(),
         count, file_line(where).c_str());
  } else if (barrier.where.line() != where.line() || strcmp(barrier.where.file_name(), where.file_name())) {
    fail("threads wait for barrier %d in two places, %s and %s", id, file_line(barrier.where).c_str(),
         file_line(where).c_str());
  }
  current->barrier = id;
  if (++barrier.arrived == (count ? count : block->num_alive)) {
    release_barrier(id);
    return;
  }
  wait(State::at_barrier, name, where);
}

inline void fiber_entry() {
  block->run_kernel(block->run_argument);
  if (!current->copies.empty()) fail("the thread ended with a cp.async that it never waited for");
  current->state = State::done;
  block->num_alive--;
  Barrier& all = block->barriers[0];  // ended threads are not waited for
  if (all.arrived && !all.expected && all.arrived == block->num_alive) release_barrier(0);
  yield_to_scheduler();
  __builtin_unreachable();
}

/// Say who waits where, and end the launch.
[[noreturn]] inline void report_deadlock() {
  std::map<std::string, std::pair<int, const Thread*>> places;
  int num_done = 0;
  for (const Thread& thread : block->threads) {
    if (thread.state == State::done) {
      num_done++;
      continue;
    }
    std::string place = std::string(thread.waits_in) + " at " + file_line(thread.where);
    if (thread.state == State::at_barrier && thread.barrier) place += " (barrier " + std::to_string(thread.barrier) + ")";
    if (thread.state == State::at_memory_barrier) place += describe_memory_barrier(thread.memory_barrier, thread.parity);
    auto& entry = places[place];
    if (!entry.first++) entry.second = &thread;
  }
  std::string text = "deadlock:";
  for (const auto& [place, entry] : places) {
    text += " " + std::to_string(entry.first) + " threads wait in " + place + " (the first is thread (" +
            std::to_string(entry.second->index.x) + ", " + std::to_string(entry.second->index.y) + ", " +
            std::to_string(entry.second->index.z) + ")),";
  }
  text += " " + std::to_string(num_done) + " threads have ended";
  current = nullptr;
  fail("%s", text.c_str());
}

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
inline void run_schedule(uint64_t seed) {
  std::vector<int>& warp_order = *new std::vector<int>(block->num_warps);  // lost if a thread fails: a few bytes
  std::vector<int>& lane_order = *new std::vector<int>(32);
  std::iota(warp_order.begin(), warp_order.end(), 0);
  std::iota(lane_order.begin(), lane_order.end(), 0);
  Shuffler shuffler(seed);
  while (block->num_alive) {
    if (seed) {
      shuffler.shuffle(warp_order);
      shuffler.shuffle(lane_order);
    }
    bool progressed = false;
    for (int warp : warp_order) {
      for (bool again = true; again;) {
        again = false;
        for (int lane : lane_order) {
          int linear = warp * 32 + lane;
          if (linear >= block->num_threads || block->threads[linear].state != State::ready) continue;
          current = &block->threads[linear];
          switch_context(block->scheduler, current->context);
          again = progressed = true;
          // A shuffled warp may be left in the middle for another one.
          if (seed && (block->leaves_warp || shuffler.next() % 64 == 0)) {
            again = block->leaves_warp = false;
            break;
          }
        }
      }
    }
    // Loads land in an order of their own: as late as they can in the schedule in order, at any time in the others.
    if (!land_loads(shuffler, seed != 0, !progressed) && !progressed) report_deadlock();
  }
  current = nullptr;
  delete &warp_order;
  delete &lane_order;
}

/// The array that belongs to one place in the source: the same for all threads, poisoned for each thread block.
inline void* shared_array(const void* place, const char* name, size_t bytes) {
  auto& array = block->shared_arrays[place];
  if (!array) {
    block->static_shared_bytes += (bytes + 15) / 16 * 16;
    if (block->static_shared_bytes > STATIC_SHARED_LIMIT)
      fail("%zu bytes of SHARED arrays are more than a kernel may have, %zu", block->static_shared_bytes,
           STATIC_SHARED_LIMIT);
    array = std::make_unique<GuardedMemory>(name, bytes, 16);
    array->poison();
  }
  return array->data();
}

inline void check_shared_memory() {
  check_nothing_is_pending();
  for (const auto& [place, array] : block->shared_arrays)
    if (!array->is_intact()) fail("the thread block wrote past the ends of shared array %s", array->name().c_str());
  if (block->dynamic_shared && !block->dynamic_shared->is_intact())
    fail("the thread block wrote past the ends of its %zu bytes of dynamic shared memory",
         block->dynamic_shared->bytes());
}
}  // namespace cuda_emulator
