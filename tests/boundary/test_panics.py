"""A panic in Rust is an exception that says where it was; the host's stderr stays its own."""

from __future__ import annotations

from tests.boundary.test_import import run


def test_a_panic_is_an_exception_with_its_place_and_writes_nothing():
    out = run(
        """
        import inferlib
        from inferlib.testing import Faults, tiny_model
        faults = Faults()
        with tiny_model(faults=faults, threads=2) as model:
            for in_caller in (False, True, False):
                faults.panic(in_caller=in_caller)
                try:
                    model.generate("x", max_tokens=4)
                except inferlib.InternalError as error:
                    assert "executor.rs:" in str(error), error
                    assert "report" in error.hint
                else:
                    raise AssertionError("no error")
                assert model.generate("x", max_tokens=4, ignore_eos=True).token_ids
        print("usable")
        """
    )
    assert out == "usable\n"


def test_what_a_library_panics_about_is_a_typed_error_and_writes_nothing():
    run(
        """
        import json
        import inferlib
        from inferlib.testing import byte_tokenizer_files
        good = json.loads(byte_tokenizer_files()[0])
        for decoder in ({"type": "Nothing"}, {"type": "Byte", "add_prefix_space": False}):
            try:
                inferlib.Tokenizer.from_json(json.dumps(good | {"decoder": decoder}).encode())
            except inferlib.ModelFormatError as error:
                assert str(error)
            else:
                raise AssertionError("no error")
        """
    )
