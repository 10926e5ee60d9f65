"""Several processes share one run, and it is the run of one process."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from csd3d.attention import Attention
from csd3d.attention.energy import Excite
from csd3d.attention.steer import Steering
from csd3d.cli.main import COMMANDS, main
from csd3d.engine import Batch, CsdConfig, csd_step, reusing
from csd3d.engine.reuse import ReusingScore
from csd3d.priors.auto import find_prior, load_prior
from csd3d.priors.networks.guard import Guard, Sees
from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.prompts.words import UnknownPrompt
from csd3d.runs import crew, orders
from csd3d.runs.crew import SharedPrior, load_shared
from csd3d.runs.manifest import Manifest
from csd3d.runs.orders import Hand, device_of
from csd3d.runs.session import ROWS, ROWS_EACH
from tests.clips import encode, moving_picture
from tests.priors.tiny import write_tiny_prior
from tests.runs.crew_work import latents, run_all

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crew")
    write_tiny_prior(folder / "prior")
    write_tiny_prior(folder / "t2i", kind="text-to-image", closed=False)
    encode(folder / "clip.mp4", moving_picture(5, 32, 32, 0))
    levels = (moving_picture(1, 32, 80, 1)[0].permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(levels).save(folder / "wide.png")
    return folder


@contextmanager
def group(where: Path) -> Iterator[None]:
    """This process as the only one of a group."""
    dist.init_process_group("gloo", init_method=f"file://{where}/meet", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.fixture
def shared(folder: Path, tmp_path: Path) -> Iterator[SharedPrior]:
    """A prior that is shared with nobody, but by the same orders."""
    with group(tmp_path):
        hand = Hand()
        orders.send(hand, orders.Load(find_prior(folder / "prior"), "cpu", "float32"))
        yield SharedPrior.of(hand)


def particles(score: Any) -> Any:
    z, s, e = (torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(3))
    return score.schedule.noised(Batch(z, s, torch.arange(3)), 300, e)


def test_orders_are_what_the_prior_does(shared: SharedPrior, folder: Path) -> None:
    own = load_prior(folder / "prior", device="cpu")
    rgb = torch.rand(3, 3, 32, 32)
    z = own.encode(rgb)
    assert torch.equal(shared.encode(rgb), z)
    assert torch.equal(shared.decode(z), own.decode(z))
    prompts, csd = Prompts("make it snowy"), CsdConfig(regulariser="patch-nce", nce_patches=4, kernel_on="features")
    for make in (lambda p: p.score_under(csd, prompts), lambda p: p.score(prompts, Guidance(2.0))):
        theirs, mine = make(own), make(shared)
        x = particles(mine)
        assert torch.equal(csd_step(mine, x, csd).g, csd_step(theirs, x, csd).g)
    pulled = Attention(steering=Steering(Excite(), step=1.0, columns="words", level=1), group="snowy")
    scores: list[Any] = [p.score_under(csd, prompts, pulled) for p in (shared, own)]
    x = scores[0].schedule.noised(Batch(z, z, torch.arange(3)), 600, torch.randn(z.shape))
    terms = [score.for_step(x).own_gradient(x) for score in scores]
    assert torch.equal(*terms)
    assert terms[0].abs().max() > 0
    for name in ("name", "path", "kind", "native_px", "multiple_px", "looks_at_pictures", "device", "things"):
        assert getattr(shared, name) == getattr(own, name)
    assert shared.kinds_of(["make it snowy"]) == own.kinds_of(["make it snowy"])
    assert shared.defaults() == own.defaults()
    assert shared.notes[0] == "1 processes shared the work"


def test_what_guidance_reuses_is_evaluated_by_all_and_kept_by_rank_0(shared: SharedPrior, folder: Path) -> None:
    csd = CsdConfig(guide_every=2, timesteps="descending", s_text=3.0, s_image=1.5)
    own, counts, directions = load_prior(folder / "prior", device="cpu"), list[int](), list[list[Tensor]]()
    for prior in (own, shared):
        score = reusing(prior.score_under(csd, Prompts("make it snowy")), csd)
        assert isinstance(score, ReusingScore)
        before = prior.rows_done
        directions.append([csd_step(score, particles(score), csd).g for _ in range(2)])
        counts.append(prior.rows_done - before)
    assert all(torch.equal(a, b) for a, b in zip(*directions, strict=True))
    assert counts == 2 * [3 * (5 + 3)]  # the unconditional branch of particles and sources once in two moves


def test_every_rank_knows_which_control_picture_a_particle_takes(shared: SharedPrior) -> None:
    guard = Mock(spec=Guard, sees=Mock(spec=Sees))
    shared.hand.prior = replace(shared.own, guard=guard)
    shared.assign_pictures([0, 3])
    guard.sees.assign.assert_called_once_with((0, 3))


def test_what_an_order_raises_is_raised(shared: SharedPrior) -> None:
    reused = CsdConfig(guide_every=4, timesteps="descending", residual="noise")
    with pytest.raises(ValueError, match="guide-every: expected 1 where no source is predicted"):
        shared.score_under(reused, Prompts("make it snowy"))
    with pytest.raises(UnknownPrompt):
        shared.score(Prompts("sing"), Guidance(1.0))
    with pytest.raises(ValueError, match="multiples of 8"):
        shared.encode(torch.rand(1, 3, 31, 32))


class OddError(Exception):
    """It cannot be sent."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def test_errors_of_any_kind_can_be_sent() -> None:
    assert type(orders._portable(OddError("a", "b"))) is RuntimeError
    assert str(orders._of_rank(3, MemoryError("full"))) == "process 3: full"
    assert isinstance(orders._of_rank(3, OddError("a", "b")), RuntimeError)
    assert isinstance(orders._portable(UnknownPrompt("sing", [], title="builtin")), ValueError)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (device_of(None), device_of("cuda"), device_of("cpu")) == ("cuda:1", "cuda:1", "cpu")
    with pytest.raises(ValueError, match=r"expected cpu or cuda for several processes, .* got cuda:1"):
        device_of("cuda:1")


