"""Leader and followers, threads and event loops, over work that is nothing but counters."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest
from tests.unit.fakes import eventually

from inferlib.driving import StepDriver
from inferlib.errors import ReentrantCallError


class CountingWork:
    """Each job needs some steps; every step advances all jobs by one."""

    def __init__(self) -> None:
        self.remaining: dict[str, int] = {}
        self.drivers: list[int] = []
        self.settled = 0
        self.failure: BaseException | None = None
        self.on_step = lambda: None
        self.in_step = threading.Lock()

    def add(self, name: str, steps: int):
        self.remaining[name] = steps
        return lambda: self.failure is not None or self.remaining[name] <= 0

    def run_step(self) -> bool:
        assert self.in_step.acquire(blocking=False), "two steps at once"
        try:
            if not self.has_work():
                return False
            time.sleep(0.001)
            self.on_step()
            self.drivers.append(threading.get_ident())
            for name in self.remaining:
                self.remaining[name] -= 1
            return True
        finally:
            self.in_step.release()

    def settle(self) -> None:
        self.settled += 1

    def has_work(self) -> bool:
        return any(steps > 0 for steps in self.remaining.values())

    def fail(self, error: BaseException) -> None:
        self.failure = error
        self.remaining = dict.fromkeys(self.remaining, 0)


@pytest.fixture
def work():
    return CountingWork()


@pytest.fixture
def driver(work):
    return StepDriver(work, dedicated=False)


def in_threads(functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def test_one_caller_runs_its_own_steps_and_starts_no_thread(work, driver):
    before = threading.active_count()
    assert driver.wait_until(work.add("a", 5))
    assert set(work.drivers) == {threading.get_ident()}
    assert len(work.drivers) == 5
    assert threading.active_count() == before


def test_followers_use_the_steps_of_the_leader(work, driver):
    jobs = [work.add(str(index), 10) for index in range(8)]
    for thread in in_threads([lambda job=job: driver.wait_until(job) for job in jobs]):
        thread.join()
    assert len(work.drivers) == 10
    assert not driver.leading()


def test_a_leader_that_is_done_hands_over(work, driver):
    short, long = work.add("short", 3), work.add("long", 60)
    done = []
    threads = in_threads(
        [
            lambda: (driver.wait_until(short), done.append("short")),
            lambda: (driver.wait_until(long), done.append("long")),
        ]
    )
    for thread in threads:
        thread.join()
    assert done == ["short", "long"]
    assert len(work.drivers) == 60


def test_an_interrupted_leader_hands_over(work, driver):
    interrupted = threading.Event()
    follower_is_in = threading.Event()

    def interrupt_once():
        if threading.get_ident() == leader.ident and follower_is_in.is_set():
            work.on_step = lambda: None
            interrupted.set()
            raise KeyboardInterrupt

    def lead():
        with pytest.raises(KeyboardInterrupt):
            driver.wait_until(first)

    first, second = work.add("first", 10_000), work.add("second", 400)
    leader = threading.Thread(target=lead)
    work.on_step = interrupt_once
    leader.start()
    eventually(lambda: work.drivers)
    follower = threading.Thread(target=lambda: driver.wait_until(second))
    follower.start()
    follower_is_in.set()
    leader.join()
    follower.join()
    assert interrupted.is_set()
    assert set(work.drivers[-3:]) == {follower.ident}


def test_a_timeout_returns_false_and_the_next_call_goes_on(work, driver):
    job = work.add("a", 50)
    assert not driver.wait_until(job, timeout_seconds=0.005)
    assert driver.wait_until(job, timeout_seconds=None)


def test_a_follower_times_out_while_another_leads(work, driver):
    endless = work.add("endless", 10**9)
    stop = threading.Event()
    leader = threading.Thread(target=lambda: driver.wait_until(lambda: stop.is_set() or endless()))
    leader.start()
    eventually(driver.leading)
    assert not driver.wait_until(work.add("mine", 10**9), timeout_seconds=0.01)
    stop.set()
    leader.join()


def test_work_that_cannot_advance_fails_instead_of_spinning(work, driver):
    assert driver.wait_until(lambda: work.failure is not None)
    assert "no request can advance" in str(work.failure)


def test_waiting_within_a_step_of_the_same_thread_is_refused(work, driver):
    def wait_again():
        with pytest.raises(ReentrantCallError):
            driver.wait_until(lambda: False)

    work.on_step = wait_again
    assert driver.wait_until(work.add("a", 2))


def test_a_coroutine_leaves_the_loop_free_and_the_thread_ends(work, driver, new_threads):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        await driver.wait_until_async(work.add("a", 40), abandon=lambda: None)
        ticking.cancel()
        return ticks

    assert asyncio.run(main()) > 5
    assert threading.get_ident() not in work.drivers
    eventually(lambda: not new_threads())


def test_coroutines_of_several_loops_and_threads_share_steps(work, driver):
    jobs = [work.add(str(index), 30) for index in range(12)]

    def loop_of(some):
        async def main():
            await asyncio.gather(
                *(driver.wait_until_async(job, abandon=lambda: None) for job in some)
            )

        return lambda: asyncio.run(main())

    threads = in_threads(
        [loop_of(jobs[:4]), loop_of(jobs[4:8])]
        + [lambda job=job: driver.wait_until(job) for job in jobs[8:]]
    )
    for thread in threads:
        thread.join()
    assert len(work.drivers) == 30
    eventually(lambda: not driver.leading())


def test_a_thread_takes_over_for_coroutines_when_the_leading_caller_is_done(work, driver):
    short, long = work.add("short", 20), work.add("long", 60)

    async def main():
        waiting = asyncio.create_task(driver.wait_until_async(long, abandon=lambda: None))
        await waiting

    leader = threading.Thread(target=lambda: driver.wait_until(short))
    leader.start()
    eventually(driver.leading)
    asyncio.run(main())
    leader.join()
    assert len(set(work.drivers)) == 2


def test_a_closed_loop_abandons_only_its_own_request(work, driver):
    abandoned = []
    loop = asyncio.new_event_loop()
    endless = work.add("endless", 10**9)
    waiting = loop.create_task(
        driver.wait_until_async(endless, abandon=lambda: abandoned.append("lost"))
    )
    loop.run_until_complete(asyncio.sleep(0.01))
    waiting._log_destroy_pending = False
    loop.close()
    assert driver.wait_until(work.add("mine", 20))
    assert abandoned == ["lost"]
    eventually(lambda: not driver.leading())
    del waiting
    gc.collect()


def test_a_cancelled_coroutine_stops_waiting(work, driver):
    async def main():
        waiting = asyncio.create_task(
            driver.wait_until_async(work.add("a", 10**9), abandon=lambda: None)
        )
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    eventually(lambda: not driver.leading())


def test_a_failure_in_the_thread_reaches_the_coroutine(work, driver):
    def fail():
        raise MemoryError

    work.on_step = fail
    asyncio.run(driver.wait_until_async(work.add("a", 3), abandon=lambda: None))
    assert isinstance(work.failure, MemoryError)


def test_a_dedicated_thread_works_without_a_waiter_and_ends_when_idle(work, new_threads):
    driver = StepDriver(work, dedicated=True)
    done = work.add("a", 20)
    driver.changed()
    eventually(done)
    eventually(lambda: not driver.leading())
    assert driver.wait_until(work.add("b", 5))
    assert threading.get_ident() not in work.drivers
    eventually(lambda: not new_threads())


def test_look_ahead_keeps_the_thread_going_between_waits(work, driver):
    async def main():
        driver.look_ahead("stream", lambda: work.remaining["a"] > 100)
        await driver.wait_until_async(work.add("first", 1), abandon=lambda: None)
        while work.remaining["a"] > 100:
            await asyncio.sleep(0.001)

    work.add("a", 130)
    asyncio.run(main())
    eventually(lambda: not driver.leading())
    assert work.remaining["a"] == 100
    assert len(set(work.drivers)) == 1


def test_many_threads_and_loops_at_random_all_finish(work, driver):
    def sync_caller(seed):
        for turn in range(20):
            driver.wait_until(work.add(f"{seed}.{turn}", (seed * turn) % 5))

    def async_caller(seed):
        async def main():
            for turn in range(20):
                job = work.add(f"{seed}.{turn}", (seed + turn) % 4)
                await driver.wait_until_async(job, abandon=lambda: None)

        asyncio.run(main())

    work.remaining = SafeDict()
    functions = [lambda seed=seed: sync_caller(seed) for seed in range(6)]
    functions += [lambda seed=seed: async_caller(seed) for seed in range(100, 106)]
    for thread in in_threads(functions):
        thread.join()
    assert work.failure is None
    eventually(lambda: not driver.leading())


class SafeDict(dict):
    """A dict whose iteration bears insertions from other threads."""

    def __iter__(self):
        return iter(list(self.keys()))

    def values(self):
        return list(super().values())
