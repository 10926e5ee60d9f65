"""The server around the page: who may come in, and the reports of runs.

It listens on this machine alone unless told otherwise, and then asks for a password. Requests that name another host
are refused, so that no page elsewhere can reach it through a name of its own (DNS rebinding).
"""

# The page's packages come with the extra `ui`; types are checked without it.
# pyright: reportMissingImports=false

from collections.abc import Mapping
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from csd3d.ui.files import RunsFolder
from csd3d.ui.guard import asking_for, minding
from csd3d.ui.jobs import Jobs
from csd3d.ui.known import Known
from csd3d.ui.page import build

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Names of this machine."""
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
"""Fonts of the machine: nothing is fetched from elsewhere."""
STYLE = """
#bar progress { width: 100%; height: 8px; display: block; appearance: none; border: 0; border-radius: 4px;
                overflow: hidden; background: var(--border-color-primary); }
#bar progress::-webkit-progress-bar { background: var(--border-color-primary); }
#bar progress[value]::-webkit-progress-value { background: var(--color-accent); }
#bar progress[value]::-moz-progress-bar { background: var(--color-accent); }
#bar progress:not([value]) { animation: csd3d-waits 1.2s ease-in-out infinite alternate; }
@keyframes csd3d-waits { to { opacity: 0.4; } }
#report iframe { width: 100%; height: 70vh; border: 1px solid var(--border-color-primary); border-radius: 8px;
                 background: #fff; }
#runs .grid-wrap { min-height: 150px; padding-top: 32px; overflow-y: auto; }
#runs .grid-container { grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)) !important; padding-top: 0; }
#runs .thumbnail-item { display: flex; flex-direction: column; height: auto; aspect-ratio: auto; }
#runs .thumbnail-item img { height: 110px; }
#runs .caption-label { position: static; white-space: normal; overflow-wrap: anywhere; max-width: 100%; }
#command textarea { font-family: var(--font-mono); font-size: 13px; }
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
    page.has_launched = page.is_running = True  # as its own server says; until then Gradio serves whatever it is told
    app.middleware("http")(minding(Path(gr.utils.get_upload_folder())))
    if host in LOCAL:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, "[::1]"])
    if password:
        app.middleware("http")(asking_for(password))
    return app


def serve(app: FastAPI, *, host: str, port: int) -> None:
    """Serve until Ctrl-C. Raises OSError if the port is taken."""
    uvicorn.run(app, host=host, port=port, log_level="warning")


def make_folder(path: Path) -> RunsFolder:
    """The folder of runs, made if it is not there."""
    path.mkdir(parents=True, exist_ok=True)
    return RunsFolder(path.resolve())
