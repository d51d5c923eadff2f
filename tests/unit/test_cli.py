"""The command line, run within this process on the tiny model and on tiny checkpoints."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.quantized_folders import FORMS, write

from inferlib import cli
from inferlib.cli import chat, generate, options
from inferlib.errors import OutOfMemoryError
from inferlib.testing import tiny_model

CHECKPOINT = Path(__file__).parents[1] / "golden" / "data" / "tiny" / "llama"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def tiny(monkeypatch):
    """Commands load the tiny model, whatever name they are given."""
    loaded = []

    def load_model(namespace, *, chat_template=None):
        loaded.append(tiny_model(chat_template=chat_template, kv_cache=namespace.kv_cache))
        return loaded[-1]

    for command in (generate, chat):
        monkeypatch.setattr(command, "load_model", load_model)
    yield loaded
    assert all(model.is_closed for model in loaded)


def run(capsys, *arguments, stdin=None, monkeypatch=None):
    """Run a command line; its exit code and what it wrote."""
    if stdin is not None:
        monkeypatch.setattr(sys, "stdin", stdin)
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("tiny")
class TestGenerate:
    def test_it_writes_the_continuation_and_nothing_else(self, capsys):
        code, out, err = run(capsys, "generate", "tiny", "hello", "-t", "0", "-n", "12")
        with tiny_model() as model:
            expected = model.generate("hello", temperature=0, max_tokens=12).text
        assert (code, out, err) == (0, expected + "\n", "")

    def test_the_prompt_may_come_from_stdin(self, capsys, monkeypatch):
        given = run(capsys, "generate", "tiny", "hello", "-t", "0", "-n", "5")
        read = run(
            capsys,
            *("generate", "tiny", "-t", "0", "-n", "5"),
            stdin=io.StringIO("hello"),
            monkeypatch=monkeypatch,
        )
        assert read == given

    def test_timings_go_to_stderr(self, capsys):
        _, _, err = run(capsys, "generate", "tiny", "hello", "-n", "5", "--timings")
        assert err.startswith("[5 prompt tokens, 0 cached; 5 tokens in")

    def test_errors_are_one_line_without_traceback(self, capsys):
        code, out, err = run(capsys, "generate", "tiny", "x" * 2000)
        assert (code, out) == (1, "")
        assert err.startswith("inferlib: this prompt has 2,000 tokens")
        assert err.count("\n") == 1
        code, _, err = run(capsys, "generate", "tiny", "x", "--top-p", "7")
        assert (code, err) == (1, "inferlib: top_p must be from 0 to 1, not 7.0\n")
        code, _, err = run(capsys, "generate", "tiny", "x", "--kv-cache", "5")
        assert code == 1
        assert "64k tokens" in err

    def test_an_interrupt_ends_it(self, monkeypatch):
        def interrupt(_):
            raise KeyboardInterrupt

        monkeypatch.setattr(sys.stdout, "write", interrupt)
        assert cli.main(["generate", "tiny", "x"]) == 130


@pytest.mark.usefixtures("tiny")
class TestChat:
    def test_a_conversation_from_a_file(self, capsys, monkeypatch):
        code, out, err = run(
            capsys,
            *("chat", "tiny", "-t", "0", "-n", "6", "--system", "Be brief."),
            stdin=io.StringIO("hi\n\nand?\n/reset\nhi\n"),
            monkeypatch=monkeypatch,
        )
        with tiny_model() as model:
            messages = [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
            ]
            first = model.chat(messages, temperature=0, max_tokens=6).text
            messages += [
                {"role": "assistant", "content": first},
                {"role": "user", "content": "and?"},
            ]
            second = model.chat(messages, temperature=0, max_tokens=6).text
        assert (code, err) == (0, "")
        assert out == f"{first}\n{second}\n{first}\n"

    def test_a_message_that_is_refused_does_not_end_it(self, capsys, monkeypatch):
        code, out, err = run(
            capsys,
            *("chat", "tiny", "-n", "3"),
            stdin=io.StringIO("x" * 3000 + "\nhi\n/exit\nnever\n"),
            monkeypatch=monkeypatch,
        )
        assert code == 0
        assert "this prompt has" in err
        assert out.count("\n") >= 1

    def test_a_template_from_a_file(self, capsys, monkeypatch, tmp_path):
        path = tmp_path / "template.jinja"
        path.write_text("{{ raise_exception('refused') }}")
        code, _, err = run(
            capsys,
            *("chat", "tiny", "--chat-template", str(path)),
            stdin=io.StringIO("hi\n"),
            monkeypatch=monkeypatch,
        )
        assert code == 0
        assert "refused" in err
        code, _, err = run(capsys, "chat", "tiny", "--chat-template", str(tmp_path / "none"))
        assert code == 1
        assert "cannot be read" in err

    def test_ctrl_c_ends_an_answer_and_not_the_chat(self, capsys, monkeypatch):
        lines = iter(["hi", KeyboardInterrupt(), "again", EOFError()])

        def read(_):
            line = next(lines)
            if isinstance(line, BaseException):
                raise line
            return line

        write, interrupts = sys.stdout.write, [True]

        def interrupt_once(text):
            if interrupts and text != "\n":
                interrupts.pop()
                raise KeyboardInterrupt
            return write(text)

        monkeypatch.setattr("builtins.input", read)
        monkeypatch.setattr(sys.stdout, "write", interrupt_once)
        code, out, err = run(
            capsys, "chat", "tiny", "-n", "4", stdin=Terminal(), monkeypatch=monkeypatch
        )
        assert code == 0
        assert "Ctrl-C ends an answer" in err
        assert len(out) > 3


class TestInfo:
    def test_a_checkpoint(self, capsys):
        code, out, err = run(capsys, "info", str(CHECKPOINT))
        assert (code, err) == (0, "")
        for name in ("file", "format", "model", "attention", "context", "KV cache", "memory"):
            assert f"\n{name}" in f"\n{out}"
        assert "safetensors" in out
        assert "no tokenizer" in out

    def test_json(self, capsys):
        code, out, _ = run(capsys, "info", str(CHECKPOINT), "--json")
        facts = json.loads(out)
        config = json.loads((CHECKPOINT / "config.json").read_text())
        assert code == 0
        assert facts["architecture"] == "llama"
        assert facts["vocab_size"] == config["vocab_size"]
        assert facts["layers"] == config["num_hidden_layers"]
        assert facts["kv_bytes_per_token"]["exact"] == 2 * facts["kv_bytes_per_token"]["fast"]

    def test_a_model_that_is_too_large_is_still_described(self, capsys, monkeypatch):
        def too_large(*_):
            raise OutOfMemoryError("too large")

        monkeypatch.setattr("inferlib.cli.info.size_of", too_large)
        code, out, _ = run(capsys, "info", str(CHECKPOINT))
        assert code == 0
        assert "too much for this machine" in out

    def test_what_is_not_there(self, capsys):
        code, out, err = run(capsys, "info", "/nowhere/model.gguf")
        assert (code, out) == (1, "")
        assert "/nowhere/model.gguf" in err
        assert err.count("\n") == 1


class TestCommandLine:
    @pytest.mark.parametrize("command", ["generate", "chat", "info"])
    def test_help(self, command, capsys):
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0
        assert "MODEL" in capsys.readouterr().out

    @pytest.mark.parametrize("line", [[], ["nope"], ["generate"], ["info", "x", "--what"]])
    def test_a_wrong_command_line_is_code_2(self, line, capsys):
        with pytest.raises(SystemExit) as ended:
            cli.main(line)
        assert ended.value.code == 2
        assert "usage" in capsys.readouterr().err

    def test_python_m_inferlib(self):
        process = subprocess.run(
            [sys.executable, "-m", "inferlib", "info", str(CHECKPOINT)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert "llama" in process.stdout

    def test_a_reader_that_goes_away_is_no_traceback(self):
        process = subprocess.Popen(
            [sys.executable, "-m", "inferlib", "info", str(CHECKPOINT)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(timeout=60) == 1
        process.stderr.close()


def test_what_quantizing_changes_is_said(capsys):
    parser = argparse.ArgumentParser()
    options.add_model_arguments(parser)
    namespace = parser.parse_args([str(CHECKPOINT), "--quantize", "q4_0"])
    with options.load_model(namespace) as model:
        details = model.stats()["details"]["quantization"]
    err = capsys.readouterr().err
    assert err.startswith(f"[{details['matrices']} matrices quantized to Q4_0, which changes them")
    assert f"most {details['worst_matrix']}: " in err


def test_info_of_a_published_quantization_is_of_its_files(capsys, tmp_path):
    folder, _ = write(tmp_path, FORMS["packed"])
    code, out, _ = run(capsys, "info", str(folder), "--json")
    facts = json.loads(out)
    assert (code, facts["format"], facts["files"]) == (0, "safetensors", 1)
    assert facts["file_bytes"] == (folder / "model.safetensors").stat().st_size
    assert facts["tensor_types"]["Q4_0"] == 21
