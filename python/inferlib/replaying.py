"""``Model.replay``: compute a completion again and see that it is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from .errors import ReplayError, RequestError
from .model_core import ModelCore
from .prompts import EncodedPrompt
from .receipt import StoredReceipt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .completion import Completion
    from .output_reading import ReasoningSyntax, ToolSyntax
    from .receipt import Receipt
    from .request import Request
    from .thinking import ThinkingBudget


class Replaying(ModelCore):
    """Verifies receipts."""

    def replay(self, receipt: Receipt | Mapping[str, Any]) -> Completion:
        """Compute the completion of a receipt again, and verify that it comes out the same.

        Args:
            receipt: ``completion.receipt``, or its ``to_dict()``, also after a way through JSON.

        Returns:
            The completion, equal in tokens, reasons to end, and log-probabilities bit for bit.

        Raises:
            ReplayError: The model differs in ``field`` (``"weights"``, ``"precision"``,
                ``"kv_cache_dtype"``, ``"arithmetic"``, ``"adapter"``), or the result does
                (``"outputs"``).
            RequestError: This is no receipt.
            ModelError: The model's files were changed or removed since it was loaded.
            InferlibError: A step failed, or the model was closed.
        """
        stored = self._check_receipt(receipt)
        (completion,) = self._run([self._replayed(stored)], progress=False)
        return _verify(stored, completion)

    async def areplay(self, receipt: Receipt | Mapping[str, Any]) -> Completion:
        """``replay`` without blocking the event loop, but for a first hash of the weights."""
        stored = self._check_receipt(receipt)
        (completion,) = await self._arun([self._replayed(stored)])
        return _verify(stored, completion)

    def _check_receipt(self, receipt: Receipt | Mapping[str, Any]) -> StoredReceipt:
        self._engine.check_usable()
        stored = StoredReceipt.read(receipt)
        for field, found in self._fingerprint().items():
            expected = stored.fingerprint[field]
            if expected != found:
                raise ReplayError(
                    f"the receipt's {field} is {expected!r}, this model's {found!r}",
                    field=field,
                    expected=expected,
                    found=found,
                    hint="load the same files with the same options, and the same inferlib",
                )
        return stored

    def _replayed(self, stored: StoredReceipt) -> Request:
        prompt = EncodedPrompt(text=None, token_ids=stored.prompt_token_ids)
        builder, adapter = self._parts.builder, None
        if stored.adapter is not None:
            adapter = builder.adapters.by_fingerprint(stored.adapter)
            if adapter is None:
                raise ReplayError(
                    "the receipt is of an adapter that is not loaded",
                    field="adapter",
                    expected=stored.adapter,
                    found=builder.adapters.names(),
                    hint="load_adapter(path) of the same files",
                )
        return builder.build(
            prompt,
            stored.params,
            adapter=None if adapter is None else adapter.name,
            thinking=self._replayed_thinking(stored),
        )

    def _replayed_thinking(self, stored: StoredReceipt) -> ThinkingBudget | None:
        """The budget of the reasoning, as the conversation had it."""
        if stored.thinking is None or self.tokenizer is None:
            return None
        names = ("budget", "reasoning_syntax", "tool_syntax", "unfinished")
        budget, reasoning, calls, unfinished = map(stored.thinking.get, names)
        if not (unfinished is None or isinstance(unfinished, str)):
            raise RequestError("this is no receipt: thinking", field="receipt")
        reading = self._output_reader.reading(
            self.tokenizer.decode(stored.prompt_token_ids, skip_special=False),
            tools=None,
            unfinished=unfinished,
            tool_syntax=cast("ToolSyntax", calls),
            reasoning_syntax=cast("ReasoningSyntax", reasoning),
            skip_special_tokens=stored.params.skip_special_tokens,
        )
        return self._thinking_budget(budget, reading, unfinished)


def _verify(stored: StoredReceipt, completion: Completion) -> Completion:
    found = [output.to_receipt() for output in completion.outputs]
    if found != stored.outputs:
        raise ReplayError(
            "the completion did not come out the same",
            field="outputs",
            expected=[output.to_dict() for output in stored.outputs],
            found=[output.to_dict() for output in found],
            hint="one that was cut short (abort, deadline) cannot; otherwise report this",
        )
    return completion
