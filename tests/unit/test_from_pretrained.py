"""From files to a model that answers; and every way in which files can be wrong."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inferlib import (
    Model,
    ModelFormatError,
    ModelNotFoundError,
    OutOfMemoryError,
    RequestError,
    TemplateError,
    UnsupportedModelError,
)
from inferlib.testing import BOS_ID, EOS_ID, VOCAB_SIZE, byte_tokenizer_files

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "tiny" / "llama"


@pytest.fixture
def bare(tmp_path):
    """A checkpoint without a tokenizer, to be damaged."""
    return bare_folder(tmp_path)


def bare_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, folder / name)
    return folder


@pytest.fixture
def folder(bare):
    """The same model with a vocabulary of bytes, its tokenizer and its chat template."""
    return with_bytes(bare)


def with_bytes(bare: Path) -> Path:
    tensors = load_file(bare / "model.safetensors")
    generator = np.random.default_rng(0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = generator.standard_normal((VOCAB_SIZE, 64), np.float32)
    save_file(tensors, bare / "model.safetensors")
    change(bare / "config.json", vocab_size=VOCAB_SIZE, bos_token_id=BOS_ID, eos_token_id=EOS_ID)
    change(bare / "generation_config.json", bos_token_id=BOS_ID, eos_token_id=[EOS_ID, 10])
    tokenizer, config = byte_tokenizer_files()
    (bare / "tokenizer.json").write_bytes(tokenizer)
    (bare / "tokenizer_config.json").write_bytes(config)
    return bare


def change(path: Path, **values) -> None:
    """Set keys of a JSON file; ``None`` removes one."""
    content = json.loads(path.read_text()) | values
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept))


class TestLoading:
    def test_a_folder_with_everything(self, folder):
        with Model.from_pretrained(folder) as model:
            completion = model.generate("hello", max_tokens=5, temperature=0)
            assert completion.prompt_token_ids == list(b"hello")
            assert "bare: llama" in repr(model)
            assert model.max_model_len == 256
            chat = model.chat([{"role": "user", "content": "hi"}], max_tokens=3)
            assert chat.prompt_token_ids[0] == BOS_ID

    def test_end_tokens_of_all_files_stop(self, folder):
        with Model.from_pretrained(folder) as model:
            for token in (EOS_ID, 10):
                completion = model.generate("x", allowed_token_ids=[token], max_tokens=5)
                assert (completion.token_ids, completion.finish_reason) == ([token], "stop")
                assert completion.stop_reason is None

    def test_generation_config_gives_the_defaults(self, folder):
        change(folder / "generation_config.json", temperature=0.4, top_k=3, do_sample=True)
        with Model.from_pretrained(folder) as model:
            params = model.generate("x", max_tokens=2).params
            assert (params.temperature, params.top_k) == (0.4, 3)
            assert model.generate("x", max_tokens=2, top_k=9).params.top_k == 9

    def test_a_checkpoint_without_a_tokenizer_works_with_token_ids(self, bare):
        with Model.from_pretrained(str(bare)) as model:
            assert model.tokenizer is None
            completion = model.generate([1, 5, 9], max_tokens=4, temperature=0)
            assert len(completion.token_ids) == 4
            with pytest.raises(RequestError, match="no tokenizer"):
                model.generate("text")
            with pytest.raises(RequestError, match="no tokenizer"):
                model.chat([{"role": "user", "content": "x"}])
            with pytest.raises(RequestError, match="bad_words"):
                model.generate([1], bad_words=["x"])

    def test_exact_equals_the_golden_greedy_continuation(self):
        golden = np.load(GOLDEN / "reference.npz")
        with Model.from_pretrained(GOLDEN, precision="exact") as model:
            completions = model.generate(
                golden["input_ids"].tolist(), max_tokens=16, temperature=0, ignore_eos=True
            )
        assert [each.token_ids for each in completions] == golden["greedy"].tolist()

    def test_loading_without_blocking_the_loop(self, folder):
        async def main():
            async with await Model.afrom_pretrained(folder, threads=1) as model:
                return (await model.agenerate("x", max_tokens=2)).token_ids

        assert len(asyncio.run(main())) == 2

    def test_an_error_while_loading_in_a_thread_is_raised_where_it_is_awaited(self):
        with pytest.raises(ModelNotFoundError):
            asyncio.run(Model.afrom_pretrained("/nowhere"))

    def test_a_pickled_model_is_loaded_by_path(self, folder):
        with Model.from_pretrained(folder, kv_cache="1k tokens", threads=1) as model:
            twin = pickle.loads(pickle.dumps(model))
            with twin:
                assert twin.generate("x", max_tokens=5, temperature=0).token_ids == (
                    model.generate("x", max_tokens=5, temperature=0).token_ids
                )
                assert twin.stats()["total_blocks"] == model.stats()["total_blocks"] == 64

    def test_a_template_of_its_own_for_tools(self, folder):
        templates = [
            {"name": "default", "template": "{{ messages[0].content }}"},
            {"name": "tool_use", "template": "{{ tools[0].name }}{# <tool_call> #}"},
        ]
        change(folder / "tokenizer_config.json", chat_template=templates)
        messages, options = [{"role": "user", "content": "hi"}], {"max_tokens": 1}
        with Model.from_pretrained(folder) as model:
            assert model.chat(messages, **options).prompt == "hi"
            completion = model.chat(messages, tools=[{"name": "add"}], **options)
            assert completion.prompt == "add"
            assert completion.outputs[0].raw_text is not None  # it is read for calls
        with Model.from_pretrained(folder, chat_template="x") as model:
            assert model.chat(messages, tools=[{"name": "add"}], **options).prompt == "x"

    def test_a_given_chat_template_replaces_the_checkpoints(self, folder):
        with Model.from_pretrained(folder, chat_template="{{ messages[0].content }}!") as model:
            assert model.chat([{"role": "user", "content": "hi"}], max_tokens=1).prompt == "hi!"

    def test_a_malformed_template_of_a_checkpoint_is_an_error_of_chat_only(self, folder):
        change(folder / "tokenizer_config.json", chat_template="{% if %}")
        with Model.from_pretrained(folder) as model:
            assert model.generate("x", max_tokens=1).token_ids
            for _ in range(2):
                with pytest.raises(TemplateError):
                    model.chat([{"role": "user", "content": "x"}])
        with pytest.raises(TemplateError):
            Model.from_pretrained(folder, chat_template="{% for %}")
        with pytest.raises(RequestError, match="chat_template"):
            Model.from_pretrained(folder, chat_template=3)


class TestBadFiles:
    def refused(self, error, path, match, **options):
        threads = threading.active_count()
        with pytest.raises(error, match=match) as raised:
            Model.from_pretrained(path, **options)
        assert threading.active_count() == threads
        return raised.value

    def test_nothing_there(self, tmp_path):
        self.refused(ModelNotFoundError, "/nowhere/model.gguf", "/nowhere/model.gguf")
        self.refused(FileNotFoundError, "no-such-alias", "no-such-alias")
        self.refused(ModelNotFoundError, tmp_path, str(tmp_path))

    def test_an_empty_prompt(self, folder):
        with Model.from_pretrained(folder) as model, pytest.raises(RequestError, match="empty"):
            model.generate("")

    def test_a_tokenizer_of_another_model(self, bare):
        tokenizer, config = byte_tokenizer_files()
        (bare / "tokenizer.json").write_bytes(tokenizer)
        (bare / "tokenizer_config.json").write_bytes(config)
        self.refused(ModelFormatError, bare, "258 tokens but the model only 160")

    @pytest.mark.parametrize("content", [b"", b"{", b'{"model": 3}', b"\xff\xfe", b"[]"])
    def test_a_damaged_tokenizer(self, folder, content):
        (folder / "tokenizer.json").write_bytes(content)
        self.refused(ModelFormatError, folder, "tokenizer")

    @pytest.mark.parametrize("length", [0, 4, 100, 1000, 10_000])
    def test_truncated_weights(self, bare, length):
        weights = bare / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:length])
        self.refused(ModelFormatError, bare, "model.safetensors")

    def test_no_configuration(self, bare):
        (bare / "config.json").unlink()
        self.refused(ModelNotFoundError, bare, "config.json")

    def test_another_architecture_is_named(self, bare):
        change(bare / "config.json", architectures=["MambaForCausalLM"], model_type="mamba")
        self.refused(UnsupportedModelError, bare, "Mamba")

    def test_a_configuration_of_another_model(self, bare):
        change(bare / "config.json", hidden_size=128)
        self.refused(ModelFormatError, bare, "do not fit its configuration")

    def test_not_a_model_at_all(self, tmp_path):
        page = tmp_path / "model.gguf"
        page.write_text("<!DOCTYPE html><html>Not found</html>")
        self.refused(ModelFormatError, page, "model.gguf")

    def test_too_little_memory_is_said_before_anything_is_loaded(self, bare, monkeypatch):
        monkeypatch.setattr("inferlib.model_size.free_bytes", lambda: 1000)
        error = self.refused(OutOfMemoryError, bare, "are free")
        assert error.available == 1000
        assert error.required > 100_000
        monkeypatch.setattr("inferlib.model_size.free_bytes", lambda: 2**40)
        self.refused(RequestError, bare, "kv_cache", kv_cache=2**30)

    def test_a_context_is_fitted_to_the_cache_unless_it_was_asked_for(self, bare):
        with Model.from_pretrained(bare, kv_cache="100 tokens") as model:
            assert model.max_model_len == 112
        with Model.from_pretrained(bare, kv_cache="100 tokens", max_model_len=200) as model:
            assert model.max_model_len == 200
            with pytest.raises(RequestError, match="KV cache holds 112"):
                model.generate([1] * 150)
