"""The calls of models with a classifier: ``classify``, ``rerank`` and their twins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from .errors import RequestError
from .prompts import is_one_prompt
from .reading import Reading, ReadText, captured_rows
from .transformer import SCORES
from .validation import integer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .model_spec import ClassifierSpec
    from .prompts import MixedPrompts, Prompt, Prompts
    from .reading import Take
    from .request import Request
    from .scheduling import Priority

    Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What a classifier says of a text.

    Attributes:
        label: The most likely one; the first of equals.
        probability: Of ``label``.
        probabilities: By label. Of one label among all they sum to 1 (softmax); where each is true
            or false by itself, each is between 0 and 1 (sigmoid).
        logits: The model's scores, by label.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    logits: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedDocument:
    """How well a document answers a query.

    Attributes:
        index: Its place in the list that was given.
        score: Between 0 and 1: sigmoid of ``logit``.
        logit: The model's score.
        document: Its text.
    """

    index: int
    score: float
    logit: float
    document: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return {name: getattr(self, name) for name in self.__slots__}


class Classifying(Reading):
    """Scores whole texts."""

    @overload
    def classify(
        self,
        texts: Prompt,
        *,
        truncate: bool = False,
        priority: Priority = 0,
        tenant: str | None = None,
        progress: bool | None = None,
    ) -> Classification: ...
    @overload
    def classify(
        self,
        texts: Prompts | MixedPrompts,
        *,
        truncate: bool = False,
        priority: Priority = 0,
        tenant: str | None = None,
        progress: bool | None = None,
    ) -> list[Classification]: ...
    def classify(
        self,
        texts: Prompt | Prompts | MixedPrompts,
        *,
        truncate: bool = False,
        priority: Priority = 0,
        tenant: str | None = None,
        progress: bool | None = None,
    ) -> Classification | list[Classification]:
        """Say which label each text has.

        Args:
            texts: One text, or a list; each a string or token ids.
            truncate: Read the beginning of texts that are too long, instead of refusing them.
            priority: As in ``generate``.
            tenant: As in ``generate``.
            progress: Show a progress bar; ``None``: for long lists in a terminal or notebook.

        Returns:
            One ``Classification`` for one text, a list for a list.

        Raises:
            RequestError: The model has no classifier, or an argument is invalid.
            PromptTooLongError: A text is longer than the model reads.
            InferlibError: A step failed, or the model was closed.
        """
        one, encoded, results, take = self._classification(texts, truncate=truncate)
        options = {"priority": priority, "tenant": tenant}
        self._read(encoded, [SCORES], take, progress=progress, what="classify", options=options)
        return results[0] if one else results

    @overload
    async def aclassify(
        self,
        texts: Prompt,
        *,
        truncate: bool = False,
        priority: Priority = 0,
        tenant: str | None = None,
    ) -> Classification: ...
    @overload
    async def aclassify(
        self,
        texts: Prompts | MixedPrompts,
        *,
        truncate: bool = False,
        priority: Priority = 0,
        tenant: str | None = None,
    ) -> list[Classification]: ...
    async def aclassify(
        self,
        texts: Prompt | Prompts | MixedPrompts,
        *,
        truncate: bool = False,
        priority: Priority = 0,
        tenant: str | None = None,
    ) -> Classification | list[Classification]:
        """``classify`` without blocking the event loop."""
        one, encoded, results, take = self._classification(texts, truncate=truncate)
        await self._aread(encoded, [SCORES], take, {"priority": priority, "tenant": tenant})
        return results[0] if one else results

    def rerank(
        self,
        query: str,
        documents: list[str],
        *,
        top_n: int | None = None,
        truncate: bool = False,
        priority: Priority = 0,
        tenant: str | None = None,
        progress: bool | None = None,
    ) -> list[RankedDocument]:
        """Order documents by how well they answer a query, the best first.

        Query and document are read together (a cross-encoder), so this costs a forward pass per
        document: find some tens of candidates by ``embed`` first.

        Args:
            query: What is asked.
            documents: Texts.
            top_n: Return only so many of the best; ``None``: all.
            truncate: Read the beginning of documents that are too long beside the query.
            priority: As in ``generate``.
            tenant: As in ``generate``.
            progress: Show a progress bar; ``None``: for long lists in a terminal or notebook.

        Returns:
            A ``RankedDocument`` per document, by falling score; ``index`` says which it is.

        Raises:
            RequestError: The model is no reranker, or an argument is invalid.
            PromptTooLongError: Query and document are longer than the model reads.
            InferlibError: A step failed, or the model was closed.
        """
        encoded, logits, take = self._ranking(query, documents, top_n, truncate=truncate)
        options = {"priority": priority, "tenant": tenant}
        self._read(encoded, [SCORES], take, progress=progress, what="rerank", options=options)
        return _ranked(logits, documents, top_n)

    async def arerank(
        self,
        query: str,
        documents: list[str],
        *,
        top_n: int | None = None,
        truncate: bool = False,
        priority: Priority = 0,
        tenant: str | None = None,
    ) -> list[RankedDocument]:
        """``rerank`` without blocking the event loop."""
        encoded, logits, take = self._ranking(query, documents, top_n, truncate=truncate)
        await self._aread(encoded, [SCORES], take, {"priority": priority, "tenant": tenant})
        return _ranked(logits, documents, top_n)

    def _classifier(self) -> ClassifierSpec:
        self._engine.check_usable()
        checkpoint = self._parts.checkpoint
        if checkpoint.spec.classifier is None:
            raise RequestError(
                f"{checkpoint.name} has no classifier",
                field="model",
                hint="embed() gives vectors, choose() lets a generating model decide",
            )
        return checkpoint.spec.classifier

    def _classification(
        self, texts: object, *, truncate: bool
    ) -> tuple[bool, list[ReadText], list[Classification], Take]:
        classifier = self._classifier()
        try:
            one = is_one_prompt(texts)
        except RequestError as error:
            error.field = "texts"
            raise
        given = [texts] if one else list(cast("Sequence[object]", texts))
        encoded = [self._read_text(text, field="texts", truncate=truncate) for text in given]
        results: list[Classification] = []

        def take(index: int, request: Request) -> None:
            (scores,) = captured_rows(index, request)
            results.append(_classification_of(scores, classifier))

        return one, encoded, results, take

    def _ranking(
        self, query: object, documents: object, top_n: object, *, truncate: bool
    ) -> tuple[list[ReadText], list[float], Take]:
        classifier = self._classifier()
        if len(classifier.labels) != 1:
            raise RequestError(
                f"{self._parts.checkpoint.name} gives {len(classifier.labels)} scores, a reranker "
                "gives one",
                field="model",
                hint="classify() returns them",
            )
        if not isinstance(query, str):
            raise RequestError("query must be a text", field="query")
        if not isinstance(documents, list | tuple) or not all(
            isinstance(document, str) for document in documents
        ):
            raise RequestError("documents must be a list of texts", field="documents")
        if top_n is not None:
            integer("top_n", top_n, 1, 2**31 - 1)
        encoded = [
            self._read_text(query, document, field="documents", truncate=truncate)
            for document in documents
        ]
        logits: list[float] = []

        def take(index: int, request: Request) -> None:
            (scores,) = captured_rows(index, request)
            logits.append(float(scores[0]))

        return encoded, logits, take


def _classification_of(logits: Floats, classifier: ClassifierSpec) -> Classification:
    wide = logits.astype(np.float64)
    if classifier.several:
        probabilities = _sigmoid(wide)
    else:
        weights = np.exp(wide - wide.max())
        probabilities = weights / weights.sum()
    best = int(wide.argmax())
    labels = classifier.labels
    return Classification(
        label=labels[best],
        probability=float(probabilities[best]),
        probabilities=dict(zip(labels, probabilities.tolist(), strict=True)),
        logits=dict(zip(labels, logits.tolist(), strict=True)),
    )


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(x / 2))


def _ranked(
    logits: list[float], documents: Sequence[str], top_n: int | None
) -> list[RankedDocument]:
    order = sorted(range(len(logits)), key=lambda index: -logits[index])
    scores = _sigmoid(np.asarray(logits, np.float64)).tolist()
    return [
        RankedDocument(
            index=index, score=scores[index], logit=logits[index], document=documents[index]
        )
        for index in order[:top_n]
    ]
