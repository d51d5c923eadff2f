"""The texts that quality is measured on."""

from __future__ import annotations

from bench import texts


def letters(text):
    return [ord(letter) for letter in text]


def test_windows_take_turns_and_begin_as_the_model_wants(tmp_path):
    for name, length in (("a", 700), ("b", 300), ("c", 100)):
        (tmp_path / f"{name}.txt").write_text(name * length)
    found = texts.windows(letters, [1], 10_000, [tmp_path])
    assert [name for name, _ in found] == ["a.txt", "b.txt", "a.txt"]
    assert all(len(ids) == texts.WINDOW and ids[0] == 1 for _, ids in found)
    assert set(found[1][1][1:]) == {ord("b")}


def test_no_more_windows_than_asked_for(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 5000)
    assert len(texts.windows(letters, [], 256, [tmp_path])) == 2
    assert len(texts.windows(letters, [], 255, [tmp_path])) == 1


def test_windows_follow_one_another_without_gaps(tmp_path):
    (tmp_path / "a.txt").write_text("".join(map(chr, range(100, 900))))
    found = texts.windows(letters, [], 10_000, [tmp_path])
    ids = [token for _, window in found for token in window]
    assert ids == list(range(100, 100 + 3 * texts.WINDOW))


def test_there_is_text_enough():
    characters = sum(
        len(path.read_text(encoding="utf8"))
        for folder in texts.FOLDERS
        for path in folder.glob("*.txt")
    )
    assert characters > 70_000


def test_repetitive_prompts_end_where_a_line_ends():
    prompts = texts.repetitive()
    assert set(prompts) == {"code_edit", "extraction"}
    assert all(text and not text.endswith("\n") for text in prompts.values())
