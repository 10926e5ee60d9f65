"""The server around the page: who may come in, and the reports of runs.

It listens on this machine alone unless told otherwise, and then asks for a password. Requests that name another host
are refused, so that no page elsewhere can reach it through a name of its own (DNS rebinding).
"""

# The page's packages come with the extra `ui`; types are checked without it.
# pyright: reportMissingImports=false

import base64
import binascii
import secrets
from collections.abc import Mapping
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware

from csd3d.ui.files import RunsFolder
from csd3d.ui.jobs import Jobs
from csd3d.ui.known import Known
from csd3d.ui.page import build

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Names of this machine."""
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
"""Fonts of the machine: nothing is fetched from elsewhere."""
STYLE = """
#bar progress { width: 100%; height: 8px; accent-color: var(--color-accent); display: block; }
#report iframe { width: 100%; height: 70vh; border: 1px solid var(--border-color-primary); border-radius: 8px;
                 background: #fff; }
#runs .grid-container { grid-template-columns: repeat(6, 1fr) !important; }
#runs .caption-label { white-space: normal; max-width: 100%; }
"""


def app_of(
    folder: RunsFolder, jobs: Jobs, known: Mapping[str, Known], *, max_mb: int, host: str, password: str | None,
) -> FastAPI:  # fmt: skip
    """The page with what surrounds it.

    Args:
        folder: the runs.
        jobs: those that are started.
        known: see `csd3d.ui.page.build`.
        max_mb: largest upload, 10^6 bytes.
        host: where it listens.
        password: asked for with any user name; None: nobody is asked.

    Raises:
        ValueError: another host than this machine, without a password.
    """
    if host not in LOCAL and not password:
        raise ValueError(f"host: expected a --password beside another host than {LOCAL[0]}, got none for {host}")
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/runs/{name}/{relative:path}")
    def of_run(name: str, relative: str) -> Response:
        try:
            return FileResponse(folder.file(name, relative), headers={"Cache-Control": "no-cache"})
        except (ValueError, OSError):
            return Response(status_code=404)

    page = build(folder, jobs, known)
    page.queue(default_concurrency_limit=8)
    app = gr.mount_gradio_app(
        app, page, path="/", server_name=host, allowed_paths=[str(folder.path)], max_file_size=max_mb * 10**6,
        show_error=True, css=STYLE, theme=THEME, footer_links=[], ssr_mode=False,
    )  # fmt: skip
    if host in LOCAL:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, "[::1]"])
    if password:
        app.middleware("http")(_asking_for(password))
    return app


def _asking_for(password: str):
    """Middleware that lets nobody in without the password (HTTP basic authentication)."""

    async def ask(request: Request, call_next: RequestResponseEndpoint) -> Response:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            _, _, told = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            told = ""
        if kind.lower() == "basic" and secrets.compare_digest(told.encode(), password.encode()):
            return await call_next(request)
        return Response(status_code=401, headers={"WWW-Authenticate": 'Basic realm="csd3d"'})

    return ask


def serve(app: FastAPI, *, host: str, port: int) -> None:
    """Serve until Ctrl-C. Raises OSError if the port is taken."""
    uvicorn.run(app, host=host, port=port, log_level="warning")


def make_folder(path: Path) -> RunsFolder:
    """The folder of runs, made if it is not there."""
    path.mkdir(parents=True, exist_ok=True)
    return RunsFolder(path.resolve())
