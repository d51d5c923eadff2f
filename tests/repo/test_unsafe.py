"""``unsafe`` is where the design says, and nowhere else."""

from __future__ import annotations

import pytest
from tests.repo.unsafe_count import RUST, Count, count_in, counts


def test_it_is_in_the_kernels_and_where_files_are_mapped():
    elsewhere = {path for path in counts() if not path.startswith("cpu/")}
    counting = "fuzz/src/memory.rs"  # an allocator, which is no part of the product
    assert elsewhere == {"weights/src/mapping.rs", "python/src/weights.rs", counting}


@pytest.mark.parametrize("crate", ["core", "text", "program"])
def test_crates_without_it_forbid_it(crate):
    assert "#![forbid(unsafe_code)]" in (RUST / crate / "src" / "lib.rs").read_text("utf8")


def test_the_count_sees_code_only():
    source = """
    // unsafe { no }
    const A: &str = "unsafe { no }"; const B: char = '{';
    unsafe fn f() { unsafe {
        g();
    } }
    unsafe impl Send for A {}
    #[cfg(test)]
    mod tests { fn t() { unsafe { g() } } }
    #[cfg(test)]
    mod more_tests;
    fn h() { unsafe { g() } }
    """
    assert count_in(source) == Count(blocks=2, lines=4, functions=1, others=1)
