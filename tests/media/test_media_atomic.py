"""Files appear whole or not at all."""

import json

import pytest

from csd3d.media.atomic import atomic_path, remove_leftovers, write_json, write_text


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
        left = part.with_name(part.name.replace("keep", "dead"))
        left.write_text("half")
    assert remove_leftovers(tmp_path) == [left]
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]
