"""The text-to-image model: a small Stable Diffusion UNet with its text encoder, trained on latents and their captions.

Every picture of the training set has a caption, since its scene is known; photographs have a generic one. Captions are
tokenized once, in several wordings each. The model starts from the editor, whose source image is left out.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, Int16
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from csd3d.priors.store.save import append_words
from csd3d.world.captions import PHOTO, TEXTURE, styled, vary
from csd3d.world.edits import describe
from csd3d.world.families import every_edit
from csd3d.world.scene import SceneSampler
from scripts.training.denoiser import PADDING_WEIGHT, make_scheduler, make_text_encoder, make_unet
from scripts.training.loop import Plan, autocast_on, train, use_fast_norm
from scripts.training.padding import Watched, is_padding
from scripts.training.pictures import (
    GROUPS_PER_SHARD,
    holds_photos,
    is_texture,
    number_of,
    read_shard,
    shards,
    view_of,
)
from scripts.training.start import begin_with

MAX_TOKENS = 48
WORDINGS = 8
"""Wordings of each caption."""
PHOTO_SHARE, UNCONDITIONAL_SHARE = 0.06, 0.1
"""Share of samples that are no pictures of the world, and of those without a caption."""


def group_captions(shard: int, group: int, edits: list[int]) -> list[str]:
    """The caption of every picture of a group, source first.

    It is "" where there is no new picture, and where it would name what cannot be seen (`view_of`) or has no word.
    """
    seed = shard * GROUPS_PER_SHARD + group
    known = [every_edit()[e] if e >= 0 else None for e in edits]
    if holds_photos(shard):
        source = TEXTURE if is_texture(seed) else PHOTO
        return [source, *((styled(source, e) if e.on_pixels else f"{source}, at {e.name}") if e else "" for e in known)]
    if view_of(seed) != "middle":
        return [""] * (1 + len(edits))
    scene = SceneSampler().sample(seed)
    return [describe(scene), *(e.captions(scene)[1] if e and e.wordings else "" for e in known)]


def caption_shard(tokenizer: CLIPTokenizer, path: Path, out: Path) -> None:
    """Write `ids` int16 [g k v l], `WORDINGS` a picture, and `there` bool [g k]: whether the picture has a caption."""
    target = out / path.name
    if target.exists():
        return
    _, edits = read_shard(path)
    shard = number_of(path)
    captions = [c for g, row in enumerate(edits.tolist()) for c in group_captions(shard, g, row)]
    wordings = [
        vary(c, random.Random(f"{shard}-{i}-{v}")) if c else "" for i, c in enumerate(captions) for v in range(WORDINGS)
    ]
    ids = tokenizer(wordings, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    shape = (len(edits), 1 + edits.shape[1])
    partial = target.with_suffix(".part")
    tensors = {
        "ids": ids.input_ids.short().view(*shape, WORDINGS, MAX_TOKENS),
        "there": torch.tensor([bool(c) for c in captions]).view(shape),
    }
    save_file(tensors, partial)
    partial.rename(target)


@dataclass
class CaptionStore:
    """All latents and captions in memory, and the rows (group, picture) of the world's and of the other pictures."""

    z: Float[Tensor, "G k c h w"]
    ids: Int16[Tensor, "G k v l"]
    world: Int[Tensor, "p 2"]
    other: Int[Tensor, "q 2"]

    @staticmethod
    def load(latents: Path, captions: Path) -> "CaptionStore":
        """Read every shard that both folders hold. Raises ValueError if a shard of latents has no captions."""
        z, ids, rows, offset = [], [], {False: [], True: []}, 0
        for path in shards(latents):
            if not (captions / path.name).exists():
                raise ValueError(f"{captions / path.name}: expected captions of all latents, it is missing")
            tensors = load_file(captions / path.name)
            there: Bool[Tensor, "g k"] = tensors["there"]
            rows[holds_photos(number_of(path))].append(there.nonzero() + torch.tensor([offset, 0]))
            ids.append(tensors["ids"])
            z.append(load_file(path)["z"])
            offset += len(there)
        if not z:
            raise ValueError(f"{latents}: expected shards of latents, found none")
        none = [torch.zeros(0, 2, dtype=torch.long)]
        return CaptionStore(torch.cat(z), torch.cat(ids), torch.cat(rows[False] or none), torch.cat(rows[True] or none))


