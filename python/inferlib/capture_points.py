"""What can be captured: names, where in a program each is, and of which tokens.

Most names are capture points of the program itself. Others are cut out of one (queries, keys and
values lie in one buffer), or follow from one (the last residual stream, normalised).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from .errors import RequestError
from .model_spec import AttentionSpec
from .transformer import FINAL_HIDDEN, QKV
from .validation import integer, items, shown, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Literal

    from numpy.typing import NDArray

    from ._core import Program
    from .model_spec import ModelSpec

    Floats = NDArray[np.float32]
    Positions = Sequence[int] | NDArray[np.integer[Any]] | slice | int

MAX_NAMES = 1024
"""Names and patterns of one call; each matches any number of points."""
MAX_NAME_BYTES = 256
FINAL_NORMALIZED = f"{FINAL_HIDDEN}.hook_normalized"
_WILD = "*?["


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePoint:
    """One name.

    Attributes:
        name: As callers write it.
        source: The program's point whose rows it is made of.
        columns: Which of their elements it is.
        normalized: The norm that is applied to them, without its weight and bias.
        norm_eps: Of that norm.
    """

    name: str
    source: str
    columns: slice
    normalized: Literal["rms", "layer"] | None = None
    norm_eps: float = 0.0

    @property
    def width(self) -> int:
        """Elements of a row."""
        return int(self.columns.stop - self.columns.start)

    def of(self, rows: Floats) -> Floats:
        """Return this point's rows ``[n, width]``, in memory of their own.

        Args:
            rows: The source's, ``[n, width of the source]``.
        """
        own = rows[:, self.columns]
        if self.normalized is None:
            return np.array(own, np.float32, order="C")
        x = own.astype(np.float64)
        if self.normalized == "layer":
            x -= x.mean(axis=-1, keepdims=True)
        x /= np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.norm_eps)
        return x.astype(np.float32)


def capture_points(spec: ModelSpec, program: Program) -> dict[str, CapturePoint]:
    """All names of a model whose rows are tokens, in the order of the forward pass."""
    buffers = program.buffers
    widths = {
        op["name"]: buffers[op["x"]][1]
        for kind, op in program.ops
        if kind == "capture" and buffers[op["x"]][0] == "tokens"
    }
    points: list[CapturePoint] = []
    for name, width in widths.items():
        if name.endswith(QKV):
            points += _heads(name, spec)
        elif name == FINAL_HIDDEN and spec.final_norm:
            points += [_final_normalized(spec), _whole(name, width)]
        else:
            points.append(_whole(name, width))
    return {point.name: point for point in points}


def choose_points(points: Mapping[str, CapturePoint], wanted: object) -> tuple[CapturePoint, ...]:
    """Find what a caller asks for, each once, in the order of the forward pass.

    Args:
        points: All that there are.
        wanted: A name, a pattern with ``*``, ``?`` or ``[…]``, or several of these.

    Raises:
        RequestError: There is no such name, or nothing that fits a pattern; the nearest are named.
    """
    given = (wanted,) if isinstance(wanted, str) else items("capture", wanted, MAX_NAMES)
    chosen: set[str] = set()
    for entry in given:
        name = text("capture", entry, limit=MAX_NAME_BYTES)
        if name in points:
            chosen.add(name)
            continue
        found: Iterable[str] = ()
        if any(sign in name for sign in _WILD):
            found = [known for known in points if fnmatchcase(known, name)]
        if not found:
            raise _unknown(name, points)
        chosen.update(found)
    return tuple(point for name, point in points.items() if name in chosen)


def choose_positions(wanted: object, num_tokens: int) -> NDArray[np.int32]:
    """Find which tokens of a prompt a caller asks for, ``[n]``, not empty.

    Args:
        wanted: A place, several or a ``slice``, from the end where negative; ``None``: all.
        num_tokens: Of the prompt.

    Raises:
        RequestError: It is none of these, or names no token.
    """
    if wanted is None:
        return np.arange(num_tokens, dtype=np.int32)
    if isinstance(wanted, slice):
        try:
            places: Sequence[int] = range(num_tokens)[wanted]
        except (TypeError, ValueError):
            raise RequestError(
                f"positions must be a slice of whole numbers, not {shown(wanted)}",
                field="positions",
            ) from None
    else:
        listed = not hasattr(wanted, "__index__") or (
            isinstance(wanted, np.ndarray) and wanted.ndim
        )
        entries = items("positions", wanted, 2 * num_tokens) if listed else (wanted,)
        places = [
            place % num_tokens
            for place in (
                integer("positions", entry, -num_tokens, num_tokens - 1) for entry in entries
            )
        ]
    if not places:
        raise RequestError("positions names no token of the prompt", field="positions")
    return np.asarray(places, np.int32)


def _unknown(name: str, points: Mapping[str, CapturePoint]) -> RequestError:
    near = difflib.get_close_matches(name, points, n=3, cutoff=0.5)
    hint = "Model.capture_points lists all names"
    if near:
        hint = f"near it are {', '.join(near)}; {hint}"
    return RequestError(
        f"this model has no capture point {shown(name)}", field="capture", hint=hint
    )


def _whole(name: str, width: int) -> CapturePoint:
    return CapturePoint(name=name, source=name, columns=slice(0, width))


def _heads(source: str, spec: ModelSpec) -> list[CapturePoint]:
    """Queries, keys and values of a layer; the former two have other names before RoPE."""
    block = source.removesuffix(QKV)
    attention = spec.layers[int(block.split(".")[1])].attention
    if not isinstance(attention, AttentionSpec):
        raise TypeError(f"{source}: latent attention has no such point")
    rotated = "" if attention.rope is None else "rot_"
    k_start, v_start = attention.q_size, attention.q_size + attention.kv_size
    columns = {
        f"hook_{rotated}q": slice(0, k_start),
        f"hook_{rotated}k": slice(k_start, v_start),
        "hook_v": slice(v_start, v_start + attention.kv_size),
    }
    return [
        CapturePoint(name=f"{block}attn.{name}", source=source, columns=own)
        for name, own in columns.items()
    ]


def _final_normalized(spec: ModelSpec) -> CapturePoint:
    """What the last norm makes of the residual stream, before its weight and bias."""
    block, last = f"blocks.{spec.num_layers - 1}", spec.layers[-1]
    point = "hook_normalized_resid_post" if last.norm_after else "hook_resid_post"
    return CapturePoint(
        name=FINAL_NORMALIZED,
        source=f"{block}.{point}",
        columns=slice(0, spec.hidden_size),
        normalized=spec.norm,
        norm_eps=spec.norm_eps,
    )
