"""Names of Hugging Face's hub: a hub on this machine, asked by the real ``huggingface_hub``."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from tests.checkpoints import TINY
from tests.gguf_checkpoints import write_gguf
from tests.integrations.hub_server import Hub, run_python

from inferlib import Model, RequestError
from inferlib.hub import HubName, parse_hub_name

pytest.importorskip("huggingface_hub", reason="`make test` installs huggingface_hub")

ASK = """
import json, sys
from inferlib import Model, ModelError
def ask(name, **options):
    try:
        with Model.from_pretrained(name, threads=1, **options) as model:
            options = {"max_tokens": 5, "temperature": 0, "detokenize": False}
            return model.generate([5, 6, 7], **options).token_ids
    except ModelError as error:
        return [type(error).__name__, str(error)]
print(json.dumps({calls}))
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    root = tmp_path_factory.mktemp("repositories")
    full = shutil.copytree(TINY / "llama", root / "full")
    for name in (
        "consolidated.00.safetensors",
        "pytorch_model.bin",
        "README.md",
        "onnx/model.onnx",
    ):
        (full / name).parent.mkdir(exist_ok=True)
        (full / name).write_bytes(b"not wanted")
    packed = root / "packed"
    (packed / "q").mkdir(parents=True)
    write_gguf("qwen2", packed / "q" / "tiny.gguf")
    old = root / "old"
    old.mkdir()
    shutil.copy(TINY / "llama" / "config.json", old)
    (old / "pytorch_model.bin").write_bytes(b"pickle")
    return {"org/full": full, "org/packed-gguf": packed, "org/old": old}


def ask(calls, hub_or_url, cache, **environment):
    url = hub_or_url if isinstance(hub_or_url, str) else hub_or_url.url
    code = ASK.replace("{calls}", "[" + ", ".join(f"ask({call})" for call in calls) + "]")
    return json.loads(run_python(code, url, cache, **environment).splitlines()[-1])


def tokens_of(path):
    with Model.from_pretrained(path, threads=1) as model:
        prompt = [5, 6, 7]
        return model.generate(prompt, max_tokens=5, temperature=0, detokenize=False).token_ids


def test_models_are_fetched_once_and_then_found_without_the_hub(repositories, tmp_path):
    calls = ['"org/full"', '"org/packed-gguf/q/tiny.gguf"', '"org/full", revision="v1.0"']
    expected = [tokens_of(repositories["org/full"])] * 3
    expected[1] = tokens_of(repositories["org/packed-gguf"] / "q" / "tiny.gguf")
    with Hub(repositories) as hub:
        assert ask(calls, hub, tmp_path) == expected
        wanted = ["config.json", "generation_config.json", "model.safetensors"]
        assert sorted(set(hub.fetched)) == [*wanted, "q/tiny.gguf"]
        hub.fetched.clear()
        assert ask(calls, hub, tmp_path) == expected
        assert not hub.fetched
    assert ask(calls[:2], hub, tmp_path, HF_HUB_OFFLINE="1") == expected[:2]


def test_what_cannot_be_had_is_said(repositories, tmp_path):
    calls = [
        '"org/missing"',
        '"org/gated"',
        '"org/full", revision="v9"',
        '"org/packed-gguf/q/other.gguf"',
        '"org/old"',
        '"org/packed-gguf"',
    ]
    with Hub(repositories, gated=("org/gated",)) as hub:
        answers = ask(calls, hub, tmp_path)
    for answer, words in zip(
        answers,
        [
            ("ModelNotFoundError", "does not exist, neither here"),
            ("ModelNotFoundError", "only by those who were given access"),
            ("ModelNotFoundError", "no revision 'v9'"),
            ("ModelNotFoundError", "no file 'q/other.gguf'"),
            ("UnsupportedModelError", "no safetensors"),
            ("UnsupportedModelError", "no safetensors"),
        ],
        strict=True,
    ):
        assert answer[0] == words[0]
        assert words[1] in answer[1]


def test_without_the_hub_and_without_a_cache(tmp_path):
    (offline,) = ask(['"org/full"'], "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert offline[0] == "ModelNotFoundError"
    assert "not in the cache" in offline[1]
    (unreachable,) = ask(['"org/full"'], "http://127.0.0.1:9", tmp_path)
    assert unreachable[0] == "ModelNotFoundError"


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match="needs the package 'huggingface_hub'"):
        Model.from_pretrained("org/name")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", ("org/name", None, None)),
        ("org/name@main", ("org/name", None, "main")),
        ("org/name/a/b.gguf@refs/pr/1", ("org/name", "a/b.gguf", "refs/pr/1")),
        ("name", None),
        ("./org/name", None),
        ("/org/name", None),
        ("../org/name", None),
        ("org/name/folder", None),
        ("models/tiny.gguf", None),
        ("org\\name", None),
    ],
)
def test_names(name, expected):
    found = parse_hub_name(name)
    if expected is None:
        assert found is None
    else:
        repository, file, revision = expected
        assert found == HubName(repository=repository, file=file, revision=revision)


@pytest.mark.parametrize(
    ("name", "revision"), [("smollm2", "main"), ("org/name@a", "b"), ("org/name", ""), ("o/n", 3)]
)
def test_a_revision_of_what_has_none_is_refused(name, revision):
    with pytest.raises(RequestError) as caught:
        Model.from_pretrained(name, revision=revision)
    assert caught.value.field == "revision"
