"""TransformerLens on this engine: ``remote_bridge(model)`` and the driver underneath.

What TransformerLens calls a driver runs forward passes and hands out activations by hook names.
This one runs them inside continuous batching, with the prefix cache on. It captures and does not
intervene: the engine has no edits of activations, and says so instead of leaving them out.

Interface: TransformerLens 4.3.0, ``transformer_lens.model_bridge.driver_protocol.Driver``. Its
package needs torch, which this module itself does not use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from transformer_lens.model_bridge.driver_protocol import ForwardResult

from ..errors import ClosedError, RequestError
from ..model import Model
from ..model_spec import LatentAttentionSpec
from ..validation import integer, shown
from .transformer_lens_model import bridge_config_of, class_of, hook_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from transformer_lens.config import TransformerBridgeConfig

    from ..activations import Activations
    from ..call_options import LoadOptions

    Floats = NDArray[np.float32]

LOGITS_HOOK = "unembed.hook_out"
_HEADS = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k")
# What no executor has: attention keeps neither scores nor weights, the gate is applied at once.
_NEVER = ("attn.hook_attn_scores", "attn.hook_pattern", "mlp.hook_pre", "mlp.hook_pre_linear")
_FEATURES = frozenset({"weight_access"})


class UnsupportedInterventionError(RequestError, NotImplementedError):
    """An activation was to be changed, which this engine does not do."""


class InferlibDriver:
    """A model as TransformerLens wants it.

    Hooks have the names of TransformerLens' bridges: ``blocks.0.hook_out``,
    ``blocks.0.mlp.hook_out`` … A bridge's cache knows them by the older ones, too, and ``forward``
    takes both kinds. Arrays have the batch before everything, and heads apart: ``[batch, tokens,
    heads, head_dim]``.

    Args:
        model: A loaded model, which stays open; or a name or path for ``Model.from_pretrained``,
            which also takes ``options``, and which ``close`` closes.
        bridge_config: TransformerLens' description of the model; ``None`` makes one.
        tokenizer: Hugging Face's, for TransformerLens to encode text with; ``None`` is the model's
            own, which it cannot call: then give token ids.
        **options: Of ``Model.from_pretrained``, such as ``precision="exact"``.

    Attributes:
        architecture: Hugging Face's class, such as ``"LlamaForCausalLM"``.
        bridge_config: As given or made.
        tokenizer: As given, or the model's.
        supported_hook_points: What ``forward`` captures.
        non_fireable_hook_points: Hooks of such models that this engine does not have.
        provides_sequence_logits: Whether there are logits, which are then of every token.

    Raises:
        RequestError: This model hands out no activations: it runs on a device that does not.
    """

    _supported_features = _FEATURES

    def __init__(
        self,
        model: Model | str,
        *,
        bridge_config: TransformerBridgeConfig | None = None,
        tokenizer: object = None,
        **options: Any,  # noqa: ANN401  # checked by from_pretrained
    ) -> None:
        self._owns_model = not isinstance(model, Model)
        if isinstance(model, Model):
            if options:
                raise RequestError(
                    f"{', '.join(options)}: options are for models that are loaded here",
                    field=next(iter(options)),
                )
            opened = model
        else:
            opened = Model.from_pretrained(model, **_load_options(options))
        self._model: Model | None = opened
        checkpoint = opened._parts.checkpoint  # noqa: SLF001  # one package
        self._spec = spec = checkpoint.spec
        if not opened.capture_points:
            self.close()
            raise RequestError(
                "this model hands out no activations on its device",
                field="model",
                hint='load it with device="cpu"',
            )
        self.architecture: str = class_of(spec)
        self.bridge_config: TransformerBridgeConfig = (
            bridge_config_of(spec, name=checkpoint.name, max_model_len=opened.max_model_len)
            if bridge_config is None
            else bridge_config
        )
        self.tokenizer: Any = opened.tokenizer if tokenizer is None else tokenizer
        self.provides_sequence_logits: bool = spec.lm_head
        self._names = hook_names(spec, opened.capture_points)
        logits = {LOGITS_HOOK} if spec.lm_head else set()
        self.supported_hook_points: frozenset[str] = frozenset(self._names) | logits
        never = {f"blocks.{i}.{hook}" for i in range(spec.num_layers) for hook in _NEVER}
        self.non_fireable_hook_points: frozenset[str] = frozenset(never)

    def forward(
        self,
        input_ids: object = None,
        *,
        capture: Sequence[str] = (),
        intervene: Mapping[str, object] | None = None,
        max_new_tokens: int = 1,
        return_logits: bool = True,
        attention_mask: object = None,
        **unknown: object,
    ) -> ForwardResult:
        """Compute token ids, ``[tokens]`` or ``[batch, tokens]``, as one batch with all else.

        Args:
            input_ids: Whole numbers; anything that NumPy reads.
            capture: Names of ``supported_hook_points``, or the model's own of what they are.
            intervene: Nothing: this engine does not change activations.
            max_new_tokens: How many tokens to draw behind each row, greedily, of which nothing is
                captured.
            return_logits: Whether logits are wanted.
            attention_mask: ``[batch, tokens]``, 1 where a row's text is, in one run; the rest is
                not computed. There activations are 0, logits ``-inf``.
            **unknown: Refused, unless ``None``; but for ``output_attentions``, which the bridge
                always asks for: attention weights are among ``non_fireable_hook_points``.

        Returns:
            ``logits``: float32 ``[batch, tokens, vocab_size]``, or ``None``. ``captured``: float32
            ``[batch, tokens, width]`` by name as asked for; of heads ``[batch, tokens, heads,
            head_dim]``. ``new_tokens``: int64 ``[batch, max_new_tokens]``; ``None`` for one without
            logits. ``raw_output``: the list of ``Activations``, ``None`` if nothing was captured.

        Raises:
            RequestError: An argument is invalid, or a hook is not one of this model's.
            UnsupportedInterventionError: ``intervene`` is not empty.
            ClosedError: ``close`` was called.
        """
        if self._model is None:
            raise ClosedError("this driver is closed")
        if intervene:
            raise UnsupportedInterventionError(
                "inferlib captures activations and does not change them", field="intervene"
            )
        unknown.pop("output_attentions", None)
        given = [name for name, value in unknown.items() if value is not None]
        if given:
            raise RequestError(f"forward takes no {shown(given[0])}", field=given[0])
        new_tokens = integer("max_new_tokens", max_new_tokens, 0, self._model.max_model_len)
        ids = _token_ids(input_ids)
        spans = _spans(attention_mask, ids)
        rows: list[list[int]] = [row[span].tolist() for row, span in zip(ids, spans, strict=True)]
        names = [text for text in capture if text != LOGITS_HOOK]
        points = {name: self._point(name) for name in names}
        logits = bool(return_logits) or len(names) < len(capture)
        if logits and not self.provides_sequence_logits:
            logits = False
        outputs: list[Activations] | None = None
        if points or logits:
            outputs = self._model.forward(
                rows, capture=list(points.values()), logits=logits, progress=False
            )
        shape = ids.shape
        captured = {
            name: self._by_heads(name, _padded([row[point] for row in outputs or ()], spans, shape))
            for name, point in points.items()
        }
        whole: Floats | None = None
        if logits and outputs is not None:
            given_logits = [row.logits for row in outputs if row.logits is not None]
            whole = _padded(given_logits, spans, shape, fill=-np.inf)
            if LOGITS_HOOK in capture:
                captured[LOGITS_HOOK] = whole
        return ForwardResult(
            logits=whole if return_logits else None,
            captured=captured,
            new_tokens=self._new_tokens(rows, outputs if logits else None, new_tokens),
            raw_output=outputs,
        )

    def close(self) -> None:
        """Let the model go; one that was loaded here is closed. May be called again."""
        model, self._model = self._model, None
        if model is not None and self._owns_model:
            model.close()

    def supports(self, feature: str) -> bool:
        """Whether the driver does what TransformerLens calls by that name.

        ``"weight_access"`` is ``weight``. There are no gradients, parameters or state dicts, and
        callbacks cannot change what is computed.
        """
        return feature in self._supported_features

    def weight(self, name: str) -> Floats:
        """Return a weight: ``Model.weight``."""
        if self._model is None:
            raise ClosedError("this driver is closed")
        return self._model.weight(name)

    def _point(self, name: str) -> str:
        """The model's name of a hook."""
        if name in self._names:
            return self._names[name]
        if name in self._names.values():
            return name
        raise RequestError(
            f"this model has no hook {shown(name)}",
            field="capture",
            hint="supported_hook_points holds all names",
        )

    def _by_heads(self, name: str, rows: Floats) -> Floats:
        """Part the heads of ``[batch, tokens, width]``, if it is of heads."""
        hook = name.rpartition(".")[2]
        if hook not in _HEADS:
            return rows
        attention = self._spec.layers[int(name.split(".")[1])].attention
        if isinstance(attention, LatentAttentionSpec):
            heads = attention.num_heads
        else:
            of_keys = hook.endswith(("_k", "_v"))
            heads = attention.num_kv_heads if of_keys else attention.num_heads
        return rows.reshape(*rows.shape[:2], heads, -1)

    def _new_tokens(
        self, rows: list[list[int]], outputs: list[Activations] | None, count: int
    ) -> NDArray[np.int64] | None:
        """The most likely tokens behind each row, ``[batch, count]``."""
        if count == 0 or (count == 1 and outputs is None) or self._model is None:
            return None
        if count == 1:
            last = [row.logits[-1] for row in outputs or () if row.logits is not None]
            return np.asarray([[int(logits.argmax())] for logits in last], np.int64)
        completions = self._model.generate(
            rows, temperature=0, max_tokens=count, ignore_eos=True, progress=False
        )
        return np.asarray([completion.token_ids for completion in completions], np.int64)


