"""A draft model beside a tiny model: seen in the counters, nowhere else; how both live and end."""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest
from tests.unit.answers import shape
from tests.unit.drafting import (
    GREEDY,
    WAYS_TO_DRAW,
    assert_undrafted,
    assert_undrafted_where_preempted,
)

from inferlib import (
    ClosedError,
    Model,
    ModelFormatError,
    ModelNotFoundError,
    PromptLookup,
    RequestError,
    Tokenizer,
    _core,
)
from inferlib.testing import Faults, byte_tokenizer_files, tiny_model
from inferlib.testing.tiny import byte_tokenizer

ORDINARY = "It was a bright cold day in April"


@pytest.fixture(scope="module")
def drafter():
    """The model itself, so that it is always right."""
    with tiny_model() as model:
        yield model


@pytest.fixture(scope="module")
def stranger():
    """Another model of the same vocabulary, which is hardly ever right."""
    with tiny_model(seed=1) as model:
        yield model


@pytest.fixture(scope="module")
def assisted(drafter):
    with tiny_model(draft_model=drafter, speculation="draft_model") as model:
        yield model


def test_the_same_model_is_right_every_time(assisted, undrafted):
    before = assisted.stats()
    completion = assisted.generate(ORDINARY, max_tokens=200, **GREEDY)
    after = assisted.stats()
    assert shape(completion) == shape(undrafted.generate(ORDINARY, max_tokens=200, **GREEDY))
    usage = completion.usage
    assert 100 < usage.accepted_tokens == usage.drafted_tokens
    assert usage.draft_model_drafted_tokens == usage.drafted_tokens
    assert usage.draft_model_accepted_tokens == usage.accepted_tokens
    assert usage.to_dict()["draft_model_accepted_tokens"] == usage.accepted_tokens
    assert after["steps"] - before["steps"] == 200 - usage.accepted_tokens
    for kind in ("drafted", "accepted"):
        name = f"draft_model_{kind}_tokens"
        assert after[name] - before[name] == getattr(usage, name)
    assert after["details"]["draft_model"] == "tiny"
    assert after["details"]["draft_model_problem"] is None
    count = f"{usage.accepted_tokens} of {usage.drafted_tokens} were the draft model's (100%)"
    assert count in completion.explain()


def test_a_stranger_is_soon_asked_no_more(stranger, undrafted):
    with tiny_model(draft_model=stranger, speculation="draft_model") as model:
        for prompt in (ORDINARY, "another prompt"):
            completion = model.generate(prompt, max_tokens=300, **GREEDY)
            assert shape(completion) == shape(undrafted.generate(prompt, max_tokens=300, **GREEDY))
            assert 0 < completion.usage.draft_model_drafted_tokens < 60
        assert stranger.stats()["held_sequences"] == 0


@pytest.mark.parametrize("options", WAYS_TO_DRAW, ids=str)
def test_streams_and_results_are_those_of_generating_without(assisted, undrafted, options):
    assert_undrafted(assisted, undrafted, ORDINARY, max_tokens=80, **options)


def test_sequences_share_the_rows_of_a_step(assisted, undrafted):
    prompts = [f"{ORDINARY} {number}" for number in range(3)]
    before = assisted.stats()
    completions = assisted.generate(prompts, max_tokens=60, progress=False, **GREEDY)
    for prompt, completion in zip(prompts, completions, strict=True):
        assert shape(completion) == shape(undrafted.generate(prompt, max_tokens=60, **GREEDY))
        assert completion.usage.drafted_tokens > 20
    assert assisted.stats()["steps"] - before["steps"] < 50


def test_many_sequences_are_not_drafted_for(assisted):
    prompts = [f"{ORDINARY} {number}" for number in range(40)]
    completions = assisted.generate(prompts, max_tokens=5, progress=False, **GREEDY)
    assert sum(each.usage.drafted_tokens for each in completions) < 40


