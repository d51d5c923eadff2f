"""The evaluation harness's interface, with the harness's own classes and SmolLM2."""

from __future__ import annotations

import math

import pytest
from tests.real_models import real_model

from inferlib import Model, RequestError

pytest.importorskip("lm_eval.api.model", reason="`make test` installs lm-eval")
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import get_model

from inferlib.integrations.lm_eval import InferlibLM

TEXT = "The three primary colours are red, yellow and blue. Mixing two of them gives green,"


@pytest.fixture(scope="module")
def model():
    with Model.from_pretrained(real_model("smollm2"), max_model_len=512, threads=2) as model:
        yield model


@pytest.fixture(scope="module")
def lm(model):
    return InferlibLM(model=model)


def requests(kind, arguments):
    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def test_the_harness_finds_it_and_takes_it_for_one_of_its_own(lm):
    assert get_model("inferlib") is InferlibLM
    assert isinstance(lm, LM)
    assert not InferlibLM.__abstractmethods__
    assert (lm.rank, lm.world_size) == (0, 1)


def test_what_is_stored_is_named_by_the_checkpoint_and_its_template(lm):
    assert lm.tokenizer_name
    assert "/" not in lm.tokenizer_name
    with Model.from_pretrained(real_model("smollm2"), max_model_len=64, threads=1) as other:
        assert InferlibLM(model=other).tokenizer_name == lm.tokenizer_name
    assert "<|im_start|>" in lm.chat_template(chat_template=True)
    assert lm.chat_template(chat_template=False) is None


def test_likelihoods_are_the_models_and_greedy_where_it_would_say_so(lm, model):
    continuation = model.generate(TEXT, max_tokens=3, temperature=0).text
    pairs = [(TEXT, continuation), (TEXT, " zebras"), ("The capital of France is", " Paris")]
    found = lm.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
    expected = [model.loglikelihood(*pair) for pair in pairs]
    assert found == [(each.total, each.is_greedy) for each in expected]
    assert [greedy for _, greedy in found] == [True, False, True]


def test_spaces_at_a_contexts_end_belong_to_the_continuation(lm):
    (spaced,) = lm.loglikelihood(
        requests("loglikelihood", [("Paris is the capital of ", "France")])
    )
    (joined,) = lm.loglikelihood(
        requests("loglikelihood", [("Paris is the capital of", " France")])
    )
    assert spaced == joined


def test_an_empty_context_is_the_beginning_of_a_text(lm, model):
    (found,) = lm.loglikelihood(requests("loglikelihood", [("", "Once upon a time")]))
    ids = lm.tok_encode("Once upon a time")
    assert found[0] == model.loglikelihood([lm.prefix_token_id], ids).total


def test_what_is_too_long_loses_its_beginning(lm, model):
    long = "word " * 900
    (found,) = lm.loglikelihood(requests("loglikelihood", [(long, "word word")]))
    whole, continuation = lm.tok_encode(long.rstrip() + " word word"), lm.tok_encode(" word word")
    room = model.max_model_len - len(continuation)
    context = whole[: len(whole) - len(continuation)][-room:]
    assert found[0] == model.loglikelihood(context, continuation).total


def test_rolling_predicts_each_token_once_with_a_full_context_at_the_end(model):
    short = InferlibLM(model=model)
    ids = short.tok_encode(TEXT * 40)
    assert len(ids) > model.max_model_len
    (found,) = short.loglikelihood_rolling(requests("loglikelihood_rolling", [(TEXT * 40,)]))
    window = model.max_model_len - 1
    first = model.loglikelihood([short.prefix_token_id], ids[:window])
    total = [first.total]
    for start in range(window, len(ids), window):
        new = ids[start : start + window]
        end = start + len(new)
        total.append(model.loglikelihood(ids[end - window - 1 : start], new).total)
    assert found == math.fsum(total)
    empty, one = short.loglikelihood_rolling(requests("loglikelihood_rolling", [("",), ("a",)]))
    assert empty == 0
    assert one < 0


def test_generation_ends_at_stop_strings_and_groups_what_wants_the_same(lm, model):
    stop = {"until": ["\n", ","], "max_gen_toks": 12, "do_sample": False, "temperature": 0.7}
    drawn = {"do_sample": True, "temperature": 0.8, "top_k": 20, "seed": 5, "max_new_tokens": 6}
    found = lm.generate_until(
        requests("generate_until", [(TEXT, stop), ("Hello", drawn), ("One, two,", stop)]),
        disable_tqdm=True,
    )
    greedy = {"temperature": 0, "stop": ["\n", ","], "max_tokens": 12}
    assert found[0] == model.generate(TEXT, **greedy).text
    assert found[2] == model.generate("One, two,", **greedy).text
    assert found[1] == model.generate("Hello", temperature=0.8, top_k=20, seed=5, max_tokens=6).text
    assert not any("," in text for text in (found[0], found[2]))


def test_an_option_that_nobody_knows_is_named(lm):
    with pytest.raises(RequestError) as caught:
        lm.generate_until(requests("generate_until", [("Hello", {"temprature": 1})]))
    assert "temprature" in str(caught.value)


def test_conversations_are_rendered_as_chat_renders_them(lm, model):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, I"}]
    text = lm.apply_chat_template(messages, add_generation_prompt=False)
    assert text.endswith("Hello, I")
    assert lm.apply_chat_template(messages[:1]).endswith("<|im_start|>assistant\n")
    continued = model.chat(messages, continue_final_message=True, max_tokens=4, temperature=0)
    assert continued.prompt_token_ids == lm.tok_encode(text)


def test_a_model_or_its_name(model):
    for options in ({}, {"pretrained": "smollm2", "model": model}):
        with pytest.raises(RequestError, match="name or path"):
            InferlibLM(**options)
