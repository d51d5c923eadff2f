"""A scheduler, an executor and text streams in a page of Python, for tests of who drives them.

The pretended model continues a prompt with a text of its own, byte by byte, so that every result
can be told in advance; tokens are bytes, 256 begins and 257 ends a sequence.
"""

from __future__ import annotations

import codecs
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from inferlib._core import GrammarStates
from inferlib.assembly import ModelParts
from inferlib.config import EngineConfig
from inferlib.engine import Engine
from inferlib.errors import RequestError
from inferlib.limits import MAX_STRUCTURE_MEMORY
from inferlib.model import Model
from inferlib.request import SEQUENCES_PER_REQUEST
from inferlib.request_builder import RequestBuilder
from inferlib.scheduler_params import bad_word_ids, num_logprobs

if TYPE_CHECKING:
    from collections.abc import Callable

BOS, EOS, VOCAB_SIZE = 256, 257, 300
MAX_MODEL_LEN = 512
STORY = "Once upon a time, in a café by the sea 🌊, a model spoke. ".encode() * 40


def continuation(prompt_token_ids: list[int], sequence_index: int = 0) -> bytes:
    """What the pretended model says after a prompt, without end."""
    start = (sum(prompt_token_ids) + 7 * sequence_index) % 19
    return STORY[start:]


def text_of(prompt: str, num_tokens: int, sequence_index: int = 0) -> str:
    """The expected text of ``num_tokens`` tokens after ``prompt`` (with BOS)."""
    said = continuation([BOS, *prompt.encode()], sequence_index)[:num_tokens]
    return said.decode(errors="replace")


class FakeTokenizer:
    bos_id = BOS
    add_bos = True
    end_ids = (EOS,)
    special_ids = (BOS, EOS)
    vocab_size = VOCAB_SIZE

    def encode(self, text, *, add_special=True):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise RequestError("a lone surrogate", field="prompt")
        ids = []
        for index, part in enumerate(text.split("<s>")):
            ids += ([BOS] if index else []) + list(part.encode())
        return np.array(([BOS] if add_special else []) + ids, np.int32)

    def decode(self, token_ids, *, skip_special=True):
        names = {BOS: "<s>", EOS: "</s>"}
        special = "" if skip_special else None
        parts = [
            bytes([i]) if i < 256 else (names.get(i, "?") if special is None else special).encode()
            for i in token_ids
        ]
        return b"".join(parts).decode(errors="replace")


class FakeTemplate:
    def render(self, messages, *, tools, add_generation_prompt, variables):
        text = "<s>" + "".join(f"[{m['role']}]{m.get('content')}" for m in messages)
        text += "".join(f"[tool]{tool.get('function', tool)['name']}" for tool in tools or ())
        text += "".join(f"[{name}={value}]" for name, value in variables.items())
        return text + ("[assistant]" if add_generation_prompt else "[end]")


@dataclass
class FakeSequence:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[object] = field(default_factory=list)
    finish_reason: str | None = None
    stop_token_id: int | None = None


@dataclass
class FakeRequest:
    prompt: list[int]
    params: object
    sequences: list[FakeSequence]
    arrival: float
    first_scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    finished: float | None = None


def _events(ids, indices, places, tokens, finished, ended):
    return SimpleNamespace(
        request_ids=np.array(ids, np.int64),
        sequence_indices=np.array(indices, np.int32),
        token_indices=np.array(places, np.int32),
        token_ids=np.array(tokens, np.int32),
        finished=np.array(finished, bool),
        finished_requests=np.array(ended, np.int64),
    )


