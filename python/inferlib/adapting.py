"""The calls that load and unload adapters."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .adapter_table import Adapter
from .errors import RequestError
from .in_thread import in_thread
from .lora_files import read_lora
from .model_core import ModelCore
from .validation import path as check_path
from .validation import text as check_text

if TYPE_CHECKING:
    import os


class Adapting(ModelCore):
    """Loads adapters, which single requests then name."""

    def load_adapter(self, path: str | os.PathLike[str], *, name: str | None = None) -> str:
        """Load a LoRA adapter beside the model; ``adapter=name`` of a call then uses it.

        The model itself stays as it is. Requests with different adapters, and without one, run in
        the same batch; a request's result does not depend on the others. Cached prefixes are shared
        only under the same adapter.

        Args:
            path: The folder that PEFT's ``save_pretrained`` wrote: ``adapter_config.json`` and
                ``adapter_model.safetensors``. It may belong to the model as a folder or as GGUF.
            name: What calls name it by; ``None`` is the folder's name.

        Returns:
            The name.

        Raises:
            ModelNotFoundError: There is no adapter in that folder.
            ModelFormatError: A file is damaged, or its matrices do not fit this model.
            UnsupportedModelError: It is no LoRA adapter of linear layers, or does more than that.
            RequestError: There is an adapter of that name already.
            OutOfMemoryError: There is no memory for what adapted products need.
            ExecutorError: The model does not run on the CPU.
            ClosedError: The model is closed.

        Source: Hu et al. 2021 (arXiv 2106.09685); rsLoRA: Kalajdzievski 2023 (arXiv 2312.03732).
        """
        self._engine.check_usable()
        folder = Path(check_path("path", path))
        name = folder.name if name is None else check_text("name", name)
        if not name:
            raise RequestError("an adapter needs a name", field="name")
        table, checkpoint = self._parts.builder.adapters, self._parts.checkpoint
        files = read_lora(folder, checkpoint.spec, checkpoint.program)
        adapter = Adapter(name=name, number=table.new_number(), fingerprint=files.fingerprint)
        table.add(adapter)
        try:
            self._engine.adapters.load(adapter.number, files.parts)
        except BaseException:
            table.remove(name)
            raise
        return name

    async def aload_adapter(self, path: str | os.PathLike[str], *, name: str | None = None) -> str:
        """``load_adapter`` in a thread of its own."""
        return await in_thread(partial(self.load_adapter, path, name=name))

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter and give its memory back.

        Args:
            name: One of ``adapters``.

        Raises:
            RequestError: There is none of that name, or requests that use it have not ended.
            ClosedError: The model is closed.
        """
        self._engine.check_usable()
        table = self._parts.builder.adapters
        adapter = table.find(name)
        table.remove(name)
        try:
            self._engine.adapters.unload(adapter.number)
        except BaseException:
            table.add(adapter)
            raise

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that are loaded, in the order of loading."""
        return self._parts.builder.adapters.names()
