"""A model that says what a test wants it to say, through the real scheduler, at a fake time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from .._core import LogitsSampler
from ..assembly import StandIns, assemble
from ..call_options import LoadOptions
from ..draft_loading import opened_draft_model
from ..errors import RequestError
from ..model import Model
from ..validation import check_keywords, number
from .tiny import EOS_ID, VOCAB_SIZE, byte_tokenizer, config_of, tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from .._core import Batch, Scheduler, StepOutput
    from ..executors.base import Executor
    from .faults import Faults

    Answers = Iterable[str] | Callable[[str], str]

WANTED_LOGIT = 1e6
"""Of the script's token, others have 0: no temperature that is allowed draws another one."""
MAX_SECONDS = 1e9


class Clock:
    """Seconds that pass when a test says so; what a model takes for ``time.monotonic()``."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self._lock = threading.Lock()
        self._seconds = seconds

    def __call__(self) -> float:
        """Return the time."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            RequestError: ``seconds`` is no number from 0 on.
        """
        passed = number("seconds", seconds, 0.0, MAX_SECONDS)
        with self._lock:
            self._seconds += passed


class ScriptedModel(Model):
    """A ``Model`` whose answers are given: for tests of what is built on top of one.

    All but the forward pass is real: batching, KV blocks, prefix cache, preemption, streams, stop
    strings, structured output, deadlines. Its tokens are the bytes of UTF-8. The answer ends with
    the end-of-sequence token, so that ``finish_reason`` is ``"stop"``, or earlier by ``max_tokens``
    or a stop string. Options such as ``logit_bias`` or a JSON schema act on it as on the wish of
    any model: where they forbid the next token of the script, another one is drawn.

        >>> from inferlib.testing import ScriptedModel
        >>> with ScriptedModel(["Hello!", "Bye."]) as model:
        ...     model.generate("Hi").text, model.generate("See you", stop="e").text
        ('Hello!', 'By')

    Args:
        answers: One per sequence (``n=2`` takes two), in the order in which requests are submitted;
            or a function from the text of a prompt to its answer.
        seconds_per_step: What a step takes on ``clock``.
        max_position_embeddings: Longest sequence in tokens.
        faults: What is to go wrong.
        **options: As for ``Model.from_pretrained``.

    Attributes:
        clock: The model's time. It passes by ``seconds_per_step`` and ``clock.advance`` only.
        prompts: The prompts so far, as the model reads them: with the chat template's text.

    Raises:
        RequestError: An option is invalid; ``field`` names it.
    """

    clock: Clock
    prompts: list[str]

    def __init__(
        self,
        answers: Answers,
        *,
        seconds_per_step: float = 0.0,
        max_position_embeddings: int = 4096,
        faults: Faults | None = None,
        **options: Unpack[LoadOptions],
    ) -> None:
        check_keywords(options, LoadOptions.__annotations__)
        seconds = number("seconds_per_step", seconds_per_step, 0.0, MAX_SECONDS)
        settings: dict[str, Any] = dict(options)
        template = settings.pop("chat_template", None)
        checkpoint = tiny_checkpoint(
            name="scripted",
            num_layers=1,
            max_position_embeddings=max_position_embeddings,
            chat_template=template,
        )
        script = _Script(answers)
        self.clock = clock = Clock()
        self.prompts = script.prompts

        def wrap_executor(executor: Executor) -> Executor:
            scripted = _ScriptedExecutor(executor, script, clock, seconds)
            return scripted if faults is None else faults.executor(scripted)

        stand_ins = StandIns(
            wrap_executor=wrap_executor,
            wrap_scheduler=lambda scheduler: cast("Scheduler", _Submissions(scheduler, script)),
            clock=clock,
        )
        draft_model = settings.pop("draft_model", None)
        config = config_of(settings)
        with opened_draft_model(draft_model, config) as drafts:
            parts = assemble(checkpoint, config, stand_ins=stand_ins, draft_model=drafts)
        super().__init__(parts)


class _Script:
    """Who says what. A request's seed is the number of its first answer: nothing is drawn."""

    def __init__(self, answers: Answers) -> None:
        self._answer = answers if callable(answers) else None
        self._rest = iter(() if self._answer is not None else cast("Iterable[str]", answers))
        self._given: dict[int, bytes] = {}
        self._tokenizer = byte_tokenizer()
        self.prompts: list[str] = []

    def assign(self, prompt: NDArray[np.int32], n: int) -> int:
        """Note the answers of a request; the number of the first."""
        text = self._tokenizer.decode(prompt.tolist())
        answers = [self._next(text) for _ in range(n)]
        first = len(self._given)
        self._given |= dict(enumerate(answers, start=first))
        self.prompts.append(text)
        return first

    def _next(self, prompt: str) -> bytes:
        answer = self._answer(prompt) if self._answer is not None else next(self._rest, None)
        if answer is None:
            raise RequestError(
                f"the script has no answer left after {len(self._given)}",
                field="prompt",
                hint="give ScriptedModel more answers, or a function",
            )
        if not isinstance(answer, str):
            raise RequestError(
                f"an answer must be a string, not {type(answer).__name__}", field="answers"
            )
        return answer.encode()

    def token(self, seed: int, index: int, place: int) -> int:
        """Return the token at ``place`` of an answer; the end's behind its last one."""
        answer = self._given[seed + index]
        return answer[place] if place < len(answer) else EOS_ID


class _Submissions:
    """The scheduler, with the script told of every request."""

    def __init__(self, scheduler: Scheduler, script: _Script) -> None:
        self.wrapped = scheduler
        self._script = script

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the scheduler has
        return getattr(self.wrapped, name)

    def submit(self, prompt: NDArray[np.int32], *, n: int, seed: int, **options: Any) -> int:  # noqa: ANN401, ARG002
        return self.wrapped.submit(prompt, n=n, seed=self._script.assign(prompt, n), **options)


class _ScriptedExecutor:
    """Wishes the script's tokens; the CPU's sampler then does what the request's options say."""

    def __init__(
        self, replaced: Executor, script: _Script, clock: Clock, seconds_per_step: float
    ) -> None:
        self._info = replaced.info()
        replaced.close()
        self._script = script
        self._clock = clock
        self._seconds_per_step = seconds_per_step
        self._sampler = LogitsSampler(VOCAB_SIZE)
        self._is_aborted = False

    def run(self, batch: Batch) -> StepOutput | None:
        """Draw every row; ``None`` if the step was aborted."""
        self._clock.advance(self._seconds_per_step)
        if self._is_aborted:
            self._is_aborted = False
            return None
        rows = batch.sampled
        count = batch.num_sampled
        logits = np.zeros((count, VOCAB_SIZE), np.float32)
        keys = zip(
            rows.seeds.tolist(),
            rows.sequence_indices.tolist(),
            rows.num_output_tokens.tolist(),
            rows.is_scored.tolist(),
            strict=True,
        )
        for row, (seed, index, place, is_scored) in enumerate(keys):
            if not is_scored:
                logits[row, self._script.token(seed, index, place)] = WANTED_LOGIT
        return self._sampler.complete(
            batch,
            np.arange(count, dtype=np.int32),
            logits,
            np.zeros(count, np.int32),
            np.zeros(count, np.bool_),
        )

    def abort(self) -> None:
        """Let the next step not count."""
        self._is_aborted = True

    def info(self) -> dict[str, Any]:
        """Describe the executor that it stands in for."""
        return self._info | {"device": "scripted"}

    def residency(self) -> dict[str, Any]:
        """Nothing lies in memory."""
        return {}

    def close(self) -> None:
        """Nothing is to be given back."""
