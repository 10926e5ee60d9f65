"""Training of the text-to-image prior: captions belong to their pictures, and what was learnt before is kept."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from csd3d.priors.prior import Guidance, Prompts
from csd3d.priors.store.resolve import builtin_directory
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.world.captions import PHOTO, TEXTURE, styled, words
from csd3d.world.edits import all_edits, describe
from csd3d.world.families import every_edit
from csd3d.world.scene import SceneSampler
from scripts.train_builtin import Settings, export_painter, t2i_start, world_tokenizer, write_caption_tokens
from scripts.training.codec import make_codec
from scripts.training.denoiser import Editor
from scripts.training.loop import Plan
from scripts.training.pictures import GROUPS_PER_SHARD, PHOTO_SHARE, is_texture, load_photos, photo_group, view_of
from scripts.training.t2i import (
    MAX_TOKENS,
    WORDINGS,
    CaptionStore,
    Painter,
    PainterWork,
    caption_shard,
    group_captions,
    noise_weight,
    start_from_editor,
)

STYLE = next(i for i, e in enumerate(all_edits()) if e.kind == "style")
TIME = next(i for i, e in enumerate(all_edits()) if e.kind == "time")


def write_shard(folder: Path, number: int, edits: list[list[int]]) -> Path:
    """A shard of grey pictures that claim these edits."""
    folder.mkdir(exist_ok=True)
    path = folder / f"shard-{number:05d}.safetensors"
    images = torch.full((len(edits), 1 + len(edits[0]), 3, 8, 8), 128, dtype=torch.uint8)
    names = {"edits": json.dumps([e.name for e in every_edit()])}
    save_file({"images": images, "edits": torch.tensor(edits)}, path, names)
    return path


def test_every_picture_of_a_group_has_its_caption() -> None:
    scene = SceneSampler().sample(2 * GROUPS_PER_SHARD + 5)
    source, night, nothing, sketch = group_captions(2, 5, [TIME, -1, STYLE])
    assert source == describe(scene)
    assert night == describe(all_edits()[TIME].scene(scene))
    assert nothing == ""
    assert sketch == styled(describe(scene), all_edits()[STYLE])


def test_what_no_caption_can_tell_has_none() -> None:
    variant = next(i for i, e in enumerate(every_edit()) if not e.wordings)
    source, spotted, night = group_captions(2, 5, [variant, TIME])
    assert source
    assert spotted == ""
    assert night
    sky = next(s for s in range(10_000) if view_of(s) == "sky")
    assert group_captions(*divmod(sky, GROUPS_PER_SHARD), [TIME]) == ["", ""]
    shard, group = PHOTO_SHARE - 1, 0
    assert group_captions(shard, group, [TIME])[1].endswith(f", at {all_edits()[TIME].name}")


def test_photographs_and_textures_are_called_what_they_are() -> None:
    pytest.importorskip("skimage", reason="scikit-image brings the training photographs")
    shard = PHOTO_SHARE - 1
    for group in range(6):
        source, sketch = group_captions(shard, group, [STYLE])
        seed = shard * GROUPS_PER_SHARD + group
        assert source == (TEXTURE if is_texture(seed) else PHOTO)
        assert sketch == styled(source, all_edits()[STYLE])
    textures = [s for s in range(40) if is_texture(s)]
    assert 0 < len(textures) < 40
    same = [photo_group(textures[0], load_photos((name,))).images[0] for name in ("coffee.png", "moon.png")]
    assert torch.equal(*same), "what is called a texture does not come from a photograph"


def test_a_shard_of_captions_says_what_its_pictures_show(tmp_path: Path) -> None:
    tokenizer = world_tokenizer(MAX_TOKENS)
    (tmp_path / "captions").mkdir()
    caption_shard(tokenizer, write_shard(tmp_path / "pictures", 3, [[TIME, -1], [STYLE, TIME]]), tmp_path / "captions")
    tensors = load_file(tmp_path / "captions" / "shard-00003.safetensors")
    assert tensors["ids"].shape == (2, 3, WORDINGS, MAX_TOKENS)
    assert tensors["there"].tolist() == [[True, True, False], [True, True, True]]
    scene = SceneSampler().sample(3 * GROUPS_PER_SHARD)
    things = set(words()["things"])
    for wording in range(WORDINGS):
        said = str(tokenizer.decode(tensors["ids"][0, 0, wording].long(), skip_special_tokens=True))
        assert {w for w in said.replace(",", " ").split() if w in things} == {t.shape for t in scene.things}


def test_pictures_without_a_caption_are_never_drawn(tmp_path: Path) -> None:
    for number, there in ((0, [[True, False]]), (PHOTO_SHARE - 1, [[True, True]])):
        name = f"shard-{number:05d}.safetensors"
        (tmp_path / "z").mkdir(exist_ok=True)
        (tmp_path / "captions").mkdir(exist_ok=True)
        save_file({"z": torch.zeros(1, 2, 4, 2, 2).half()}, tmp_path / "z" / name)
        ids = torch.zeros(1, 2, WORDINGS, MAX_TOKENS).short()
        save_file({"ids": ids, "there": torch.tensor(there)}, tmp_path / "captions" / name)
    store = CaptionStore.load(tmp_path / "z", tmp_path / "captions")
    assert store.world.tolist() == [[0, 0]]
    assert store.other.tolist() == [[1, 0], [1, 1]]
    (tmp_path / "captions" / "shard-00000.safetensors").unlink()
    with pytest.raises(ValueError, match=r"shard-00000.safetensors: expected captions of all latents"):
        CaptionStore.load(tmp_path / "z", tmp_path / "captions")


def test_noise_counts_more_the_more_there_is() -> None:
    weight = noise_weight(torch.tensor([0.999, 0.5, 0.1, 0.001]))
    torch.testing.assert_close(weight, torch.tensor([0.5, 1.0, 3.0, 8.0]))


def test_it_starts_from_what_the_editor_knows_and_is_exported_as_a_prior(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = world_tokenizer(MAX_TOKENS)
    write_caption_tokens(tmp_path / "tokens")
    vocabulary, eos, bos = load_file(tmp_path / "tokens")["special"].tolist()
    known = vocabulary - 5
    editor = Editor(known, eos, bos).state_dict()
    painter = Painter(vocabulary, eos, bos)
    start_from_editor(painter, editor)
    state = painter.state_dict()
    assert torch.equal(state["unet.conv_in.weight"], editor["unet.conv_in.weight"][:, :4])
    assert torch.equal(state["unet.mid_block.resnets.0.conv1.weight"], editor["unet.mid_block.resnets.0.conv1.weight"])
    embedding = next(k for k in state if k.endswith("token_embedding.weight"))
    assert torch.equal(state[embedding][:known], editor[embedding])

    for number, edits in ((0, [[TIME, -1]]), (PHOTO_SHARE - 1, [[STYLE, STYLE]])):
        path = write_shard(tmp_path / "pictures", number, edits)
        (tmp_path / "captions").mkdir(exist_ok=True)
        (tmp_path / "z").mkdir(exist_ok=True)
        caption_shard(tokenizer, path, tmp_path / "captions")
        save_file({"z": torch.randn(1, 3, 4, 8, 8).half()}, tmp_path / "z" / path.name)
    save_file(editor | {"scaling_factor": torch.tensor([1.0])}, tmp_path / "editor.safetensors")
    save_file(make_codec().state_dict(), tmp_path / "codec.safetensors")
    paths = (tmp_path / "z", tmp_path / "captions", tmp_path / "tokens", tmp_path / "editor.safetensors", tmp_path)
    for steps in (1, 2):  # the second goes on where the first stopped
        PainterWork(*paths, Plan(steps, lr=1e-3), batch=2)()
    folder = export_painter(Settings(tmp_path, out=tmp_path / "editor" / "none", out_t2i=tmp_path / "t2i"))
    prior = TextToImagePrior.load(folder)
    made = prior.sample(
        Prompts("a red ball on grass"), Guidance(2.0), 1, size_lat=(8, 8), rng=torch.Generator(), steps=2
    )
    assert made.shape == (1, 3, 64, 64)
    assert bool(made.isfinite().all())


def test_it_goes_on_from_a_finished_model_of_its_kind(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = world_tokenizer(MAX_TOKENS)
    write_caption_tokens(tmp_path / "tokens")
    path = write_shard(tmp_path / "pictures", 0, [[TIME, -1]])
    for folder in ("captions", "z"):
        (tmp_path / folder).mkdir()
    caption_shard(tokenizer, path, tmp_path / "captions")
    save_file({"z": torch.randn(1, 3, 4, 8, 8).half()}, tmp_path / "z" / path.name)
    settings = Settings(tmp_path, start_t2i=builtin_directory("builtin:t2i"))
    save_file({"scaling_factor": torch.tensor([0.5])}, tmp_path / "editor.safetensors")
    start, again = t2i_start(settings, None)
    assert again
    known = load_file(start)
    assert known["scaling_factor"].item() == 0.5
    PainterWork(
        tmp_path / "z", tmp_path / "captions", tmp_path / "tokens", start, tmp_path, Plan(0, lr=1e-3), again=True
    )()
    made = load_file(tmp_path / "painter.safetensors")
    name = "unet.mid_block.resnets.0.conv1.weight"
    assert torch.equal(made[name], known[name])
