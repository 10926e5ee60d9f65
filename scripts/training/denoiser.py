"""The instruction editor: a small InstructPix2Pix UNet with its text encoder, trained on pairs of latents."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from csd3d.world.edits import all_edits
from csd3d.world.families import all_families
from scripts.training.loop import Plan, autocast_on, train, use_fast_norm
from scripts.training.padding import Watched, is_padding
from scripts.training.pairs import PairStore
from scripts.training.pictures import KIND_WEIGHT
from scripts.training.start import begin_with

WIDTH = 128
MAX_TOKENS = 16
CHANNELS = (96, 112, 128)
IDENTITY_SHARE, UNCONDITIONAL_SHARE = 0.08, 0.06
"""Share of samples with an empty instruction (which means: change nothing), and with no condition at all."""
FAMILY_SHARE = 0.3
"""Share of samples whose sentence is that of a family: each as often as the others, each member of it too."""
ABSENT_SHARE = 0.06
"""Share of samples whose sentence is about a thing that is not there, which means: change nothing."""
POOLED = "unet.add_embedding."
"""What the names of the weights begin with by which a pooled sentence enters."""
POOLED_STEPS = 1500
"""So many steps half of the samples keep the pooled sentence of an editor that learns on; then none does."""
PADDING_WEIGHT = 0.05
"""What the share of cross-attention that padding gets weighs in the loss."""

CHANGED, CHANGED_WEIGHT = 0.3, 6.0
"""From this difference on (in deviations of the latents) an edit changes a latent pixel, which then has this weight."""


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def make_text_encoder(vocabulary: int, eos: int, bos: int, *, max_tokens: int = MAX_TOKENS) -> CLIPTextModel:
    """Two layers of width 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=max_tokens,
            projection_dim=WIDTH,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def make_unet(in_channels: int = 8, *, pooled: bool = False) -> UNet2DConditionModel:
    """Three levels (16, 8, 4 latent pixels of a picture of 128); attention at all, at the finest in the decoder only.

    As in Stable Diffusion the decoder has none at the coarsest level: with that, and with the one codec of both models,
    the weights stay below 40 MB. `pooled`: the sentence also enters pooled, beside the timestep. Most of it would pass
    there, where no control of attention could see or change it, so only an editor in training has that path, to unlearn
    it (`PooledDropout`).
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text" if pooled else None,
        addition_embed_type_num_heads=4,
    )


class PooledDropout:
    """Leaves what a UNet adds to its time embedding, the sentence pooled, out of some samples of the next passes."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.there: Bool[Tensor, " n"] | None = None
        """Of which samples it stays; None: of all."""
        unet.add_embedding.register_forward_hook(self._leave_out)

    def _leave_out(self, _module: nn.Module, _inputs: object, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return pooled if self.there is None else pooled * self.there[:, None]


class Editor(nn.Module):
    """UNet and text encoder, trained together."""

    def __init__(self, vocabulary: int, eos: int, bos: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.unet = make_unet(pooled=pooled)
        self.text = make_text_encoder(vocabulary, eos, bos)

    def forward(
        self, z_t: Float[Tensor, "n 4 h w"], t: Int[Tensor, " n"], s: Float[Tensor, "n 4 h w"], ids: Int[Tensor, "n l"]
    ) -> Float[Tensor, "n 4 h w"]:
        """Predicted noise."""
        return self.unet(torch.cat([z_t, s], dim=1), t, self.text(ids).last_hidden_state).sample


@dataclass(frozen=True)
class DenoiserWork:
    """One training run of the editor; called once in every process."""

    latents: Path
    tokens: Path
    """`ids` [wordings, l] of every trained sentence in the order of `trained_sentences`, the empty one last."""
    out: Path
    plan: Plan
    batch: int = 32
    device: str = "cpu"
    start_from: Path | None = None
    """Weights and `scaling_factor` of an earlier run to start from."""

    def __call__(self) -> None:
        torch.manual_seed(self.plan.seed)
        store = PairStore.load(self.latents)
        tokens = load_file(self.tokens)
        ids, (vocabulary, eos, bos) = tokens["ids"], tokens["special"].tolist()
        first = first_sentences()
        start = load_file(self.start_from) if self.start_from else {}
        scale = start.pop("scaling_factor")[0] if start else 1 / store.z.float().std()
        had_pooled = any(k.startswith(POOLED) for k in start)
        model = Editor(vocabulary, eos, bos, pooled=had_pooled).to(self.device)
        if start:
            begin_with(model, start)
        use_fast_norm(model)
        watch = Watched()
        model.unet.set_attn_processor(watch)  # pyright: ignore[reportArgumentType]
        pooled = PooledDropout(model.unet) if had_pooled else None
        alphas = make_scheduler().alphas_cumprod.to(self.device)
        piles, weights = weigh(store)

        def batch_of(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            """Targets, sources, token ids."""
            u = torch.rand(self.batch, 3, generator=rng)
            drawn = torch.multinomial(weights, self.batch, replacement=True, generator=rng).tolist()
            rows = torch.stack([piles[p].rows[int(u[i, 0] * len(piles[p].rows))] for i, p in enumerate(drawn)])
            g, i, j, e = rows.T
            z, s = store.z[g, j].float() * scale, store.z[g, i].float()
            said = torch.tensor([-1 if piles[p].family is None else piles[p].family for p in drawn])
            asked = torch.where(said < 0, e, len(all_edits()) + said)
            low, high = first[asked], first[asked + 1]
            sentence = low + (u[:, 1] * (high - low)).long()
            identity = u[:, 2] < IDENTITY_SHARE
            nothing = u[:, 2] > 1 - UNCONDITIONAL_SHARE
            z = torch.where(identity[:, None, None, None], s * scale, z)
            s = torch.where(nothing[:, None, None, None], torch.zeros_like(s), s)
            sentence = torch.where(identity | nothing, len(ids) - 1, sentence)
            return z.to(self.device), s.to(self.device), ids[sentence].to(self.device)

        def loss_of(step: int, rng: torch.Generator) -> Tensor:
            z, s, words = batch_of(rng)
            t = torch.randint(0, 1000, (self.batch,), generator=rng).to(self.device)
            e = torch.randn(z.shape, generator=rng).to(self.device)
            ab = alphas[t][:, None, None, None]
            watch.padding = is_padding(words, eos)
            if pooled:
                pooled.there = (torch.rand(self.batch, generator=rng) < (0.5 if step < POOLED_STEPS else 0)).to(
                    self.device
                )
            with autocast_on(self.device):
                eps = model(ab.sqrt() * z + (1 - ab).sqrt() * e, t, s, words).float()
            weight = ((1 - ab) / ab).sqrt().clamp(0.5, 8) * change_weight(z, s * scale)
            return (weight * (eps - e) ** 2).mean() + PADDING_WEIGHT * watch.share()

        ema = train(model, loss_of, self.plan, self.out / "editor.state")
        merged = without_pooled(model.state_dict() | ema)
        save_file(
            {k: v.contiguous() for k, v in merged.items()} | {"scaling_factor": scale.reshape(1)},
            self.out / "editor.safetensors",
        )


def without_pooled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an editor in training as those of one whose sentence enters through cross-attention alone."""
    return {k: v for k, v in state.items() if not k.startswith(POOLED)}


def change_weight(z: Float[Tensor, "n c h w"], s: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """What a latent pixel counts: more where the edit changes it, with mean 1 over each picture.

    Without it an edit of one thing is learnt from the few pixels that it covers, among many that are only copied.
    """
    changed = ((z - s).abs().amax(dim=1, keepdim=True) > CHANGED).float()
    weight = 1 + (CHANGED_WEIGHT - 1) * changed
    return weight / weight.mean(dim=(2, 3), keepdim=True)


@dataclass(frozen=True)
class Pile:
    """Pairs that are drawn evenly."""

    rows: Int[Tensor, "p 4"]
    """As in `PairStore`."""
    family: int | None = None
    """Number of the family whose sentences they answer; None: each those of its own edit."""


def weigh(store: PairStore) -> tuple[list[Pile], Float[Tensor, " p"]]:
    """The pairs kind by kind, family by family, then those that change nothing, and how often each pile is drawn. Empty
    ones are left out."""
    kinds = [(Pile(rows), KIND_WEIGHT[k]) for k, rows in store.by_kind.items() if len(rows)]
    numbers = {f.name: i for i, f in enumerate(all_families())}
    families = [Pile(rows, numbers[name]) for name, rows in store.by_family.items() if len(rows)]
    absent = [Pile(store.absent)] if len(store.absent) else []
    share = FAMILY_SHARE if families else 0.0
    rest = 1 - share - ABSENT_SHARE * len(absent)
    total = sum(w for _, w in kinds)
    weights = [rest * w / total for _, w in kinds] + [share / len(families) for _ in families]
    return [*(pile for pile, _ in kinds), *families, *absent], torch.tensor(weights + [ABSENT_SHARE for _ in absent])


def trained_sentences() -> list[str]:
    """Every wording a prior may learn from, edit by edit, then family by family, then the empty instruction."""
    return [w for asked in (*all_edits(), *all_families()) for w in asked.trained] + [""]


def first_sentences() -> Int[Tensor, " m"]:
    """Row of the first trained wording of each edit and family in `trained_sentences`, with the end appended."""
    counts = torch.tensor([0, *(len(asked.trained) for asked in (*all_edits(), *all_families()))])
    return counts.cumsum(0)
