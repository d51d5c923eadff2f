"""The oracle: replays a ``Program`` op by op in NumPy float64, with a dense KV cache.

Slow and plain on purpose. Each op is a function of its own that other tests may call;
``ReferenceExecutor`` runs whole programs, for several sequences at once and in chunks of any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from inferlib._core import Program

Array = NDArray[np.float64]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """``x / sqrt(mean(x²) + eps) * weight`` over each run of the weight's width.

    Args:
        x: ``[rows, n * width]``.
        weight: ``[width]``.
        eps: Added to the mean square.
    """
    groups = x.reshape(len(x), -1, len(weight))
    mean_square = np.mean(groups**2, axis=-1, keepdims=True)
    return (groups / np.sqrt(mean_square + eps) * weight).reshape(x.shape)


def layer_norm(x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over whole rows."""
    deviation = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(deviation**2, axis=-1, keepdims=True)
    normed = deviation / np.sqrt(variance + eps) * weight
    return normed if bias is None else normed + bias


def rope(x: Array, positions: NDArray[np.integer], inv_freq: Array, scale: float) -> Array:
    """Rotate pairs ``(i, i + rotary_dim / 2)`` of each head; x ``[tokens, heads, head_dim]``."""
    half = len(inv_freq)
    angles = positions[:, None] * inv_freq.astype(np.float64)
    cos, sin = (scale * np.cos(angles))[:, None], (scale * np.sin(angles))[:, None]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def attention(
    q: Array,
    k: Array,
    v: Array,
    positions: NDArray[np.integer],
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
    bidirectional: bool = False,
) -> Array:
    """Attention of one sequence, causal unless ``bidirectional``.

    Args:
        q: ``[queries, num_heads, head_dim]``.
        k: ``[keys, num_kv_heads, head_dim]``, from position 0 on.
        v: ``[keys, num_kv_heads, v_head_dim]``.
        positions: ``[queries]``.
        sinks: ``[num_heads]``: scores of a place that adds nothing.
    """
    repeat = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, repeat, axis=1), np.repeat(v, repeat, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    distance = positions[:, None] - np.arange(len(k))
    visible = (distance >= 0) | bidirectional
    if window is not None:
        visible &= distance < window
    scores = np.where(visible, scores, -np.inf)
    if sinks is not None:
        column = np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))
        scores = np.concatenate([scores, column], axis=-1)
    weights = softmax(scores)[..., : len(k)]
    return np.einsum("hqk,khd->qhd", weights, v)


def softmax(x: Array) -> Array:
    """Over the last axis."""
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def silu(x: Array) -> Array:
    """``x * sigmoid(x)``."""
    return x * 0.5 * (1 + np.tanh(x / 2))


