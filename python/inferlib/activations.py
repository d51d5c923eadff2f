"""What a forward pass hands out: arrays by the names of their capture points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Activations(Mapping[str, "NDArray[np.float32]"]):
    """Rows of one prompt: ``activations["blocks.3.hook_resid_post"]`` is ``[positions, width]``.

    A mapping from names to float32 arrays of the caller's own, in the order of the forward pass.

    Attributes:
        prompt: Its text, if text was given.
        token_ids: The whole prompt.
        positions: ``[n]`` int32: which of its tokens the rows are of.
        logits: ``[n, vocab_size]`` float32, what follows each of them; ``None`` if not asked for.
        arrays: By name.
    """

    prompt: str | None
    token_ids: list[int]
    positions: NDArray[np.int32]
    logits: NDArray[np.float32] | None
    arrays: dict[str, NDArray[np.float32]]

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return the rows of one point, ``[positions, width]``.

        Raises:
            KeyError: It was not captured.
        """
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.arrays)

    def __len__(self) -> int:
        """Count the names."""
        return len(self.arrays)

    def __repr__(self) -> str:
        logits = "" if self.logits is None else f", logits {list(self.logits.shape)}"
        return f"<Activations at {len(self.positions)} tokens: {len(self.arrays)} points{logits}>"
