"""Runs code with threads in every order that a seed says: one task at a time, switched by hand.

``Schedule`` is a scheduler of *tasks*: threads of which exactly one runs, until it comes to a place
where another may go on. ``Threading``, ``Time`` and ``Asyncio`` stand in for the modules of these
names, so that locks, events and event loops are such places, and ``load`` gives a module these
instead. With ``every_line`` each line of that module is one, too. The clock moves only when no task
can go on; ``stalls`` counts how often that ended a wait: somebody was not woken.
"""

from __future__ import annotations

import builtins
import inspect
import random
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

MOST_SWITCHES = 20_000


class FoundError(AssertionError):
    """What a schedule showed."""


class _AbandonedError(BaseException):
    """Ends a task of a schedule that is over."""


class Task:
    """A thread of a schedule."""

    def __init__(self, name: str, run: Callable[[], object]) -> None:
        self.name = name
        self.run = run
        self.gate = threading.Lock()
        self.gate.acquire()
        self.may_go_on: Callable[[], bool] | None = None
        self.deadline: float | None = None
        self.sleeps = False
        self.interrupt_at: int | None = None
        """Raises ``KeyboardInterrupt`` at that of its places, from 0."""
        self.places = 0
        self.daemon = False
        self.done = False

    def is_alive(self) -> bool:
        return not self.done

    def is_ready(self, now: float) -> bool:
        if self.done:
            return False
        if self.may_go_on is None or self.may_go_on():
            return True
        return self.deadline is not None and self.deadline <= now


class Schedule:
    """One order of events, which follows from its seed."""

    def __init__(self, seed: int, *, every_line: bool = False) -> None:
        self.random = random.Random(seed)
        self.every_line = every_line
        self.tasks: list[Task] = []
        self.now = 0.0
        self.stalls = 0
        self.switches = 0
        self.failure: BaseException | None = None
        self.traced_file = ""
        self._over = threading.Lock()
        self._over.acquire()
        self.loops: dict[Task, Loop] = {}
        self._by_thread: dict[int, Task] = {}

    def spawn(self, name: str, run: Callable[[], object]) -> Task:
        """A further task; it begins when its turn comes."""
        task = Task(name, run)
        self.tasks.append(task)
        thread = threading.Thread(target=self._body, args=(task,), daemon=True)
        thread.start()
        return task

    def run(self) -> None:
        """Let the tasks run until all are done.

        Raises:
            FoundError: A task failed, or none can go on.
        """
        self._pass_on(None)
        if not self._over.acquire(timeout=60):
            raise FoundError("a task waits for something that is no place of the schedule")
        if self.failure is not None:
            raise FoundError(str(self.failure)) from self.failure

    @property
    def current(self) -> Task:
        return self._by_thread[threading.get_ident()]

    def place(self) -> None:
        """Another task may go on here, and this one may be interrupted."""
        task = self.current
        self._interrupt(task)
        self._switch(task)

    def wait(
        self, may_go_on: Callable[[], bool], seconds: float | None = None, *, sleeps: bool = False
    ) -> bool:
        """Block the running task; ``False`` if the time was over first."""
        task = self.current
        self._interrupt(task)
        task.may_go_on = may_go_on
        task.deadline = None if seconds is None or seconds > 1e9 else self.now + seconds
        task.sleeps = sleeps
        try:
            self._switch(task)
        finally:
            task.may_go_on = task.deadline = None
        return may_go_on()

    def _interrupt(self, task: Task) -> None:
        if task.interrupt_at == task.places:
            task.interrupt_at = None
            raise KeyboardInterrupt
        task.places += 1

    def _switch(self, task: Task) -> None:
        if self.failure is not None:
            raise _AbandonedError
        if self._pass_on(task) is not task:
            task.gate.acquire()
            if self.failure is not None:
                raise _AbandonedError

    def _pass_on(self, task: Task | None) -> Task | None:
        """Choose who runs next, and open its gate if that is not ``task``."""
        if self.failure is not None:
            return None
        self.switches += 1
        if self.switches > MOST_SWITCHES:
            return self._fail(FoundError("it goes on without end"))
        ready = [each for each in self.tasks if each.is_ready(self.now)]
        while not ready:
            waits = [each for each in self.tasks if not each.done]
            deadlines = [each.deadline for each in waits if each.deadline is not None]
            if not waits:
                self._over.release()
                return None
            if not deadlines:
                names = ", ".join(each.name for each in waits)
                return self._fail(FoundError(f"nobody can go on: {names}"))
            self.now = min(deadlines)
            ready = [each for each in waits if each.is_ready(self.now)]
            self.stalls += any(not each.sleeps for each in ready)
        chosen = self.random.choice(ready)
        if chosen is not task:
            chosen.gate.release()
        return chosen

    def _fail(self, failure: BaseException) -> None:
        """End all tasks, one after the other in any order."""
        if self.failure is None:
            self.failure = failure
            for each in self.tasks:
                if not each.done and each.gate.locked():
                    each.gate.release()
            self._over.release()

    def _body(self, task: Task) -> None:
        self._by_thread[threading.get_ident()] = task
        task.gate.acquire()
        if self.failure is not None:
            return
        if self.every_line or task.interrupt_at is not None:
            sys.settrace(self._trace)
        try:
            task.run()
        except _AbandonedError:
            return
        except BaseException as error:
            sys.settrace(None)
            task.done = True
            self._fail(error)
            return
        sys.settrace(None)
        task.done = True
        self._pass_on(task)

    def _trace(self, frame: types.FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != self.traced_file:
            return None
        if event == "call":
            # What is raised while a generator is closed is swallowed.
            if not frame.f_code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE):
                self._interrupt(self.current)
            frame.f_trace_lines = self.every_line
        elif event == "line" and self.random.random() < 0.125:
            self._switch(self.current)
        return self._trace


