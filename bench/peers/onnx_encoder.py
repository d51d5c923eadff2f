"""A BERT folder as an int8 graph of ONNX Runtime, asked through standard input.

    python onnx_encoder.py FOLDER THREADS

Each line on standard input is ``{"texts": [[ids]], "out": FILE}``; the answer is the seconds, and
``[texts, hidden_size]`` mean-pooled vectors in ``FILE``. The graph is made here from the
safetensors, without torch: plain operators, which ONNX Runtime fuses, and its ``quantize_dynamic``
for the matrices.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

BATCH = 32


class Graph:
    """Nodes and weights in the making."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights, self.nodes, self.initializers = weights, [], {}

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def table(self, name: str, ids: str) -> str:
        return self.node("Gather", self.constant(name, self.weights[f"{name}.weight"]), ids)

    def linear(self, name: str, x: str) -> str:
        weight = self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T)
        bias = self.constant(f"{name}.bias", self.weights[f"{name}.bias"])
        return self.node("Add", self.node("MatMul", x, weight), bias)

    def norm(self, name: str, x: str, eps: float) -> str:
        weight = self.constant(f"{name}.weight", self.weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", self.weights[f"{name}.bias"])
        return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)


def export(folder: Path, path: Path) -> None:
    """Write the graph: ``ids``, ``mask`` ``[batch, length]`` and ``positions`` to vectors."""
    config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    graph = Graph(load_file(folder / "model.safetensors"))
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    eps = config["layer_norm_eps"]
    x = graph.table("embeddings.word_embeddings", "ids")
    x = graph.node("Add", x, graph.table("embeddings.position_embeddings", "positions"))
    segments = graph.weights["embeddings.token_type_embeddings.weight"][0]
    x = graph.node("Add", x, graph.constant("segment", segments))
    x = graph.norm("embeddings.LayerNorm", x, eps)
    wide = graph.node("Cast", "mask", to=TensorProto.FLOAT)
    hole = graph.node("Sub", graph.constant("unit", np.float32(1)), wide)
    hole = graph.node("Mul", hole, graph.constant("low", np.float32(-1e4)))
    hole = graph.node("Unsqueeze", hole, graph.constant("axes12", np.array([1, 2])))
    apart = graph.constant("apart", np.array([0, 0, heads, hidden // heads]))
    joined = graph.constant("joined", np.array([0, 0, hidden]))
    scale = graph.constant("scale", np.float32((hidden // heads) ** -0.5))
    for index in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{index}"
        parts = []
        for kind, perm in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
            part = graph.linear(f"{name}.attention.self.{kind}", x)
            parts.append(graph.node("Transpose", graph.node("Reshape", part, apart), perm=perm))
        q, k, v = parts
        scores = graph.node("Add", graph.node("Mul", graph.node("MatMul", q, k), scale), hole)
        seen = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), v)
        seen = graph.node("Reshape", graph.node("Transpose", seen, perm=(0, 2, 1, 3)), joined)
        branch = graph.linear(f"{name}.attention.output.dense", seen)
        x = graph.norm(f"{name}.attention.output.LayerNorm", graph.node("Add", branch, x), eps)
        inner = graph.node("Gelu", graph.linear(f"{name}.intermediate.dense", x))
        branch = graph.linear(f"{name}.output.dense", inner)
        x = graph.norm(f"{name}.output.LayerNorm", graph.node("Add", branch, x), eps)
    mask = graph.node("Unsqueeze", wide, graph.constant("axes2", np.array([2])))
    axes = graph.constant("axes1", np.array([1]))
    total = graph.node("ReduceSum", graph.node("Mul", x, mask), axes, keepdims=0)
    pooled = graph.node("Div", total, graph.node("ReduceSum", mask, axes, keepdims=0))
    shapes = {"ids": ["batch", "length"], "mask": ["batch", "length"], "positions": ["length"]}
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "encoder",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, shape)
                for name, shape in shapes.items()
            ],
            [helper.make_tensor_value_info(pooled, TensorProto.FLOAT, ["batch", hidden])],
            list(graph.initializers.values()),
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)


def embed(session: onnxruntime.InferenceSession, texts: list[list[int]]) -> np.ndarray:
    """Mean-pooled vectors, batches of texts of like lengths."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors: list[np.ndarray] = [np.empty(0)] * len(texts)
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        length = max(len(texts[row]) for row in rows)
        ids, mask = (np.zeros((len(rows), length), np.int64) for _ in range(2))
        for place, row in enumerate(rows):
            ids[place, : len(texts[row])] = texts[row]
            mask[place, : len(texts[row])] = 1
        inputs = {"ids": ids, "mask": mask, "positions": np.arange(length)}
        (pooled,) = session.run(None, inputs)
        for row, vector in zip(rows, pooled, strict=True):
            vectors[row] = vector
    return np.array(vectors)


def main() -> None:
    """Export, quantize, answer."""
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as temporary:
        plain, quantized = (Path(temporary) / name for name in ("plain.onnx", "int8.onnx"))
        export(folder, plain)
        quantize_dynamic(plain, quantized, weight_type=QuantType.QInt8, per_channel=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            quantized, options, providers=["CPUExecutionProvider"]
        )
    print(json.dumps({"version": onnxruntime.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        vectors = embed(session, request["texts"])
        seconds = time.perf_counter() - start
        np.save(request["out"], vectors)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
