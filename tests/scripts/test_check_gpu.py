"""The check of a GPU without one: it refuses, lists its parts, ends what takes too long, and its parts run on a CPU."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from csd3d.media.pictures.read import open_picture
from csd3d.world.export import write_photo
from csd3d.world.sample import sample_photo
from scripts.check_gpu import Settings, check
from scripts.gpu import clips, networks, real_prior
from scripts.gpu.parts import Part, attempt, page, parts
from tests.priors.families.tiny import write_family

ROOT = Path(__file__).parents[2]
TINY_UNET = {
    "sample_size": 8,
    "in_channels": 8,
    "out_channels": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


def test_all_parts_fit_into_twenty_minutes(tmp_path: Path) -> None:
    every = parts(prior=tmp_path, csd=tmp_path)
    assert sum(part.limit_s for part in every) <= 20 * 60
    assert not any(part.without for part in every)
    assert {part.name for part in parts() if part.without} == {"prior", "peers"}
    for part in every:  # what they start is there
        module = part.command[1]
        assert module in ("pytest", "csd3d") or (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_without_cuda_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="expected a CUDA device, found none"):
        check(Settings(out=tmp_path / "gpu.md"))
    assert not (tmp_path / "gpu.md").exists()


def test_the_script_refuses_before_it_sets_anything_up(tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("there is an NVIDIA driver")
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}" if Path(f"/usr/bin/{tool}").exists() else f"/bin/{tool}")
    done = subprocess.run(
        [str(ROOT / "scripts/check_gpu.sh")], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "expected an NVIDIA GPU" in done.stderr


def test_a_dry_run_lists_the_parts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert check(Settings(out=tmp_path / "gpu.md", dry_run=True)) == 0
    listed = capsys.readouterr().out
    assert "networks  at most 200 s" in listed
    assert "not given (--prior)" in listed
    assert not (tmp_path / "gpu.md").exists()


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only: expected parts among doctor, tests"):
        check(Settings(only=("everything",)))
    with pytest.raises(ValueError, match="minutes: expected a number above 0"):
        Settings(minutes=0)
    with pytest.raises(ValueError, match="prior: expected a folder"):
        Settings(prior=tmp_path / "none")


def python(code: str, **options: object) -> Part:
    return Part("a", "something", ("-c", code), 60, **options)  # pyright: ignore[reportArgumentType]


def test_a_part_passes_fails_or_is_ended_with_what_it_started() -> None:
    assert attempt(python("print('fine')"), limit_s=60).text == "fine"
    failed = attempt(python("print('| a |'); raise SystemExit('no memory')", markdown=True), limit_s=60)
    assert (failed.status, failed.text) == ("failed", "| a |\n\n```text\nno memory\n```")
    child = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    began = time.monotonic()
    late = attempt(python(child), limit_s=1.0)
    assert late.status == "out of time"
    assert time.monotonic() - began < 10
    for _ in range(50):  # the kernel reaps it soon
        state = Path(f"/proc/{int(late.text)}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        os.kill(int(late.text), 9)
        raise AssertionError("the part's child is alive")
    assert attempt(python(""), limit_s=0.0).text == "no time was left"
    assert attempt(python("", without="not given"), limit_s=9.0).status == "left out"


def test_all_parts_are_tried_and_the_page_says_what_became_of_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = (python("raise SystemExit(3)"), python("print('# quoted')"), python("print('| t |')", markdown=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("scripts.check_gpu.parts", lambda **_: some)
    monkeypatch.setattr("scripts.check_gpu.machine", lambda: "a GPU")
    assert check(Settings(out=tmp_path / "gpu.md")) == 1
    written = (tmp_path / "gpu.md").read_text()
    assert written.count("| passed |") == 2
    assert written.count("| failed |") == 1
    assert "```text\n# quoted\n```" in written
    assert "\n| t |\n" in written
    assert "passed" in capsys.readouterr().out
    assert page([], machine="a GPU", seconds=1.0).startswith("# What a GPU shows")


def test_networks_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = networks.Settings(device="cpu", rows=(1, 2), pictures=(1,), repeats=1, compiled=False)
    found = list(networks.table("tiny", networks.unets(settings, TINY_UNET)))
    assert [line.split(" | ")[0] for line in found[4:-1]] == ["| float32", "| float32", "| bfloat16", "| bfloat16"]
    vae = {**networks.SD_VAE, "block_out_channels": (4, 4, 4, 8), "norm_num_groups": 2, "layers_per_block": 1}
    assert [line.split(" | ")[0] for line in networks.codecs(settings, vae, 16)] == ["| encoding", "| decoding"]

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(networks, "measure", full)
    assert next(networks.unets(settings, TINY_UNET)) == "| float32 | 1 | does not fit | | | |"


@pytest.mark.slow
def test_clips_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_python: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(warm_python))
    settings = clips.Settings(device="cpu", frames=(3,), size_px=64, steps=1)
    head, _, row = clips.table(settings, tmp_path)
    assert row.startswith("| 3 | ")
    assert row.count("|") == head.count("|")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="3 frames: "):
        list(clips.table(settings, tmp_path))


@pytest.mark.slow
def test_a_family_of_a_folder_edits_a_photo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csd3d.priors.families.load._native_px", lambda *_: 64)  # not a thousand
    found, photo = write_family("klein", tmp_path / "klein"), tmp_path / "photo.png"
    write_photo(sample_photo(8, height_px=64, width_px=96), photo)
    part = next(part for part in parts(prior=found, scratch=tmp_path) if part.name == "prior")
    assert part.command[2:] == (str(found), str(photo)), "what the check starts, on another device"
    assert real_prior.main(real_prior.Settings(found, photo, device="cpu", steps=1)) == 0
    out = capsys.readouterr().out
    assert out.startswith("96 x 64 px, 1 moves, 'make it snowy'.")
    assert [out.count(f"| {how} | ") for how in ("as it is", "fp8", "offloaded")] == [1, 1, 0]
    assert out.count("e-0") == 2, "how far replays are off the pipeline"
    assert "compiled" not in out, "a pipeline that is replayed is not"
    for picture in ("photo-edited.png", "photo-edited-fp8.png"):
        assert open_picture(tmp_path / picture).pixels.shape == (64, 96, 3)


@pytest.mark.slow
def test_a_prior_of_a_folder_edits_a_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ROOT / "csd3d" / "weights" / "instruct"
    settings = real_prior.Settings(found, tmp_path / "photo.png", device="cpu", steps=1, compiled=False)
    assert real_prior.main(settings) == 0
    assert "| as it is | " in capsys.readouterr().out
    assert (tmp_path / "photo-edited.png").is_file()
    assert real_prior.main(real_prior.Settings(tmp_path, tmp_path / "photo.png", device="cpu")) == 1
    assert capsys.readouterr().err.count("\n") == 1
