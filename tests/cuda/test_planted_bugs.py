"""Mistakes planted in the real kernels: the other tests' comparisons or the emulator find each."""

from __future__ import annotations

import numpy as np
import pytest
from tests.cuda import (
    test_attention,
    test_exact_kernels,
    test_latent,
    test_lm_head_argmax,
    test_moe,
    test_packed_weights,
    test_row_kernels,
)
from tests.cuda.launching import SEEDS, emulator
from tests.cuda_emulator import Emulator, KernelError


@pytest.fixture
def plant(monkeypatch):
    """Replace a text of a kernel file, or of a header, in all emulators that the tests use."""

    def planted(file, text, by):
        file, _, header = file.partition(": ")
        emulators = {seed: Emulator(seed=seed) for seed in SEEDS}
        for each in emulators.values():
            each.replace(file, text, by, keep=KEPT.get(file), header=header or None)
        monkeypatch.setattr("tests.cuda.launching._emulators", emulators)
        assert emulator(0) is emulators[0]

    return planted


def rms_norm():
    generator = np.random.default_rng(7)
    test_row_kernels.test_rms_norm(generator, "f32", 2, 5, 64)
    test_row_kernels.test_rms_norm(generator, "f32", 3, 1, 516)


def layer_norm():
    test_row_kernels.test_layer_norm(np.random.default_rng(7), "f32", 3, 516, has_bias=True)


def linear_few():
    test_packed_weights.test_linear("bf16", "float", "few", 8, 33, 1056)


def linear_many():
    test_packed_weights.test_linear("bf16", "float", "many", 8, 33, 1056)
    test_packed_weights.test_linear_of_many_rows("float")


def prefill():
    shape = test_attention.SHAPES[0]
    case = test_attention.attention_case("bf16", lengths=[(3, 290), (19, 40)], **shape)
    out = test_attention.attend(case, "bf16", shape, decode_rows=test_attention.ALWAYS_PREFILL)
    test_attention.assert_close(out, case.expected, "bf16", factor=1.5)


def decode():
    shape = test_attention.SHAPES[0]
    case = test_attention.attention_case("bf16", lengths=[(1, 290), (2, 33)], **shape)
    out = test_attention.attend(case, "bf16", shape, decode_rows=test_attention.ALWAYS_DECODE)
    test_attention.assert_close(out, case.expected, "bf16", factor=1.5)


def sinks():
    shape = next(shape for shape in test_attention.SHAPES if shape.get("has_sinks"))
    case = test_attention.attention_case("bf16", lengths=[(2, 33)], **shape)
    out = test_attention.attend(case, "bf16", shape, decode_rows=test_attention.ALWAYS_DECODE)
    test_attention.assert_close(out, case.expected, "bf16", factor=1.5)


def exact_attention():
    test_exact_kernels.test_attention({"num_heads": 4, "num_kv_heads": 2, "head_dim": 16})


def latent_attention():
    shape = test_latent.SHAPES[3]
    case = test_latent.attention_case("f32", lengths=[(1, 70), (3, 33)], **shape)
    out = test_latent.attend(case, "f32", shape)
    test_latent.assert_close(out, case.expected, "f32")


def head_linear():
    test_latent.test_products_by_head_of_floats("bf16", *test_latent.SIZES[2])


def exact_head_linear():
    test_latent.test_products_by_head_in_float32("f32", 9, 3, 5, 20, 4)


def groups_of_experts():
    test_moe.test_equal_groups_go_to_the_lowest()


def argmax():
    test_row_kernels.test_argmax_takes_the_lowest_of_equals_and_reports_what_is_no_number(
        np.random.default_rng(7), 5000
    )


def rope():
    test_row_kernels.test_rope_store_kv(np.random.default_rng(7), "f32", 5, 5, 20, 6, has_norm=True)


def greedy_head():
    test_lm_head_argmax.test_ids_are_those_of_the_logits("bf16", "float", 8, 333, 544)


def moe_sort():
    test_moe.test_choices_are_sorted_by_expert(700, 64)


