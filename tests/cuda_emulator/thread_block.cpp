#include "thread_block.h"

namespace cuda_emulator {

[[noreturn]] void fail(const char* format, ...) {
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

std::string file_line(const Location& where) {
  const char* slash = strrchr(where.file_name(), '/');
  return std::string(slash ? slash + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

void wait(State state, const char* name, const Location& where) {
  current->state = state;
  current->waits_in = name;
  current->where = where;
  yield_to_scheduler();
}

void maybe_let_others_go_on() {
  if (!block->seed || !toss()) return;
  block->leaves_warp = true;
  yield_to_scheduler();
}

void release_barrier(int id) {
  block->barriers[id] = Barrier{};
  for (Thread& thread : block->threads)
    if (thread.state == State::at_barrier && thread.barrier == id) thread.state = State::ready;
}

void arrive_and_wait(int id, int count, const char* name, const Location& where) {
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

void fiber_entry() {
  block->run_kernel(block->run_argument);
  if (!current->copies.empty()) fail("the thread ended with a cp.async that it never waited for");
  current->state = State::done;
  block->num_alive--;
  Barrier& all = block->barriers[0];  // ended threads are not waited for
  if (all.arrived && !all.expected && all.arrived == block->num_alive) release_barrier(0);
  yield_to_scheduler();
  __builtin_unreachable();
}

[[noreturn]] void report_deadlock() {
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

void run_schedule(uint64_t seed) {
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

void* shared_array(const void* place, const char* name, size_t bytes) {
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

void check_shared_memory() {
  check_nothing_is_pending();
  for (const auto& [place, array] : block->shared_arrays)
    if (!array->is_intact()) fail("the thread block wrote past the ends of shared array %s", array->name().c_str());
  if (block->dynamic_shared && !block->dynamic_shared->is_intact())
    fail("the thread block wrote past the ends of its %zu bytes of dynamic shared memory",
         block->dynamic_shared->bytes());
}
}  // namespace cuda_emulator
