"""The calls that turn texts into vectors: ``embed`` and ``aembed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

import numpy as np

from .errors import RequestError
from .pooling import Pooling, first_row
from .prompts import is_one_prompt
from .reading import Reading, ReadText, not_numbers
from .transformer import FINAL_HIDDEN
from .validation import choice, integer, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .prompts import MixedPrompts, Prompt, Prompts
    from .reading import Take
    from .request import Request
    from .scheduling import Priority

    Floats = NDArray[np.float32]


class Embedding(Reading):
    """Makes vectors of texts."""

    def embed(  # noqa: PLR0913  # each is independent of the others
        self,
        texts: Prompt | Prompts | MixedPrompts,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate: bool = False,
        priority: Priority = 0,
        tenant: str | None = None,
        progress: bool | None = None,
    ) -> NDArray[np.float32]:
        """Turn texts into vectors.

        A text's vector is the same, bit for bit, alone and in any list.

        Args:
            texts: One text, or a list; each a string or token ids.
            pooling: ``"cls"``, ``"mean"``, ``"last"`` or ``"max"`` of the tokens' last hidden
                states. ``None``: as the checkpoint says; if it does not, the mean for encoders and
                the last token for decoders.
            normalize: Whether vectors have length 1. ``None``: as the checkpoint says.
            dimensions: Keep the first so many elements, for models that were trained for it; then
                normalize. Source: Kusupati et al. 2022 (Matryoshka representations).
            prompt_name: Put the checkpoint's text of that name (``"query"``) in front of each text.
            truncate: Read the beginning of texts that are too long, instead of refusing them.
            priority: As in ``generate``.
            tenant: As in ``generate``.
            progress: Show a progress bar; ``None``: for long lists in a terminal or notebook.

        Returns:
            float32 ``[len(texts), dim]`` for a list, ``[dim]`` for one text.

        Raises:
            RequestError: An argument is invalid, or this device hands out no hidden states.
            PromptTooLongError: A text is longer than the model reads.
            InferlibError: A step failed, or the model was closed.
        """
        one, encoded, vectors, take = self._embedding(
            texts,
            pooling=pooling,
            normalize=normalize,
            dimensions=dimensions,
            prompt_name=prompt_name,
            truncate=truncate,
        )
        options = {"priority": priority, "tenant": tenant}
        self._read(encoded, [FINAL_HIDDEN], take, progress=progress, what="embed", options=options)
        return cast("Floats", vectors[0]) if one else vectors

    async def aembed(
        self,
        texts: Prompt | Prompts | MixedPrompts,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate: bool = False,
        priority: Priority = 0,
        tenant: str | None = None,
    ) -> NDArray[np.float32]:
        """``embed`` without blocking the event loop."""
        one, encoded, vectors, take = self._embedding(
            texts,
            pooling=pooling,
            normalize=normalize,
            dimensions=dimensions,
            prompt_name=prompt_name,
            truncate=truncate,
        )
        await self._aread(encoded, [FINAL_HIDDEN], take, {"priority": priority, "tenant": tenant})
        return cast("Floats", vectors[0]) if one else vectors

    def _embedding(
        self,
        texts: object,
        *,
        pooling: Pooling | None,
        normalize: bool | None,
        dimensions: int | None,
        prompt_name: str | None,
        truncate: bool,
    ) -> tuple[bool, list[ReadText], Floats, Take]:
        """Whether one text was given; the texts, room for their vectors, and what fills it."""
        self._engine.check_usable()
        checkpoint = self._parts.checkpoint
        hidden_size, known = checkpoint.spec.hidden_size, checkpoint.embedding
        if pooling is None:
            decodes = not checkpoint.program.is_bidirectional
            pooling = known.pooling or ("last" if decodes else "mean")
        else:
            choice("pooling", pooling, get_args(Pooling))
        if not isinstance(normalize, bool | None):
            raise RequestError("normalize must be True, False or None", field="normalize")
        if dimensions is not None:
            dimensions = integer("dimensions", dimensions, 1, hidden_size)
        shortens = normalize is True or (normalize is None and known.normalize)
        before = self._prompt(prompt_name)
        one = _is_one(texts)
        given = [texts] if one else list(cast("Sequence[object]", texts))
        encoded = []
        for text in given:
            whole = before + text if before and isinstance(text, str) else text
            read = self._read_text(whole, field="texts", truncate=truncate)
            start = first_row(pooling, len(read.token_ids))
            encoded.append(ReadText(token_ids=read.token_ids, start=start))
        kept = dimensions or hidden_size
        vectors = np.empty((len(given), kept), np.float32)
        how = pooling

        def take(index: int, request: Request) -> None:
            vector = request.results[0].vector(how, hidden_size, kept, shortens)
            if vector is None:
                raise not_numbers(index)
            vectors[index] = vector

        return one, encoded, vectors, take

    def _prompt(self, name: object) -> str:
        """The text of that name, or the default's."""
        known = self._parts.checkpoint.embedding
        name = known.default_prompt_name if name is None else name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in known.prompts:
            names = ", ".join(map(repr, known.prompts)) or "none"
            raise RequestError(
                f"the checkpoint has no prompt {shown(name)}",
                field="prompt_name",
                hint=f"it has {names}",
            )
        return known.prompts[name]


def _is_one(texts: object) -> bool:
    try:
        return is_one_prompt(texts)
    except RequestError as error:
        error.field = "texts"
        raise