class Painter(nn.Module):
    """UNet and text encoder, trained together."""

    def __init__(self, vocabulary: int, eos: int, bos: int) -> None:
        super().__init__()
        self.unet = make_unet(4)
        self.text = make_text_encoder(vocabulary, eos, bos, max_tokens=MAX_TOKENS)

    def forward(
        self, z_t: Float[Tensor, "n 4 h w"], t: Int[Tensor, " n"], ids: Int[Tensor, "n l"]
    ) -> Float[Tensor, "n 4 h w"]:
        """Predicted noise."""
        return self.unet(z_t, t, self.text(ids).last_hidden_state).sample


def start_from_editor(painter: Painter, editor: dict[str, Tensor]) -> None:
    """Give a new model what an editor has learnt; its input for the source image falls away.

    Words and positions that the editor did not have begin as its mean word, and at random.
    """
    state = painter.state_dict()
    for name, fresh in state.items():
        known = editor[name]
        if name == "unet.conv_in.weight":
            known = known[:, : fresh.shape[1]]
        elif name.endswith("token_embedding.weight"):
            known = append_words(known, len(fresh))
        elif name.endswith("position_embedding.weight"):
            known = torch.cat([known, fresh[len(known) :]])
        state[name] = known
    painter.load_state_dict(state)


@dataclass(frozen=True)
class PainterWork:
    """One training run of the model; called once in every process."""

    latents: Path
    captions: Path
    tokens: Path
    """`nothing` [l], the token ids of "", and `special`: vocabulary size, end, begin."""
    editor: Path
    """Weights and `scaling_factor` of a trained editor, to start from; or of an earlier run of this model (`again`)."""
    out: Path
    plan: Plan
    batch: int = 32
    device: str = "cpu"
    again: bool = False
    """`editor` holds a finished model of this kind, not an editor."""

    def __call__(self) -> None:
        torch.manual_seed(self.plan.seed)
        store = CaptionStore.load(self.latents, self.captions)
        tokens = load_file(self.tokens)
        nothing, (vocabulary, eos, bos) = tokens["nothing"], tokens["special"].tolist()
        model = Painter(vocabulary, eos, bos).to(self.device)
        editor = load_file(self.editor)
        scale = editor.pop("scaling_factor").item()
        (begin_with if self.again else start_from_editor)(model, editor)
        use_fast_norm(model)
        watch = Watched()
        model.unet.set_attn_processor(watch)  # pyright: ignore[reportArgumentType]
        alphas = make_scheduler().alphas_cumprod.to(self.device)

        def batch_of(rng: torch.Generator) -> tuple[Tensor, Tensor]:
            """Latents and token ids."""
            u = torch.rand(self.batch, 4, generator=rng)
            photo = (u[:, 0] < PHOTO_SHARE) & bool(len(store.other))
            world_row = store.world[(u[:, 1] * len(store.world)).long()]
            rows = torch.where(photo[:, None], _pick(store.other, u[:, 1], world_row), world_row)
            g, k = rows.T
            ids = store.ids[g, k, (u[:, 2] * WORDINGS).long()].long()
            ids = torch.where((u[:, 3] < UNCONDITIONAL_SHARE)[:, None], nothing, ids)
            return (store.z[g, k].float() * scale).to(self.device), ids.to(self.device)

        def loss_of(step: int, rng: torch.Generator) -> Tensor:
            z, words = batch_of(rng)
            t = torch.randint(0, 1000, (self.batch,), generator=rng).to(self.device)
            e = torch.randn(z.shape, generator=rng).to(self.device)
            ab = alphas[t][:, None, None, None]
            watch.padding = is_padding(words, eos)
            with autocast_on(self.device):
                eps = model(ab.sqrt() * z + (1 - ab).sqrt() * e, t, words).float()
            return (noise_weight(ab) * (eps - e) ** 2).mean() + PADDING_WEIGHT * watch.share()

        ema = train(model, loss_of, self.plan, self.out / "painter.state")
        merged = {k: v.contiguous() for k, v in (model.state_dict() | ema).items()}
        save_file(merged, self.out / "painter.safetensors")


def noise_weight(ab: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """What a sample at cumulative alpha `ab` counts: more the noisier it is, since layout is decided there."""
    return ((1 - ab) / ab).sqrt().clamp(0.5, 8)


def _pick(rows: Int[Tensor, "q 2"], u: Float[Tensor, " n"], otherwise: Int[Tensor, "n 2"]) -> Int[Tensor, "n 2"]:
    return rows[(u * len(rows)).long()] if len(rows) else otherwise
