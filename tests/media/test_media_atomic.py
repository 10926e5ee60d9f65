"""Files appear whole or not at all."""

import errno
import json
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from csd3d.media import atomic
from csd3d.media.atomic import atomic_folder, atomic_path, remove_leftovers, write_json, write_text


def test_writes_and_replaces(tmp_path):
    target = tmp_path / "new" / "a.json"
    write_json(target, {"a": 1})
    write_json(target, {"a": 2})
    assert json.loads(target.read_text()) == {"a": 2}
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fail():
        with atomic_path(target) as part:
            part.write_text("half")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("hidden", [False, True])
def test_an_error_of_the_disk_names_the_file(tmp_path, hidden):
    target = tmp_path / "a.mkv"
    with pytest.raises(OSError, match="No space left") as caught, atomic_path(target) as part:
        raise OSError(errno.ENOSPC, "No space left on device", *([str(part)] if hidden else []))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(target))
    with pytest.raises(OSError, match="No space left") as caught, atomic_folder(tmp_path / "frames") as folder:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "1.png"))
    assert caught.value.filename == str(tmp_path / "frames")
    with pytest.raises(FileNotFoundError) as other, atomic_path(target):
        (tmp_path / "none").read_bytes()
    assert other.value.filename == str(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_temporary_file_keeps_the_suffix_and_the_folder(tmp_path):
    with atomic_path(tmp_path / "clip.mp4") as part:
        assert part.suffix == ".mp4"
        assert part.parent == tmp_path
        part.write_bytes(b"x")


def test_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folder_as_target_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got the folder"), atomic_path(tmp_path):
        pass


def test_json_refuses_nan_and_keeps_the_old(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, {"a": float("nan")})
    assert json.loads(target.read_text()) == {"a": 1}


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    with atomic_path(tmp_path / "keep.txt") as part:
        part.write_text("x")
        left = part.with_name(part.name.replace("keep", "dead"))  # of this process's number, which another had before
        left.write_text("half")
        assert remove_leftovers(tmp_path) == [left], "what is being written stays"
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]


def test_writing_removes_what_a_killed_process_left_of_it(tmp_path):
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    gone, alive = int(killed.stdout), os.getppid()
    names = [f".a.part-{gone}-0a.txt", ".a.part-0123abcd.txt", f".a.part-{alive}-0a.txt", f".b.part-{gone}-0a.txt"]
    for name in names:
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "a.txt", "whole")
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", *names[2:]}, "not what is another's, or still written"
    (tmp_path / f".frames.part-{gone}-0a").mkdir()
    with atomic_folder(tmp_path / "frames"):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", "frames", *names[2:]}


def test_a_folder_appears_whole_and_flushed(tmp_path, monkeypatch):
    flushed, renamed = [], []
    monkeypatch.setattr(atomic.os, "fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")))
    replace = os.replace
    monkeypatch.setattr(atomic.os, "replace", lambda a, b: (renamed.append(len(flushed)), replace(a, b)))
    with atomic_folder(tmp_path / "new" / "frames") as part:
        (part / "images").mkdir()
        (part / "images" / "0.png").write_bytes(b"x")
    assert (tmp_path / "new" / "frames" / "images" / "0.png").read_bytes() == b"x"
    before = [Path(name).name for name in flushed[: renamed[0]]]
    assert {"images", "0.png"} <= set(before)
    assert str(tmp_path) in flushed, "the new parent has its name"
    assert flushed[-1] == str(tmp_path / "new")


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True)])
def test_folders_that_a_disk_does_not_flush(tmp_path, monkeypatch, code, fails):
    """As those that a network or a program serves: what is in them is whole all the same, if nothing is broken."""

    def fsync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with pytest.raises(OSError, match="error") if fails else nullcontext():
        write_text(tmp_path / "new" / "a.txt", "whole")
    if not fails:
        with atomic_folder(tmp_path / "frames") as part:
            (part / "0.txt").write_text("x")
        assert (tmp_path / "new" / "a.txt").read_text() == "whole"
        assert (tmp_path / "frames" / "0.txt").read_text() == "x"


def test_a_name_that_was_taken_meanwhile_is_told(tmp_path):
    def late() -> None:
        with atomic_folder(tmp_path / "out") as part:
            (part / "a").touch()
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()

    with pytest.raises(ValueError, match=f"^output: expected a new or empty folder, got {tmp_path / 'out'}$"):
        late()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "theirs"]


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()

    def fail(name):
        with atomic_folder(tmp_path / name) as part:
            (part / "0.png").write_bytes(b"x")
            raise RuntimeError("disk")

    for name in ("new", "empty"):
        with pytest.raises(RuntimeError, match="disk"):
            fail(name)
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
    (tmp_path / "empty" / "mine").write_bytes(b"")
    for name in ("empty", "empty/mine"):
        with pytest.raises(ValueError, match="new or empty folder"), atomic_folder(tmp_path / name):
            pass


def test_a_folder_that_replaces_another(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "frames", replaces=True) as part:
            (part / text).write_text(text)
    assert [p.name for p in (tmp_path / "frames").iterdir()] == ["new"]

    def fail():
        with atomic_folder(tmp_path / "frames", replaces=True):
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert [p.name for p in (tmp_path / "frames").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["frames"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="new or empty folder"), atomic_folder(tmp_path / "file", replaces=True):
        pass
