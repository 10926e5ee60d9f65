"""What the page reads and writes: its folder, nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from csd3d.runs.manifest import Manifest
from csd3d.ui.files import RunsFolder, may_come_in

PLAIN = Manifest("image", {"prompt": "make it snowy"}, 0, status="finished")


@pytest.fixture
def folder(tmp_path: Path) -> RunsFolder:
    path = tmp_path / "runs"
    (path / "a" / "media").mkdir(parents=True)
    for name in ("report.html", "sheet.png", "media/x.mp4", "state.safetensors"):
        (path / "a" / name).write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    (path / "a" / "link.png").symlink_to(tmp_path / "secret.png")
    (path / "b").symlink_to(tmp_path)
    replace(PLAIN, written={str(path / "a" / "sheet.png"): "0"}).write(path / "a" / "manifest.json")
    return RunsFolder(path)


@pytest.mark.parametrize("relative", ["report.html", "sheet.png", "media/x.mp4", "media/../sheet.png"])
def test_what_a_report_shows_can_be_had(folder: RunsFolder, relative: str) -> None:
    assert folder.file("a", relative).is_relative_to(folder.path / "a")


@pytest.mark.parametrize(
    ("name", "relative"),
    [
        ("a", "../../secret.png"),
        ("a", "/etc/passwd"),
        ("a", "link.png"),
        ("a", "state.safetensors"),
        ("a", "manifest.json"),
        ("a", "none.png"),
        ("b", "secret.png"),
        ("..", "secret.png"),
        ("a/../..", "secret.png"),
        ("", "a/sheet.png"),
        ("uploads", "x.png"),
    ],
)
def test_nothing_else_can(folder: RunsFolder, name: str, relative: str) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        folder.file(name, relative)


def test_a_run_that_writes_elsewhere_is_shown_and_left_alone(folder: RunsFolder, tmp_path: Path) -> None:
    assert folder.result("a") == folder.path / "a" / "sheet.png"
    elsewhere = replace(PLAIN, written={str(tmp_path / "secret.png"): "0"})
    elsewhere.write(folder.path / "a" / "manifest.json")
    assert [run.name for run in folder.listed()] == ["a"]
    assert folder.result("a") is None
    with pytest.raises(ValueError, match="expected one that writes below"):
        folder.manifest("a")


def test_uploads_stay_under_a_name_of_their_own(folder: RunsFolder, tmp_path: Path) -> None:
    odd = tmp_path / "a <b>; rm -rf ~ .PNG"
    odd.write_bytes(b"one")
    first = folder.take(odd)
    assert (first.parent, first.suffix, first.read_bytes()) == (folder.uploads, ".png", b"one")
    assert folder.take(odd) == first
    odd.write_bytes(b"two")
    assert folder.take(odd) != first
    assert {path.name for path in folder.uploads.iterdir()} == {first.name, folder.take(odd).name}


def test_runs_claim_folders_of_their_own(folder: RunsFolder) -> None:
    source = folder.uploads / "photo.png"
    assert folder.claim(source, "make it night") != folder.claim(source, "make it night")


def test_the_stamp_changes_with_the_runs_alone(folder: RunsFolder) -> None:
    before = folder.stamp()
    assert folder.stamp() == before
    (folder.path / "a" / "state.safetensors").write_bytes(b"other")
    assert folder.stamp() == before
    replace(PLAIN, status="undone").write(folder.path / "a" / "manifest.json")
    after = folder.stamp()
    assert after != before
    (folder.path / "a" / "sheet.png").unlink()
    assert folder.stamp() != after


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{uploads}/../secret.png",
        "{uploads}/link.png",
        "photo.png",
        "http://127.0.0.1/a.png",
        "a\0",
        3,
        ["a"],
    ],
)
def test_a_request_names_no_file_of_elsewhere(folder: RunsFolder, tmp_path: Path, path: object) -> None:
    folder.uploads.mkdir()
    (folder.uploads / "link.png").symlink_to(tmp_path / "secret.png")
    given = path.format(uploads=folder.uploads) if isinstance(path, str) else path
    for data in ([{"path": given}], {"value": {"layers": [[{"path": given, "meta": {}}]]}}):
        assert not may_come_in(json.dumps({"data": data}).encode(), folder.uploads)


def test_a_request_names_what_was_handed_in(folder: RunsFolder) -> None:
    body = {"data": [{"path": str(folder.uploads / "a" / "photo.png")}, None, {"path": None}, "path", 1]}
    assert may_come_in(json.dumps(body).encode(), folder.uploads)
    assert may_come_in(b"", folder.uploads)


@pytest.mark.parametrize("body", [b"a=1&b=2", b"{", b"\xff", b"[" * 200_000])
def test_a_request_that_cannot_be_read_is_refused(folder: RunsFolder, body: bytes) -> None:
    assert not may_come_in(body, folder.uploads)
