"""A hub on this machine, as far as ``huggingface_hub`` needs one, and a process that asks it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).parent.parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves folders as repositories; remembers which files were asked for."""

    def __init__(self, repositories: dict[str, Path], gated: tuple[str, ...] = ()) -> None:
        self.repositories = repositories
        self.gated = gated
        self.fetched: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub._answer(self, body=False)

            def do_GET(self):
                hub._answer(self, body=True)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = unquote(request.path.partition("?")[0])
        kind, _, rest = path.strip("/").partition("/")
        if kind == "api":
            parts = rest.split("/")
            name, revision = "/".join(parts[1:3]), parts[4] if len(parts) > 4 else "main"
            known = self._known(request, name, revision)
            if known is None:
                return
            files = sorted(str(p.relative_to(known)) for p in known.rglob("*") if p.is_file())
            if "tree" in parts:
                listed: Any = [self._entry(known, file) for file in files]
            else:
                listed = {
                    "id": name,
                    "sha": COMMIT,
                    "siblings": [{"rfilename": file} for file in files],
                }
            self._send(request, json.dumps(listed).encode(), {}, body=body)
            return
        parts = path.strip("/").split("/")
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        known = self._known(request, name, revision)
        if known is None:
            return
        if not (known / file).is_file():
            self._refuse(request, 404, "EntryNotFound")
            return
        content = (known / file).read_bytes()
        if body:
            self.fetched.append(file)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:40]}"', "X-Repo-Commit": COMMIT}
        self._send(request, content, headers, body=body)

    def _entry(self, folder: Path, file: str) -> dict[str, Any]:
        content = (folder / file).read_bytes()
        oid = hashlib.sha256(content).hexdigest()[:40]
        return {"type": "file", "path": file, "size": len(content), "oid": oid}

    def _known(self, request: BaseHTTPRequestHandler, name: str, revision: str) -> Path | None:
        if name in self.gated:
            self._refuse(request, 403, "GatedRepo")
        elif name not in self.repositories:
            self._refuse(request, 404, "RepoNotFound")
        elif revision not in ("main", COMMIT, "v1.0"):
            self._refuse(request, 404, "RevisionNotFound")
        else:
            return self.repositories[name]
        return None

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        content: bytes,
        headers: dict[str, str],
        *,
        body: bool,
    ) -> None:
        request.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(content)


def run_python(code: str, url: str, cache: Path, **environment: str) -> str:
    """What a process prints that finds the hub at ``url`` and keeps files in ``cache``."""
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        cwd=ROOT,
        encoding="utf8",
        env={**os.environ, "NO_PROXY": "127.0.0.1", **settings, **environment},
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
