"""A prior is known by what its pictures depend on, whatever lies beside that."""

import os
from pathlib import Path

import pytest

from csd3d.priors.store.fingerprint import prior_entry, prior_fingerprint
from tests.toys import ToyPrior


def test_a_prior_is_known_by_what_its_pictures_depend_on(tmp_path):
    prior = tmp_path / "prior"
    (prior / "unet").mkdir(parents=True)
    (prior / "model_index.json").write_text("{}")
    (prior / "unet" / "weights.safetensors").write_bytes(b"1")
    before = prior_fingerprint(prior)
    (prior / "evaluation.json").write_text("[]")
    assert prior_fingerprint(prior) == before
    (prior / "safety_checker").mkdir()
    (prior / "safety_checker" / "config.json").write_text("{}")
    assert prior_fingerprint(prior) == before
    (prior / "unet" / "weights.safetensors").write_bytes(b"2")
    assert prior_fingerprint(prior) != before


def test_a_prior_of_the_hub_is_known_by_its_commit(tmp_path):
    """Which of its files are there depends on the device that asked for them first."""
    prior = tmp_path / "models--a--b" / "snapshots" / "0123abc"
    prior.mkdir(parents=True)
    assert prior_fingerprint(prior) == "0123abc"


@pytest.mark.parametrize("place", [0, 1 << 17, (1 << 18) - 1, (1 << 21) + 5])
def test_every_byte_of_the_weights_counts(tmp_path: Path, place: int) -> None:
    file = tmp_path / "unet" / "weights.safetensors"
    file.parent.mkdir()
    file.write_bytes(bytes(3 << 20))
    before = prior_fingerprint(tmp_path)
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"1")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))  # clocks of file systems are coarse
    assert prior_fingerprint(tmp_path) != before


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "unet" / "weights.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"once")
    opened: list[Path] = []
    own = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args: (opened.append(self), own(self, *args))[1])
    assert prior_fingerprint(tmp_path) == prior_fingerprint(tmp_path)
    assert opened == [file.resolve()]
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    prior_fingerprint(tmp_path)
    assert len(opened) == 2


def test_a_manifest_keeps_what_a_prior_is(tmp_path: Path) -> None:
    assert prior_entry(ToyPrior()) == {
        "name": "toy", "path": "/nonexistent/toy", "builtin": False, "kind": "instruct", "device": "cpu",
    }  # fmt: skip
