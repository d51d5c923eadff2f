"""``packed_cache``: the same bits from memory and file, whatever happens to either."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.checkpoints import TINY
from tests.gguf_checkpoints import write_gguf

import inferlib
from inferlib import Model, ModelFormatError, RequestError
from inferlib.testing import tiny_model

PROMPT = [1, 5, 9, 2, 7]
PACKAGE = Path(inferlib.__file__).parent


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of a tiny checkpoint, to be changed."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / "llama" / name, folder / name)
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "deep" / "cache"


def answer(path, **options):
    """Tokens and logprobs: every bit of them."""
    with Model.from_pretrained(path, threads=2, **options) as model:
        completion = model.generate(PROMPT, max_tokens=12, temperature=0, logprobs=3)
        return completion.token_ids, repr(completion.logprobs)


def names(folder: Path, ending: str) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(ending))


def the_file(folder: Path) -> Path:
    (name,) = names(folder, ".packed")
    return folder / name


def change(checkpoint: Path) -> None:
    """Change the weights, in place, in a file of the same size with the old modification time."""
    path = checkpoint / "model.safetensors"
    stat = path.stat()
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    values = np.frombuffer(data[start:], np.float32)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(np.flip(values).tobytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size


class TestSameBits:
    @pytest.mark.parametrize("precision", ["fast", "exact"])
    def test_with_and_without_it_written_and_opened(self, checkpoint, cache, precision):
        plain = answer(checkpoint, precision=precision)
        for _ in range(3):
            assert answer(checkpoint, precision=precision, packed_cache=cache) == plain
        assert answer(checkpoint, precision=precision, packed_cache=cache, mmap=False) == plain
        the_file(cache)

    def test_gguf_whose_rows_are_moved(self, tmp_path, cache):
        path = tmp_path / "model.gguf"
        write_gguf("llama", path)
        plain = answer(path)
        assert answer(path, packed_cache=str(cache)) == plain
        assert answer(path, packed_cache=str(cache)) == plain

    def test_a_file_serves_both_precisions(self, checkpoint, cache):
        answer(checkpoint, precision="fast", packed_cache=cache)
        answer(checkpoint, precision="exact", packed_cache=cache)
        the_file(cache)

    def test_a_copy_of_the_checkpoint_shares_the_file(self, checkpoint, cache, tmp_path):
        plain = answer(checkpoint, packed_cache=cache)
        shutil.copytree(checkpoint, tmp_path / "copy")
        assert answer(tmp_path / "copy", packed_cache=cache) == plain
        the_file(cache)

    def test_the_checkpoint_may_change_under_a_loaded_model(self, checkpoint, cache):
        plain = answer(checkpoint, packed_cache=cache)
        with Model.from_pretrained(checkpoint, threads=2, packed_cache=cache) as model:
            (checkpoint / "model.safetensors").unlink()
            the_file(cache).unlink()
            completion = model.generate(PROMPT, max_tokens=12, temperature=0, logprobs=3)
        assert (completion.token_ids, repr(completion.logprobs)) == plain

    def test_a_pickled_model_uses_it_again(self, checkpoint, cache):
        with Model.from_pretrained(checkpoint, packed_cache=cache) as model:
            copy = pickle.loads(pickle.dumps(model))
        with copy:
            assert copy.generate(PROMPT, max_tokens=3).token_ids
        the_file(cache)


class TestStale:
    def test_a_checkpoint_changed_in_place_is_seen(self, checkpoint, cache):
        before = answer(checkpoint, packed_cache=cache)
        change(checkpoint)
        after = answer(checkpoint)
        assert after != before
        assert answer(checkpoint, packed_cache=cache) == after
        assert len(names(cache, ".packed")) == 2, "the other file is not ours to delete"

    def test_a_checkpoint_replaced_by_another_file_is_seen(self, checkpoint, cache, tmp_path):
        before = answer(checkpoint, packed_cache=cache)
        shutil.copytree(checkpoint, tmp_path / "other")
        change(tmp_path / "other")
        (tmp_path / "other" / "model.safetensors").replace(checkpoint / "model.safetensors")
        after = answer(checkpoint)
        assert after != before
        assert answer(checkpoint, packed_cache=cache) == after

    @pytest.mark.slow
    def test_also_once_it_was_remembered(self, checkpoint, cache):
        # Files that were written to within the last three seconds are not remembered.
        time.sleep(3.2)
        before = answer(checkpoint, packed_cache=cache)
        assert names(cache, ".source")
        assert answer(checkpoint, packed_cache=cache) == before
        change(checkpoint)
        after = answer(checkpoint)
        assert after != before
        assert answer(checkpoint, packed_cache=cache) == after
        time.sleep(3.2)
        assert answer(checkpoint, packed_cache=cache) == after

    def test_a_fresh_checkpoint_is_not_remembered(self, checkpoint, cache):
        (checkpoint / "model.safetensors").touch()
        answer(checkpoint, packed_cache=cache)
        assert names(cache, ".source") == []

    def test_another_use_of_the_same_files_gets_a_file_of_its_own(self, checkpoint, cache):
        answer(checkpoint, packed_cache=cache)
        config = json.loads((checkpoint / "config.json").read_text())
        config["num_hidden_layers"] -= 1
        (checkpoint / "config.json").write_text(json.dumps(config))
        tensors = load_file(checkpoint / "model.safetensors")
        last = f"model.layers.{config['num_hidden_layers']}."
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(last)}
        save_file(kept, checkpoint / "model.safetensors")
        plain = answer(checkpoint)
        assert answer(checkpoint, packed_cache=cache) == plain
        assert len(names(cache, ".packed")) == 2


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def cut_to_the_header(path: Path) -> None:
    os.truncate(path, 4096)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def extend(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 4096)


def flip(offset: int):
    def flip(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 4]))

    flip.__name__ = f"flip_{offset}"
    return flip


DATA = 2 * 2**20
"""Where the image begins."""


class TestDamage:
    @pytest.mark.parametrize(
        "damage",
        [cut, cut_to_the_header, empty, extend, flip(0), flip(20), flip(4090), flip(DATA + 5)],
        ids=lambda damage: damage.__name__,
    )
    def test_a_damaged_file_is_replaced_and_told(self, checkpoint, cache, caplog, damage):
        plain = answer(checkpoint, packed_cache=cache)
        path = the_file(cache)
        whole = path.read_bytes()
        path.chmod(0o644)
        damage(path)
        with caplog.at_level(logging.WARNING, logger="inferlib"):
            assert answer(checkpoint, packed_cache=cache) == plain
        assert path.name in caplog.text
        assert path.read_bytes()[DATA:] == whole[DATA:]
        caplog.clear()
        assert answer(checkpoint, packed_cache=cache) == plain
        assert caplog.text == ""

    def test_what_a_crash_left_is_no_hindrance(self, checkpoint, cache):
        plain = answer(checkpoint, packed_cache=cache)
        path = the_file(cache)
        path.unlink()
        path.with_suffix(".partial").write_bytes(b"x" * 10_000)
        assert answer(checkpoint, packed_cache=cache) == plain
        assert sorted(p.name for p in cache.iterdir() if p.suffix != ".source") == [path.name]

    def test_a_damaged_record_is_no_hindrance(self, cache):
        plain = answer(TINY / "llama", packed_cache=cache)
        for record in cache.glob("*.source"):
            record.write_bytes(b"\xff\x00nonsense")
        assert answer(TINY / "llama", packed_cache=cache) == plain


class TestFolder:
    def refused(self, checkpoint, value):
        with pytest.raises(RequestError) as raised:
            Model.from_pretrained(checkpoint, packed_cache=value)
        assert raised.value.field == "packed_cache"
        return raised.value

    @pytest.mark.parametrize("value", ["", 3, True, b"folder", ["folder"]])
    def test_what_is_no_path_is_refused(self, checkpoint, value):
        self.refused(checkpoint, value)

    def test_a_file_in_its_place_is_refused(self, checkpoint, tmp_path):
        (tmp_path / "file").write_text("")
        error = self.refused(checkpoint, tmp_path / "file")
        assert str(tmp_path / "file") in str(error)
        assert error.hint
        self.refused(checkpoint, tmp_path / "file" / "below")

    def test_a_folder_in_the_files_place_is_refused(self, checkpoint, cache):
        answer(checkpoint, packed_cache=cache)
        path = the_file(cache)
        path.unlink()
        path.mkdir()
        self.refused(checkpoint, cache)

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes it")
    def test_a_read_only_folder_serves_what_it_has(self, checkpoint, cache):
        plain = answer(checkpoint, packed_cache=cache)
        cache.chmod(0o555)
        try:
            assert answer(checkpoint, packed_cache=cache) == plain
            change(checkpoint)
            self.refused(checkpoint, cache)
        finally:
            cache.chmod(0o755)

    def test_a_full_disk_is_an_error_and_nothing_stays(self, checkpoint, cache):
        # A limit on the size of files is how a disk is full for one process.
        out = run(
            """
            import resource, sys
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))
            try:
                Model.from_pretrained(checkpoint, packed_cache=cache)
            except inferlib.RequestError as error:
                print(error.field, "cannot be written" in str(error))
            """,
            checkpoint,
            cache,
        )
        assert out == "packed_cache True\n"
        assert list(cache.iterdir()) == []
        assert answer(checkpoint, packed_cache=cache) == answer(checkpoint)

    def test_a_relative_path_is_the_one_of_now(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = inferlib.config.EngineConfig(packed_cache="here")
        assert config.packed_cache == tmp_path / "here"
        assert not (tmp_path / "here").exists()

    def test_a_model_made_in_code_has_none(self, tmp_path):
        with pytest.raises(RequestError) as raised:
            tiny_model(packed_cache=tmp_path)
        assert raised.value.field == "packed_cache"

    def test_a_damaged_checkpoint_is_refused_as_ever(self, checkpoint, cache):
        answer(checkpoint, packed_cache=cache)
        os.truncate(checkpoint / "model.safetensors", 5000)
        with pytest.raises(ModelFormatError):
            Model.from_pretrained(checkpoint, packed_cache=cache)


START = """
import sys, threading, time
from pathlib import Path
import inferlib
from inferlib import Model
checkpoint, cache = Path(sys.argv[1]), Path(sys.argv[2])
"""


def start(code: str, checkpoint: Path, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START + textwrap.dedent(code), str(checkpoint), str(cache)],
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, checkpoint: Path, cache: Path) -> str:
    out, err = start(code, checkpoint, cache).communicate(timeout=50)
    assert err == "", err
    return out


def large_checkpoint(folder: Path) -> Path:
    """The tiny model with a vocabulary that makes 24 MB of its two matrices."""
    folder.mkdir()
    config = json.loads((TINY / "llama" / "config.json").read_text())
    tensors = load_file(TINY / "llama" / "model.safetensors")
    config["vocab_size"] = 48_000
    width = config["hidden_size"]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        values = np.random.default_rng(0).standard_normal((48_000, width), np.float32)
        tensors[name] = values
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


class TestProcesses:
    def test_four_that_start_together_on_an_empty_folder(self, checkpoint, cache):
        plain = answer(checkpoint)
        code = f"""
            model = Model.from_pretrained(checkpoint, packed_cache=cache, threads=2)
            completion = model.generate({PROMPT}, max_tokens=12, temperature=0, logprobs=3)
            print(repr((completion.token_ids, repr(completion.logprobs))))
        """
        processes = [start(code, checkpoint, cache) for _ in range(4)]
        for process in processes:
            out, err = process.communicate(timeout=50)
            assert (out, err) == (f"{plain!r}\n", "")
        the_file(cache)
        assert names(cache, ".partial") == []

    def test_one_that_is_killed_while_it_writes_leaves_nothing_usable(self, tmp_path, cache):
        checkpoint = large_checkpoint(tmp_path / "large")
        plain = answer(checkpoint)
        for delay in (0, 5, 10, 20):
            code = f"""
                import os, signal
                def kill():
                    while not list(cache.glob("*.partial")):
                        time.sleep(0.0005)
                    time.sleep({delay} / 1000)
                    os.kill(os.getpid(), signal.SIGKILL)
                cache.mkdir(parents=True, exist_ok=True)
                threading.Thread(target=kill, daemon=True).start()
                Model.from_pretrained(checkpoint, packed_cache=cache, threads=1)
                signal.pause()
            """
            process = start(code, checkpoint, cache)
            process.communicate(timeout=50)
            assert process.returncode == -9
            assert answer(checkpoint, packed_cache=cache) == plain
            assert names(cache, ".partial") == []
            the_file(cache).unlink()

    @pytest.mark.skipif(sys.platform != "linux", reason="the system tells who shares what")
    def test_several_share_the_memory_of_the_weights(self, tmp_path, cache):
        checkpoint = large_checkpoint(tmp_path / "large")
        code = """
            options = {} if cache.name == "none" else {"packed_cache": cache}
            model = Model.from_pretrained(checkpoint, threads=1, kv_cache="512 tokens", **options)
            # Every row of the head is read for a token; the embedding's by a prompt of all tokens.
            rows = list(range(0, 48_000, 16))
            for first in range(0, len(rows), 240):
                model.generate(rows[first : first + 240], max_tokens=1, temperature=0)
            print("ready", flush=True)
            sys.stdin.readline()
            details = model.stats()["details"]
            print(details["weight_proportional_bytes"], details["weight_bytes"], flush=True)
            sys.stdin.readline()
        """

        def shares(folder: Path, count: int) -> float:
            """The physical memory of all processes' weights, in weights."""
            processes = [start(code, checkpoint, folder) for _ in range(count)]
            try:
                for process in processes:
                    assert process.stdout.readline() == "ready\n", process.stderr.read()
                # All are there while each one is asked.
                sums = 0.0
                for process in processes:
                    process.stdin.write("\n")
                    process.stdin.flush()
                    proportional, total = map(int, process.stdout.readline().split())
                    sums += proportional / total
                return sums
            finally:
                for process in processes:
                    process.kill()
                    process.communicate()

        assert shares(cache, 4) < 1.2
        assert shares(tmp_path / "none", 2) > 1.9


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells of huge pages")
def test_stats_tell_of_memory_and_huge_pages(checkpoint, cache):
    for options in ({}, {"packed_cache": cache}):
        with Model.from_pretrained(checkpoint, **options) as model:
            model.generate(PROMPT, max_tokens=2)
            details = model.stats()["details"]
        assert details["weight_resident_bytes"] > 0
        assert 0 <= details["weight_huge_page_bytes"] <= details["weight_resident_bytes"]
        assert 0 < details["weight_proportional_bytes"] <= details["weight_resident_bytes"]
