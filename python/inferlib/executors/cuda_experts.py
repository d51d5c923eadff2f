"""A mixture of experts as launches: route, sort choices by expert, multiply, combine.

A choice is one token's one expert. Products go through the choices expert by expert, but a row's
sums have the order of all other products, and a token adds its experts' results in the order of its
own scores: who else chose an expert changes no bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .cuda_model import ceil_divide, kind_of
from .cuda_weights import GROUPED_GATED

if TYPE_CHECKING:
    from ..devices import DeviceArray
    from .cuda_inputs import StepInputs
    from .cuda_matrices import StackedMatrices
    from .cuda_model import DeviceModel, Launch

i32: type[np.int32] = np.int32
f32: type[np.float32] = np.float32
_EXACT_ROWS, _TILE_ROWS = 8, 64
"""Choices of one expert that a thread block has, in float32 and with tensor cores."""
_MOST_ROWS = 65_535
"""The second dimension of a grid."""


def mixture(model: DeviceModel, op: dict[str, Any]) -> Launch:
    """Each row through its experts, weighted and added."""
    return _Mixture(model, op).launch


@dataclass(frozen=True, slots=True)
class _Product:
    """A product of some rows with the matrices of their choices' experts.

    Attributes:
        x: Rows of tokens, or of choices.
        divisor: Choices that share a row of ``x``.
        matrices: Of all experts.
        bias: Of all experts; ``None`` without.
        out: From its first element on.
        out_stride: Elements from one choice of ``out`` to the next.
    """

    x: DeviceArray
    divisor: int
    matrices: StackedMatrices
    bias: DeviceArray | None
    out: DeviceArray
    out_stride: int


class _Mixture:
    """One op; its arrays are shared by all layers."""

    def __init__(self, model: DeviceModel, op: dict[str, Any]) -> None:
        weights, arrays = model.weights, model.expert_rows
        self._device, self._kind = model.device, model.kind
        self._gate, self._up, self._down = (
            weights.stacked[op[name]] for name in ("gate", "up", "down")
        )
        biases: list[DeviceArray | None] = [None, None, None]
        if op["biases"]:
            biases = [weights.vectors[name] for name in op["biases"]]
        self._gate_bias, self._up_bias, down_bias = biases
        self._activation, self._top_k = op["activation"], op["top_k"]
        self._x, self._out = model.buffers[op["x"]], model.buffers[op["out"]]
        self._logits = model.buffers[op["router_logits"]]
        sigmoid, groups = op["scoring"] == "sigmoid", op["groups"] or (0, 0, 0)
        self._score_bias = weights.vectors[op["score_bias"]] if op["score_bias"] else None
        self._routing = (
            *(i32(sigmoid), i32(op["normalise"]), f32(op["weight_scale"])),
            *(i32(each) for each in groups),
        )
        self._ids, self._shares = arrays["experts of tokens"], arrays["shares of experts"]
        self._starts, self._order = arrays["first choices of experts"], arrays["choices by expert"]
        self._inner, self._wide = arrays["rows within experts"], arrays["results of experts"]
        inner, hidden = self._gate.shape
        self._products = [
            _Product(self._x, self._top_k, self._gate, self._gate_bias, self._wide, 2 * inner),
            _Product(self._x, self._top_k, self._up, self._up_bias, self._wide[inner:], 2 * inner),
        ]
        self._results = _Product(self._inner, 1, self._down, down_bias, self._wide, hidden)
        self._is_fused = (self._gate.layout, self._activation) in GROUPED_GATED and (
            self._gate.layout,
            self._gate.group,
        ) == (self._up.layout, self._up.group)

    def launch(self, _: StepInputs, rows: int) -> None:
        """For the first rows of the buffers."""
        device, experts, top_k = self._device, self._gate.count, self._top_k
        choices = rows * top_k
        route = (
            *(self._ids, self._shares, self._logits, self._score_bias),
            *(i32(rows), i32(experts), i32(top_k), *self._routing),
        )
        device.launch("moe_route_f32", (ceil_divide(rows, 4),), 128, route)
        sort = (self._starts, self._order, self._ids, i32(choices))
        device.launch("moe_sort_i32", (experts,), 256, sort)
        if self._is_fused:
            self._gated(choices)
        else:
            for product in self._products:
                self._multiply(product, choices)
            self._activate(choices)
        self._multiply(self._results, choices)
        width = self._down.shape[0]
        combine = (self._out, self._wide, self._shares, i32(top_k), i32(width))
        grid = (ceil_divide(width, 512), rows)
        device.launch(f"moe_combine_{self._kind}", grid, 128, combine)

    def _tiles(self, choices: int, rows: int) -> int:
        """Not less than all experts' tiles together, whoever has how many choices."""
        return min(choices, choices // rows + self._gate.count)

    def _gated(self, choices: int) -> None:
        """Gate, up and the activation as one."""
        gate, up = self._gate, self._up
        width, k = gate.shape
        kernel = f"moe_gated_{self._kind}_{self._word(gate)}_{self._activation}"
        self._device.launch(
            kernel,
            (ceil_divide(width, 64), self._tiles(choices, _TILE_ROWS)),
            128,
            (
                *(self._inner, self._x, self._starts, self._order),
                *(gate.codes, gate.scales, self._gate_bias, up.codes, up.scales, self._up_bias),
                *(i32(gate.count), i32(self._top_k), i32(width), i32(k), i32(gate.group)),
                *(i32(gate.codes_step), i32(gate.scales_step)),
            ),
        )

    def _multiply(self, product: _Product, choices: int) -> None:
        matrices = product.matrices
        n, k = matrices.shape
        rows = (product.out, product.x, self._starts, self._order)
        sizes = (i32(matrices.count), i32(product.divisor), i32(n), i32(k))
        if self._kind == "f32":
            kernel = f"moe_linear_f32_{kind_of(matrices.codes)}"
            grid = (ceil_divide(n, 4), self._tiles(choices, _EXACT_ROWS))
            weights: tuple[Any, ...] = (matrices.codes, product.bias)
            steps: tuple[Any, ...] = ()
        else:
            kernel = f"moe_linear_{self._kind}_{self._word(matrices)}"
            grid = (ceil_divide(n, 128), self._tiles(choices, _TILE_ROWS))
            weights = (matrices.codes, matrices.scales, product.bias)
            steps = (i32(matrices.group), i32(matrices.codes_step), i32(matrices.scales_step))
        arguments = (*rows, *weights, *sizes, *steps, i32(product.out_stride))
        self._device.launch(kernel, grid, 128, arguments)

    def _activate(self, choices: int) -> None:
        width = self._gate.shape[0]
        kernel = f"act_and_mul_{self._activation}_{self._kind}"
        for first in range(0, choices, _MOST_ROWS):
            rows = min(_MOST_ROWS, choices - first)
            arrays = (self._inner[first * width :], self._wide[first * 2 * width :])
            grid = (ceil_divide(width, 512), rows)
            self._device.launch(kernel, grid, 128, (*arrays, i32(width)))

    def _word(self, matrices: StackedMatrices) -> str:
        """Of the weights, as the names of kernels have them."""
        return self._kind if matrices.layout == "float" else matrices.layout
