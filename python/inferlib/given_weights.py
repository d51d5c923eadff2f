"""A model whose weights the host has in memory: a configuration, and arrays by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ._core import ChatTemplate, Tokenizer
from .architectures import Fields, architecture_of_config
from .checkpoint import Checkpoint
from .errors import RequestError
from .loading import unused_tensors
from .tensor_sources import check_tensors, matrix_sources, vector_sources
from .transformer import record
from .validation import shown
from .validation import text as check_text

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from .executors.base import WeightReceiver

SOURCE = "the given weights"


class GivenTensors:
    """Arrays by the names of a Hugging Face checkpoint; each is let go when it was used.

    Args:
        pairs: ``(name, array)``, of any float type that NumPy can turn into float32.

    Raises:
        RequestError: An entry is none, or comes twice.
    """

    def __init__(self, pairs: object) -> None:
        if not isinstance(pairs, Iterable) or isinstance(pairs, str | bytes):
            raise RequestError(
                f"weights must be an iterable of (name, array), not {type(pairs).__name__}",
                field="weights",
            )
        self._arrays: dict[str, Any] = {}
        for pair in pairs.items() if isinstance(pairs, Mapping) else pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise RequestError(
                    f"weights must hold pairs of a name and an array, not {shown(pair)}",
                    field="weights",
                )
            name, array = pair
            if name in self._arrays:
                raise RequestError(f"the weight {shown(name)} comes twice", field="weights")
            self._arrays[name] = _checked(name, array)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape."""
        return {name: tuple(array.shape) for name, array in self._arrays.items()}

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(int(array.nbytes) for array in self._arrays.values())

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32, in the order in which it lies."""
        return np.ascontiguousarray(self._arrays[name], np.float32)

    def clear(self) -> None:
        """Let all arrays go."""
        self._arrays.clear()


def checkpoint_of_weights(
    config: object,
    weights: object,
    *,
    tokenizer: object = None,
    chat_template: object = None,
    generation_config: object = None,
) -> Checkpoint:
    """Describe a model that the host has in memory; the arguments are ``Model.from_weights``'s.

    Raises:
        RequestError: An argument is of the wrong kind; ``field`` names it.
        ModelFormatError: Configuration and tensors do not fit.
        UnsupportedModelError: The architecture is not supported.
        TemplateError: ``chat_template`` is malformed.
    """
    if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
        raise RequestError(
            f"tokenizer must be an inferlib.Tokenizer, not {type(tokenizer).__name__}",
            field="tokenizer",
            hint="Tokenizer.from_json reads a tokenizer.json",
        )
    fields = Fields(_mapping("config", config), source="the given config")
    defaults = Fields(
        _mapping("generation_config", {} if generation_config is None else generation_config),
        source="the given generation_config",
    )
    source = None if chat_template is None else check_text("chat_template", chat_template)
    family = architecture_of_config(fields)
    tensors = GivenTensors(weights)
    spec = family.spec_from_config(fields)
    program = record(spec)
    shapes = tensors.shapes
    weight_map = family.weights_from_safetensors(spec, shapes)
    unused = unused_tensors(shapes, family, spec)
    check_tensors(program.weights, weight_map, shapes, unused=unused, source=SOURCE)
    digest = hashlib.blake2b(digest_size=32)

    def load_weights(executor: WeightReceiver, _cache: Path | None) -> None:
        def note(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
            digest.update(f"{name} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
            return values

        for vector in vector_sources(program.weights, weight_map, tensors):
            executor.load_vector(vector.name, note(vector.name, vector.values))
        for matrix in matrix_sources(program.weights, weight_map):
            values = note(matrix.name, matrix.values(tensors))
            executor.load_array(matrix.name, values.reshape(-1, values.shape[-1]))
        tensors.clear()

    end_ids = tokenizer.end_ids if tokenizer is not None else ()
    given = (each.token_ids("eos_token_id") for each in (fields, defaults))
    return Checkpoint(
        name=spec.architecture,
        source=None,
        spec=spec,
        program=program,
        load_weights=load_weights,
        weight_bytes=tensors.num_bytes,
        tokenizer=tokenizer,
        chat_template=None if source is None else ChatTemplate(source, {}),
        chat_template_text=source,
        generation_config=defaults.values,
        eos_token_ids={*end_ids, *(token for tokens in given for token in tokens)},
        hash_weights=digest.hexdigest,
    )


def _checked(name: str, array: object) -> Any:  # noqa: ANN401  # an array of whatever library
    try:
        made = np.asarray(array)
    except Exception as error:
        raise RequestError(
            f"the weight {shown(name)} is no array: {shown(error)}", field="weights"
        ) from error
    # Types that others add, such as bfloat16, are of the kind "V".
    is_float = made.dtype.kind == "f" or (made.dtype.kind == "V" and made.dtype.type is not np.void)
    if not is_float or made.ndim == 0 or made.size == 0:
        raise RequestError(
            f"the weight {shown(name)} must be an array of floats, not {made.dtype}",
            field="weights",
        )
    return made


def _mapping(field: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise RequestError(
            f"{field} must be a mapping as in its JSON file, not {type(value).__name__}",
            field=field,
        )
    return value