def gelu_tanh(x: Array) -> Array:
    """The tanh approximation of GELU."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x: Array) -> Array:
    """GELU with the error function."""
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": silu,
    "gelu_tanh": gelu_tanh,
    "gelu": gelu,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
}


def act_and_mul(gate: Array, up: Array, activation: str) -> Array:
    """``act(gate) * up``; gpt-oss clamps both and adds one to ``up``."""
    if activation == "clamped_swiglu":
        gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
        return gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
    return ACTIVATIONS[activation](gate) * up


def moe(
    x: Array,
    router_logits: Array,
    gate: Array,
    up: Array,
    down: Array,
    biases: tuple[Array, Array, Array] | None,
    *,
    top_k: int,
    normalise: bool,
    activation: str,
    scoring: str = "softmax",
    score_bias: Array | None = None,
    groups: tuple[int, int, int] | None = None,
    weight_scale: float = 1.0,
) -> Array:
    """Each row through its experts, one after the other.

    Args:
        x: ``[rows, hidden_size]``.
        router_logits: ``[rows, experts]``.
        gate: ``[experts, intermediate_size, hidden_size]``, as ``up``.
        up: See ``gate``.
        down: ``[experts, hidden_size, intermediate_size]``.
        biases: Of gate, up and down: ``[experts * rows of the projection]``.
        score_bias: ``[experts]``, added to the scores for the choice alone.
        groups: Count, how many of them may be used, how many scores speak for one.
    """
    gate_bias, up_bias, down_bias = (
        (0 * gate[..., 0], 0 * up[..., 0], 0 * down[..., 0])
        if biases is None
        else (bias.reshape(len(gate), -1) for bias in biases)
    )
    out = np.zeros_like(x)
    for row, logits in enumerate(router_logits):
        scores = softmax(logits) if scoring == "softmax" else 1 / (1 + np.exp(-logits))
        choice = scores + (0 if score_bias is None else score_bias)
        if groups is not None:
            count, kept, scored = groups
            best = np.sort(choice.reshape(count, -1))[:, -scored:].sum(-1)
            lost = np.argsort(-best, kind="stable")[kept:]
            choice.reshape(count, -1)[lost] = -np.inf
        chosen = np.argsort(-choice, kind="stable")[:top_k]
        weights = scores[chosen] * weight_scale
        if normalise:
            weights = weights / scores[chosen].sum()
        for expert, weight in zip(chosen, weights, strict=True):
            inner = act_and_mul(
                gate[expert] @ x[row] + gate_bias[expert],
                up[expert] @ x[row] + up_bias[expert],
                activation,
            )
            out[row] += weight * (down[expert] @ inner + down_bias[expert])
    return out


def cap(x: Array, softcap: float | None) -> Array:
    """``softcap * tanh(x / softcap)``."""
    return x if softcap is None else softcap * np.tanh(x / softcap)


@dataclass
class Step:
    """The result of one step: rows in the order of the sequences and of their tokens.

    Attributes:
        logits: ``[sampled, vocab_size]``.
        captures: Capture point → rows.
        buffers: Every buffer as it was at the end, by name.
    """

    logits: Array
    captures: dict[str, Array]
    buffers: dict[str, Array]


@dataclass
class _Batch:
    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    spans: dict[int, slice]
    logits_indices: NDArray[np.int64]
    segment_ids: NDArray[np.int64]


@dataclass
class ReferenceExecutor:
    """Runs steps of a program.

    Attributes:
        program: The recorded forward pass.
        weights: Canonical name → array.
    """

    program: Program
    weights: Mapping[str, NDArray[Any]]
    _kv: dict[tuple[int, int, int], tuple[Array, Array]] = field(default_factory=dict)
    _lengths: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = {name: np.asarray(w, np.float64) for name, w in self.weights.items()}
        for name, shape in self.program.weights.items():
            assert self.weights[name].shape == shape, name
        self._ops = self.program.ops

    def run(
        self,
        chunks: Mapping[int, Sequence[int]],
        *,
        all_logits: bool = False,
        capture: Iterable[str] = (),
        second_segments: Mapping[int, int] | None = None,
    ) -> Step:
        """Run the next tokens of some sequences.

        Args:
            chunks: Sequence → tokens that follow those it has already.
            all_logits: Logits of every token, not of each sequence's last one.
            capture: Names of capture points.
            second_segments: Sequence → position at which its second text begins.
        """
        batch = self._batch(chunks, all_logits=all_logits)
        for sequence, second in (second_segments or {}).items():
            span = batch.spans[sequence]
            batch.segment_ids[span] = batch.positions[span] >= second
        step = Step(np.empty((0, 0)), {}, {})
        wanted = set(capture)
        for kind, arguments in self._ops:
            self._execute(kind, arguments, batch, step, wanted)
        for sequence, tokens in chunks.items():
            self._lengths[sequence] = self._lengths.get(sequence, 0) + len(tokens)
        assert wanted == step.captures.keys()
        return step

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """Continue one prompt with the most likely tokens."""
        sequence = max(self._lengths, default=0) + 1
        tokens: list[int] = []
        chunk = prompt
        for _ in range(num_tokens):
            tokens.append(int(self.run({sequence: chunk}).logits[-1].argmax()))
            chunk = tokens[-1:]
        return tokens

    def _batch(self, chunks: Mapping[int, Sequence[int]], *, all_logits: bool) -> _Batch:
        token_ids, positions, logits_indices, spans = [], [], [], {}
        for sequence, tokens in chunks.items():
            start, first = len(token_ids), self._lengths.get(sequence, 0)
            token_ids.extend(tokens)
            positions.extend(range(first, first + len(tokens)))
            spans[sequence] = slice(start, len(token_ids))
            logits_indices.extend(
                range(start if all_logits else len(token_ids) - 1, len(token_ids))
            )
        return _Batch(
            np.asarray(token_ids, np.int64),
            np.asarray(positions, np.int64),
            spans,
            np.asarray(logits_indices, np.int64),
            np.zeros(len(token_ids), np.int64),
        )

    def _execute(  # noqa: C901  (one arm per op)
        self, kind: str, op: dict[str, Any], batch: _Batch, step: Step, wanted: set[str]
    ) -> None:
        buffers, weights = step.buffers, self.weights
        match kind:
            case "embedding":
                buffers[op["out"]] = weights[op["weight"]][batch.token_ids] * op["scale"]
            case "position_embedding":
                buffers[op["out"]] = weights[op["weight"]][batch.positions]
            case "segment_embedding":
                buffers[op["out"]] = weights[op["weight"]][batch.segment_ids]
            case "layer_norm":
                bias = weights[op["bias"]] if op["bias"] else None
                x, weight = buffers[op["x"]], weights[op["weight"]]
                buffers[op["out"]] = layer_norm(x, weight, bias, op["eps"])
            case "rms_norm":
                span = slice(op["start"], op["start"] + op["length"])
                normed = rms_norm(buffers[op["x"]][:, span], weights[op["weight"]], op["eps"])
                if op["out"] == op["x"]:
                    buffers[op["x"]][:, span] = normed
                else:
                    buffers[op["out"]] = normed
            case "linear":
                out = buffers[op["x"]] @ weights[op["weight"]].T
                buffers[op["out"]] = out + (weights[op["bias"]] if op["bias"] else 0)
            case "head_linear":
                x, weight = buffers[op["x"]], weights[op["weight"]]
                heads = x.reshape(len(x), len(weight), -1)
                passed, own = np.split(heads, [op["pass_through"]], axis=-1)
                product = np.einsum("rhi,hoi->rho", own, weight)
                buffers[op["out"]] = np.concatenate([passed, product], -1).reshape(len(x), -1)
            case "rope":
                span = slice(op["start"], op["start"] + op["num_heads"] * op["head_dim"])
                rows = buffers[op["x"]]
                heads = rows[:, span].reshape(len(rows), op["num_heads"], op["head_dim"])
                turned = rope(heads, batch.positions, op["inv_freq"], op["scale"])
                rows[:, span] = turned.reshape(len(rows), -1)
            case "store_kv":
                self._store_kv(op, batch, buffers[op["x"]])
            case "attention":
                buffers[op["out"]] = self._attention(op, batch, buffers[op["q"]])
            case "act_and_mul":
                gate, up = np.split(buffers[op["x"]], 2, axis=1)
                buffers[op["out"]] = act_and_mul(gate, up, op["activation"])
            case "activation":
                buffers[op["out"]] = ACTIVATIONS[op["activation"]](buffers[op["x"]])
            case "scale":
                buffers[op["x"]] = buffers[op["x"]] * op["scale"]
            case "moe":
                biases = op["biases"] and tuple(weights[name] for name in op["biases"])
                buffers[op["out"]] = moe(
                    buffers[op["x"]],
                    buffers[op["router_logits"]],
                    *(weights[op[name]] for name in ("gate", "up", "down")),
                    biases,
                    top_k=op["top_k"],
                    normalise=op["normalise"],
                    activation=op["activation"],
                    scoring=op["scoring"],
                    score_bias=weights[op["score_bias"]] if op["score_bias"] else None,
                    groups=op["groups"],
                    weight_scale=op["weight_scale"],
                )
            case "add":
                buffers[op["out"]] = buffers[op["a"]] + buffers[op["b"]]
            case "gather_rows":
                buffers[op["out"]] = buffers[op["x"]][batch.logits_indices]
            case "pool":
                first = op["row"] == "first"
                rows = [span.start if first else span.stop - 1 for span in batch.spans.values()]
                buffers[op["out"]] = buffers[op["x"]][rows]
            case "lm_head":
                logits = buffers[op["x"]] @ weights[op["weight"]].T
                step.logits = buffers[op["out"]] = cap(logits, op["softcap"])
            case "capture":
                if op["name"] in wanted:
                    step.captures[op["name"]] = buffers[op["x"]].copy()
            case _:
                raise AssertionError(f"the oracle does not know {kind!r}")

    def _store_kv(self, op: dict[str, Any], batch: _Batch, rows: Array) -> None:
        group = self.program.kv_groups[op["kv_group"]]
        for sequence, span in batch.spans.items():
            new = []
            for start, width in (
                (op["k_start"], group.k_head_dim),
                (op["v_start"], group.v_head_dim),
            ):
                part = rows[span, start : start + group.num_kv_heads * width]
                new.append(part.reshape(len(part), group.num_kv_heads, width))
            key = (sequence, op["kv_group"], op["kv_layer"])
            old = self._kv.get(key)
            self._kv[key] = (
                (new[0].copy(), new[1].copy())
                if old is None
                else (np.concatenate([old[0], new[0]]), np.concatenate([old[1], new[1]]))
            )

    def _attention(self, op: dict[str, Any], batch: _Batch, rows: Array) -> Array:
        group = self.program.kv_groups[op["kv_group"]]
        end = op["q_start"] + op["num_heads"] * group.k_head_dim
        out = np.empty((len(rows), op["num_heads"] * group.v_head_dim))
        for sequence, span in batch.spans.items():
            k, v = self._kv[sequence, op["kv_group"], op["kv_layer"]]
            q = rows[span, op["q_start"] : end]
            heads = attention(
                q.reshape(len(q), op["num_heads"], group.k_head_dim),
                k,
                v,
                batch.positions[span],
                scale=op["scale"],
                window=group.window,
                bidirectional=group.bidirectional,
                softcap=op["softcap"],
                sinks=self.weights[op["sinks"]] if op["sinks"] else None,
            )
            out[span] = heads.reshape(len(q), -1)
        return out
