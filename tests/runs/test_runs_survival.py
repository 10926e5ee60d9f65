"""Whenever a run of any editor is killed, told to stop or without disk, the next start goes on to the same bytes.

`CSD3D_KILLS=200 pytest tests/runs/test_runs_survival.py` strikes more often than the twelve times of the full tests.
"""

import errno
import importlib.util
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from csd3d.runs.manifest import Manifest
from tests.clips import encode, moving_picture
from tests.forking import Forked, forking
from tests.killable import KINDS, results
from tests.panorama.panorama_toys import save, scenery
from tests.priors.tiny import write_tiny_prior

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("CSD3D_KILLS", "12"))
STRIKES = 4
"""At most at one run."""
ENDS = {
    "kill": (-signal.SIGKILL,),
    "stop": (130, 143, -signal.SIGTERM),  # the last before anything has begun
    "full": (errno.ENOSPC,),
}
"""Exit codes of a run that was struck."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the runs read."""
    folder = tmp_path_factory.mktemp("sources")
    encode(folder / "clip.mp4", moving_picture(5, 16, 24, 0))
    save(folder / "picture.png", scenery(40, 100))
    (folder / "pictures").mkdir()
    for k in range(3):
        save(folder / "pictures" / f"{k}.png", scenery(32, 32, seed=k))
    write_tiny_prior(folder / "t2i", kind="text-to-image", closed=False)
    return folder


@pytest.fixture(scope="module")
def forked(server: dict[str, str]):
    with forking(server) as run:
        yield run


def contents(kind: str, run_dir: Path) -> dict[str, object]:
    """Results by name, as bytes; a checkpoint of nerfstudio, whose archive has its own name in it, as text."""
    found: dict[str, object] = {}
    for path in results(kind, run_dir):
        found[path.name] = path.read_bytes() if path.suffix != ".ckpt" else _plain(torch.load(path, weights_only=True))
    return found


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k != "end"}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def strike(forked: Forked, kind: str, source: Path, where: Path, hows: Sequence[str] = ("kill",)) -> None:
    """Strike runs at deeds drawn at random (`hows` in turn), `KILLS` times in all, each resumed until it is done."""
    code, deeds = forked(source, where / "whole", kind, everything=True)
    assert code == 0
    whole = contents(kind, where / "whole")
    assert whole
    rng, kills, run = random.Random(f"{kind} {KILLS}"), 0, 0
    while kills < KILLS:
        run_dir = where / f"run{run}"
        kills += struck(forked, kind, source, run_dir, deeds, rng, [hows[k % len(hows)] for k in range(kills, KILLS)])
        now = contents(kind, run_dir)
        assert now.keys() == whole.keys()
        assert [name for name in whole if now[name] != whole[name]] == []
        if kind != "ns-train":
            assert Manifest.read(run_dir / "manifest.json").status == "finished"
        assert [p for p in where.rglob("*") if ".part-" in p.name or p.name.startswith("now-")] == []
        run += 1


def struck(
    forked: Forked, kind: str, source: Path, run_dir: Path, deeds: int, rng: random.Random, hows: Sequence[str]
) -> int:
    """Strike a run of so many `deeds` at some of those it has left, then let it finish; how often it was struck."""
    done = 0
    for strikes, how in enumerate(hows[:STRIKES]):
        at = rng.randint(1, max(1, deeds - done))
        code, _ = forked(source, run_dir, kind, how=how, at=at, everything=True)
        if code not in ENDS[how]:  # it has done fewer
            assert code == 0
            return strikes
        done += at
    assert forked(source, run_dir, kind)[0] == 0
    return len(hows[:STRIKES])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ns-train"])
def test_killed_anywhere_and_resumed_equals_never_killed(kind: str, folder: Path, tmp_path: Path, forked: Forked):
    names = {
        "panorama": "picture.png",
        "sampled": "picture.png",
        "image": "picture.png",
        "generate": "t2i",
        "translate": "t2i",
        "personalise": "t2i",
    }
    strike(forked, kind, folder / names.get(kind, "clip.mp4"), tmp_path, ("kill", "full", "kill", "stop"))


@pytest.mark.skipif(importlib.util.find_spec("nerfstudio") is None, reason="needs nerfstudio")
def test_a_scene_killed_anywhere_and_resumed_equals_one_never_killed(tmp_path: Path, scene_server: dict[str, str]):
    from tests.nerf.tiny import write_small_scene

    write_small_scene(tmp_path / "scene")
    prior = write_tiny_prior(tmp_path / "instruct")
    with forking(scene_server) as forked:
        strike(forked, "ns-train", prior, tmp_path)
