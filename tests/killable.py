"""A process that forks runs of any editor, to each of which something may happen; talks JSON lines on stdin and stdout.

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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

import csd3d.runs.checkpoint
from csd3d.engine.config import CsdConfig
from csd3d.media.clip.sink import ClipWriter
from csd3d.media.clip.source import Clip
from csd3d.runs.log import StepLog
from csd3d.runs.progress import RunProgress
from tests.toys import ToyPrior
from video import VideoConfig, edit_video

CSD = CsdConfig(steps=6, lr=0.05, t_min=400, t_max=600)
VIDEO = VideoConfig(csd=CSD, frames_per_step=4, checkpoint_every=2, chunk_frames=3)
SAMPLED = replace(
    VIDEO, by="sampling", csd=replace(CSD, steps=3, t_max=1000, coupling="independent"), codec="ffv1", frames_per_step=2
)
CLIPS = {
    "adam": replace(VIDEO, csd=replace(CSD, optimizer="adam")),
    "motion": replace(VIDEO, csd=replace(CSD, coupling="motion")),
    "lossless": replace(VIDEO, codec="ffv1"),
    "frames": VIDEO,
    "noised": replace(SAMPLED, start="noised"),
    "inverted": replace(SAMPLED, start="inverted"),
}
"""Runs of `csd3d video`; the last writes a folder of frames."""
KINDS = (
    "lossless",
    "adam",
    "motion",
    "frames",
    "noised",
    "inverted",
    "panorama",
    "sampled",
    "image",
    "generate",
    "translate",
    "personalise",
    "ns-train",
)
"""Of runs whose bytes are the same each time; of H.264 they are not."""
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
    (Image.Image, "save"),
    (StepLog, "add"),
)
"""What can be interrupted, besides predictions."""
LAST_STEP = 11
"""Of a run of ns-train, which edits after steps 4, 5 and 10."""
Watch = Callable[..., None]


def results(kind: str, run_dir: Path) -> list[Path]:
    """What a run writes for people; of ns-train, its last checkpoint and edited views."""
    if kind == "ns-train":
        return [*sorted(run_dir.glob("**/step-*.ckpt"))[-1:], *sorted(run_dir.glob("**/edited_views/*"))]
    if kind == "frames":
        return sorted((run_dir.with_name(f"{run_dir.name}-frames")).iterdir())
    if kind == "generate":
        return [run_dir / f"made-{k}.png" for k in (1, 2)]
    names = {
        "lossless": "edited.mkv",
        "noised": "edited.mkv",
        "inverted": "edited.mkv",
        "translate": "network.safetensors",
        "personalise": "lora.safetensors",
    }
    return [run_dir / names.get(kind, "edited.png" if kind in ("panorama", "sampled", "image") else "edited.mp4")]


def start(kind: str, source: Path, run_dir: Path, watch: Watch) -> None:
    """One start of a run, which goes on with what is in `run_dir`."""
    resume = (run_dir / "manifest.json").exists()
    options = {"run_dir": run_dir, "resume": resume, "progress": RunProgress(quiet=True)}
    if kind in CLIPS:
        output = run_dir.with_name(f"{run_dir.name}-frames") if kind == "frames" else None
        edit_video(source, "make it red", output, CLIPS[kind], prior=ToyPrior(watch), **options)
    elif kind in ("panorama", "sampled", "image"):
        from panorama import PanoramaConfig, edit_image, edit_panorama

        config = PanoramaConfig(csd=CSD, checkpoint_every=2, window=32, size=32, windows_per_step=2)
        if kind == "sampled":
            config = replace(config, by="sampling", start="inverted", csd=SAMPLED.csd)
        edit = edit_image if kind == "image" else edit_panorama
        edit(source, "make it red", None, config, prior=ToyPrior(watch), **options)
    elif kind == "generate":
        from panorama.generate import generate
        from panorama.generate_config import GenerateConfig

        csd = replace(CSD, residual="noise", steps=4)
        config = GenerateConfig(csd=csd, prior=str(source), n=2, width=32, height=32, checkpoint_every=1)
        generate("a ball", run_dir / "made.png", config, **options)
    elif kind == "translate":
        from csd3d.translate.config import TranslateConfig
        from csd3d.translate.job import train_network

        about = {"tasks": {"red": "a red ball"}, "prior": str(source), "source_prompt": "a ball"}
        config = TranslateConfig(steps=4, batch=2, size=32, checkpoint_every=1, **about)
        train_network(source.with_name("pictures"), config, **options)
    elif kind == "personalise":
        from csd3d.personal import job

        job.SAMPLER_STEPS = 2
        about = {"method": "lora", "class_prompt": "a ball", "class_pictures": 2, "rank": 2, "prior": str(source)}
        config = job.PersonalConfig(steps=4, batch=2, size=32, checkpoint_every=1, csd=replace(CSD, t_max=900), **about)
        job.personalise(source.with_name("pictures"), config, **options)
    else:
        train_scene(source, run_dir, watch)


def train_scene(prior: Path, run_dir: Path, watch: Watch) -> None:
    """`ns-train`, from its last checkpoint if it has one."""
    from csd3d.nerf import host
    from tests.nerf.tiny import config_for, trainer_for

    config = config_for(prior.with_name("scene"), prior, run_dir, max_num_iterations=LAST_STEP, views_per_edit=3)
    config.steps_per_save, config.save_only_latest_checkpoint = 3, True
    config.load_dir = next((path.parent for path in run_dir.glob("**/step-*.ckpt")), None)
    trainer = trainer_for(config)
    step = host.CsdTrainer.train_iteration
    trainer.train_iteration = lambda number: watch() or step(trainer, number)
    if trainer._start_step < LAST_STEP:
        trainer.train()


class Fate:
    """Counts what a run does, and strikes at its `at`-th deed (0: never)."""

    def __init__(self, how: str, at: int) -> None:
        self.how, self.at, self.deeds = how, at, 0

    def deed(self, *_: object) -> None:
        self.deeds += 1
        if self.deeds != self.at:
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "stop":
            os.kill(os.getpid(), random.Random(self.at).choice([signal.SIGINT, signal.SIGTERM]))
        elif self.how == "full":
            raise OSError(28, "No space left on device")

    def watch_everything(self) -> None:
        for place, name in PLACES:
            setattr(place, name, self._watched(getattr(place, name)))

    def _watched(self, function):
        def watched(*args, **options):
            self.deed()
            return function(*args, **options)

        return watched


def forked_run(
    kind: str, source: Path, run_dir: Path, how: str = "kill", at: int = 0, everything: bool = False
) -> tuple[int, int]:
    """Fork a run that has a fate; returns its exit code and how many deeds it did.

    `at` counts predictions or, with `everything`, all that touches files too; for "alarm" microseconds until the
    process ends wherever it is, for "limit" the most bytes of a file.
    """
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with os.fdopen(read) as pipe:
            return code, int(pipe.read() or 0)
    code, fate = 1, Fate(how, at)
    try:
        if everything:
            fate.watch_everything()
        if how == "alarm" and at:
            signal.setitimer(signal.ITIMER_REAL, at / 1e6)
        if how == "limit" and at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (at, resource.RLIM_INFINITY))
        os.dup2(2, 1)
        start(kind, source, run_dir, fate.deed)
        code = 0
    except KeyboardInterrupt as stop:  # before the run has begun there is nothing to save
        code = getattr(stop, "exit_code", 130)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except OSError as error:
        code = error.errno or 1
    except Exception:
        traceback.print_exc()
    finally:
        os.write(write, str(fate.deeds).encode())
        os._exit(code)


def answer() -> None:
    """Fork what every line asks for, and answer how it ended."""
    for line in sys.stdin:
        request = json.loads(line)
        paths = {name: Path(request.pop(name)) for name in ("source", "run_dir")}
        print(json.dumps(forked_run(**paths, **request)), flush=True)
