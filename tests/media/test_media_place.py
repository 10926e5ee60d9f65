"""What is read is never written over, by whatever name; what cannot be written is refused before the work."""

import os
from pathlib import Path

import pytest
from PIL import Image

from csd3d.media.atomic import write_text
from csd3d.media.pictures.read import open_picture
from csd3d.media.place import require_place


def spellings(folder: Path) -> list[Path]:
    """Names of `folder`/in.png, of which one is in a folder that does not exist."""
    (folder / "sub").mkdir()
    (folder / "link.png").symlink_to("in.png")
    (folder / "way").symlink_to(folder, target_is_directory=True)
    os.link(folder / "in.png", folder / "hard.png")
    return [
        folder / "in.png", folder / "sub" / ".." / "in.png", folder / "nowhere" / ".." / "in.png",
        folder / "nowhere" / "deeper" / ".." / ".." / "in.png", folder / "link.png", folder / "way" / "in.png",
        folder / "hard.png",
    ]  # fmt: skip


def test_an_input_is_not_written_over_by_any_name(tmp_path, monkeypatch):
    (tmp_path / "in.png").write_text("x")
    names = spellings(tmp_path)
    monkeypatch.chdir(tmp_path)
    for output in [*names, Path("in.png"), Path("nowhere/../in.png")]:
        for read in (tmp_path / "in.png", Path("in.png"), tmp_path / "way" / "in.png"):
            with pytest.raises(ValueError, match="another file than those that are read"):
                require_place(output, inputs=[Path("other.png"), read])
    assert not (tmp_path / "nowhere").exists()
    require_place(tmp_path / "nowhere" / ".." / "new.png", inputs=[tmp_path / "in.png"])


def test_nothing_is_written_into_a_model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "model", target_is_directory=True)
    for name in ("model", "model/x.png", "way/deep/x.png", "none/../model/config.json"):
        with pytest.raises(ValueError, match="expected a place outside of the model"):
            require_place(tmp_path / name, models=[tmp_path / "model"])
    require_place(tmp_path / "x.png", models=[tmp_path / "model"])


def test_upper_case_is_no_other_file_where_the_system_says_so(tmp_path, monkeypatch):
    (tmp_path / "in.png").write_text("x")
    (tmp_path / "IN.png").write_text("x")
    monkeypatch.setattr(os.path, "samestat", lambda a, b: True)  # as a case-insensitive file system answers
    with pytest.raises(ValueError, match="another file than those"):
        require_place(tmp_path / "IN.png", inputs=[tmp_path / "in.png"])


def test_names_of_the_run_are_its_own(tmp_path):
    run = tmp_path / "run"
    own = [run / "manifest.json", run / "media", run / "sheet.png"]
    for output in (
        run / "sheet.png",
        run / "media",
        run / "media" / "a.mp4",
        run,
        tmp_path,
        run / "x" / ".." / "media",
    ):
        with pytest.raises(ValueError, match="another place than what the run writes for itself"):
            require_place(output, reserved=own)
    require_place(run / "edited.png", reserved=own)
    assert not run.exists()


def test_a_place_that_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    os.mkfifo(tmp_path / "pipe.png")
    before = sorted(p.name for p in tmp_path.iterdir())
    for output, match in (
        (tmp_path / "file" / "out.png", "folder in which files can be made"),
        (tmp_path / ("x" * 245 + ".png"), "a name of at most 230 bytes"),
        (tmp_path / ("x" * 300) / "a.png", "folders with names of at most 255 bytes"),
        (tmp_path / "a.png", "a path that leads somewhere"),
        (tmp_path / "pipe.png", "the device or pipe"),
        (Path("/dev/null"), "the device or pipe"),
        (Path("-"), "got -"),
        (Path("s3://bucket/out.mp4"), "a path on this machine"),
        (Path("file:///tmp/out.mp4"), "a path on this machine"),
        (Path("C:\\out\\a.mp4"), "a path on this machine"),
    ):
        with pytest.raises(ValueError, match=match) as refused:
            require_place(output)
        assert "\n" not in str(refused.value)
    if Path("/proc").is_dir():
        with pytest.raises(ValueError, match="folder in which files can be made, got /proc"):
            require_place(Path("/proc/out.png"))
    require_place(tmp_path / "new" / "deep" / "out.png")
    require_place(Path("note: at 3.png"))
    assert sorted(p.name for p in tmp_path.iterdir()) == before

    def refuse(**_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ValueError, match="folder in which files can be made"):
        require_place(tmp_path / "out.png")


def test_an_output_that_is_a_link_stays_one(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_names_that_are_no_utf8(tmp_path):
    odd = tmp_path / "caf\udce9.png"
    Image.new("RGB", (8, 8)).save(odd)
    for check in (require_place, open_picture):
        with pytest.raises(ValueError, match=r"expected a name in UTF-8, got b'.*caf\\xe9.png'"):
            check(odd)