def test_alone_the_prior_is_not_wrapped(folder: Path) -> None:
    assert type(load_shared(find_prior(folder / "prior"), device="cpu", precision="auto")).__name__ == "InstructPrior"


def test_who_is_left_alone_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def gone(_: object) -> None:
        raise RuntimeError("Connection closed by peer\nmore")

    monkeypatch.setattr(crew, "broadcast", gone)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert crew.serve() == 1
    assert capsys.readouterr().err == "rank 0: rank 0 is gone (Connection closed by peer)\n"


def test_torchrun_is_for_the_editors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["priors"]) == 2
    assert capsys.readouterr().err == (
        "csd3d priors: expected one process, got 2; torchrun is for video, panorama, image\n"
    )
    monkeypatch.setenv("RANK", "1")
    assert main(["priors"]) == 2
    assert capsys.readouterr().err == ""
    assert {name for name, entry in COMMANDS.items() if entry.several} == {"video", "panorama", "image"}


def started(count: int, server: dict[str, str], *words: str) -> list["subprocess.Popen[str]"]:
    """So many processes, with what torchrun tells them."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    common = {"TORCHELASTIC_RUN_ID": "t", "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, "-S", server["CLIENT_PY"], *words],
            env={**os.environ, **server, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for rank in range(count)
    ]  # fmt: skip


def spread(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.slow
def test_two_processes_edit_as_one(folder: Path, server: dict[str, str]) -> None:
    processes = started(2, server, "-c", "from tests.runs.crew_work import main; main()", str(folder))
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    device, eye = said[0][0].splitlines()
    assert device.startswith("device: expected cpu or cuda for several processes")
    assert eye == "eye: expected one process, which alone knows how points move, got 2"
    assert said[1] == ("", "")
    assert not (folder / "by-1").exists()  # only rank 0 writes
    run_all(folder, folder / "alone")
    assert spread(*(torch.load(folder / by / "dense.pt") for by in ("by-0", "alone"))) < 1e-5
    for name in ("clip", "reused", "attending", "like", "sampled", "wide", "wide sampled", "cds"):
        shared, alone = (latents(folder / by / name) for by in ("by-0", "alone"))
        # float rounding: calls have other numbers of rows; sampling and the low temperature of PatchNCE amplify it
        within = 1e-3 if "sampled" in name else 2e-4 if name == "cds" else 1e-5
        assert spread(shared, alone) < within, name
    shared, alone = (Manifest.read(folder / by / "clip" / "manifest.json") for by in ("by-0", "alone"))
    assert "2 processes shared the work" in shared.notes
    for name in (ROWS, ROWS_EACH):
        assert shared.numbers[name] == alone.numbers[name] != 0, "those of both"


@pytest.mark.slow
def test_a_run_of_two_is_stopped_and_one_goes_on(folder: Path, tmp_path: Path, server: dict[str, str]) -> None:
    words = ["video", str(folder / "clip.mp4"), "--prompt", "make it snowy", "--prior", str(folder / "prior")]
    words += ["--size", "32", "--steps", "2", "--run-dir", str(tmp_path / "run"), "--device", "cpu"]
    processes = started(2, server, *words)
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "report" in said[0][0]
    assert said[1] == ("", "")
    assert main(["video", "--resume", "--run-dir", str(tmp_path / "run"), "--steps", "3"]) == 0
    assert Manifest.read(tmp_path / "run" / "manifest.json").steps_done == 3
