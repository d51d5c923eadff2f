"""The calls that make sequences: ``prefill``, its twin, and ``load_sequence``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .errors import RequestError
from .in_thread import in_thread
from .model_core import ModelCore
from .prompts import is_one_prompt
from .request_builder import check_salt, check_tenant
from .sequence import Sequence, SequenceOwner
from .sequence_file import KvShape, SequenceLayout, read_sequence
from .validation import path as check_path

if TYPE_CHECKING:
    import os

    from .prompts import Prompt


class Prefilling(ModelCore):
    """Makes sequences."""

    def prefill(
        self, prompt: Prompt, *, cache_salt: str | None = None, tenant: str | None = None
    ) -> Sequence:
        """Compute the keys and values of a prompt, and keep them in a sequence until it is closed.

        Args:
            prompt: Text or token ids.
            cache_salt: As for ``generate``; also that of the sequence's own calls.
            tenant: As for ``generate``; also that of the sequence's own calls, unless they name
                another one.

        Raises:
            RequestError: The prompt is invalid; ``field`` names the argument.
            PromptTooLongError: It does not fit the context or the KV cache.
            InferlibError: A step failed, or the model was closed.
        """
        sequence, token_ids = self._new_sequence(prompt, cache_salt, tenant)
        sequence.extend(token_ids)
        return sequence

    async def aprefill(
        self, prompt: Prompt, *, cache_salt: str | None = None, tenant: str | None = None
    ) -> Sequence:
        """``prefill`` without blocking the event loop."""
        sequence, token_ids = self._new_sequence(prompt, cache_salt, tenant)
        await sequence.aextend(token_ids)
        return sequence

    def load_sequence(
        self,
        path: str | os.PathLike[str],
        *,
        cache_salt: str | None = None,
        tenant: str | None = None,
    ) -> Sequence:
        """Read a sequence that ``Sequence.save`` wrote, without computing anything.

        What is read is verified to belong to this model (by a hash of the weights, computed the
        first time) and to be undamaged. Keys and values of a file are never shared with other
        requests through the prefix cache, so a forged file harms only those who use its sequence.
        Without room for them the tokens are kept, and computed when the sequence is used.

        Args:
            path: The file.
            cache_salt: As for ``prefill``.
            tenant: As for ``prefill``.

        Raises:
            OSError: The file cannot be read.
            SequenceMismatchError: It is another model's, or of another precision, type of keys and
                values, or version of inferlib's arithmetic; ``field`` says which.
            SequenceFileError: It is no such file, is damaged, or too long for this model.
            ModelError: The model's files were changed or removed since it was loaded.
            ExecutorError: The model does not run on the CPU.
            ClosedError: The model is closed.
        """
        self._engine.check_usable()
        check_salt(cache_salt)
        stored = read_sequence(check_path("path", path), self._layout())
        sequence = self._empty_sequence(cache_salt, tenant)
        sequence.restore(stored)
        return sequence

    async def aload_sequence(
        self,
        path: str | os.PathLike[str],
        *,
        cache_salt: str | None = None,
        tenant: str | None = None,
    ) -> Sequence:
        """``load_sequence`` in a thread of its own."""
        return await in_thread(
            partial(self.load_sequence, path, cache_salt=cache_salt, tenant=tenant)
        )

    def _layout(self) -> SequenceLayout:
        groups = self._parts.checkpoint.program.kv_groups
        return SequenceLayout(
            fingerprint=self._fingerprint(),
            groups=[
                KvShape(
                    num_layers=group.num_layers,
                    num_kv_heads=group.num_kv_heads,
                    k_head_dim=group.k_head_dim,
                    v_head_dim=group.v_head_dim,
                )
                for group in groups
            ],
            max_tokens=min(self.max_model_len, self._parts.builder.kv_cache_tokens),
            vocab_size=self._parts.builder.vocab_size,
        )

    def _new_sequence(
        self, prompt: object, cache_salt: str | None, tenant: str | None
    ) -> tuple[Sequence, list[int]]:
        """A sequence without tokens, and those that it is to have."""
        self._engine.check_usable()
        check_salt(cache_salt)
        if not is_one_prompt(prompt):
            raise RequestError("this call takes one prompt, not a list", field="prompt")
        encoded = self._encoded(prompt)
        return self._empty_sequence(cache_salt, tenant), encoded.token_ids

    def _empty_sequence(self, cache_salt: str | None, tenant: str | None) -> Sequence:
        check_tenant(tenant)
        owner = SequenceOwner(
            model=self,
            engine=self._engine,
            builder=self._parts.builder,
            token_text=self._token_text,
            layout=self._layout,
            tenant=tenant,
        )
        return Sequence(owner, self._engine.sequences.open, cache_salt)
