"""Receipts: all that is needed to compute a completion again, and to see that it is the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import RequestError
from .sampling_params import SamplingParams
from .validation import shown

if TYPE_CHECKING:
    from .origin import Origin

RECEIPT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptOutput:
    """What one sequence of a completion was.

    Attributes:
        token_ids: The generated tokens.
        finish_reason: Why it ended.
        logprobs: Of these tokens, if they were asked for.
    """

    token_ids: list[int]
    finish_reason: str
    logprobs: list[float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Where a completion came from: ``Completion.receipt``, which ``Model.replay`` verifies.

    Attributes:
        origin: Weights, precision, kernels. Its hash of the weights is computed when asked for.
        prompt_token_ids: What the model read.
        params: Options, with every default and the seed filled in.
        outputs: What came out.
        thinking: As in ``Completion``.
    """

    origin: Origin
    prompt_token_ids: list[int]
    params: SamplingParams
    outputs: list[ReceiptOutput]
    thinking: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values; hashes the weights if nobody did.

        Raises:
            ModelError: The model's files were changed or removed since it was loaded.
        """
        return {
            "version": RECEIPT_VERSION,
            "model": self.origin.model,
            "device": self.origin.device,
            "tier": self.origin.tier,
            **self.origin.fingerprint(),
            "adapter": self.origin.adapter,
            "prompt_token_ids": self.prompt_token_ids,
            "params": self.params.to_dict(),
            "thinking": None if self.thinking is None else dict(self.thinking),
            "outputs": [output.to_dict() for output in self.outputs],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReceipt:
    """A receipt as ``to_dict`` wrote it, checked.

    Attributes:
        fingerprint: As ``Origin.fingerprint``.
        adapter: A hash of the adapter's files; ``None`` is the model alone.
        prompt_token_ids: What the model read.
        params: Options.
        outputs: What came out.
        thinking: As in ``Completion``.
    """

    fingerprint: dict[str, str]
    adapter: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    outputs: list[ReceiptOutput]
    thinking: dict[str, Any] | None

    @classmethod
    def read(cls, receipt: Receipt | Mapping[str, Any]) -> StoredReceipt:
        """Check a receipt, also one that was stored as JSON.

        Raises:
            RequestError: It is no receipt, or one of another version; ``field`` is ``"receipt"``.
            ModelError: The hash of its weights cannot be computed.
        """
        if not isinstance(receipt, Receipt | Mapping):
            raise RequestError(f"a {type(receipt).__name__} is no receipt", field="receipt")
        values = receipt.to_dict() if isinstance(receipt, Receipt) else receipt
        try:
            if values["version"] != RECEIPT_VERSION:
                raise RequestError(
                    f"this receipt has version {shown(values['version'])}, "
                    f"{RECEIPT_VERSION} is known",
                    field="receipt",
                )
            params = dict(values["params"])
            if params.get("logit_bias"):  # JSON's keys are strings
                params["logit_bias"] = {int(k): v for k, v in params["logit_bias"].items()}
            names = ("weights", "precision", "kv_cache_dtype", "arithmetic")
            return cls(
                fingerprint={name: str(values[name]) for name in names},
                adapter=None if values.get("adapter") is None else str(values["adapter"]),
                prompt_token_ids=[int(token_id) for token_id in values["prompt_token_ids"]],
                params=SamplingParams(**params),
                thinking=None if values.get("thinking") is None else dict(values["thinking"]),
                outputs=[
                    ReceiptOutput(
                        token_ids=[int(token_id) for token_id in output["token_ids"]],
                        finish_reason=str(output["finish_reason"]),
                        logprobs=output["logprobs"],
                    )
                    for output in values["outputs"]
                ],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, RequestError) and error.field == "receipt":
                raise
            raise RequestError(f"this is no receipt: {shown(error)}", field="receipt") from error