@pytest.mark.parametrize(
    ("speculation", "by_lookup", "by_model"),
    [("auto", True, True), ("prompt_lookup", True, False), ("draft_model", False, True)],
)
def test_a_request_says_who_drafts(stranger, speculation, by_lookup, by_model):
    with tiny_model(draft_model=stranger) as model:
        asked = stranger.stats()["requests"]
        options = {"max_tokens": 200, "speculation": speculation, **GREEDY}
        usage = model.generate("abcabcabcabcabc", **options).usage
        assert (usage.drafted_tokens > usage.draft_model_drafted_tokens) == by_lookup
        assert (usage.draft_model_drafted_tokens > 0) == by_model
        assert (stranger.stats()["requests"] > asked) == by_model
        asked = stranger.stats()["requests"]
        assert model.generate("ab", speculation="off", max_tokens=9).usage.drafted_tokens == 0
        assert stranger.stats()["requests"] == asked


def test_the_drafter_is_told_new_tokens_only(drafter, undrafted):
    asked = []

    class Asked:
        def __getattr__(self, name):
            return getattr(scheduler, name)

        def tokens_since(self, *arguments):
            found = scheduler.tokens_since(*arguments)
            asked.append(len(found))
            return found

    with tiny_model(draft_model=drafter, speculation="draft_model") as model:
        scheduler = model._engine._scheduler
        model._engine._scheduler = Asked()
        completion = model.generate(ORDINARY, max_tokens=200, **GREEDY)
    assert shape(completion) == shape(undrafted.generate(ORDINARY, max_tokens=200, **GREEDY))
    assert asked[0] > len(ORDINARY)
    assert sum(asked) <= len(completion.prompt_token_ids) + 200
    assert len(asked) > 20


def test_how_much_is_said_by_a_lookup(drafter):
    lookup = PromptLookup(num_speculative_tokens=2, rows_per_pass=40)
    with tiny_model(draft_model=drafter, speculation=lookup) as model:
        completion = model.generate(ORDINARY, max_tokens=90, **GREEDY)
        assert model.stats()["steps"] >= 30
        assert completion.usage.draft_model_accepted_tokens > 20


def test_a_long_prompt_is_caught_up_with_in_parts(undrafted):
    prompt = [int(i) % 250 for i in range(7, 7000, 11)]
    with (
        tiny_model(max_num_batched_tokens=64) as drafter,
        tiny_model(draft_model=drafter, speculation="draft_model") as model,
    ):
        completion = model.generate(prompt, max_tokens=60, **GREEDY)
        assert shape(completion) == shape(undrafted.generate(prompt, max_tokens=60, **GREEDY))
        assert completion.usage.draft_model_accepted_tokens > 20
        assert drafter.stats()["requests"] > 10


def test_who_does_not_fit_into_the_drafters_memory_gets_no_drafts(undrafted):
    prompts = [ORDINARY * 2, "x" * 120]
    expected = [shape(undrafted.generate(p, max_tokens=60, **GREEDY)) for p in prompts]
    for limits in ({"kv_cache": "96 tokens"}, {"max_model_len": 96}):
        with (
            tiny_model(**limits) as drafter,
            tiny_model(draft_model=drafter, speculation="draft_model") as model,
        ):
            completions = model.generate(prompts, max_tokens=60, progress=False, **GREEDY)
            assert [shape(completion) for completion in completions] == expected
            assert completions[0].usage.drafted_tokens > 0
            assert completions[1].usage.drafted_tokens == 0
            assert model.stats()["details"]["draft_model_problem"] is None
            assert drafter.stats()["used_blocks"] == 0


def test_preempted_requests_agree(undrafted, drafter):
    with tiny_model(
        draft_model=drafter,
        speculation=PromptLookup(rows_per_pass=40),
        kv_cache="256 tokens",
        max_model_len=160,
    ) as model:
        assert_undrafted_where_preempted(model, undrafted, num_prompts=12)
        assert model.stats()["draft_model_accepted_tokens"] > 20
    assert drafter.stats()["held_sequences"] == 0