def remote_bridge(
    model: Model | str,
    *,
    tokenizer: object = None,
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401  # the host's class, which has no types here
    """Return TransformerLens' ``RemoteBridge`` over a model: ``run_with_cache`` and all else.

    Args:
        model: As for ``InferlibDriver``.
        tokenizer: Hugging Face's, if texts are to be given; else token ids are.
        **options: As for ``InferlibDriver``.

    Raises:
        RequestError: As for ``InferlibDriver``.
        ValueError: TransformerLens does not know the architecture.
    """
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge import RemoteBridge
    from transformer_lens.model_bridge.sources._bridge_builder import configure_tokenizer

    driver = InferlibDriver(model, tokenizer=tokenizer, **options)
    try:
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(driver.bridge_config)
        driver.bridge_config = adapter.cfg
        if tokenizer is not None:
            tokenizer = configure_tokenizer(tokenizer, adapter.cfg)
            driver.tokenizer = tokenizer
        return RemoteBridge(adapter=adapter, tokenizer=tokenizer, driver=driver)
    except BaseException:
        driver.close()
        raise


def _load_options(options: dict[str, Any]) -> LoadOptions:
    return options  # type: ignore[return-value]  # from_pretrained refuses what it does not know


def _token_ids(given: object) -> NDArray[np.int64]:
    """``[batch, tokens]``."""
    if given is None:
        raise RequestError("there are no input_ids", field="input_ids")
    if hasattr(given, "detach") and hasattr(given, "cpu"):  # of a GPU, or with gradients
        given = given.detach().cpu()
    try:
        ids = np.asarray(given)
    except ValueError:  # rows of several lengths
        ids = np.empty(0)
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise RequestError(
            "input_ids must be whole numbers, [tokens] or [batch, tokens]",
            field="input_ids",
            hint="pad rows of several lengths and give an attention_mask",
        )
    return ids.astype(np.int64)


def _spans(mask: object, ids: NDArray[np.int64]) -> list[slice]:
    """Which tokens of each row are text."""
    batch, tokens = ids.shape
    if mask is None:
        return [slice(0, tokens)] * batch
    if hasattr(mask, "detach") and hasattr(mask, "cpu"):
        mask = mask.detach().cpu()
    marked = np.atleast_2d(np.asarray(mask)) != 0
    if marked.shape != ids.shape:
        raise RequestError(
            f"attention_mask has shape {list(marked.shape)}, input_ids {list(ids.shape)}",
            field="attention_mask",
        )
    spans = []
    for row in marked:
        (places,) = np.nonzero(row)
        if not places.size or places[-1] - places[0] + 1 != places.size:
            raise RequestError(
                "a row of attention_mask must mark one run of tokens", field="attention_mask"
            )
        spans.append(slice(int(places[0]), int(places[-1]) + 1))
    return spans


def _padded(
    rows: list[Floats], spans: list[slice], shape: tuple[int, ...], *, fill: float = 0.0
) -> Floats:
    """Rows at their places: ``[batch, tokens, width]``."""
    padded = np.full((*shape, rows[0].shape[-1]), fill, np.float32)
    for row, values, span in zip(padded, rows, spans, strict=True):
        row[span] = values
    return padded
