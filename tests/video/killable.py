"""A process that forks runs of the editor, to each of which something may happen; talks JSON lines on stdin and stdout.

A process of its own, with one thread and before any computation, because forking a process that has computed in
parallel leaves the child without its threads.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from video_toys import toy_edit

import csd3d.runs.checkpoint
from csd3d.engine.config import CsdConfig
from csd3d.media.clip.sink import ClipWriter
from csd3d.media.clip.source import Clip
from tests.toys import ToyPrior
from video import VideoConfig

CONFIG = VideoConfig(
    csd=CsdConfig(steps=6, lr=0.05, t_min=400, t_max=600), frames_per_step=4, checkpoint_every=2, chunk_frames=3
)
PLACES = (
    (os, "replace"),
    (os, "fsync"),
    (os, "pwrite"),
    (shutil, "copyfile"),
    (csd3d.runs.checkpoint, "save_file"),
    (Clip, "read"),
    (ClipWriter, "_mux"),
    (Path, "write_bytes"),
    (Path, "unlink"),
    (Path, "mkdir"),
)
"""What can be interrupted, besides predictions."""


def config_with(kind):
    """The settings of the runs: "sgd", "adam", "motion", or "lossless"."""
    assert CONFIG.csd is not None
    coupling = "motion" if kind == "motion" else "svgd"
    csd = replace(CONFIG.csd, optimizer="adam" if kind == "adam" else "sgd", coupling=coupling)
    return replace(CONFIG, csd=csd, codec="ffv1" if kind == "lossless" else None)


class Fate:
    """Counts what a run does, and strikes at its `at`-th deed (0: never)."""

    def __init__(self, how, at):
        self.how, self.at, self.deeds = how, at, 0

    def deed(self, *_):
        self.deeds += 1
        if self.deeds != self.at:
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "stop":
            os.kill(os.getpid(), random.Random(self.at).choice([signal.SIGINT, signal.SIGTERM]))
        elif self.how == "full":
            raise OSError(28, "No space left on device")

    def watch_everything(self):
        for place, name in PLACES:
            setattr(place, name, self._watched(getattr(place, name)))

    def _watched(self, function):
        def watched(*args, **options):
            self.deed()
            return function(*args, **options)

        return watched


def forked_run(clip, run_dir, kind, how="kill", at=0, everything=False):
    """Fork a run that has a fate; returns its exit code and how many deeds it did: [code, deeds].

    `at` counts predictions or, with `everything`, all that touches files too; for "alarm" microseconds until the
    process ends wherever it is, for "limit" the most bytes of a file.
    """
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with os.fdopen(read) as pipe:
            return [code, int(pipe.read() or 0)]
    code, fate = 1, Fate(how, at)
    try:
        if everything:
            fate.watch_everything()
        if how == "alarm" and at:
            signal.setitimer(signal.ITIMER_REAL, at / 1e6)
        if how == "limit" and at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (at, resource.RLIM_INFINITY))
        resume = (run_dir / "manifest.json").exists()
        toy_edit(clip, run_dir, config=config_with(kind), prior=ToyPrior(fate.deed), resume=resume)
        code = 0
    except KeyboardInterrupt as stop:  # before the run has begun there is nothing to save
        code = getattr(stop, "exit_code", 130)
    except OSError as error:
        code = error.errno or 1
    except Exception:
        traceback.print_exc()
    finally:
        os.write(write, str(fate.deeds).encode())
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        paths = {name: Path(request.pop(name)) for name in ("clip", "run_dir")}
        print(json.dumps(forked_run(**paths, **request)), flush=True)
