"""A Llama in a GGUF file, for engines that cannot read GGUF: fields, and tensors as float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Llama:
    """An opened file; tensors by their GGUF names, dequantized when they are asked for.

    Raises:
        NotImplementedError: The file holds another architecture.
    """

    def __init__(self, path: str) -> None:
        from gguf import GGUFReader

        self._reader = GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        architecture = self._any_field("general.architecture")
        if architecture != "llama":
            raise NotImplementedError(
                f"needs a Hugging Face checkpoint: only Llama is converted here, not {architecture}"
            )
        self.num_layers: int = self.field("block_count")
        self.num_heads: int = self.field("attention.head_count")
        self.num_kv_heads: int = self.field("attention.head_count_kv")
        self.tokens: list[str] = self._any_field("tokenizer.ggml.tokens")

    def field(self, name: str) -> Any:
        """A field of the architecture, named without ``llama.``."""
        return self._any_field(f"llama.{name}")

    def token_id(self, name: str) -> int:
        """``bos`` or ``eos``."""
        return int(self._any_field(f"tokenizer.ggml.{name}_token_id"))

    def _any_field(self, name: str) -> Any:
        field = self._reader.get_field(name)
        if field is None:
            raise NotImplementedError(f"the file has no {name}")
        return field.contents()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        from gguf import dequantize

        tensor = self._tensors[name]
        return np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
