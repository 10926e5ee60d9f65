"""Checkpoints come back bit for bit, belong together, and refuse what is not one."""

import pytest
import torch
from safetensors.torch import save_file

from csd3d.runs.checkpoint import as_saved, load_checkpoint, save_checkpoint
from csd3d.runs.folder import RunFolder, load_sources
from csd3d.runs.log import StepLog
from csd3d.runs.manifest import Manifest
from csd3d.runs.progress import RunProgress
from csd3d.runs.session import open_session
from csd3d.runs.training import train


def test_round_trip_is_exact_for_dtypes_views_and_random_state(tmp_path):
    rng = torch.Generator().manual_seed(3)
    base = torch.randn(4, 6, generator=rng)
    tensors = {
        "z": base,
        "view": base.T[1:3],
        "half": base.half(),
        "ids": torch.arange(5),
        "rng": rng.get_state(),
        "empty": torch.zeros(0, 4),
    }
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, tensors, {"step": 7, "name": "é"})
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    loaded = load_checkpoint(path)
    assert loaded.record == {"step": 7, "name": "é"}
    assert set(loaded.tensors) == set(tensors)
    for name, value in tensors.items():
        assert loaded.tensors[name].dtype == value.dtype
        assert torch.equal(loaded.tensors[name], value)
    again = torch.Generator()
    again.set_state(loaded.tensors["rng"])
    assert torch.equal(torch.randn(9, generator=again), torch.randn(9, generator=rng))


def test_loaded_tensors_survive_replacing_the_file(tmp_path):
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"z": torch.ones(1000)}, {})
    first = load_checkpoint(path).tensors["z"]
    save_checkpoint(path, {"z": torch.zeros(1000)}, {})
    assert torch.equal(first, torch.ones(1000))


def test_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"z": torch.ones(3)}, {"step": 1})

    def full(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("csd3d.runs.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"z": torch.zeros(3)}, {"step": 2})
    assert load_checkpoint(path).record == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_record_must_be_strict_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path / "a", {}, {"loss": float("inf")})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "a", {}, {"loss": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_of_a_tensor_is_seen(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"z": torch.ones(100), "n": torch.arange(3)}, {"step": 2})
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="its tensors are not those that were saved"):
        load_checkpoint(path)


@pytest.mark.parametrize("head", ["[]", '{"format": 1}', '{"format": 1, "record": 3}', "{", "[" * 100_000])
def test_a_strange_record_is_one_line(tmp_path, head):
    path = tmp_path / "a.safetensors"
    save_file({"z": torch.ones(2)}, path, metadata={"csd3d": head})
    with pytest.raises(ValueError, match="checkpoint: "):
        load_checkpoint(path)


def test_what_does_not_fit_a_run_names_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    for wrong in (
        lambda: {}["rng"],
        lambda: torch.ones(2).view(3),
        lambda: torch.Generator().set_state(torch.ones(2)),
        lambda: dict(zip([1], [1, 2], strict=True)),
        lambda: int(torch.tensor(float("inf"))),
    ):
        with pytest.raises(ValueError, match=f"expected in {path} what such a run saves"), as_saved(path):
            wrong()


@pytest.mark.parametrize("s", [torch.ones(1, 4, 8, 8).half(), torch.ones(4, 8, 8), torch.ones(1, 4, 8, 8).int()])
def test_sources_of_another_kind_are_refused(tmp_path, s):
    folder = RunFolder(tmp_path)
    save_checkpoint(folder.sources, {"s": s}, {})
    with pytest.raises(ValueError, match=r"expected in .*sources\.safetensors what such a run saves"):
        load_sources(folder)


def test_a_log_of_another_kind_is_refused(tmp_path):
    log = StepLog(2)
    state = log.state_dict()
    once = {"updates": torch.tensor([1, 0]), "gradient.0": torch.ones(1, 4, 8, 8)}
    log.load_state_dict({**state, **once})
    for other in (
        {"updates": state["updates"][:, None]},
        {**once, "updates": torch.tensor([2, 0])},
        {**once, "updates": torch.tensor([1, 1])},
        {**once, "gradient.0": torch.ones(1, 4, 64)},
        {**once, "gradient.0": torch.ones(0, 4, 8, 8)},
    ):
        with pytest.raises(ValueError, match="what such a run saves"), as_saved(tmp_path):
            log.load_state_dict({**state, **other})


class Still:
    """Learns nothing."""

    def step(self, number: int) -> list[float]:
        return [0.0, 1.0]

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state) -> None:
        pass


@pytest.mark.parametrize("curves", [torch.ones(3), torch.ones(2, 4), torch.ones(()), torch.ones(1, 3, 4)])
def test_curves_of_another_training_are_refused(tmp_path, curves):
    progress, manifest = RunProgress(quiet=True), Manifest("translate", {"csd": {"steps": 4}}, 0)
    with open_session(tmp_path / "run", manifest, [], progress, resumed=None, free_on_resume=()) as session:
        assert len(train(session, Still(), list, steps=3, every=1)) == 3
        assert len(train(session, Still(), list, steps=4, every=1)) == 4
        save_checkpoint(session.folder.state, {"curves": curves}, {"step": 3})
        with pytest.raises(ValueError, match=r"what such a run saves, got something else \(curves"):
            train(session, Still(), list, steps=4, every=1)


def test_refusals_name_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_checkpoint(tmp_path / "none")
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(1)}, other)
    with pytest.raises(ValueError, match="got other tensors"):
        load_checkpoint(other)
    damaged = tmp_path / "damaged.safetensors"
    save_checkpoint(damaged, {"z": torch.ones(100)}, {})
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(damaged)
    damaged.write_bytes(b"\x80\x04text")
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(damaged)
