"""LoRA and textual inversion: merged = unmerged, words of one and of several vectors, and files that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from csd3d.cli.main import main
from csd3d.engine.types import Batch
from csd3d.media.pictures.levels import to_levels
from csd3d.media.pictures.write import write_picture
from csd3d.priors.auto import load_prior
from csd3d.priors.families.load import load_family
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.latent_diffusion import LatentDiffusion
from csd3d.priors.loading import Loading
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.priors.prompts.words import UnknownWords
from csd3d.priors.store.fingerprint import fingerprint_of, prior_entry
from tests.priors.families.tiny import write_family
from tests.priors.tiny import write_tiny_prior

QKV = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture(scope="module")
def open_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny editor that takes any sentence."""
    return write_tiny_prior(tmp_path_factory.mktemp("open") / "prior", closed=False)


@pytest.fixture(scope="module")
def kontext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("kontext", tmp_path_factory.mktemp("families") / "kontext")


def lora_of(model: nn.Module, targets: list[str], seed: int = 1) -> dict[str, torch.Tensor]:
    """A random LoRA of a model, which is left without it."""
    torch.manual_seed(seed)
    changed: Any = model
    config = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=targets)
    changed.add_adapter(config)
    return get_peft_model_state_dict(model)


def write_lora(prior: Path, folder: Path) -> Path:
    """A random LoRA of network and text encoder, as diffusers' training scripts write it; its alpha is not its rank."""
    pipe: Any = DiffusionPipeline.from_pretrained(str(prior), local_files_only=True)
    layers: dict[str, Any]
    if hasattr(pipe, "unet"):
        layers = {"unet_lora_layers": lora_of(pipe.unet, QKV)}
        layers["text_encoder_lora_layers"] = lora_of(pipe.text_encoder, ["q_proj", "v_proj", "out_proj"])
        layers["unet_lora_adapter_metadata"] = pipe.unet.peft_config["default"].to_dict()
        layers["text_encoder_lora_adapter_metadata"] = pipe.text_encoder.peft_config["default"].to_dict()
    else:
        layers = {"transformer_lora_layers": lora_of(pipe.transformer, ["to_q", "to_k"])}
        layers["transformer_lora_adapter_metadata"] = pipe.transformer.peft_config["default"].to_dict()
    type(pipe).save_lora_weights(folder, **layers)
    return folder / "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def lora(open_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora(open_prior, tmp_path_factory.mktemp("lora"))


def target(prior: Prior, sentence: str = "make it snowy") -> torch.Tensor:
    """A prediction, always of the same latents."""
    s = torch.randn(1, prior.codec.channels, 8, 8, generator=torch.Generator().manual_seed(0))
    x = prior.schedule.noised(Batch(s, s, torch.arange(1)), 300, s.flip(-1))
    return prior.score(Prompts(sentence), Guidance(2.0, 1.5)).target(x)


