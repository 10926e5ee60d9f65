"""Manifests are valid JSON, come back equal, and tell settings apart."""

import dataclasses
import hashlib
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from csd3d.runs.manifest import Manifest, differences, fingerprint, peak_memory, read_settings
from csd3d.runs.settings import to_plain


@dataclasses.dataclass(frozen=True)
class _Inner:
    lr: float = 0.5


@dataclasses.dataclass(frozen=True)
class _Config:
    inner: _Inner = dataclasses.field(default_factory=_Inner)
    where: Path = Path("a/b")
    rate: Fraction = Fraction(30000, 1001)
    names: tuple[str, ...] = ("x",)
    size: int | None = None


def test_time_of_a_phase_counts_however_it_ends(monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 20.25])
    monkeypatch.setattr("csd3d.runs.manifest.time.monotonic", lambda: next(clock))
    manifest = Manifest(command="video", config={}, seed=0)
    with manifest.timed("edit"):
        pass
    with pytest.raises(ValueError, match="full"), manifest.timed("edit"):
        raise ValueError("full")
    assert manifest.timing_s == {"edit": 2.75}


def test_round_trip_keeps_every_field(tmp_path):
    manifest = Manifest(command="video", config=to_plain(_Config()), seed=3)
    assert manifest.note("fell back")
    assert not manifest.note("fell back")
    manifest.add_time("edit", 1.25)
    manifest.add_time("edit", 0.5)
    manifest.measure_memory()
    manifest.write(tmp_path / "manifest.json")
    again = Manifest.read(tmp_path / "manifest.json")
    assert again == manifest
    assert again.timing_s == {"edit": 1.75}
    assert again.notes == ["fell back"]
    assert again.memory_bytes["resident"] > 10_000_000
    value = json.loads((tmp_path / "manifest.json").read_text())
    assert value["versions"]["torch"] == torch.__version__.split("+")[0] or value["versions"]["torch"]
    assert value["config"] == {
        "inner": {"lr": 0.5},
        "where": "a/b",
        "rate": "30000/1001",
        "names": ["x"],
        "size": None,
    }


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected format"),
        ('{"format": 99}', "expected format 2 or below, got 99"),
        ('{"format": 1, "command": "a", "config": {}, "seed": 1, "odd": 1}', "unknown fields"),
        ('{"format": 1, "command": "a"}', "missing fields"),
        (
            '{"format": 1, "command": "a", "config": {}, "seed": 1, "status": "odd"}',
            "expected status to be another kind",
        ),
        ('{"format": 2, "command": "a", "config": null, "seed": 1}', "expected config to be another kind of value"),
        ('{"format": 2, "command": "a", "config": {}, "seed": 1, "created": 5}', "expected created to be another kind"),
        ('{"format": 2, "command": "a", "config": {}, "seed": 1, "written": null}', "expected written to be another"),
        ('{"format": 2, "command": "a", "config": {}, "seed": 1, "notes": "x"}', "expected notes to be another kind"),
        ('{"format": 2, "command": "a", "config": {}, "seed": 1, "inputs": [{"path": 1}]}', "a path and a sha256"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_refuses_what_is_no_manifest(tmp_path, text, match):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        Manifest.read(path)


def test_a_manifest_of_an_earlier_version_is_read_and_written_as_it_is_but_not_resumed(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text('{"format": 1, "command": "video", "config": {"motion": false}, "seed": 1}')
    manifest = Manifest.read(path)
    manifest.status = "undone"
    manifest.write(path)
    assert Manifest.read(path).format == 1
    with pytest.raises(
        ValueError, match=r"expected a run of this version \(format 2\), got one that an earlier version"
    ):
        read_settings(object(), Manifest.read(path))


def test_missing_manifest_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="got no file at"):
        Manifest.read(tmp_path / "manifest.json")


def test_settings_that_are_not_plain_are_refused():
    with pytest.raises(TypeError, match="Tensor"):
        to_plain({"a": torch.ones(1)})


def test_differences_are_named_with_dots_and_can_be_ignored():
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 5, "d": 4}, "e": None}
    assert differences(old, new) == ["b.c: 2 -> 5", "b.d: 3 -> 4"]
    assert differences(old, new, ignore=("b.c", "b.d")) == []


def test_fingerprint_of_file_and_folder(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"abc" * 1000)
    found = fingerprint(file)
    assert found == {"path": str(file), "sha256": hashlib.sha256(b"abc" * 1000).hexdigest(), "bytes": 3000}
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"1")
    (folder / "2.png").write_bytes(b"2")
    before = fingerprint(folder)
    assert before["bytes"] == 2
    (folder / "2.png").rename(folder / "3.png")
    assert fingerprint(folder)["sha256"] != before["sha256"]
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "none")


def test_peak_memory_never_falls():
    first = peak_memory()["resident"]
    block = torch.ones(20_000_000)
    assert peak_memory()["resident"] >= max(first, block.nbytes // 2)