def test_nothing_is_held_for_requests_that_are_over(assisted, drafter):
    stream = assisted.stream(ORDINARY, max_tokens=500, **GREEDY)
    for _, _delta in zip(range(20), stream, strict=False):
        pass
    assert drafter.stats()["held_sequences"] == 1
    stream.close()
    assert assisted.stats()["running_sequences"] == 0
    assert drafter.stats()["held_sequences"] == 0
    with assisted.prefill(ORDINARY) as sequence:
        first = sequence.generate(max_tokens=30, **GREEDY)
        sequence.rewind(20)
        assert sequence.generate(max_tokens=20, **GREEDY).token_ids == first.token_ids[10:]
    assert drafter.stats()["held_sequences"] == 0


def test_the_drafter_may_be_used_at_the_same_time(drafter, assisted, undrafted):
    expected = shape(undrafted.generate(ORDINARY, max_tokens=120, **GREEDY))
    outcomes = []

    def use():
        outcomes.append(shape(drafter.generate(ORDINARY, max_tokens=120, **GREEDY)))

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    outcomes.append(shape(assisted.generate(ORDINARY, max_tokens=120, **GREEDY)))
    for thread in threads:
        thread.join()
    assert outcomes == [expected] * 3


# What can go wrong


def other_vocabulary():
    """Bytes 65 and 66 in each other's place."""
    source, config = byte_tokenizer_files()
    tokenizer = json.loads(source)
    vocab = tokenizer["model"]["vocab"]
    vocab["A"], vocab["B"] = vocab["B"], vocab["A"]
    return Tokenizer.from_json(json.dumps(tokenizer).encode(), config)


def test_another_vocabulary_is_refused_and_the_first_difference_named(monkeypatch):
    monkeypatch.setattr("inferlib.testing.tiny.byte_tokenizer", other_vocabulary)
    with tiny_model() as drafter:
        monkeypatch.setattr("inferlib.testing.tiny.byte_tokenizer", byte_tokenizer)
        with pytest.raises(RequestError, match=r"token 65 is b'B' there and b'A'") as raised:
            tiny_model(draft_model=drafter)
        assert raised.value.field == "draft_model"
        assert drafter.generate("x", max_tokens=2, ignore_eos=True).token_ids


def test_a_model_without_a_tokenizer_does_not_go_with_one_that_has_one(drafter):
    with tiny_model(with_tokenizer=False) as bare:
        for options in (
            {"draft_model": bare},
            {"draft_model": drafter, "with_tokenizer": False},
        ):
            with pytest.raises(RequestError, match="tokenizer") as raised:
                tiny_model(**options)
            assert raised.value.field == "draft_model"
        with tiny_model(with_tokenizer=False, draft_model=bare) as model:
            usage = model.generate([1, 2, 3], max_tokens=60, **GREEDY).usage
            assert usage.draft_model_accepted_tokens > 10


def test_what_cannot_be_a_draft_model_is_refused(tmp_path):
    closed = tiny_model()
    closed.close()
    for draft_model in (closed, 5, b"path", object(), ""):
        with pytest.raises(RequestError) as raised:
            tiny_model(draft_model=draft_model)
        assert raised.value.field == "draft_model"
    with pytest.raises(ModelNotFoundError, match="draft_model"):
        tiny_model(draft_model=tmp_path / "missing")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF\3\0\0\0, but no more")
    with pytest.raises(ModelFormatError, match="draft_model"):
        tiny_model(draft_model=damaged)


def test_settings_that_contradict_each_other_are_refused(drafter, undrafted):
    for speculation in ("off", "prompt_lookup"):
        with pytest.raises(RequestError) as raised:
            tiny_model(draft_model=drafter, speculation=speculation)
        assert raised.value.field == "draft_model"
    with pytest.raises(RequestError) as raised:
        tiny_model(speculation="draft_model")
    assert raised.value.field == "speculation"
    with pytest.raises(RequestError) as raised:
        undrafted.generate("x", speculation="draft_model")
    assert raised.value.field == "speculation"


