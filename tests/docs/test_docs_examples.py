"""The examples in docs/examples do what the pages say of them."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from csd3d.cli.editors import Form, edit_base, read_request, run_and_say
from csd3d.cli.parse import Flag
from csd3d.engine import CsdConfig
from csd3d.media.pictures.levels import from_levels, read_levels, to_levels
from csd3d.media.pictures.write import write_picture
from csd3d.runs.job import make_request, run_job
from csd3d.runs.manifest import Manifest
from tests.toys import ToyPrior

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def load(name: str) -> ModuleType:
    """An example as a module; dataclasses ask for it by name."""
    spec = importlib.util.spec_from_file_location(f"docs_example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    """Three pictures of different sizes."""
    path = tmp_path / "pictures"
    path.mkdir()
    for k, (height, width) in enumerate([(40, 48), (32, 32), (64, 33)]):
        write_picture(path / f"{k}.png", to_levels(torch.rand(3, height, width)))
    return path


def pixels(paths):
    return torch.stack([from_levels(read_levels(path)) for path in paths])


def test_coupled_particles_of_the_engine_example_agree_and_others_do_not():
    example = load("engine")
    plain = CsdConfig(residual="noise", lr=0.3, t_min=300, t_max=900, bandwidth=0.0, repulsion=0.0)
    alone = example.answers(replace(plain, coupling="independent"))
    together = example.answers(replace(plain, coupling="svgd"))
    assert min(map(abs, [*alone, *together])) > 0.5
    assert len({value > 0 for value in together}) == 1
    assert len({value > 0 for value in alone}) == 2


def test_the_folder_editor_edits_every_picture(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = load("folder")
    result = example.edit_folder(folder, "make it red", tmp_path / "red", prior=ToyPrior())
    assert [path.name for path in result.outputs] == ["0.png", "1.png", "2.png"]
    assert result.path.parent == tmp_path / "red"
    assert result.facts == {"pictures": 3}
    red = pixels(result.outputs)
    assert red.shape == (3, 3, 32, 32)
    assert (red[:, 0] - red[:, 1:].amax(1)).mean() > 0.5
    assert Manifest.read(result.run_dir / "manifest.json").status == "finished"
    assert "make it red" in result.report.read_text()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_folder_editor_goes_on_bit_for_bit(folder, tmp_path, optimizer):
    example = load("folder")
    csd = CsdConfig(steps=4, lr=0.1, optimizer=optimizer)

    def edit(name, steps, resume=False):
        config = example.FolderConfig(csd=replace(csd, steps=steps))
        request = make_request(
            example.FolderEditor, folder, "make it red", None, config, run_dir=tmp_path / name, resume=resume
        )
        return run_job(example.FolderEditor, request, prior=ToyPrior())

    whole, _ = edit("whole", 4), edit("parts", 2)
    parts = edit("parts", 4, resume=True)
    assert pixels(parts.outputs).equal(pixels(whole.outputs))


def test_the_folder_editor_refuses_a_folder_without_pictures(tmp_path):
    example = load("folder")
    with pytest.raises(ValueError, match="expected pictures"):
        example.edit_folder(tmp_path, "make it red", prior=ToyPrior())


def test_the_folder_editor_becomes_a_command_by_a_form(folder, tmp_path, capsys, only_toys):
    example = load("folder")
    source = Flag("folder", Path | None, None, "Folder of pictures. None: that of the run to resume.", positional=True)
    form = Form(
        example.FolderEditor,
        about="Edit the pictures of a folder together.",
        source=source,
        first=("steps", "size", "seed", "device"),
        base=edit_base,
    )
    words = [str(folder), "--prompt", "make it red", "--steps", "2", "--run-dir", str(tmp_path / "run"), "--size", "40"]
    request, extras = read_request(form, words)
    assert run_and_say(form, replace(request, source=extras["folder"]), "folder") == 0
    assert str(tmp_path / "run" / "edited" / "0.png") in capsys.readouterr().out
    assert pixels([tmp_path / "run" / "edited" / "0.png"]).shape == (1, 3, 40, 40)
