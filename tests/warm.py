"""Commands in forks of two processes that have imported the model libraries, which takes each of them seconds alone.

One server is for csd3d's commands, one has nerfstudio too; all workers of the tests share them, and each imports when
it is first asked. A server listens on a socket in a folder; `CLIENT`, a small Python program, hands it words, folder,
environment and the three standard streams, and ends with the exit code that comes back. What a command does is what it
does started alone: the fork runs `python -m csd3d WORDS` or `python -c CODE`, as `runpy` would.
"""

import gc
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ["WARM_SOCKET"])
    words = json.dumps({"words": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}).encode()
    socket.send_fds(server, [len(words).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(words)
    code = server.recv(4)
sys.exit(int.from_bytes(code, "big") if len(code) == 4 else 1)
"""
NAMES = ("commands", "scenes")
UP_S = 60
GARBAGE = 20_000
"""New objects after which Python looks for garbage among them; with its 700 that is a tenth of the work of tests."""
ORPHANED_S = 10
"""After which a server looks whether anybody is left who could ask."""


@contextmanager
def servers(folder: Path) -> Iterator[None]:
    """Both servers while the block lasts. `folder` should have a short path: that of a socket is bounded."""
    (folder / "client.py").write_text(CLIENT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    commands = [[sys.executable, "-m", "tests.warm", str(folder / name)] for name in NAMES]
    started = [subprocess.Popen(command, env=environment, cwd=ROOT) for command in commands]
    try:
        yield
    finally:
        for server in started:
            server.terminate()
            server.wait()


def reached(folder: Path, name: str) -> dict[str, str]:
    """The environment in which `python -S client.py WORDS` reaches a server; `CLIENT_PY` names the client's file."""
    place, until = folder / name, time.monotonic() + UP_S
    while not place.exists():
        if time.monotonic() > until:
            raise RuntimeError(f"the server {name} has not come up")
        time.sleep(0.05)
    return {"WARM_SOCKET": str(place), "CLIENT_PY": str(folder / "client.py")}


def _serve(place: str) -> None:
    partial = f"{place}.part"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(partial)
        server.listen()
        os.rename(partial, place)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended forks leave nothing behind
        server.settimeout(ORPHANED_S)
        parent = os.getppid()
        while os.getppid() == parent:  # who started it may have been killed
            try:
                asked, _ = server.accept()
            except TimeoutError:
                continue
            _warm_up(Path(place).name)
            head, streams, _, _ = socket.recv_fds(asked, 4, 3)
            request = json.loads(_received(asked, int.from_bytes(head, "big")))
            if os.fork() == 0:
                server.close()
                _keep(asked, request, streams)
            for stream in (asked.detach(), *streams):
                os.close(stream)


def _received(asked: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += asked.recv(size - len(data))
    return data


def _keep(asked: socket.socket, request: dict, streams: list[int]) -> None:
    """What a fork does: it forks the command, and tells who asked how that ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (command := os.fork()) == 0:
        asked.close()
        _become(request, streams)
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    asked.sendall((code if code >= 0 else 128 - code).to_bytes(4, "big"))
    os._exit(0)


def _become(request: dict, streams: list[int]) -> None:
    """The command, to the end of the process."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.path[:0] = [path for path in request["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
        code = _run(request["words"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(words: list[str]) -> int:
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
        return 0
    from csd3d.cli.main import main

    sys.argv = ["csd3d", *(words[2:] if words[:2] == ["-m", "csd3d"] else words)]
    return main()


def skip_fsync() -> None:
    """Files need not reach the disk: no test pulls the plug, and the waits add up to minutes."""
    os.fsync = lambda fd: None


def skip_sources() -> None:
    """`inspect.stack` without lines of source: nerfstudio, when imported, asks thirty times who called, for 9 s."""

    def stack(context: int = 1) -> list[inspect.FrameInfo]:
        frames, frame = [], sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            frames.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
            frame = frame.f_back
        return frames

    inspect.stack = stack


def forget_garbage() -> None:
    """Leave what is there to itself: looking for garbage in all that was imported takes 0.4 s, in forks often."""
    gc.collect()
    gc.freeze()


def read_once(read: Callable[..., object]) -> Callable[..., object]:
    """`read` of a folder, which a fork's first call finds in memory where this process has read the same."""
    held, here = dict[tuple[object, ...], object](), os.getpid()

    def found(path: Path, **how: object) -> object:
        key = (path, *sorted(how.items(), key=lambda item: item[0]))
        if os.getpid() != here:
            return held.pop(key) if key in held else read(path, **how)
        held[key] = read(path, **how)
        return held[key]

    return found


@cache
def _warm_up(name: str) -> None:
    """Import what commands import, read words, and load priors, after which the libraries know how to do both."""
    gc.set_threshold(GARBAGE)
    import torch
    from PIL import Image

    from csd3d.cli.editors import read_request
    from csd3d.cli.main import COMMANDS
    from csd3d.cli.panorama import IMAGE
    from csd3d.priors import latent_diffusion
    from csd3d.priors.auto import load_prior

    skip_fsync()
    skip_sources()
    torch.set_num_threads(1)  # a fork lacks the threads of its parent
    for command in COMMANDS.values():
        with suppress(ImportError):  # of an extra
            import_module(command.module)
    latent_diffusion.load_parts = read_once(latent_diffusion.load_parts)
    for prior in ("builtin", "builtin:t2i"):
        load_prior(prior, device="cpu")
    read_request(IMAGE, ["photo.png", "--prompt", "make it snowy"])
    Image.init()
    for module in ("diffusers.loaders.textual_inversion", "tests.killable", "tests.priors.tiny"):
        import_module(module)
    if name == "scenes":
        for module in ("nerfstudio.scripts.train", "nerfstudio.scripts.eval", "nerfstudio.scripts.render"):
            import_module(module)
        import_module("tests.nerf.tiny")
    forget_garbage()


if __name__ == "__main__":
    _serve(sys.argv[1])