def test_a_drafter_that_is_closed_or_fails_gives_no_drafts_any_more(undrafted, caplog):
    expected = shape(undrafted.generate(ORDINARY, max_tokens=80, **GREEDY))
    faults = Faults()
    failing = tiny_model(faults=faults)
    closed = tiny_model()
    for drafter, problem in ((failing, "injected"), (closed, "closed")):
        with tiny_model(draft_model=drafter, speculation="draft_model") as model:
            if drafter is failing:
                faults.fail_step(after=5)
            else:
                model.generate(ORDINARY, max_tokens=20, **GREEDY)
                drafter.close()
            completion = model.generate(ORDINARY, max_tokens=80, **GREEDY)
            assert shape(completion) == expected
            assert problem in model.stats()["details"]["draft_model_problem"]
            assert model.generate(ORDINARY, max_tokens=80, **GREEDY).usage.drafted_tokens == 0
    assert caplog.text.count("drafts no more") == 2
    failing.close()


def test_an_interrupt_while_the_drafter_runs_ends_that_call_only(undrafted):
    faults = Faults()
    with (
        tiny_model(faults=faults) as drafter,
        tiny_model(draft_model=drafter, speculation="draft_model") as model,
    ):
        faults.fail_step(KeyboardInterrupt(), after=9)
        handle = model.submit("a", max_tokens=60, **GREEDY)
        with pytest.raises(KeyboardInterrupt):
            model.generate(ORDINARY, max_tokens=80, **GREEDY)
        assert shape(handle.result()) == shape(undrafted.generate("a", max_tokens=60, **GREEDY))
        completion = model.generate(ORDINARY, max_tokens=80, **GREEDY)
        assert shape(completion) == shape(undrafted.generate(ORDINARY, max_tokens=80, **GREEDY))
        assert completion.usage.drafted_tokens > 20
        assert drafter.stats()["held_sequences"] == 0


# The ends


def test_closing_leaves_a_model_that_was_given_to_its_owner():
    drafter = tiny_model()
    with tiny_model(draft_model=drafter) as model:
        stream = model.stream(ORDINARY, max_tokens=500, **GREEDY)
        for _, _delta in zip(range(20), stream, strict=False):
            pass
    assert model.is_closed
    assert not drafter.is_closed
    assert drafter.stats()["held_sequences"] == 0
    with pytest.raises(ClosedError):
        next(stream)
    model.close()
    assert drafter.generate("x", max_tokens=2, ignore_eos=True).token_ids
    drafter.close()


def test_closing_in_the_middle_of_drafting_is_no_hang():
    faults = Faults()
    drafter = tiny_model(faults=faults)
    model = tiny_model(draft_model=drafter, speculation="draft_model")
    is_drafting = threading.Event()
    faults.call_in_step(is_drafting.set, after=4)
    faults.slow_steps(0.05, after=4, steps=50)
    errors = []

    def generate():
        try:
            model.generate(ORDINARY, max_tokens=500, **GREEDY)
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=generate)
    thread.start()
    assert is_drafting.wait(20)
    model.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(errors) == 1
    drafter.close()


