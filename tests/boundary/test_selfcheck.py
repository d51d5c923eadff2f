"""``python -m inferlib selfcheck``: all is well here, and what is not well would be found."""

from __future__ import annotations

import json
import sys

import pytest

import inferlib
from inferlib.cli import main
from inferlib.cli.selfcheck import CHECKS, check

BAD_GUESTS = {
    "import": ("import ssl", "it imports socket, ssl"),
    "host's state": ("import os; os.environ['GUEST'] = '1'", "changes the environment"),
    "exit": ("print('hello')", "it writes: hello"),
    "memory back": ("files = []", "threads, files"),
    "Ctrl-C": ("import signal; signal.signal = lambda *_: None", "not seen"),
}
TESTING = """
import contextlib, os, signal, time
class Completion:
    token_ids = [1]
class Model:
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def stats(self): return {"free_blocks": 1, "total_blocks": 1}
    def stream(self, *_, **__): return iter([1])
    def submit(self, *_, **__): pass
    async def agenerate(self, *_, **__): pass
    def generate(self, *_, **options):
        if options.get("max_tokens", 0) > 1000:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.2)
        return Completion()
def tiny_model(**_):
    os.open(os.devnull, os.O_RDONLY)
    return Model()
"""


@pytest.mark.parametrize("name", CHECKS)
def test_all_is_well_here(name):
    result = check(name)
    assert "found" in result, result


@pytest.mark.parametrize("name", BAD_GUESTS)
def test_a_bad_guest_is_found_out(name, tmp_path, monkeypatch):
    code, says = BAD_GUESTS[name]
    package = tmp_path / "guest"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    (package / "testing.py").write_text(f"{code}\n{TESTING}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    result = check(name, "guest")
    assert says in result.get("problem", ""), result


def test_the_command_says_so_and_its_exit_code_too(capsys, monkeypatch):
    assert main(["selfcheck", "two models", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["capabilities"] == json.loads(json.dumps(inferlib.capabilities())) | {
        "free_bytes": report["capabilities"]["free_bytes"]
    }
    assert "found" in report["two models"]
    assert main(["selfcheck", "nothing"]) == 2
    assert "no check 'nothing'" in capsys.readouterr().err
    monkeypatch.setattr("inferlib.cli.selfcheck.check", lambda _: {"problem": "it barks"})
    assert main(["selfcheck", "fork"]) == 1
    assert "PROBLEM" in capsys.readouterr().out


def test_capabilities_are_what_models_take():
    found = inferlib.capabilities()
    assert set(found) == set(inferlib.Capabilities.__annotations__)
    from inferlib.testing import tiny_model

    for precision in found["precisions"]:
        tiny_model(precision=precision).close()
    for dtype in found["kv_cache_dtypes"]:
        tiny_model(kv_cache_dtype=dtype).close()
    for policy in found["scheduling_policies"]:
        tiny_model(scheduling_policy=policy).close()
    assert "LlamaForCausalLM" in found["architectures"]
