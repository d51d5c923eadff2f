"""What drafts are tested with, whoever makes them: they change nothing that a caller sees."""

from __future__ import annotations

from tests.unit.answers import assert_stream, shape

GREEDY = {"temperature": 0, "ignore_eos": True}
WAYS_TO_DRAW = (
    {"temperature": 0},
    {"temperature": 0.3, "seed": 1, "n": 3},
    {"temperature": 1.0, "top_k": 3, "seed": 2},
    {"temperature": 0, "repetition_penalty": 1.05, "min_tokens": 70},
    {"temperature": 0, "bad_words": ["bc"], "logprobs_mode": "processed"},
    {"temperature": 0, "prompt_logprobs": 1},
    {"temperature": 0, "stop": ["ab"]},
    {"temperature": 0, "regex": "[a-z ]{20,60}"},
    {"temperature": 1.0, "mirostat": 2, "seed": 3},
)


def assert_undrafted(model, undrafted, prompt, **options):
    """Results and streams are those of a model for which nobody drafts; what they took of both."""
    options = {"logprobs": 1, **options}
    expected = shape(undrafted.generate(prompt, **options))
    completion = model.generate(prompt, **options)
    assert shape(completion) == expected
    stream = model.stream(prompt, **options)
    assert_stream(stream, expected)
    model._engine._scheduler.check_integrity()
    return completion.usage, stream.completion.usage


def assert_undrafted_where_preempted(model, undrafted, *, num_prompts):
    """Requests of all lengths in too small a cache have their results, and leave nothing there."""
    prompts = [chr(97 + i % 5) * (1 + 3 * i) + "xy" * (i % 7) for i in range(num_prompts)]
    options = {"max_tokens": 60, "logprobs": 0, **GREEDY}
    expected = [shape(undrafted.generate(prompt, **options)) for prompt in prompts]
    completions = model.generate(prompts, progress=False, **options)
    assert [shape(completion) for completion in completions] == expected
    stats = model.stats()
    assert stats["preemptions"] > 0
    assert stats["free_blocks"] == stats["total_blocks"]
    model._engine._scheduler.check_integrity()
