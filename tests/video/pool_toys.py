"""A worker that edits nothing: what its request's prompt says is what happens to it."""

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

from video.batch import Outcome


def toy_work(connection: Connection) -> None:
    """Answers requests; dies, fails or waits where they say so, leaving a line in the file that is their source."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: stopped.append(signum))
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        with Path(request.source).open("a") as file:
            file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")
        tries = len(Path(request.source).read_text().splitlines())
        if request.prompt == "die" or (request.prompt == "die once" and tries == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        elif request.prompt == "fail once" and tries == 1:
            connection.send(Outcome("failed", 0.1, "out of memory", elsewhere=True))
        elif request.prompt == "refuse":
            connection.send(Outcome("failed", 0.1, "prompt: expected another"))
        elif request.prompt == "slow" and tries == 1:
            time.sleep(60)
        elif request.prompt == "wait":
            while not stopped:
                time.sleep(0.01)
            connection.send("stopped")
            return
        else:
            time.sleep(0.05)
            connection.send(Outcome("edited", 0.1, str(request.output)))
