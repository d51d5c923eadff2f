"""How compressed-tensors says which module is quantized how: ``config_groups`` and ``ignore``.

Source: compressed-tensors 0.17, ``quantization/quant_args.py``, ``quant_scheme.py``,
``quant_config.py`` (the fields), ``utils/match.py`` and ``lifecycle/apply.py`` (the order in which
targets match).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..architectures import Fields
from ..errors import ModelFormatError, UnsupportedModelError
from .fp8 import positive_pair
from .patterns import name_matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_PACKED = "pack-quantized"
_UNPACKED = ("int-quantized", "float-quantized", "naive-quantized")
# What the package knows besides.
_OTHER_FORMATS = (
    "dense",
    "sparse-bitmask",
    "sparse-24-bitmask",
    "marlin-24",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
)
_MIXED = "mixed-precision"
_STRATEGIES = ("tensor", "channel", "group", "block")
_OTHER_STRATEGIES = ("token", "tensor_group", "attn_head")
_REGEX = "re:"
_HINT = "use the unquantized checkpoint or a GGUF file of it"
_EMBEDDINGS = ("embed_tokens", "wte", "wpe", "word_embeddings", "embed_in")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How the weights of some modules are quantized.

    Attributes:
        packed: Whether codes are in 32-bit words (``weight_packed``), else one a byte.
        kind: ``"int"`` or ``"float"``.
        bits: Of a code.
        symmetric: Whether there are no zero points.
        strategy: ``"tensor"``, ``"channel"``, ``"group"`` or ``"block"``: what shares a scale.
        group_size: Columns of a group, for ``"group"``.
        block: Rows and columns of a block, for ``"block"``.
        act_order: Whether columns choose their group (``weight_g_idx``).
    """

    packed: bool
    kind: str
    bits: int
    symmetric: bool
    strategy: str
    group_size: int | None
    block: tuple[int, int] | None
    act_order: bool


class Schemes:
    """The scheme of each module.

    Args:
        quantization: ``quantization_config``.

    Raises:
        UnsupportedModelError: A format, strategy or number of bits that is not supported; the
            message names the field.
        ModelFormatError: One that does not exist, or a field of the wrong kind.
    """

    def __init__(self, quantization: Fields) -> None:
        self._source = quantization.source
        _refuse_transforms(quantization)
        groups = quantization.section("config_groups")
        if groups is None:
            raise quantization.missing("config_groups")
        overall = quantization.text("format", default="dense")
        self.inputs: list[str] = []
        cache = quantization.section("kv_cache_scheme")
        if cache is not None:
            self.inputs.append(f"keys and values {_activation_text(cache)}")
        by_target: dict[str, Scheme] = {}
        for name in groups.values:
            group = groups.section(name)
            if group is None:
                raise groups.missing(name)
            weights = group.section("weights")
            inputs = group.section("input_activations")
            if inputs is not None:
                self.inputs.append(_activation_text(inputs))
            if weights is None:
                continue
            form = group.text("format", default=overall)
            scheme = _scheme(weights, form, group if group.has("format") else quantization)
            for target in group.texts("targets"):
                by_target[target] = scheme
        self._only = next(iter(by_target.values())) if len({*by_target.values()}) == 1 else None
        self._by_target = by_target
        # The package's order: names, then expressions as they are sorted, then classes.
        self._patterns = [
            (matches, by_target[_REGEX + pattern])
            for pattern, matches in _patterns(sorted(by_target), groups.source)
        ]
        ignored = quantization.texts("ignore")
        self._ignored = set(ignored)
        source = f"'ignore' of {quantization.source}"
        self._ignored_patterns = [matches for _, matches in _patterns(ignored, source)]

    def of(self, module: str) -> Scheme:
        """The scheme of a module that has quantized tensors.

        Raises:
            ModelFormatError: No group targets it, or it is to be ignored.
        """
        if module in self._ignored or any(match(module) for match in self._ignored_patterns):
            raise ModelFormatError(
                f"{module} is quantized, but 'ignore' of {self._source} says that it is not"
            )
        if self._only is not None:
            return self._only
        if module in self._by_target:
            return self._by_target[module]
        for matches, scheme in self._patterns:
            if matches(module):
                return scheme
        kind = "Embedding" if module.endswith(_EMBEDDINGS) else "Linear"
        if kind in self._by_target:
            return self._by_target[kind]
        raise ModelFormatError(
            f"{module} is quantized, but no target in 'config_groups' of {self._source} is its "
            f"name or {kind}"
        )