class FakeScheduler:
    """Runs everybody in every step; not what it is about here."""

    def __init__(self):
        self.lock = threading.Lock()
        self.requests: dict[int, FakeRequest] = {}
        self.next_id = 1
        self.batch = None
        self.max_batch = 0

    def submit(self, prompt, params, *, n, now, **_):
        with self.lock:
            request_id, self.next_id = self.next_id, self.next_id + 1
            sequences = [FakeSequence() for _ in range(n)]
            self.requests[request_id] = FakeRequest(prompt.tolist(), params, sequences, now)
            return request_id

    def _end(self, request, sequence, reason, now):
        if sequence.finish_reason is None:
            sequence.finish_reason = reason
        if all(each.finish_reason for each in request.sequences) and request.finished is None:
            request.finished = now

    def cancel(self, request_id, now):
        with self.lock:
            request = self.requests[request_id]
            for sequence in request.sequences:
                self._end(request, sequence, "abort", now)

    def finish(self, request_id, sequence_index, reason, now, *, num_output_tokens):
        with self.lock:
            request = self.requests[request_id]
            sequence = request.sequences[sequence_index]
            self._end(request, sequence, reason, now)
            del sequence.token_ids[num_output_tokens:], sequence.logprobs[num_output_tokens:]
            sequence.finish_reason, sequence.stop_token_id = reason, None

    def schedule(self, now):
        with self.lock:
            rows = [
                (request_id, index)
                for request_id, request in self.requests.items()
                for index, sequence in enumerate(request.sequences)
                if sequence.finish_reason is None
            ]
            for request_id, _ in rows:
                request = self.requests[request_id]
                request.first_scheduled = request.first_scheduled or now
            self.batch = rows or None
            self.max_batch = max(self.max_batch, len(rows))
            return self.batch

    def discard_step(self):
        self.batch = None

    def end_decision_log(self):
        return None

    def overdue(self):
        return _events([], [], [], [], [], [])

    def update(self, output, now):
        with self.lock:
            ids, indices, places, tokens, finished, ended = [], [], [], [], [], []
            for (request_id, index), drawn in zip(self.batch, output, strict=True):
                request = self.requests.get(request_id)
                if request is None or request.sequences[index].finish_reason:
                    continue
                sequence = request.sequences[index]
                for token in drawn:
                    if token is None:
                        self._end(request, sequence, "error", now)
                        break
                    places.append(len(sequence.token_ids))
                    self._append(request, sequence, token, now)
                    ids.append(request_id)
                    indices.append(index)
                    tokens.append(token)
                    finished.append(sequence.finish_reason is not None)
                    if finished[-1]:
                        break
                if request.finished is not None:
                    ended.append(request_id)
            self.batch = None
            return _events(ids, indices, places, tokens, finished, ended)

    def _append(self, request, sequence, token, now):
        params = request.params
        sequence.token_ids.append(token)
        request.first_token = request.first_token or now
        request.last_token = now
        if params.logprobs is not None:
            sequence.logprobs.append(fake_logprobs(token, params.logprobs))
        if token in params.eos_token_ids:
            self._end(request, sequence, "stop", now)
        elif token in params.stop_token_ids:
            sequence.stop_token_id = token
            self._end(request, sequence, "stop", now)
        elif len(sequence.token_ids) >= params.max_tokens:
            self._end(request, sequence, "length", now)

    def is_finished(self, request_id):
        return self.requests[request_id].finished is not None

    def num_output_tokens(self, request_id):
        request = self.requests.get(request_id)
        return sum(len(each.token_ids) for each in request.sequences) if request else 0

    def sequence_since(self, request_id, index, start):
        with self.lock:
            sequence = self.requests[request_id].sequences[index]
            return FakeSequence(
                np.array(sequence.token_ids[start:], np.int32),
                sequence.logprobs[start:],
                sequence.finish_reason,
                sequence.stop_token_id,
            )

    def take(self, request_id):
        with self.lock:
            request = self.requests.pop(request_id)
            assert request.finished is not None
            for sequence in request.sequences:
                sequence.token_ids = np.array(sequence.token_ids, np.int32)
            return SimpleNamespace(
                sequences=request.sequences,
                prompt_logprobs=None,
                prompt_logprobs_start=0,
                num_cached_tokens=3,
                num_preemptions=0,
                num_drafted_tokens=0,
                num_accepted_tokens=0,
                num_model_drafted_tokens=0,
                num_model_accepted_tokens=0,
                num_forced_tokens=0,
                timestamps=request,
                run_record=dict,
            )

    def stats(self):
        names = """num_running_seqs num_waiting_seqs num_waiting_requests num_waiting_tokens
        num_requests num_finished num_steps num_scheduled_tokens num_prompt_tokens
        num_cached_tokens num_output_tokens num_preemptions num_drafted_tokens
        num_accepted_tokens num_model_drafted_tokens num_model_accepted_tokens
        num_held_seqs num_held_blocks num_evictions"""
        counters = dict.fromkeys(names.split(), len(self.requests))
        return SimpleNamespace(**counters, groups=[(4, 1, 3, 2), (4, 0, 4, 0)])


def fake_logprobs(token, count):
    top = [token, *(i for i in range(count) if i != token)][:count]
    return SimpleNamespace(
        logprob=-0.25, rank=1, top_ids=top, top_logprobs=[-0.25 - i for i in range(len(top))]
    )


