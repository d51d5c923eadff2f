"""Every error that inferlib raises: one root, and each class is also the natural builtin.

All carry ``code`` (a stable string), ``retryable`` and ``hint`` (what to do). The compiled module
receives these classes once, at import, so that a vendored copy raises its own.
"""

from __future__ import annotations

from typing import ClassVar


class InferlibError(Exception):
    """Root of all inferlib errors.

    Attributes:
        code: Stable identifier, e.g. ``"prompt_too_long"``.
        retryable: Whether the same call can succeed later without a change.
        hint: What to do about it; may be empty.
    """

    code: ClassVar[str] = "inferlib"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by message and attributes: constructors have keyword-only arguments."""
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(
    cls: type[InferlibError], args: tuple[str, ...], state: dict[str, object]
) -> InferlibError:
    error = cls(*args)
    error.__dict__.update(state)
    return error


class ModelError(InferlibError):
    """Something is wrong with a model or its files; ``path`` is the file, where there is one."""

    code = "model"

    def __init__(self, message: str = "", *, path: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path


class ModelNotFoundError(ModelError, FileNotFoundError):
    """The path, alias or file does not exist."""

    code = "model_not_found"


class ModelReadError(ModelError, OSError):
    """A model file exists, but the system does not let it be read."""

    code = "model_read"


class ModelFormatError(ModelError, ValueError):
    """A model file is damaged, truncated or not what it claims to be.

    Attributes:
        offset: Where in the file, in bytes; ``None`` if it is not known.
        expected: What should be there; ``None`` if it cannot be said shortly.
        found: What is there; ``None`` as before.
    """

    code = "model_format"

    def __init__(self, message: str = "", *, path: str | None = None, hint: str = "") -> None:
        super().__init__(message, path=path, hint=hint)
        self.offset: int | None = None
        self.expected: str | None = None
        self.found: str | None = None


class UnsupportedModelError(ModelError, ValueError):
    """The architecture, tensor type or tokenizer is not supported; the message names it."""

    code = "unsupported_model"


class RequestError(InferlibError, ValueError):
    """A request or an argument is invalid; ``field`` names the argument."""

    code = "request"

    def __init__(self, message: str = "", *, field: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field


class UnknownKeywordError(RequestError, TypeError):
    """A keyword argument does not exist; ``field`` is the keyword, the hint the nearest one."""

    code = "unknown_keyword"


class SequenceBusyError(InferlibError, RuntimeError):
    """Another call is extending the same sequence; wait for it, or fork the sequence."""

    code = "sequence_busy"
    retryable = True


class ReplayError(InferlibError, ValueError):
    """A receipt's completion or a log's decision did not come out again.

    Attributes:
        field: What differs.
        expected: As in the receipt or log.
        found: As it is.
    """

    code = "replay"

    def __init__(
        self,
        message: str = "",
        *,
        field: str = "",
        expected: object = None,
        found: object = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.field = field
        self.expected = expected
        self.found = found


class DecisionLogError(InferlibError, ValueError):
    """A file holds no decision log of the scheduler, is damaged, or cannot be read.

    Attributes:
        record: Number of the damaged record, counted from the header, which is 0; ``None`` if it is
            not known.
        offset: Where it begins in the file, in bytes; ``None`` if it is not known.
    """

    code = "decision_log"

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.record: int | None = None
        self.offset: int | None = None


class SequenceFileError(InferlibError, ValueError):
    """A file holds no sequence of inferlib's, is damaged, or is too long for this model.

    Attributes:
        path: The file.
    """

    code = "sequence_file"

    def __init__(self, message: str = "", *, path: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path


class SequenceMismatchError(SequenceFileError):
    """A file holds a sequence of another model, precision or version.

    Attributes:
        field: What differs: ``"weights"``, ``"precision"``, ``"kv_cache_dtype"``,
            ``"arithmetic"``.
        expected: This model's.
        found: The file's.
    """

    code = "sequence_mismatch"

    def __init__(
        self,
        message: str = "",
        *,
        path: str | None = None,
        field: str = "",
        expected: str = "",
        found: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, path=path, hint=hint)
        self.field = field
        self.expected = expected
        self.found = found


class CheckpointError(InferlibError, ValueError):
    """The file of ``generate_many`` or ``chat_many`` cannot be used, or is none of inferlib's.

    Attributes:
        path: The file.
        line: Its line, from 1, if it is one line's fault.
    """

    code = "checkpoint"

    def __init__(
        self,
        message: str = "",
        *,
        path: str | None = None,
        line: int | None = None,
        hint: str = "",
    ) -> None:
        where = f"{path}, line {line}" if line is not None else path
        super().__init__(message if where is None else f"{where}: {message}", hint=hint)
        self.path = path
        self.line = line


class CheckpointMismatchError(CheckpointError):
    """The file belongs to other prompts, other options or another model.

    Attributes:
        field: What differs, such as ``"params.temperature"``.
        expected: This run's.
        found: The file's.
    """

    code = "checkpoint_mismatch"

    def __init__(
        self,
        message: str = "",
        *,
        path: str | None = None,
        field: str = "",
        expected: object = None,
        found: object = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, path=path, hint=hint)
        self.field = field
        self.expected = expected
        self.found = found


class PromptTooLongError(RequestError):
    """The prompt (and one token) does not fit the context or the KV cache."""

    code = "prompt_too_long"


class TemplateError(RequestError):
    """A chat template is missing, malformed, refused the messages or ran out of fuel.

    Attributes:
        line: Line of the template, from 1, if it is one line's fault.
    """

    code = "template"
    line: int | None = None


class MissingExtraError(InferlibError, ImportError):
    """A package that is not required is not installed.

    Attributes:
        extra: ``pip install inferlib[extra]`` brings it.
    """

    code = "missing_extra"

    def __init__(self, message: str = "", *, extra: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint or f"pip install inferlib[{extra}]")
        self.extra = extra


class GrammarError(RequestError):
    """A JSON schema, regular expression, grammar or list of choices cannot be used.

    ``field`` names the argument: ``"schema"``, ``"regex"``, ``"grammar"``, ``"choices"``.
    """

    code = "grammar"


class LogitsProcessorError(RequestError):
    """A callable of ``logits_processors`` raised, or returned no logits; the cause is chained."""

    code = "logits_processor"


class OverloadedError(InferlibError, RuntimeError):
    """More requests or prompt tokens wait than the model's ``Limits`` allow; try again later."""

    code = "overloaded"
    retryable = True


