"""A process that forks runs of the editor, each of which may kill itself; talks JSON lines on stdin and stdout.

A process of its own, with one thread and before any computation, because forking a process that has computed in
parallel leaves the child without its threads.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from video_toys import ToyPrior, toy_edit

from csd3d.engine.config import CsdConfig
from video import VideoConfig

CONFIG = VideoConfig(
    csd=CsdConfig(steps=6, lr=0.05, t_min=400, t_max=600), frames_per_step=4, checkpoint_every=2, chunk_frames=3
)


def config_with(kind):
    """The settings of the runs that are killed: "sgd", "adam", or "motion"."""
    assert CONFIG.csd is not None
    csd = replace(CONFIG.csd, optimizer="adam" if kind == "adam" else "sgd")
    return replace(CONFIG, csd=csd, motion=kind == "motion")


def killed_run(clip, run_dir, calls, kind):
    """Fork a run that kills itself at its `calls`-th prediction (0: never); returns its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        seen = []

        def watch(index):
            seen.append(1)
            if len(seen) == calls:
                os.kill(os.getpid(), signal.SIGKILL)

        resume = (run_dir / "manifest.json").exists()
        toy_edit(clip, run_dir, config=config_with(kind), prior=ToyPrior(watch), resume=resume)
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        paths = {name: Path(request.pop(name)) for name in ("clip", "run_dir")}
        print(killed_run(**paths, **request), flush=True)
