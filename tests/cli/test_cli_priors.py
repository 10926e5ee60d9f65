"""`csd3d priors`: what is listed and shown, from made-up directories (nothing is loaded)."""

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from csd3d.cli import main as cli
from csd3d.cli import priors as command
from csd3d.priors.memory import peak_bytes
from csd3d.priors.store import files
from csd3d.priors.store.resolve import PARTS
from tests.priors.guards import write_control
from tests.priors.tiny import write_tiny_prior

EDITS = {
    "snow": {"kind": "weather", "wordings": ["make it snowy", "cover it in snow [deep]"]},
    "sepia": {"kind": "filter", "wordings": ["make it sepia"]},
}


def make_prior(path: Path, edits: dict | None) -> Path:
    """A directory that looks like an InstructPix2Pix pipeline by its files' names."""
    index: dict = {"_class_name": "StableDiffusionInstructPix2PixPipeline"}
    for part, class_name in PARTS.items():
        index[part] = ["diffusers", class_name or "DDPMScheduler"]
        (path / part).mkdir(parents=True)
    for file in ("vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model", "text_encoder/model"):
        (path / f"{file}.safetensors").write_bytes(bytes(1_000_000))
    (path / "model_index.json").write_text(json.dumps(index))
    if edits is not None:
        (path / "vocabulary.json").write_text(json.dumps({"edits": edits}))
    return path


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Built-in weights made up in a folder, and an empty hub cache."""
    monkeypatch.setattr(command, "cached", dict)
    monkeypatch.setattr("csd3d.priors.store.resolve.csd3d.__file__", str(tmp_path / "csd3d" / "__init__.py"))
    return make_prior(tmp_path / "csd3d" / "weights" / "instruct", EDITS)


def test_list_names_kind_size_and_edits(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["priors"], ["priors", "list"]):
        assert cli.main(argv) == 0
        out = capsys.readouterr().out
        assert "builtin:instruct  instruct, 3 MB, knows 2 edits" in out
        assert str(weights) in out
        assert "--prior DIRECTORY" in out


def test_list_says_which_prior_is_broken(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (weights / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert cli.main(["priors"]) == 0
    assert "unusable" in capsys.readouterr().out


def test_show_lists_every_wording_by_kind(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["priors", "show", "builtin"]) == 0
    out = capsys.readouterr().out
    assert "make it snowy  (cover it in snow [deep])" in out
    assert out.index("weather") < out.index("filter") < out.index("make it sepia")


def test_a_directory_without_vocabulary_takes_any_sentence(tmp_path: Path) -> None:
    prior = command.describe(str(make_prior(tmp_path / "big", None)))
    assert prior.vocabulary is None
    assert "any sentence" in prior.summary()


def test_hub_ids_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = make_prior(tmp_path / "big", None)
    monkeypatch.setattr(command, "cached", lambda: {"someone/editor": big})
    assert command.describe("someone/editor").path == big
    with pytest.raises(FileNotFoundError, match="first use fetches it"):
        command.describe("someone/else")


def test_the_cache_is_read_as_the_hub_lays_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "none"), raising=False)
    assert command.cached() == {}
    make_prior(tmp_path / "none" / "models--someone--editor" / "snapshots" / ("0" * 40), None)
    (tmp_path / "none" / "models--someone--texts" / "snapshots" / ("1" * 40)).mkdir(parents=True)
    assert list(command.cached()) == ["someone/editor"]


def test_a_wrong_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["priors", "show", "builtin:nonsense"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("csd3d priors: prior 'builtin:nonsense'")
    assert len(err.strip().splitlines()) == 1


def test_lists_for_scripts_hold_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["priors", "list", "--json"]) == 0
    editor, painter = json.loads(capsys.readouterr().out)[:2]
    assert (editor["name"], editor["kind"]) == ("builtin:instruct", "instruct")
    assert [words[0] for words in editor["knows"].values() if "make it snowy" in words] == ["make it snowy"]
    assert any("ball" in words for words in painter["knows"].values())
    assert cli.main(["priors", "show", "builtin:t2i", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("row_flops")["512"] == pytest.approx(1.37e10, rel=0.01)
    assert shown == painter


@pytest.mark.parametrize("command", ["priors", "runs"])
def test_flags_alone_are_those_of_the_list(command: str, tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [cli.main([command, "list", "--json"]), cli.main([command, "--json"])] == [0, 0]
    text = capsys.readouterr().out
    assert text == 2 * text[: len(text) // 2]


def test_show_says_what_memory_is_needed_and_measures_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = write_tiny_prior(tmp_path / "tiny", closed=False)
    (tiny / "README.md").write_text("---\nlicense: openrail\n---\n")
    assert cli.main(["priors", "show", str(tiny), "--measure", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "licence by its card: openrail" in out
    row = 20 * 16 * 64**2 * 2  # maps x width x latents x half precision; no attention at the finest level
    assert max(row, 8 * 4 * 512**2 * 2) == peak_bytes(tiny, tiny / "vae", 512, looks=True)
    assert re.search(r"memory needed: 0\.\d+ GB at 512 px, 0\.\d+ GB at 1024 px \(weights and one row in half", out)
    assert re.search(r"measured at \d+ px on cpu: [\d.e-]+ s a row, [\d.e-]+ s to decode a picture", out)
    assert re.search(r"a clip of 24 frames, \d+ moves of each: about \d[\d.]* (s|min|h)\n", out)


def test_show_says_what_a_row_and_an_edit_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, read = write_tiny_prior(tmp_path / "tiny", closed=False), Mock(wraps=files.safe_open)
    monkeypatch.setattr(files, "safe_open", read)
    assert cli.main(["priors", "show", str(tiny)]) == 0
    opened = [call.args[0] for call in read.call_args_list]
    assert len(opened) == len(set(opened)) > 0, "a header is read once"
    out = capsys.readouterr().out
    assert re.search(r"cost of a row: [\d.e-]+ TFLOP at 512 px, [\d.e-]+ TFLOP at 1024 px", out)
    assert re.search(r"a clip of 24 frames at 512 px, \d+ moves x 5 rows: \S+ TFLOP, \d+ s at 100 TFLOP a second", out)
    assert cli.main(["priors", "show", "builtin"]) == 0
    assert "moves x 2 rows" in capsys.readouterr().out, "without guidance"


def test_a_guard_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny, guard = write_tiny_prior(tmp_path / "tiny", closed=False), tmp_path / "guard"
    write_control(tiny, guard)
    found = list[dict[str, Any]]()
    for more in ([], ["--control", "edge", str(guard)]):
        assert cli.main(["priors", "show", str(tiny), "--json", *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    plain, guarded = found
    assert guarded["weights_bytes"]["controlnet"] == (guard / "diffusion_pytorch_model.safetensors").stat().st_size
    assert set(guarded["weights_bytes"]) == {*plain["weights_bytes"], "controlnet"}
    for px in ("512", "1024"):
        assert guarded["peaks_bytes"][px] >= plain["peaks_bytes"][px]
        assert 1.2 * plain["row_flops"][px] < guarded["row_flops"][px] < 2 * plain["row_flops"][px]
    for wrong, says in ((str(tiny / "unet"), "expected a ControlNet, got"), ("no/where", "is no folder and not in")):
        assert cli.main(["priors", "show", str(tiny), "--control", "edge", wrong]) == 2
        assert f"{says}" in capsys.readouterr().err