class OutOfMemoryError(InferlibError, MemoryError):
    """Not enough memory; ``required`` and ``available`` are in bytes."""

    code = "out_of_memory"

    def __init__(
        self, message: str = "", *, required: int = 0, available: int = 0, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.required = required
        self.available = available


class ExecutorError(InferlibError, RuntimeError):
    """A step failed on the device; the requests of that step ended."""

    code = "executor"


class ClosedError(InferlibError, RuntimeError):
    """The model is closed, or the sequence is."""

    code = "closed"


class ForkedProcessError(InferlibError, RuntimeError):
    """The model was loaded before a fork; load it in the child."""

    code = "forked_process"


class ReentrantCallError(InferlibError, RuntimeError):
    """A model was called from inside a step of its own, which would wait for itself.

    From a signal handler or a finalizer that interrupted the step, or from a callable of
    ``logits_processors``.
    """

    code = "reentrant_call"


class InternalError(InferlibError, RuntimeError):
    """A bug in inferlib; please report it with the message."""

    code = "internal"


CLASSES: dict[str, type[InferlibError]] = {
    cls.__name__: cls
    for cls in (
        InferlibError,
        ModelError,
        ModelNotFoundError,
        ModelReadError,
        ModelFormatError,
        UnsupportedModelError,
        RequestError,
        UnknownKeywordError,
        SequenceBusyError,
        DecisionLogError,
        SequenceFileError,
        SequenceMismatchError,
        CheckpointError,
        CheckpointMismatchError,
        ReplayError,
        PromptTooLongError,
        TemplateError,
        MissingExtraError,
        GrammarError,
        LogitsProcessorError,
        OverloadedError,
        OutOfMemoryError,
        ExecutorError,
        ClosedError,
        ForkedProcessError,
        ReentrantCallError,
        InternalError,
    )
}
