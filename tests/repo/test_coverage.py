"""The account of lines that no test runs."""

from tests.repo.coverage import TESTS, parse_lcov, ranges

TRACE = """\
SF:{root}/rust/core/src/thing.rs
DA:1,4
DA:2,0
DA:7,0
DA:2,1
end_of_record
SF:{root}/rust/core/tests/other.rs
DA:1,0
end_of_record
"""


def test_lines_are_counted_over_all_programs_and_tests_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.repo.coverage.ROOT", tmp_path)
    source = tmp_path / "rust/core/src/thing.rs"
    source.parent.mkdir(parents=True)
    source.write_text("a\nb\nc\n\n#[cfg(test)]\nmod tests {\n}\n")
    (found,) = parse_lcov(TRACE.format(root=tmp_path))
    assert found.path == "rust/core/src/thing.rs"
    assert found.counts == {1: 4, 2: 1}
    assert found.missed == []


def test_lines_are_named_in_ranges():
    assert ranges([3, 9, 4, 5]) == "3-5, 9"
    assert ranges([]) == ""


def test_files_of_tests_are_known():
    for path in ("core/src/kv_cache/tests.rs", "core/tests/a.rs", "cpu/src/row_tests.rs"):
        assert TESTS.search(f"/rust/{path}")
    assert not TESTS.search("/rust/core/src/scheduler.rs")
