"""`csd3d ui`: the page in a browser."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from csd3d.cli.parse import read_dataclass
from csd3d.cli.priors import builtin_names, describe
from csd3d.priors.prompts.photographs import read_marks
from csd3d.ui.known import Known, known_of


@dataclass(frozen=True)
class Command:
    """Edit in a browser: drop a file, type a sentence, look. On this machine alone, unless told otherwise."""

    port: int = 7860
    """Where the page is served."""
    host: str = "127.0.0.1"
    """Network address to listen on; another than this machine's own needs a --password."""
    password: str | None = None
    """Asked for with any user name. None: nobody is asked."""
    runs: Path = Path("runs")
    """Folder of the runs, those of the command line among them."""
    prior: tuple[str, ...] = ()
    """Further priors to choose from, beside the built-in ones: folders or hub ids."""
    max_mb: int = 500
    """Largest file that may be handed in, in megabytes."""


def main(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C; returns the exit code.

    Raises:
        ValueError: a setting that makes no sense, a port that is taken, or the page's packages are missing.
    """
    command = read_dataclass(Command, argv, prog="csd3d ui")
    if find_spec("gradio") is None:
        raise ValueError("ui: expected the packages of the page, found none: pip install 'csd3d[ui]'")
    if not 0 < command.port < 2**16 or command.max_mb < 1:
        raise ValueError("port, max-mb: expected a port below 65536 and 1 MB or more, got others")
    os.environ.setdefault("GRADIO_TEMP_DIR", str((command.runs / "uploads" / ".page").resolve()))
    from csd3d.ui import jobs, serve  # slow to import, and not there without the extra

    folder = serve.make_folder(command.runs)
    with jobs.Jobs() as running:
        app = serve.app_of(
            folder, running, {name: what_knows(name) for name in (*builtin_names(), *command.prior)},
            max_mb=command.max_mb, host=command.host, password=command.password,
        )  # fmt: skip
        print(f"csd3d is at http://{command.host}:{command.port}; Ctrl-C ends it, runs keep their state")
        serve.serve(app, host=command.host, port=command.port)
    return 0


def what_knows(name: str) -> Known:
    """What a prior knows, by its files; one that is not on this machine yet takes any text."""
    with suppress(ValueError, OSError):
        prior = describe(name)
        return known_of(prior.vocabulary, read_marks(prior.path))
    return Known()
