"""Who runs the steps, in thousands of orders of events: nobody hangs, one leads, nobody is harmed.

The code of ``driving.py`` runs with locks, events, threads and event loops of a ``Schedule``. Where
nobody is interrupted in the middle of a hand-over no wait ends by its time: that would be a waiter
whom nobody woke. What these tests find is shown by bugs that are planted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.unit.interleavings import FoundError, Loop, Schedule, Source, load

import inferlib.driving

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_SCHEDULES = 250
DRIVING = Source(Path(inferlib.driving.__file__), "inferlib")
COMPILED = DRIVING.compiled()


class Jobs:
    """Work of some jobs; each step brings all of them a step forward."""

    def __init__(self, schedule: Schedule, code, *, dedicated: bool = False) -> None:
        self.schedule = schedule
        self.driving = load(code, "inferlib", schedule)
        self.driver = self.driving.StepDriver(self, dedicated=dedicated)
        self.left: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self.failed: BaseException | None = None
        self.in_step = False
        self.num_steps = 0
        self.interrupted_step = -1

    def run_step(self) -> bool:
        if self.in_step:
            raise FoundError("two steps at once")
        leader = self.driver._leader
        if leader is None or leader.thread_id != id(self.schedule.current):
            raise FoundError("a step of somebody who does not lead")
        self.in_step = True
        try:
            self.schedule.place()
            if not self.has_work():
                return False
            self.num_steps += 1
            if self.num_steps == self.interrupted_step:
                raise KeyboardInterrupt
            self.left = {name: steps - 1 for name, steps in self.left.items()}
            self.apply()
            return True
        finally:
            self.in_step = False

    def apply(self) -> None:
        self.left.update(dict.fromkeys(self.cancelled, 0))

    def settle(self) -> None:
        if self.in_step or not self.driver.is_inside():
            raise FoundError("settled in the middle of a step, or without the lock")
        self.apply()

    def has_work(self) -> bool:
        return any(steps > 0 for steps in self.left.values())

    def fail(self, error: BaseException) -> None:
        self.failed = error
        self.left = dict.fromkeys(self.left, 0)

    def job(self, name: str, steps: int) -> Callable[[], bool]:
        self.left[name] = steps
        return lambda: self.left[name] <= 0

    def thread(self, name: str, steps: int, **options):
        """A thread that waits for a job of its own."""
        ready = self.job(name, steps)

        def run() -> None:
            if not self.driver.wait_until(ready, **options):
                raise FoundError(f"{name} gave up")

        return self.schedule.spawn(name, run)

    def loop(self, name: str, steps: int):
        """An event loop that waits for a job of its own."""
        ready = self.job(name, steps)

        def abandon() -> None:
            raise FoundError(f"the loop of {name} is not closed")

        loop = Loop(self.schedule)
        waiting = self.driver.wait_until_async
        return self.schedule.spawn(name, lambda: loop.run(waiting(ready, abandon=abandon)))

    def finish(self, *, most_stalls: int = 0) -> None:
        self.schedule.run()
        if self.failed is not None:
            raise FoundError(f"all were failed: {self.failed}")
        if any(steps > 0 for name, steps in self.left.items()):
            raise FoundError(f"not done: {self.left}")
        if self.driver._leader is not None or self.driver._waiters:
            raise FoundError("somebody leads or waits when all have gone")
        if self.schedule.stalls > most_stalls:
            raise FoundError(f"{self.schedule.stalls} waits ended by their time alone")


def numbers(schedule: Schedule, most: int) -> range:
    return range(1 + schedule.random.randrange(most))


def steps(schedule: Schedule) -> int:
    return 1 + schedule.random.randrange(4)


def threads(schedule: Schedule, code) -> None:
    jobs = Jobs(schedule, code)
    for number in numbers(schedule, 4):
        jobs.thread(f"thread {number}", steps(schedule))
    jobs.finish()


def interrupted_step(schedule: Schedule, code) -> None:
    """Ctrl-C in a step: its leader goes, the others do not notice."""
    jobs = Jobs(schedule, code)
    left = []

    def waits(name: str) -> None:
        ready = jobs.job(name, steps(schedule))

        def run() -> None:
            try:
                jobs.driver.wait_until(ready)
            except KeyboardInterrupt:
                left.append(name)
                jobs.cancelled.add(name)
                jobs.driver.changed()

        schedule.spawn(name, run)

    for number in range(2 + schedule.random.randrange(3)):
        waits(f"thread {number}")
    jobs.interrupted_step = 1 + schedule.random.randrange(4)
    jobs.finish()
    if len(left) != (jobs.num_steps >= jobs.interrupted_step):
        raise FoundError(f"interrupted: {left}")


def cancelled(schedule: Schedule, code) -> None:
    """Somebody cancels a job: whoever waits for it is told, the others go on."""
    jobs = Jobs(schedule, code)
    names = [f"thread {number}" for number in range(3)]
    for name in names:
        jobs.thread(name, 2 + steps(schedule))

    def cancel() -> None:
        name = schedule.random.choice(names)
        jobs.cancelled.add(name)
        jobs.driver.changed()
        with jobs.driver.lock:
            if not jobs.driver.has_leader() and jobs.left[name] > 0:
                raise FoundError("cancelled while nobody led, and nothing happened")

    schedule.spawn("canceller", cancel)
    jobs.finish()


def loops_and_threads(schedule: Schedule, code) -> None:
    jobs = Jobs(schedule, code)
    for number in numbers(schedule, 2):
        jobs.loop(f"loop {number}", steps(schedule))
    for number in numbers(schedule, 2):
        jobs.thread(f"thread {number}", steps(schedule))
    jobs.finish()


def dedicated(schedule: Schedule, code) -> None:
    """A thread leads; requests come while it does, and after it has ended."""
    jobs = Jobs(schedule, code, dedicated=True)

    def come_and_wait(name: str) -> None:
        def run() -> None:
            with jobs.driver.lock:
                ready = jobs.job(name, steps(schedule))
            jobs.driver.changed()
            jobs.driver.wait_until(ready)

        schedule.spawn(name, run)

    for number in numbers(schedule, 3):
        come_and_wait(f"thread {number}")
    jobs.finish()


def timed_out(schedule: Schedule, code) -> None:
    """Steps take time, and some wait for less than they need."""
    jobs = Jobs(schedule, code)
    place = schedule.place

    def slow_place() -> None:
        if jobs.in_step:
            schedule.now += 0.02
        place()

    schedule.place = slow_place
    for number in range(3):
        ready = jobs.job(f"thread {number}", steps(schedule))
        seconds = schedule.random.choice([None, 0.0, 0.01, 0.03])

        def run(ready=ready, seconds=seconds) -> None:
            done = jobs.driver.wait_until(ready, timeout_seconds=seconds)
            if not done and seconds is None:
                raise FoundError("gave up without a limit")

        schedule.spawn(f"thread {number}", run)
    jobs.thread("patient", 6)
    jobs.finish()


def interrupted_anywhere(schedule: Schedule, code) -> None:
    """Ctrl-C at any place of one waiter. A wake-up may be lost with it, which costs a slice."""
    jobs = Jobs(schedule, code)
    victims = [jobs.thread("thread 0", steps(schedule))]
    if schedule.random.random() < 0.3:
        victims.append(jobs.loop("loop", steps(schedule)))
    for number in (1, 2):
        jobs.thread(f"thread {number}", steps(schedule))
    victim = schedule.random.choice(victims)
    run = victim.run

    def tolerant() -> None:
        try:
            run()
        except KeyboardInterrupt:
            jobs.cancelled.add(victim.name)
            jobs.driver.changed()

    victim.run = tolerant
    victim.interrupt_at = schedule.random.randrange(40)
    jobs.finish(most_stalls=3)


SCENARIOS = (
    threads,
    interrupted_step,
    cancelled,
    loops_and_threads,
    dedicated,
    timed_out,
    interrupted_anywhere,
)
BUGS = {
    "nobody is woken": (
        threads,
        "                waiter.wake()\n\n    def _appoint",
        "\n\n    def _appoint",
    ),
    "nobody is appointed": (
        threads,
        "                waiter.wake()\n                return\n\n    def _living",
        "                return\n\n    def _living",
    ),
    "leaders do not look for one": (
        threads,
        "leader is None and not self._dedicated",
        "not self._dedicated",
    ),
    "who leaves does not hand over": (
        interrupted_step,
        "            self._waiters.pop(waiter, None)\n            self._react()",
        "            self._waiters.pop(waiter, None)",
    ),
    "an interrupted leader stays the leader": (
        interrupted_step,
        "            if self._leader is waiter:\n                self._leader = None\n"
        "            self._leave(waiter)",
        "            self._leave(waiter)",
    ),
    "changes are seen by the next step only": (
        cancelled,
        "        if self.is_inside():\n            return\n"
        "        with self.lock:\n            self._react()",
        "        return",
    ),
    "changes settle in the middle of a step": (
        cancelled,
        "        if self._living_leader() is None:\n            self._work.settle()",
        "        if True:\n            self._work.settle()",
    ),
    "the thread ends without a look at who waits": (
        loops_and_threads,
        "                self._leader = None\n            self.changed()",
        "                self._leader = None",
    ),
    "event loops are not told": (
        loops_and_threads,
        "self._loop.call_soon_threadsafe(self.resolve)",
        "pass",
    ),
}


def explore(scenario, code, *, schedules: int = NUM_SCHEDULES) -> None:
    """Play a scenario in so many orders."""
    for seed in range(schedules):
        schedule = Schedule(seed, every_line=seed % 4 == 0)
        try:
            scenario(schedule, code)
        except FoundError as error:
            raise FoundError(f"{scenario.__name__}, seed {seed}: {error}") from error


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_nobody_hangs_and_nobody_is_harmed(scenario):
    explore(scenario, COMPILED)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug):
    scenario, right, wrong = BUGS[bug]
    with pytest.raises(FoundError):
        explore(scenario, DRIVING.with_bug(right, wrong).compiled())