def _patterns(targets: Iterable[str], source: str) -> Iterator[tuple[str, Callable[[str], bool]]]:
    for target in targets:
        if target.startswith(_REGEX):
            pattern = target.removeprefix(_REGEX)
            yield pattern, name_matcher(pattern, source)


def _refuse_transforms(quantization: Fields) -> None:
    for key in ("transform_config", "sparsity_config"):
        section = quantization.section(key)
        if section is None or not section.values or section.values.get("format") == "dense":
            continue
        if key == "transform_config" and not section.values.get("config_groups"):
            continue
        raise UnsupportedModelError(f"{quantization.source} has a {key!r}", hint=_HINT)


def _scheme(weights: Fields, form: str, holder: Fields) -> Scheme:
    if form != _PACKED and form not in _UNPACKED:
        if form in _OTHER_FORMATS or form == _MIXED:
            raise _unsupported(holder, "format", form, f"{_PACKED!r} and {_UNPACKED} are")
        raise holder.invalid("format", "a format of compressed-tensors", form)
    packed = form == _PACKED
    kind = weights.text("type", default="int").lower()
    if kind not in ("int", "float"):
        raise weights.invalid("type", "'int' or 'float'", kind)
    bits = weights.size("num_bits", default=8)
    if bits > 8 or (kind == "float" and bits != 8):
        known = "8 are" if kind == "float" else "1 to 8 are"
        raise _unsupported(weights, "num_bits", bits, f"of {kind} {known}")
    if packed and kind == "float":
        raise _unsupported(weights, "type", kind, f"with {_PACKED!r} 'int' is")
    symmetric = weights.flag("symmetric", default=True)
    if kind == "float" and not symmetric:
        raise _unsupported(weights, "symmetric", symmetric, "of float only symmetric ones are")
    group_size = _group_size(weights)
    return Scheme(
        packed=packed,
        kind=kind,
        bits=bits,
        symmetric=symmetric,
        strategy=_strategy(weights, group_size, kind),
        group_size=group_size,
        block=_block(weights),
        act_order=_act_order(weights),
    )


def _group_size(weights: Fields) -> int | None:
    """``None`` where there are no groups: -1 means a whole row."""
    if weights.values.get("group_size") == -1:
        return None
    return weights.optional_size("group_size")


def _strategy(weights: Fields, group_size: int | None, kind: str) -> str:
    by_size = "channel" if weights.values.get("group_size") == -1 else "tensor"
    strategy = weights.text("strategy", default="group" if group_size else by_size).lower()
    if strategy not in _STRATEGIES:
        if strategy in _OTHER_STRATEGIES:
            raise _unsupported(weights, "strategy", strategy, f"of weights {_STRATEGIES} are")
        raise weights.invalid("strategy", "a strategy of compressed-tensors", strategy)
    if strategy == "group" and group_size is None:
        raise weights.missing("group_size")
    if strategy == "group" and kind == "float":
        raise _unsupported(weights, "strategy", strategy, "of float tensor, channel, block are")
    if strategy == "block" and kind == "int":
        raise _unsupported(weights, "strategy", strategy, "of int tensor, channel, group are")
    if strategy == "block" and _block(weights) is None:
        raise weights.missing("block_structure")
    return strategy


def _block(weights: Fields) -> tuple[int, int] | None:
    found = weights.values.get("block_structure")
    if isinstance(found, str):  # "128x128", of old versions
        rows, _, columns = found.partition("x")
        if not (rows.isascii() and rows.isdigit() and columns.isascii() and columns.isdigit()):
            raise weights.invalid("block_structure", "two positive integers", found)
        weights = Fields(
            {"block_structure": [int(rows[:10]), int(columns[:10])]}, source=weights.source
        )
    return positive_pair(weights, "block_structure")


def _act_order(weights: Fields) -> bool:
    """Whether columns choose their groups; quantizing them in another order changes nothing."""
    found = weights.values.get("actorder")
    if found is None or isinstance(found, bool):
        return bool(found)
    order = weights.text("actorder").lower()
    if order not in ("group", "dynamic", "weight", "static"):
        raise weights.invalid("actorder", "'group' or 'weight'", order)
    return order in ("group", "dynamic")


def _activation_text(inputs: Fields) -> str:
    kind, bits = inputs.text("type", default="int"), inputs.size("num_bits", default=8)
    return f"{'dynamic' if inputs.values.get('dynamic') else 'static'} {kind}{bits}"


def _unsupported(fields: Fields, field: str, value: object, known: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{fields.source}: {field} = {json.dumps(value)} is not supported; {known}", hint=_HINT
    )
