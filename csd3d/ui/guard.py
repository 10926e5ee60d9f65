"""What is let in: those who have the password, no page of elsewhere, and no file but those that were handed in.

Gradio takes what a browser sends as a file by its path, and an address in its place is fetched. It looks itself at
where such files lie, but not in every way of serving it; here each request is looked at before Gradio has it.
"""

# The page's packages come with the extra `ui`; types are checked without it.
# pyright: reportMissingImports=false

import base64
import binascii
import secrets
from pathlib import Path

from fastapi import Request, Response
from starlette.middleware.base import RequestResponseEndpoint

from csd3d.ui.files import may_come_in

UPLOAD = "/gradio_api/upload"
"""Where files are handed in; Gradio bounds them and names them by their content."""
MOST_BYTES = 10**6
"""Of any other request: what is filled in, and how the page stands."""


def asking_for(password: str):
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


def minding(uploads: Path):
    """Middleware that refuses requests of other pages, too long ones, and those that name a file beyond `uploads`."""

    async def mind(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.method in ("GET", "HEAD"):
            response = await call_next(request)
            response.headers["X-Content-Type-Options"] = "nosniff"
            if request.url.path.startswith("/gradio_api/"):
                response.headers["Content-Security-Policy"] = "sandbox"  # of a file that is opened no script runs
            return response
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return Response("expected a request of this page", status_code=403)
        if request.url.path == UPLOAD:
            return await call_next(request)
        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return Response(f"expected {MOST_BYTES} bytes or fewer", status_code=413)
        if not may_come_in(await request.body(), uploads):
            return Response("expected files that were handed in here", status_code=403)
        return await call_next(request)

    return mind
