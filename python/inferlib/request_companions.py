"""What goes with each request from its submission to its end, and in which order it is asked.

A request's text, grammar, confidence, reasoning and processors have a file each, as has what a
draft model knows of it. They decide what a step may draw, and end sequences: at a stop string, with
a structure that is whole, where the model is too unsure. Here they are opened, asked and closed
together; the engine does not know which of them there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .request import SEQUENCES_PER_REQUEST, Request
from .request_confidence import RequestConfidence
from .request_grammars import RequestGrammars
from .request_processors import ProcessedRow, RequestProcessors
from .request_sequences import first_tokens, sequence_since
from .request_texts import RequestTexts, TextEnd
from .request_thinking import RequestThinking

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping

    from ._core import Batch, Events, GrammarStates, Scheduler, StepOutput, TextStreams
    from .drafting import Drafting
    from .request_sequences import SequenceView
    from .request_texts import StepTokens


class MarkedRows(NamedTuple):
    """What must be looked at once a step has run.

    Attributes:
        processed: Rows that nobody drew yet.
        has_guarded: Whether a grammar may refuse what was drawn.
    """

    processed: list[ProcessedRow]
    has_guarded: bool


class RequestCompanions:
    """Opens, asks and closes what goes with requests.

    Everything is called with the engine's lock held, but ``has_deadlines``, ``mark`` and ``draw``,
    which the thread that runs a step calls before it and around the executor.

    Args:
        scheduler: Has the tokens, and is told which of them are a sequence's last.
        text: Turns tokens into text; ``None`` if there is no tokenizer.
        requests: Those that have not ended, by id.
        grammars: Where sequences are in their structures.
        clock: Seconds.
        lock: The engine's.
        give_up: Lets a request that has its error end before the next step.
        draft_model: Forgets what is over; ``None`` if there is none.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        text: TextStreams | None,
        requests: Mapping[int, Request],
        *,
        grammars: GrammarStates,
        clock: Callable[[], float],
        lock: threading.RLock,
        give_up: Callable[[Request], object],
        draft_model: Drafting | None,
    ) -> None:
        self._scheduler = scheduler
        self._requests = requests
        self._clock = clock
        self._lock = lock
        self._draft_model = draft_model
        self.texts = RequestTexts(text, clock)
        # What is written in Rust takes no stand-in (`inferlib.testing`), but what that wraps.
        self.grammars = RequestGrammars(grammars, getattr(scheduler, "wrapped", scheduler))
        self.confidence = RequestConfidence(scheduler)
        self.thinking = RequestThinking(grammars.vocab_size, scheduler)
        self.processors = RequestProcessors(grammars.vocab_size, scheduler, give_up)

    # From submission to end

    def open(self, request: Request, now: float) -> None:
        """Begin a request that was just submitted."""
        self.texts.open(request)
        self.grammars.open(request, now)
        self.confidence.open(request)
        self.thinking.open(request)
        self.processors.open(request)

    def close(self, request: Request) -> None:
        """Make all that is known of a request's texts final, and forget it."""
        self.texts.close(request)
        self.grammars.note_failures(request)
        self._forget(request)

    def drop(self, request: Request) -> None:
        """Forget a request that failed."""
        self.texts.drop(request)
        self._forget(request)

    def _forget(self, request: Request) -> None:
        self.grammars.close(request)
        if self._draft_model is not None:
            self._draft_model.forget(request)
        self.confidence.close(request)
        self.thinking.close(request)
        self.processors.close(request)

    # Around a step

    def mark(self, batch: Batch) -> MarkedRows:
        """Say what the rows of a step may draw; the lock is not held."""
        with self._lock:  # who submitted any of these requests has opened it by now
            self.thinking.mask(batch)
            processed = self.processors.ask(batch)
        return MarkedRows(processed, self.grammars.mask(batch))

    def draw(self, batch: Batch, output: StepOutput, marked: MarkedRows) -> StepOutput:
        """Return a step's result with what is not the executor's to draw; without the lock."""
        if marked.processed:
            output = self.processors.draw(batch, output, marked.processed)
        if marked.has_guarded:
            output = self.grammars.refuse(batch, output)
        return output

    def advance(self, events: Events) -> tuple[StepTokens, list[Request]]:
        """Take over a step's tokens, and end sequences because of them.

        Returns:
            The tokens without those behind these ends; and the requests of which a sequence ended.
        """
        unsure, tokens = self.confidence.advance(events)
        ends = self.texts.advance(tokens, self._requests)
        whole = self.grammars.advance(tokens)
        if whole:
            stopped_keys = {end.key for end in ends}
            ends += [end for end in whole if end.key not in stopped_keys]
        ends = self.confidence.judge(ends, unsure)
        now = self._clock()
        stopped = [request for end in ends if (request := self._end(end, now)) is not None]
        self.texts.show(now)
        for row in np.flatnonzero(tokens.finished).tolist():
            request = self._requests.get(int(tokens.request_ids[row]))
            if request is not None:
                self.texts.end(request, int(tokens.sequence_indices[row]))
        return tokens, stopped

    def force(self, tokens: StepTokens) -> None:
        """Tell the scheduler what must follow a step's tokens, once what ended is closed."""
        self.thinking.advance(tokens)

    def rebuild(self, request: Request, now: float) -> None:
        """Follow a request again from its first token: a step's bookkeeping was interrupted."""
        for index in range(request.params.n):
            sequence = sequence_since(self._scheduler, request, index, 0)
            unsure = self.confidence.rebuild(request, index, sequence)
            if unsure is not None:
                sequence = first_tokens(sequence, unsure.num_tokens)
            whole = self.grammars.rebuild(request, index, sequence)
            end = self.texts.rebuild(request, index, sequence) or whole
            ends = [] if end is None else [end]
            for end in self.confidence.judge(ends, [] if unsure is None else [unsure]):
                if not request.results:
                    self._finish(request, index, end, now)
                self.texts.end(request, index)

    def _end(self, end: TextEnd, now: float) -> Request | None:
        """End a sequence because of its text, and return its request."""
        request_id, index = divmod(end.key, SEQUENCES_PER_REQUEST)
        request = self._requests.get(request_id)
        if request is None or (request.params.detokenize and index not in request.opened):
            return None  # its submission was interrupted
        self._finish(request, index, end, now)
        self.texts.end(request, index)
        return request

    def _finish(self, request: Request, index: int, end: TextEnd, now: float) -> None:
        """Take back what the scheduler has of a sequence behind the end of its text."""
        reason = "deadline" if end.is_overdue else "stop" if end.is_whole else "error"
        if end.is_unsure:
            reason = "abstain"
        elif end.stop_index is not None:
            reason = "stop"
            request.stop_strings[index] = request.params.stop_strings[end.stop_index]
        self._scheduler.finish(request.id, index, reason, now, num_output_tokens=end.num_tokens)

    # Deadlines

    @property
    def has_deadlines(self) -> bool:
        """Whether a structure has to be closed in time."""
        return self.grammars.has_deadlines

    def close_overdue(self, now: float) -> Iterator[Request]:
        """Let structures whose time is up end by a short way; end those that cannot.

        Yields:
            Their requests, each before the next one is closed.
        """
        for request in self.grammars.overdue(now):
            for index in self.grammars.close_texts(request):
                self._scheduler.finish(request.id, index, "deadline", now)
                self.texts.end(request, index)
            yield request

    # For readers

    def read(self, request: Request, index: int, start: int) -> tuple[SequenceView, str]:
        """Return one sequence from token ``start`` on, and all of its text so far."""
        self.texts.take(request, index)
        return sequence_since(self._scheduler, request, index, start), request.text(index)

    def num_known(self) -> dict[str, int]:
        """Count what each of them remembers of requests: nothing if none has not ended."""
        return {
            "texts": len(self.texts),
            "grammars": len(self.grammars),
            "confidence": len(self.confidence),
            "thinking": len(self.thinking),
            "processors": len(self.processors),
        }