def test_a_merged_lora_predicts_as_one_beside_the_weights(open_prior: Path, lora: Path) -> None:
    plain = InstructPrior.load(open_prior, device="cpu")
    merged = InstructPrior.load(open_prior, device="cpu", how=Loading(lora=(f"{lora}:0.5",)))
    pipe: Any = DiffusionPipeline.from_pretrained(str(open_prior), local_files_only=True)
    pipe.load_lora_weights(str(lora), adapter_name="a")
    pipe.set_adapters(["a"], [0.5])
    z, t, text = torch.randn(1, 8, 8, 8), torch.tensor(300), merged.embed(["make it snowy"])
    ids = pipe.tokenizer("make it snowy", padding="max_length", max_length=16, return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = pipe.text_encoder(ids)[0]
        torch.testing.assert_close(text, theirs, atol=1e-5, rtol=1e-5)
        ours = merged.copy_unet()(z, t, encoder_hidden_states=text, added_cond_kwargs={"text_embeds": text[:, -1]})
        other = pipe.unet(z, t, encoder_hidden_states=theirs, added_cond_kwargs={"text_embeds": theirs[:, -1]})
    torch.testing.assert_close(ours[0], other[0], atol=2e-5, rtol=1e-4)
    assert (target(plain) - target(merged)).abs().max() > 1e-3
    assert not any("lora" in name for name, _ in merged.copy_unet().named_parameters())
    assert merged.said == []


def test_several_add_up_and_none_of_one_changes_nothing(open_prior: Path, lora: Path) -> None:
    def at(*scales: str) -> torch.Tensor:
        return target(load_prior(open_prior, device="cpu", how=Loading(lora=tuple(f"{lora}{s}" for s in scales))))

    torch.testing.assert_close(at(":0.25", ":0.75"), at(""), atol=2e-5, rtol=1e-4)
    assert torch.equal(at(":0"), at())
    assert not torch.allclose(at(":-1"), at(""), atol=1e-3)


def test_a_transformer_takes_one_too(kontext: Path, tmp_path: Path) -> None:
    file = write_lora(kontext, tmp_path)
    merged = load_family(kontext, device="cpu", how=Loading(lora=(f"{file}:2",)))
    pipe: Any = DiffusionPipeline.from_pretrained(str(kontext), local_files_only=True)
    pipe.load_lora_weights(str(file), adapter_name="a")
    pipe.set_adapters(["a"], [2.0])
    row = merged.conditions.row("IT", "make it snowy", "", torch.zeros(4, 8, 8))
    with torch.no_grad():
        ours, theirs = (net(**row)[0] for net in (merged.pipe.transformer, pipe.transformer))
        plain = load_family(kontext, device="cpu").pipe.transformer(**row)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert (ours - plain).abs().max() > 1e-4


def test_a_new_word_is_spelled_by_its_vectors(open_prior: Path, tmp_path: Path) -> None:
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    save_file({"<toy>": vectors}, tmp_path / "learnt.safetensors")
    save_file({"emb_params": vectors[:1]}, tmp_path / "charm.safetensors")
    how = Loading(embedding=(str(tmp_path / "learnt.safetensors"), str(tmp_path / "charm.safetensors")))
    prior = load_prior(open_prior, device="cpu", how=how)
    assert isinstance(prior, LatentDiffusion)
    ids = prior.text._tokenizer(prior.text._spelled("make the <toy> charm")).input_ids
    table: Any = prior.text._encoder.get_input_embeddings()
    rows = table.weight[ids]
    assert torch.equal(rows[-4:-1], vectors[[0, 1, 0]])
    words = prior.text.tokens("make the <toy> charm snowy").words
    assert [word.tokens for word in words] == [(1,), (2,), (3, 4), (5,), (6,)], "those around stay words"
    assert words[2].text.startswith("<toy>")
    plain = load_prior(open_prior, device="cpu")
    assert torch.equal(target(prior), target(plain))
    assert not torch.allclose(target(prior, "make it <toy>"), target(plain, "make it <toy>"))
    assert prior.notes == [
        "'<toy>' is a word of sentences now, by learnt.safetensors",
        "'charm' is a word of sentences now, by charm.safetensors",
    ]


def test_a_prior_of_known_words_learns_one_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "look.safetensors"
    save_file({"<Look>": 0.2 * torch.randn(2, 128)}, file)
    prior = load_prior("builtin:t2i", device="cpu", how=Loading(embedding=(str(file),)))
    assert isinstance(prior, LatentDiffusion)
    assert prior.known("A <Look> ball, on grass.") == "a <Look> ball, on grass"
    assert len(prior.embed(["a <Look> ball"])) == 1
    with pytest.raises(UnknownWords, match="did you mean '<Look>'"):
        prior.known("a <look> ball")
    assert main(["priors", "show", "builtin:t2i", f"--embedding={file}"]) == 0
    assert f"embedding {file}: '<Look>', 2 x 128" in capfd.readouterr().out
    out = ["--prompt", "a <Look> ball", "--method=ddim", "--n=1", "--steps=1", f"--run-dir={tmp_path / 'run'}"]
    assert main(["generate", *out, f"--embedding={file}"]) == 0


def test_loras_in_the_names_of_kohya_are_the_same(
    open_prior: Path, lora: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Which has dots of a path as underscores, and alpha beside each pair."""
    renamed: dict[str, torch.Tensor] = {}
    heads = {"unet": "lora_unet", "text_encoder": "lora_te"}
    for key, value in load_file(lora).items():
        part, path = key.split(".", 1)
        path, side, _ = path.rsplit(".", 2)
        path = path if part == "unet" or path.startswith("text_model") else f"text_model.{path}"
        name = f"{heads[part]}_{path.replace('.', '_')}"
        renamed[f"{name}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
        renamed[f"{name}.alpha"] = torch.tensor(4.0)
    save_file(renamed, tmp_path / "kohya.safetensors")
    theirs = load_prior(open_prior, device="cpu", how=Loading(lora=(str(tmp_path / "kohya.safetensors"),)))
    ours = load_prior(open_prior, device="cpu", how=Loading(lora=(str(lora),)))
    torch.testing.assert_close(target(theirs), target(ours), atol=1e-5, rtol=1e-4)
    assert theirs.said == []
    for file in ("kohya.safetensors", str(lora)):
        assert main(["priors", "show", str(open_prior), f"--lora={tmp_path / file}:0.5"]) == 0
        assert "layers, rank 2, scale 0.5" in capfd.readouterr().out


def test_sdxl_has_two_tables_of_words(tmp_path: Path) -> None:
    path = write_family("sdxl", tmp_path / "sdxl")
    save_file({"clip_l": torch.randn(3, 16), "clip_g": torch.randn(3, 32)}, tmp_path / "style.safetensors")
    prior = load_family(path, device="cpu", how=Loading(embedding=(str(tmp_path / "style.safetensors"),)))
    plain = load_family(path, device="cpu")
    assert torch.equal(target(prior), target(plain))
    assert not torch.equal(target(prior, "style"), target(plain, "style"))


def test_what_was_put_in_belongs_to_the_fingerprint(open_prior: Path, lora: Path, tmp_path: Path) -> None:
    def fingerprint(*loras: str) -> str:
        return fingerprint_of(load_prior(open_prior, device="cpu", how=Loading(lora=loras)))

    copy = tmp_path / "other name.safetensors"
    copy.write_bytes(lora.read_bytes())
    assert len({fingerprint(), fingerprint(str(lora)), fingerprint(f"{lora}:0.5")}) == 3
    assert fingerprint(str(lora)) == fingerprint(str(copy))
    entry = prior_entry(load_prior(open_prior, device="cpu", how=Loading(lora=(f"{lora}:0.5",))))
    assert [(e["what"], e["scale"], e["path"]) for e in entry["added"]] == [("lora", 0.5, str(lora))]
    json.dumps(entry)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"x", "lora: expected a .safetensors file, got .*a.bin"),
        ("a.safetensors", b"x", "not a complete safetensors file"),
        ("a.safetensors", {"emb_params": (1, 64)}, "a.safetensors is not for .*: Invalid LoRA checkpoint"),
        ("a.safetensors", {"unet.no.lora_A.weight": (2, 64), "unet.no.lora_B.weight": (64, 2)}, "is not for"),
    ],
)
def test_files_that_are_no_lora_of_it_are_refused(
    name: str, content: bytes | dict[str, tuple[int, ...]], message: str, open_prior: Path, tmp_path: Path
) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        save_file({key: torch.zeros(shape) for key, shape in content.items()}, file)
    with pytest.raises(ValueError, match=message) as caught:
        load_prior(open_prior, device="cpu", how=Loading(lora=(str(file),)))
    assert "\n" not in str(caught.value)


def test_a_lora_of_another_model_is_refused(open_prior: Path, lora: Path, kontext: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not for FLUX.1 Kontext: "):
        load_family(kontext, device="cpu", how=Loading(lora=(str(lora),)))
    sdxl = write_family("sdxl", tmp_path / "sdxl")
    with pytest.raises(ValueError, match="is not for SDXL: its tensors are of other shapes"):
        load_family(sdxl, device="cpu", how=Loading(lora=(str(lora),)))
    pixart = write_family("pixart", tmp_path / "pixart")
    with pytest.raises(ValueError, match="lora: expected none, diffusers loads none into PixArt-Sigma"):
        load_family(pixart, device="cpu", how=Loading(lora=(str(lora),)))


def test_words_that_cannot_be_added_are_refused(
    open_prior: Path, kontext: Path, tmp_path: Path, tiny: Path, lora: Path
) -> None:
    file = tmp_path / "word.safetensors"
    save_file({"<toy>": torch.zeros(1, 63)}, file)
    how = Loading(embedding=(str(file),))
    with pytest.raises(ValueError, match=r"word.safetensors is not for .*: its vectors are of another length"):
        load_prior(open_prior, device="cpu", how=how)
    with pytest.raises(ValueError, match=r"embedding: expected none, .* knows a closed set of sentences"):
        load_prior(tiny, device="cpu", how=how)
    with pytest.raises(ValueError, match="expected one tensor, or clip_l and clip_g, got"):
        load_prior(open_prior, device="cpu", how=Loading(embedding=(str(lora),)))
    with pytest.raises(ValueError, match=r"lora: expected FILE.safetensors:SCALE with a number, got 'a.safetensors:b'"):
        load_prior(open_prior, how=Loading(lora=("a.safetensors:b",)))
    with pytest.raises(FileNotFoundError, match=r"embedding: there is no file a.safetensors"):
        load_prior(open_prior, how=Loading(embedding=("a.safetensors",)))


def test_without_peft_the_extra_is_named(open_prior: Path, lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[[str], object] = lambda name: None  # noqa: E731
    monkeypatch.setattr("csd3d.priors.store.additions.importlib.util.find_spec", find)
    with pytest.raises(ValueError, match=r'lora: needs peft: pip install "csd3d\[families\]"'):
        load_prior(open_prior, device="cpu", how=Loading(lora=(str(lora),)))


def test_commands_take_them_and_keep_them_in_the_manifest(
    open_prior: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "photo.png", to_levels(torch.rand(3, 32, 32)))
    words = ["image", "photo.png", "--prompt", "make it <toy>", f"--prior={open_prior}", "--steps=1", "--size=32"]
    save_file({"<toy>": torch.randn(1, 64)}, tmp_path / "toy.safetensors")
    given = [f"--lora={lora}:0.5", "--embedding=toy.safetensors"]
    assert main([*words, *given, "--run-dir=run"]) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["config"]["lora"] == [f"{lora}:0.5"]
    assert [entry["what"] for entry in manifest["prior"]["added"]] == ["lora", "embedding"]
    assert "'<toy>' is a word of sentences now, by toy.safetensors" in manifest["notes"]
    assert main([*words, "--run-dir=plain"]) == 0
    plain = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    assert plain["prior"]["fingerprint"] != manifest["prior"]["fingerprint"]
    assert "added" not in plain["prior"]
    save_file({"<toy>": torch.randn(1, 64)}, tmp_path / "toy.safetensors")  # another vector by now
    capfd.readouterr()
    assert main(["image", "--resume", "--run-dir=run"]) == 2
    assert "is not the one the run in" in capfd.readouterr().err
    monkeypatch.setattr("csd3d.priors.auto.load_prior", None)  # is refused before anything is loaded
    assert main([*words, "--lora=none.safetensors"]) == 2
    assert capfd.readouterr().err == "csd3d image: lora: there is no file none.safetensors\n"