class Threading:
    """Stands in for ``threading``."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._main = Task("main", lambda: None)

        class Lock(_RLock):
            def __init__(self) -> None:
                super().__init__(schedule)

        class Event(_Event):
            def __init__(self) -> None:
                super().__init__(schedule)

        class Thread(_Thread):
            def __init__(self, *, name: str, daemon: bool) -> None:
                super().__init__(schedule, name, daemon=daemon)

        self.RLock, self.Event, self.Thread = Lock, Event, Thread

    def get_ident(self) -> int:
        return id(self._schedule.current)

    def current_thread(self) -> Task:
        return self._schedule.current

    def main_thread(self) -> Task:
        return self._main


class _RLock:
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._owner: Task | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True) -> bool:  # noqa: FBT001, FBT002  # as `threading` has it
        if not self._is_owned():
            self._schedule.place()
            if self._owner is not None:
                if not blocking:
                    return False
                self._schedule.wait(lambda: self._owner is None)
            self._owner = self._schedule.current
        self._depth += 1
        return True

    def release(self) -> None:
        assert self._is_owned()
        self._depth -= 1
        if self._depth == 0:
            self._owner = None

    def _is_owned(self) -> bool:
        return self._owner is self._schedule.current

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _Event:
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        return self._schedule.wait(lambda: self._is_set, timeout)


class _Thread:
    def __init__(self, schedule: Schedule, name: str, *, daemon: bool) -> None:
        self._schedule = schedule
        self._task: Task | None = None
        self._name, self.daemon = name, daemon

    def start(self) -> None:
        self._task = self._schedule.spawn(self._name, self.run)
        self._schedule.place()

    def run(self) -> None:
        raise NotImplementedError

    @property
    def ident(self) -> int | None:
        return None if self._task is None else id(self._task)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done


class Time:
    """Stands in for ``time``."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def monotonic(self) -> float:
        return self._schedule.now

    def sleep(self, seconds: float) -> None:
        self._schedule.wait(lambda: False, seconds, sleeps=True)


class Loop:
    """An event loop of one coroutine."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._calls: list[Callable[[], object]] = []
        self._timers: list[_Timer] = []
        self._is_closed = False

    def create_future(self) -> Future:
        return Future()

    def is_closed(self) -> bool:
        return self._is_closed

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        if self._is_closed:
            raise RuntimeError("the event loop is closed")
        self._calls.append(call)

    def call_later(self, seconds: float, call: Callable[[], object]) -> _Timer:
        timer = _Timer(self._schedule.now + seconds, call)
        self._timers.append(timer)
        return timer

    def run(self, coroutine: Coroutine[Future, None, None]) -> None:
        """Run a coroutine, then close the loop."""
        self._schedule.loops[self._schedule.current] = self
        try:
            while True:
                try:
                    future = coroutine.send(None)
                except StopIteration:
                    return
                while not future.done():
                    self._turn()
        finally:
            coroutine.close()  # first, as `asyncio.run` does
            self._is_closed = True

    def _turn(self) -> None:
        timers = [timer for timer in self._timers if not timer.is_cancelled]
        next_at = min((timer.at for timer in timers), default=None)
        left = None if next_at is None else next_at - self._schedule.now
        if self._schedule.wait(lambda: bool(self._calls), left):
            self._calls.pop(0)()
            return
        for timer in timers:
            if timer.at <= self._schedule.now:
                self._timers.remove(timer)
                timer.call()


class Future:
    """As much of a future as is asked for."""

    def __init__(self) -> None:
        self._is_done = False

    def done(self) -> bool:
        return self._is_done

    def set_result(self, _: None) -> None:
        self._is_done = True

    def __await__(self):
        while not self._is_done:
            yield self


class _Timer:
    def __init__(self, at: float, call: Callable[[], object]) -> None:
        self.at, self.call = at, call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Asyncio:
    """Stands in for ``asyncio``."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def get_running_loop(self) -> Loop:
        return self._schedule.loops[self._schedule.current]


class Source:
    """A module's source, perhaps with a bug planted in it."""

    def __init__(self, path: Path, package: str) -> None:
        self.path, self.package = path, package
        self.text = path.read_text(encoding="utf8")

    def with_bug(self, right: str, wrong: str) -> Source:
        assert self.text.count(right) == 1, "the code has changed: plant the bug anew"
        planted = Source(self.path, self.package)
        planted.text = self.text.replace(right, wrong)
        return planted

    def compiled(self) -> types.CodeType:
        return compile(self.text, f"{self.path} under a schedule", "exec")


def load(code: types.CodeType, package: str, schedule: Schedule) -> types.ModuleType:
    """The module, with the schedule's locks, events, threads and loops."""
    stand_ins = {
        "threading": Threading(schedule),
        "time": Time(schedule),
        "asyncio": Asyncio(schedule),
    }

    def import_(name: str, *arguments: Any) -> Any:
        return stand_ins.get(name) or __import__(name, *arguments)

    module = types.ModuleType(f"{package}.under_a_schedule")
    module.__package__ = package
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_}
    exec(code, module.__dict__)  # noqa: S102  # our own module
    schedule.traced_file = code.co_filename
    return module
