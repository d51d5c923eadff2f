"""The CPU executor's property on the CUDA one: how a request runs changes no bit of its answer."""

from __future__ import annotations

import pytest
from tests.checkpoints import TINY
from tests.cuda.launching import open_device
from tests.cuda.test_reduced_precision import make_model, wide_spec
from tests.property.test_same_answer import MUCH, answer, options, prompts_of

from inferlib import Model
from inferlib.transformer import record

NUM_PROMPTS, NUM_TOKENS = 6, 6
SMALL = {"kv_cache": "64 tokens", "max_model_len": 64}


def open_model(name, **settings):
    settings = {"kv_cache": "2k tokens"} | settings
    seed = settings.pop("seed", 0)
    if name == "wide, fast":
        return make_model(record(wide_spec()), seed=seed, **settings)
    return Model.from_pretrained(
        TINY / "mistral-window", device=open_device(seed), precision="exact", **settings
    )


def options_of(i):
    chosen = options(i) | {"max_tokens": NUM_TOKENS}
    return chosen | {"detokenize": False}


@pytest.fixture(scope="module", params=["mistral-window, exact", "wide, fast"])
def alone(request):
    """One by one, nothing cached, nothing drafted."""
    prompts = [prompt[:30] for prompt in prompts_of(160)[: 2 * NUM_PROMPTS : 2]]
    with open_model(request.param, enable_prefix_caching=False, speculation="off") as model:
        answers = [answer(model.generate(p, **options_of(2 * i))) for i, p in enumerate(prompts)]
    return request.param, prompts, answers


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"max_num_batched_tokens": 16, "max_num_seqs": 4, "seed": 2},
        {**SMALL, "seed": 3},
        {"speculation": MUCH, "max_num_seqs": 6},
    ],
    ids=lambda changes: ", ".join(f"{k}={v}" for k, v in changes.items() if v is not MUCH),
)
def test_together_chunked_queued_cached_or_drafted_gives_the_same_bits(alone, changes):
    name, prompts, expected = alone
    with open_model(name, **changes) as model:
        for _ in ("cold", "hot"):
            handles = [model.submit(p, **options_of(2 * i)) for i, p in enumerate(prompts)]
            assert [answer(handle.result()) for handle in handles] == expected
        stats = model.stats()
        model._engine._scheduler.check_integrity()
    if changes.get("speculation") is MUCH:
        assert stats["drafted_tokens"] > 0


@pytest.mark.timeout(120)
def test_callables_and_abstentions_are_of_their_own_rows():
    greedy = {"temperature": 0, "max_tokens": 6, "detokenize": False}
    prompt = prompts_of(160)[0][:20]
    seen = []
    with open_model("wide, fast") as model:
        plain = model.generate(prompt, **greedy)
        banned = plain.token_ids[0]

        def forbid(_token_ids, logits):
            seen.append(int(logits.argmax()))
            logits[banned] = -float("inf")

        handles = [
            model.submit(prompt, **greedy),
            model.submit(prompt, logits_processors=[forbid], **greedy),
            model.submit(prompt, logits_processors=[lambda _tokens, _logits: None], **greedy),
            model.submit(prompt, abstain_below=1.0, **greedy),
        ]
        same, changed, untouched, doubted = [handle.result() for handle in handles]
    assert same.token_ids == untouched.token_ids == plain.token_ids
    assert seen[0] == banned
    assert banned not in changed.token_ids
    assert doubted.finish_reason == "abstain"
    assert doubted.token_ids == plain.token_ids
