"""The package works as a part of another one, beside a normally installed copy."""

from __future__ import annotations

import shutil

from tests.boundary.test_import import PACKAGE, run


def test_a_vendored_copy_works_beside_the_installed_one(tmp_path):
    vendor = tmp_path / "someframework" / "_vendor"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, vendor / "inferlib", ignore=ignored)
    for folder in (vendor, vendor.parent):
        (folder / "__init__.py").write_text("")
    run(
        f"""
        import logging, pickle, sys
        sys.path.insert(0, {str(tmp_path)!r})
        from someframework._vendor import inferlib as vendored
        assert "inferlib" not in sys.modules, "the copy imported the installed package"
        import inferlib
        import inferlib.testing
        import someframework._vendor.inferlib.testing

        assert vendored is not inferlib
        assert vendored.RequestError is not inferlib.RequestError
        for package in (vendored, inferlib):
            with package.testing.tiny_model() as model:
                assert len(model.generate("x", max_tokens=5, ignore_eos=True).token_ids) == 5
                # Errors of the compiled module are the copy's own.
                for call in (lambda: model.generate([999]), lambda: model.generate("\\ud800")):
                    try:
                        call()
                    except package.RequestError as error:
                        twin = pickle.loads(pickle.dumps(error))
                        assert type(twin) is package.RequestError
                    else:
                        raise AssertionError("no error")
        names = set(logging.root.manager.loggerDict)
        assert {{"inferlib", "someframework._vendor.inferlib"}} <= names, names
        """
    )


def test_two_vendored_copies_of_different_versions_work_in_one_process(tmp_path):
    """The other one has another version, other arithmetic and a call that this one has not."""
    ignored = shutil.ignore_patterns("__pycache__")
    for framework in ("first", "second"):
        vendor = tmp_path / framework / "_vendor"
        shutil.copytree(PACKAGE, vendor / "inferlib", ignore=ignored)
        for folder in (vendor, vendor.parent):
            (folder / "__init__.py").write_text("")
    copy = tmp_path / "second" / "_vendor" / "inferlib"
    change(copy / "__init__.py", "__version__ = _core.__version__", '__version__ = "99.1"')
    change(copy / "origin.py", "ARITHMETIC_VERSION = ", "ARITHMETIC_VERSION = 1000 + ")
    change(
        copy / "model_core.py",
        "    def close(self)",
        "    shut = lambda self: self.close()\n\n    def close(self)",
    )
    change(copy / "errors.py", 'code = "sequence_mismatch"', 'code = "another_version"')
    run(
        f"""
        import importlib, pathlib, sys, threading
        sys.path.insert(0, {str(tmp_path)!r})
        from first._vendor import inferlib as first
        from second._vendor import inferlib as second
        for package in (first, second):
            importlib.import_module(f"{{package.__name__}}.testing")

        assert "inferlib" not in sys.modules
        assert first.__version__ != second.__version__ == "99.1"
        options = dict(max_tokens=20, temperature=0, ignore_eos=True)
        one, other = first.testing.tiny_model(threads=2), second.testing.tiny_model(threads=2)
        assert not hasattr(one, "shut")
        expected = one.generate("x", **options).token_ids
        answers = []
        threads = [
            threading.Thread(
                target=lambda model=model: answers.append(model.generate("x", **options).token_ids)
            )
            for model in (one, other) * 4
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [expected] * 8

        path = pathlib.Path({str(tmp_path)!r}) / "sequence"
        one.prefill("Once").save(path)
        one.load_sequence(path).close()
        try:
            other.load_sequence(path)
        except second.SequenceMismatchError as error:
            assert not isinstance(error, first.InferlibError)
            assert (error.code, error.field) == ("another_version", "arithmetic")
        else:
            raise AssertionError("the other version read it")
        other.shut()
        assert one.generate("x", **options).token_ids == expected
        one.close()
        """
    )


def change(path, old, new):
    text = path.read_text(encoding="utf8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf8")
