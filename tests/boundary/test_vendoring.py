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
