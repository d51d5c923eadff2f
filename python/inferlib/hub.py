"""Models of Hugging Face's hub, through ``huggingface_hub`` if it is installed.

That package keeps the files in its cache, shows its progress bars, and honours its own settings
(``HF_HOME``, ``HF_HUB_OFFLINE``, ``HF_TOKEN``): nothing of it is configured here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ModelNotFoundError, RequestError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?P<file>(?:/[^/@]+)*/[^/@]+\.gguf)?"
    r"(?:@(?P<revision>[\w./-]+))?"
)
_WANTED = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "vocab.txt", "chat_template.jinja", "chat_template.json"),
    *("modules.json", "config_sentence_transformers.json", "*_Pooling/config.json"),
    *("additional_chat_templates/*.jinja", "*.safetensors", "*.safetensors.index.json"),
)
_UNWANTED = ("original/*", "consolidated*", "onnx/*", "openvino/*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubName:
    """A model of the hub.

    Attributes:
        repository: ``"organisation/name"``.
        file: A GGUF file in it; ``None`` for a repository of safetensors.
        revision: Branch, tag or commit; ``None`` is the newest.
    """

    repository: str
    file: str | None
    revision: str | None


def parse_hub_name(name: str) -> HubName | None:
    """Read ``"org/name"``, ``"org/name/file.gguf"``, either with ``"@revision"``, or ``None``."""
    match = _NAME.fullmatch(name)
    if match is None or match["repository"].endswith((".gguf", ".safetensors")):
        return None
    file = match["file"]
    return HubName(
        repository=match["repository"],
        file=None if file is None else file.removeprefix("/"),
        revision=match["revision"],
    )


def with_revision(name: object, revision: object) -> str:
    """Join a name and a revision.

    Raises:
        RequestError: The name is no name of a model of the hub, or has a revision already.
    """
    parsed = parse_hub_name(name) if isinstance(name, str) else None
    if parsed is None or parsed.revision is not None:
        raise RequestError(
            f"{name!r} has no revisions; only names of Hugging Face's hub have them, as "
            '"organisation/name"',
            field="revision",
        )
    if isinstance(revision, str) and parse_hub_name(joined := f"{name}@{revision}") is not None:
        return joined
    found = repr(revision)[:80] if isinstance(revision, str) else type(revision).__name__
    raise RequestError(
        f"revision must be a branch, a tag or a commit, not {found}", field="revision"
    )


def find_hub_model(name: HubName) -> Path:
    """Fetch a model, as far as it is not in the hub's cache already.

    Raises:
        ModelNotFoundError: ``huggingface_hub`` is not installed, there is no such model, it wants a
            permission, or nothing can be reached and nothing is cached.
        UnsupportedModelError: The repository has no weights that can be read here.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        raise ModelNotFoundError(
            f"there is no file or folder {name.repository!r} here; as a name of Hugging Face's hub "
            "it needs the package 'huggingface_hub'",
            hint="python -m pip install huggingface_hub, or give a path",
        ) from None

    def fetch_file() -> str:
        return hub.hf_hub_download(name.repository, str(name.file), revision=name.revision)

    def fetch_folder() -> str:
        return hub.snapshot_download(
            name.repository,
            revision=name.revision,
            allow_patterns=list(_WANTED),
            ignore_patterns=list(_UNWANTED),
        )

    path = Path(_fetched(name, fetch_folder if name.file is None else fetch_file))
    if name.file is None and not any(path.glob("*.safetensors")):
        raise UnsupportedModelError(
            f"the repository {name.repository!r} has no safetensors",
            hint="name one of its GGUF files: organisation/name/file.gguf; weights in pickle files "
            "(.bin, .pt) are never read",
        )
    return path


def _fetched(name: HubName, fetch: Callable[[], str]) -> str:
    """What ``fetch`` gives, its errors as ours."""
    from huggingface_hub import errors

    try:
        return fetch()
    except errors.GatedRepoError as error:
        problem = "may be used only by those who were given access"
        hint = f"ask for it at https://huggingface.co/{name.repository}, then log in: hf auth login"
        cause: Exception = error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        problem = "does not exist, neither here as a path nor on Hugging Face's hub, or is private"
        hint, cause = "check its spelling; for private ones log in: hf auth login", error
    except errors.RevisionNotFoundError as error:
        problem = f"has no revision {name.revision!r}"
        hint, cause = "give a branch, a tag or a commit", error
    except errors.LocalEntryNotFoundError as error:
        problem = "is not in the cache, and the hub cannot be reached"
        hint, cause = "check the connection, or unset HF_HUB_OFFLINE", error
    except errors.EntryNotFoundError as error:
        problem = f"has no file {name.file!r}"
        hint, cause = f"see https://huggingface.co/{name.repository}/tree/main", error
    except (errors.HfHubHTTPError, OSError) as error:
        problem = f"could not be fetched ({type(error).__name__})"
        hint, cause = "try again; what was fetched already is kept", error
    raise ModelNotFoundError(f"the model {name.repository!r} {problem}", hint=hint) from cause