class FakeExecutor:
    """Draws the next byte of each sequence's continuation."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.in_run = threading.Lock()
        self.on_run = lambda: None
        self.eos_after: int | None = None
        self.failing: set[tuple[int, int]] = set()
        self.tokens_per_step = 1
        self.num_runs = 0
        self.is_aborted = False
        self.is_closed = False

    def run(self, batch):
        assert self.in_run.acquire(blocking=False), "two steps at once"
        try:
            assert not self.is_closed
            self.num_runs += 1
            self.on_run()
            return [self.draw_some(*row) for row in batch]
        finally:
            self.in_run.release()

    def draw_some(self, request_id, index):
        return [self.draw(request_id, index, ahead) for ahead in range(self.tokens_per_step)]

    def draw(self, request_id, index, ahead):
        request = self.scheduler.requests.get(request_id)
        if request is None or (request_id, index) in self.failing:
            return None
        position = len(request.sequences[index].token_ids) + ahead
        if self.eos_after is not None and position >= self.eos_after:
            return EOS
        return continuation(request.prompt, index)[position]

    def abort(self):
        self.is_aborted = True

    def info(self):
        return {"device": "none", "threads": 1}

    def residency(self):
        return {}

    def close(self):
        assert not self.in_run.locked()
        self.is_closed = True


class FakeStream:
    def __init__(self, stop, include_stop):
        self.stop = stop
        self.include_stop = include_stop
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""
        self.taken = 0
        self.hit = None
        self.is_final = False

    def push(self, token):
        if self.hit is None:
            self.text += self.decoder.decode(bytes([token]) if token < 256 else b"")
            return self.match()
        return None

    def match(self):
        ends = [
            (self.text.find(stop) + len(stop), -len(stop), index)
            for index, stop in enumerate(self.stop)
            if stop in self.text
        ]
        if not ends:
            return None
        end, length, self.hit = min(ends)
        self.text = self.text[: end if self.include_stop else end + length]
        return self.hit

    def take(self):
        held = 0
        if self.hit is None and not self.is_final:
            for stop in self.stop:
                for length in range(1, len(stop)):
                    if self.text.endswith(stop[:length]):
                        held = max(held, length)
        end = max(self.taken, len(self.text) - held)
        text, self.taken = self.text[self.taken : end], end
        return text


class FakeTextStreams:
    def __init__(self):
        self.streams: dict[int, FakeStream] = {}

    def __len__(self):
        return len(self.streams)

    def insert(self, key, *, stop, include_stop, **_):
        assert key not in self.streams
        self.streams[key] = FakeStream(stop, include_stop)

    def advance(self, keys, token_ids):
        stops, failures = [], []
        assert (keys.dtype, token_ids.dtype) == (np.uint64, np.int32)
        pairs = zip(keys.tolist(), token_ids.tolist(), strict=True)
        for position, (key, token) in enumerate(pairs):
            stream = self.streams.get(key)
            if stream is None:
                failures.append((key, position, KeyError(key)))
            elif (hit := stream.push(token)) is not None:
                stops.append((key, position, hit))
        return stops, failures

    def take_text(self, key):
        return self.streams[key].take()

    def finish(self, key):
        stream = self.streams[key]
        if stream.hit is None and not stream.is_final:
            stream.text += stream.decoder.decode(b"", final=True)
        stream.is_final = True

    def remove(self, key):
        return self.streams.pop(key, None) is not None


class FakeSchedulerParams(SimpleNamespace):
    """Stands in for ``_core.SamplingParams``."""


class FakeBuilder(RequestBuilder):
    def _scheduler_params(self, params):
        return FakeSchedulerParams(
            max_tokens=params.max_tokens,
            logprobs=num_logprobs(params),
            eos_token_ids=() if params.ignore_eos else self.eos_token_ids,
            stop_token_ids=params.stop_token_ids,
            bad_words=bad_word_ids(params, self.tokenizer),
        )


def fake_model(
    *,
    dedicated: bool = False,
    tokenizer: bool = True,
    generation_config=None,
    tokens_per_step: int = 1,
    chat_template_text: str | None = None,
) -> Model:
    """A ``Model`` over the pretended parts, which hang on it as ``scheduler`` and so on.

    With ``tokens_per_step`` every step is as if drafts had been accepted.
    """
    scheduler = FakeScheduler()
    executor = FakeExecutor(scheduler)
    executor.tokens_per_step = tokens_per_step
    text = FakeTextStreams() if tokenizer else None
    fake_tokenizer = FakeTokenizer() if tokenizer else None
    model = Model(
        ModelParts(
            checkpoint=SimpleNamespace(
                name="fake",
                source=None,
                spec=SimpleNamespace(architecture="fake"),
                tokenizer=fake_tokenizer,
                chat_template=FakeTemplate() if tokenizer else None,
                tool_chat_template=None,
                chat_template_text=chat_template_text,
                quantization=None,
            ),
            config=EngineConfig(driver="thread" if dedicated else "caller"),
            engine=Engine(
                scheduler,
                executor,
                text,
                grammars=GrammarStates(VOCAB_SIZE, SEQUENCES_PER_REQUEST, MAX_STRUCTURE_MEMORY),
                dedicated=dedicated,
            ),
            builder=FakeBuilder(
                tokenizer=fake_tokenizer,
                generation_config=generation_config or {},
                eos_token_ids=(EOS,),
                vocab_size=VOCAB_SIZE,
                max_model_len=MAX_MODEL_LEN,
                kv_cache_tokens=4 * MAX_MODEL_LEN,
            ),
            given_chat_template=None,
            kv_cache_bytes=2**20,
        )
    )
    model.scheduler, model.executor, model.text = scheduler, executor, text
    return model


def assert_idle(model: Model) -> None:
    """Nothing is left behind by what ran, once the step that runs now is over."""
    assert model._engine._driver.wait_idle(timeout_seconds=30)
    assert not model.scheduler.requests
    assert not model._engine._requests
    assert not any(model._engine._companions.num_known().values())
    assert not model._engine._cancelled
    assert not model._engine._driver._waiters
    assert not model._engine._driver._lookaheads


def eventually(condition: Callable[[], bool], *, within_seconds: float = 60) -> None:
    """Wait for what another thread does soon."""
    end = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < end, f"not within {within_seconds} seconds"
        time.sleep(0.001)