def moe():
    test_moe.test_grouped_products_have_the_bits_of_single_ones("bf16", "float")


def moe_biases():
    test_moe.test_grouped_products_with_biases_and_the_activation_of_gpt_oss("bf16")


def exact_moe():
    test_moe.test_grouped_products_in_float32("f32", 70, 7, 132, 2)


# Which of a file's many kernels the checks launch: the others need not be compiled.
KEPT = {
    "linear_few": ("bf16_bf16_bf16", "bf16_bf16_f32"),
    "linear_many": ("bf16_bf16_bf16", "bf16_bf16_f32"),
    "attention_prefill": ("bf16_64",),
    "attention_decode": ("bf16_64",),
    "lm_head_argmax": ("bf16_bf16",),
    "moe_linear": ("bf16_bf16",),
    "moe_gated": ("bf16_bf16_silu", "bf16_bf16_clamped_swiglu"),
    "moe_linear_f32": ("f32",),
    "attention_latent": ("f32",),
    "head_linear": ("bf16_bf16",),
    "head_linear_f32": ("f32",),
}

PLANTED = {
    "removed barrier, linear_few": (
        *("linear_few", "  __syncthreads();\n\n  int output", "\n  int output", linear_few),
    ),
    "removed barrier before a stage is overwritten, prefill": (
        *("attention_prefill", "    __syncthreads();  // the stage is overwritten next\n", ""),
        prefill,
    ),
    "removed barrier behind the wait, linear_many": (
        *(
            "linear_many: many_rows.cuh",
            "    __syncthreads();  // the chunk is there",
            "    // the chunk is there",
        ),
        linear_many,
    ),
    "removed barrier, argmax": (*("argmax", "  __syncthreads();\n", "", argmax),),
    "removed barrier, lm_head_argmax": (
        *("lm_head_argmax", "  __syncthreads();\n  if (threadIdx.x", "  if (threadIdx.x"),
        greedy_head,
    ),
    "removed barrier, moe_sort": (
        *("moe_sort", "    __syncthreads();\n    int place", "    int place", moe_sort),
    ),
    "tiles of an expert that is not there, moe_linear": (
        *("moe_linear: grouped_rows.cuh", "if (lane >= distance) end += other;"),
        *("if (lane > distance) end += other;", moe),
    ),
    "removed barrier, moe_linear": (
        *("moe_linear", "  __syncthreads();\n  multiply_rows", "  multiply_rows", moe_biases),
    ),
    "another expert's biases, moe_gated": (
        *("moe_gated", "static_cast<size_t>(tile.expert) * width;", "0;", moe_biases),
    ),
    "rows as long as packed ones, moe_linear": (
        *("moe_linear", "tile.count, 1, k}, pair", "tile.count, 1, packed_columns(k)}, pair", moe),
    ),
    "tiles of 64 choices instead of 8, moe_linear_f32": (
        *("moe_linear_f32: grouped_rows.cuh", "(count + ROWS - 1) / ROWS", "(count + 63) / 64"),
        exact_moe,
    ),
    "removed warp barrier, rope": (
        *("rope_store_kv", "  __syncwarp();\n  if (!is_value) {", "  if (!is_value) {", rope),
    ),
    "missing wait, linear_many": (
        "linear_many: many_rows.cuh",
        *("    wait_copies<STAGES - 2>();", "    wait_copies<STAGES - 1>();", linear_many),
    ),
    "missing wait, decode": (
        *("attention_decode", "    wait_copies<1>();", "    wait_copies<2>();", decode),
    ),
    "removed barrier between two sums, layer_norm": (
        *("layer_norm: reductions.cuh", "  __syncthreads();  // the array may be used again\n", ""),
        layer_norm,
    ),
    "squares of values instead of deviations, layer_norm": (
        *("layer_norm", "float a = v.x - mean,", "float a = v.x,", layer_norm),
    ),
    "removed barrier behind the queries, latent attention": (
        *("attention_latent", "  __syncthreads();\n\n  float largest", "\n  float largest"),
        latent_attention,
    ),
    "removed barrier behind the scores, latent attention": (
        "attention_latent",
        "    __syncthreads();  // the scores are there, and nobody reads the last weights",
        *("", latent_attention),
    ),
    "removed barrier behind the weights, latent attention": (
        *("attention_latent", "    __syncthreads();  // the weights are there", ""),
        latent_attention,
    ),
    "removed barrier before the last corrections, latent attention": (
        *(
            "attention_latent",
            "  __syncthreads();  // nobody reads the last tile's corrections",
            "",
        ),
        latent_attention,
    ),
    "removed barrier before the outputs, latent attention": (
        *(
            "attention_latent",
            "  __syncthreads();\n  if (column >= v_dim)",
            "  if (column >= v_dim)",
        ),
        latent_attention,
    ),
    "values as wide as keys, latent attention": (
        *("attention_latent", "load_four(v_cache + row * v_dim + column)"),
        *("load_four(v_cache + row * k_dim + column)", latent_attention),
    ),
    "rows of a tile as long as a head's slice, head_linear": (
        *("head_linear", "Slices<T>{x + pass, x_stride, count, k}"),
        *("Slices<T>{x + pass, static_cast<size_t>(pass + k), count, k}", head_linear),
    ),
    "another head's matrix, head_linear": (
        *("head_linear", "static_cast<size_t>(head) * codes_step", "0", head_linear),
    ),
    "elements that are passed through counted as outputs, head_linear_f32": (
        *("head_linear_f32", "(head) * n + column - pass)", "(head) * n + column)"),
        exact_head_linear,
    ),
    "a group of experts that is kept twice, moe_route": (
        *("moe_route", "!(is_kept >> next.index & 1) && is_better", "is_better", groups_of_experts),
    ),
    "one expert speaks for a group where two do, moe_route": (
        *("moe_route", "turn < scored", "turn < 1", groups_of_experts),
    ),
    "outputs that a sink does not scale, decode": (
        "attention_decode: attention.cuh",
        *("return {f.old_share, fold(f, total, 1.0f)};", "return {1.0f, fold(f, total, 1.0f)};"),
        sinks,
    ),
    "wrong stride of the output, linear_few": (
        *("linear_few", "(token) * out_stride + output", "(token) * (out_stride + 1) + output"),
        linear_few,
    ),
    "wrong stride of the rows, rms_norm": (
        "rms_norm",
        "  x += static_cast<size_t>(blockIdx.x) * x_stride",
        "  x += static_cast<size_t>(blockIdx.x) * out_stride",
        rms_norm,
    ),
    "wrong stride of KV heads, exact attention": (
        "attention_f32",
        "const float* value = v_cache + ((block * num_kv_heads + kv_head)",
        "const float* value = v_cache + ((block * num_heads + kv_head)",
        exact_attention,
    ),
    "off by one KV block, exact attention": (
        *("attention_f32", "size_t block = blocks[mine / BLOCK_SIZE];"),
        *("size_t block = blocks[mine / BLOCK_SIZE + 1];", exact_attention),
    ),
    "off by one position, exact attention": (
        *("attention_f32", "start <= position; start += 32", "start < position; start += 32"),
        exact_attention,
    ),
    "one thread block's rows too many, linear_many": (
        *("linear_many", "if (output < n && row < rows)", "if (output < n && row <= rows)"),
        linear_many,
    ),
    "off by one panel, linear_many": (
        *("linear_many", "first_panel + 1 < panels", "first_panel + 1 <= panels", linear_many),
    ),
    "off by one slice, linear_few": (
        "linear_few: few_rows.cuh",
        "slice < (k + SLICE_COLUMNS - 1) / SLICE_COLUMNS; slice++)",
        *("slice < k / SLICE_COLUMNS; slice++)", linear_few),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(plant, name):
    file, text, by, check = PLANTED[name]
    plant(file, text, by)
    with pytest.raises((AssertionError, KernelError)):
        check()


@pytest.mark.parametrize("check", sorted({entry[3] for entry in PLANTED.values()}, key=str))
def test_without_the_bug_the_same_checks_pass(check):
    check()