def test_a_model_keeps_the_drafter_that_nobody_else_holds():
    drafter = tiny_model()
    reference = weakref.ref(drafter)
    model = tiny_model(draft_model=drafter)
    del drafter
    gc.collect()
    assert reference() is not None
    assert model.generate(ORDINARY, max_tokens=60, **GREEDY).usage.draft_model_drafted_tokens > 0
    model.close()
    del model
    gc.collect()
    assert reference() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_child_is_told_so_and_harms_nobody():
    code = textwrap.dedent(
        """
        import os, inferlib
        from inferlib.testing import tiny_model
        drafter = tiny_model()
        model = tiny_model(draft_model=drafter, speculation="draft_model")
        options = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}
        stream = model.stream("It was a bright cold day", **options)
        for _ in range(5):
            next(stream)
        pid = os.fork()
        if pid == 0:
            try:
                model.generate("x", **options)
            except inferlib.ForkedProcessError:
                model.close()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        list(stream)
        assert stream.completion.usage.draft_model_accepted_tokens > 20
        model.close()
        assert drafter.stats()["held_sequences"] == 0
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def folder(tmp_path):
    """A model in files; see ``test_from_pretrained``."""
    from tests.unit.test_from_pretrained import bare_folder, with_bytes

    return with_bytes(bare_folder(tmp_path))


def test_a_path_is_loaded_and_closed_with_the_model(folder):
    model = Model.from_pretrained(folder, draft_model=folder, threads=1)
    drafts = model._parts.draft_model
    assert drafts._engine._details["threads"] == 1
    completion = model.generate(ORDINARY, max_tokens=60, speculation="draft_model", **GREEDY)
    assert completion.usage.draft_model_accepted_tokens > 20
    model.close()
    assert drafts._engine.is_closed
    model.close()


def test_what_was_loaded_is_closed_if_the_model_cannot_be(folder, monkeypatch):
    opened = []
    original = _core.CpuExecutor.close
    monkeypatch.setattr("inferlib.engine.Engine.close", lambda self: opened.append(self._executor))
    with pytest.raises(ModelNotFoundError):
        Model.from_pretrained(folder / "missing", draft_model=folder, threads=1)
    assert len(opened) == 1
    original(opened[0])


@pytest.mark.parametrize("is_given", [True, False])
def test_a_copy_has_a_drafter_of_its_own(folder, is_given):
    given = Model.from_pretrained(folder, threads=1) if is_given else folder
    with (
        Model.from_pretrained(folder, draft_model=given, threads=1) as model,
        pickle.loads(pickle.dumps(model)) as copy,
    ):
        drafts = copy._parts.draft_model
        assert drafts._engine is not model._parts.draft_model._engine
        options = {"max_tokens": 60, "speculation": "draft_model", **GREEDY}
        completion = copy.generate(ORDINARY, **options)
        assert shape(completion) == shape(model.generate(ORDINARY, **options))
        assert completion.usage.draft_model_accepted_tokens > 20
    assert drafts._engine.is_closed != is_given
    if is_given:
        given.close()


def test_a_model_of_given_weights_takes_one_too(drafter):
    import numpy as np

    from inferlib.testing import tiny  # its spec as a configuration

    generator = np.random.default_rng(0)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": tiny.VOCAB_SIZE,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    shapes = {
        "model.embed_tokens.weight": (tiny.VOCAB_SIZE, 64),
        "model.norm.weight": (64,),
        "model.layers.0.input_layernorm.weight": (64,),
        "model.layers.0.post_attention_layernorm.weight": (64,),
        "model.layers.0.self_attn.q_proj.weight": (64, 64),
        "model.layers.0.self_attn.k_proj.weight": (32, 64),
        "model.layers.0.self_attn.v_proj.weight": (32, 64),
        "model.layers.0.self_attn.o_proj.weight": (64, 64),
        "model.layers.0.mlp.gate_proj.weight": (128, 64),
        "model.layers.0.mlp.up_proj.weight": (128, 64),
        "model.layers.0.mlp.down_proj.weight": (64, 128),
    }
    weights = {name: generator.standard_normal(size) * 0.1 for name, size in shapes.items()}
    with Model.from_weights(
        config, weights, tokenizer=byte_tokenizer(), draft_model=drafter, threads=1
    ) as model:
        assert model.generate("abc", max_tokens=30, **GREEDY).usage.draft_model_drafted_tokens > 0


def test_its_decisions_replay(tmp_path, drafter):
    path = tmp_path / "decisions.log"
    with tiny_model(draft_model=drafter, decision_log=path, max_num_seqs=4) as model:
        handles = [
            model.submit(f"{ORDINARY} {i}", max_tokens=40, n=1 + i % 2, **GREEDY) for i in range(5)
        ]
        handles[3].cancel()
        for handle in handles:
            handle.result()
        stats = model.stats()
    assert stats["draft_model_accepted_tokens"] > 20
    facts = _core.replay_decisions(path)
    assert facts["num_steps"] == stats["steps"]
    assert facts["num_output_tokens"] == stats["output_tokens"]
