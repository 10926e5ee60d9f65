r"""Train the built-in priors from scratch, stage by stage.

    python scripts/train_builtin.py WORK [--stage all]

WORK holds everything between the stages: rendered pictures, states of unfinished runs, logs. Every stage goes on where
it was stopped, and a finished one is not repeated; delete its files to do so. On two CPU cores the default takes some
hours (`--steps-codec`, `--steps-instruct` and `--steps-t2i` set how many); `--device cuda` makes minutes of those spent
in training, by the same command: pictures and latents are still made on the processor, by `--processes` of them.

To let the shipped priors learn on, their codec as it is (new attention blocks begin silent, so nothing is lost):

    python scripts/train_builtin.py WORK --start-from csd3d/weights/instruct --start-t2i csd3d/weights/t2i \
        --first-shard 400 --shards 80 --steps-codec 0 --steps-instruct 12000 --steps-t2i 8000 [--device cuda]

`nice -n 19` before it leaves the machine to others. `--stage export --unfinished --out DIR/instruct --out-t2i DIR/t2i`
beside it exports what a run has come to, to be measured by `evaluate_prior.py`, `evaluate_families.py` and
`evaluate_t2i.py`. The editor that is to be shipped next goes on from `scripts/training/unfinished`.
"""

import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
import tyro
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from csd3d.priors.prompts.words import Words
from csd3d.priors.store.save import append_words, extend_tokenizer, make_tokenizer, save_prior
from csd3d.world import captions
from csd3d.world.edits import all_edits, vocabulary
from csd3d.world.families import all_families, family_vocabulary
from scripts.training.codec import CodecWork, load_codec
from scripts.training.denoiser import (
    MAX_TOKENS,
    DenoiserWork,
    Editor,
    make_scheduler,
    trained_sentences,
    without_pooled,
)
from scripts.training.loop import Plan, averaged, in_parallel, rank_and_world
from scripts.training.pairs import encode_shard
from scripts.training.pictures import render_shards, shards
from scripts.training.t2i import MAX_TOKENS as CAPTION_TOKENS
from scripts.training.t2i import Painter, PainterWork, caption_shard

Stage = Literal["pictures", "codec", "latents", "instruct", "captions", "t2i", "export"]
STAGES: tuple[Stage, ...] = get_args(Stage)
WEIGHTS = Path(__file__).resolve().parents[1] / "csd3d" / "weights"


@dataclass(frozen=True)
class Settings:
    """Train the built-in priors."""

    work: tyro.conf.Positional[Path]
    """Folder for everything between the stages (some gigabytes)."""
    stage: Literal["all"] | Stage = "all"
    """One stage, or all of them in order."""
    out: Path = WEIGHTS / "instruct"
    """Where the finished editor goes."""
    out_t2i: Path = WEIGHTS / "t2i"
    """Where the finished text-to-image model goes; beside the editor it shares the editor's codec."""
    shards: int = 160
    """Picture shards of 64 groups of 10 pictures."""
    first_shard: int = 0
    """Number of the first; other numbers are other pictures."""
    steps_codec: int = 11_000
    steps_instruct: int = 20_000
    steps_t2i: int = 20_000
    batch_codec: int = 8
    """Crops of 64 pixels per step and process."""
    batch_instruct: int = 32
    """Latents per step and process."""
    batch_t2i: int = 32
    photo_share: float = 0.35
    """Share of photographs and dead leaves among the crops."""
    lr_codec: float = 2e-3
    lr_instruct: float = 6e-4
    lr_t2i: float = 6e-4
    start_from: Path | None = None
    """A finished prior whose codec and editor learn on (0 steps: stay as they are)."""
    start_t2i: Path | None = None
    """A finished text-to-image prior of the same codec, which learns on; by default it starts from the editor."""
    unfinished: bool = False
    """Export from the last checkpoints of runs that still go on or were stopped: for a look at a prior in training."""
    processes: int = os.cpu_count() or 1
    """CPU processes; 1 on a GPU."""
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class _Pictures:
    folder: Path
    numbers: range

    def __call__(self) -> None:
        rank, world = rank_and_world()
        for _ in render_shards(self.folder, self.numbers, worker=rank, workers=world):
            pass


@dataclass(frozen=True)
class _Latents:
    pictures: Path
    codec: Path
    out: Path

    def __call__(self) -> None:
        rank, world = rank_and_world()
        self.out.mkdir(parents=True, exist_ok=True)
        vae = load_codec(self.codec)
        for path in shards(self.pictures)[rank::world]:
            encode_shard(vae, path, self.out)


@dataclass(frozen=True)
class _Captions:
    pictures: Path
    out: Path

    def __call__(self) -> None:
        rank, world = rank_and_world()
        self.out.mkdir(parents=True, exist_ok=True)
        tokenizer = world_tokenizer(CAPTION_TOKENS)
        for path in shards(self.pictures)[rank::world]:
            caption_shard(tokenizer, path, self.out)


def world_tokenizer(max_tokens: int = MAX_TOKENS) -> CLIPTokenizer:
    """One token for every word of every wording, then of captions, then of families: the same for both priors."""
    wordings = make_tokenizer([w for e in all_edits() for w in e.wordings], max_length=MAX_TOKENS)
    both = extend_tokenizer(wordings, captions.sentences(), max_length=CAPTION_TOKENS)
    families = [w for f in all_families() for w in f.wordings]
    return extend_tokenizer(extend_tokenizer(both, families, max_length=CAPTION_TOKENS), [], max_length=max_tokens)


def write_tokens(path: Path) -> None:
    """Token ids of every trained sentence, and (vocabulary size, end, begin)."""
    tokenizer = world_tokenizer()
    words = tokenizer(trained_sentences(), padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    save_file({"ids": words.input_ids, "special": _special(tokenizer)}, path)


def write_caption_tokens(path: Path) -> None:
    """Token ids of no caption, and (vocabulary size, end, begin)."""
    tokenizer = world_tokenizer(CAPTION_TOKENS)
    nothing = tokenizer("", padding="max_length", max_length=CAPTION_TOKENS, return_tensors="pt")
    save_file({"nothing": nothing.input_ids[0], "special": _special(tokenizer)}, path)


def _special(tokenizer: CLIPTokenizer) -> Tensor:
    return torch.tensor([len(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id])


def with_all_words(state: dict[str, Tensor], tokenizer: CLIPTokenizer) -> dict[str, Tensor]:
    """The weights of a model that was trained before words were appended to the tokenizer, with rows for these."""
    name = next(k for k in state if k.endswith("token_embedding.weight"))
    return state | {name: append_words(state[name], len(tokenizer))}


def write_start(prior: Path, denoiser: Path, codec: Path | None = None, *, scaling_factor: float | None = None) -> None:
    """What a finished prior has learnt, as the stages start from it; words it did not know begin as its mean word.

    A prior without a codec of its own needs the `scaling_factor` of the one it shares.
    """
    if scaling_factor is None:
        vae = AutoencoderKL.from_pretrained(prior / "vae")
        assert isinstance(vae, AutoencoderKL)
        scaling_factor = float(vae.config["scaling_factor"])
        if codec:
            save_file({k: v.float().contiguous() for k, v in vae.state_dict().items()}, codec)
    text = CLIPTextModel.from_pretrained(prior / "text_encoder").float()
    old, new = CLIPTokenizer.from_pretrained(prior / "tokenizer").get_vocab(), world_tokenizer().get_vocab()
    state = {f"text.{k}": v for k, v in text.state_dict().items()}
    name = next(k for k in state if k.endswith("token_embedding.weight"))
    known = state[name]
    state[name] = known.mean(dim=0).repeat(len(new), 1)
    for word, row in new.items():
        if word in old:
            state[name][row] = known[old[word]]
    unet = UNet2DConditionModel.from_pretrained(prior / "unet")
    assert isinstance(unet, UNet2DConditionModel)
    state |= {f"unet.{k}": v.float() for k, v in unet.state_dict().items()}
    state["scaling_factor"] = torch.tensor([scaling_factor])
    save_file({k: v.contiguous() for k, v in state.items()}, denoiser)


def trained_editor(work: Path) -> Path:
    """The editor in `work`: its latents are scaled as those of every other model of this codec.

    Raises:
        FileNotFoundError: There is none yet.
    """
    path = work / "editor.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the trained editor, with which the model shares its codec; none yet")
    return path


def editor_state(settings: Settings) -> dict[str, Tensor]:
    """Weights and `scaling_factor` of the trained editor; if `unfinished` is asked for, of the one in training.

    Raises:
        FileNotFoundError: There is none, or its training did not `--start-from` a prior and has yet to say its scale.
    """
    if not settings.unfinished:
        return load_file(trained_editor(settings.work))
    start = settings.work / "start-editor.safetensors"
    if not start.is_file():
        raise FileNotFoundError(f"{start}: expected it beside an unfinished editor, for the scale of its latents")
    return without_pooled(averaged(settings.work / "editor.state")) | {
        "scaling_factor": load_file(start)["scaling_factor"]
    }


def t2i_start(settings: Settings, editor: Path | None) -> tuple[Path, bool]:
    """What the text-to-image model starts from: (`start_t2i`, True), or else (the trained editor, False)."""
    if settings.start_t2i is None:
        return trained_editor(settings.work), False
    known = load_file(editor or trained_editor(settings.work))
    start = settings.work / "start-t2i.safetensors"
    write_start(settings.start_t2i, start, scaling_factor=known["scaling_factor"].item())
    return start, True


def export_editor(settings: Settings) -> Path:
    """Write the averaged weights of codec and editor in diffusers layout, fp16; returns the folder."""
    state = editor_state(settings)
    codec = load_codec(settings.work / "codec.safetensors", scaling_factor=state.pop("scaling_factor").item())
    tokenizer = world_tokenizer()
    editor = Editor(*_special(tokenizer).tolist())
    editor.load_state_dict(with_all_words(state, tokenizer))
    parts = (codec, editor.text, tokenizer, editor.unet, make_scheduler())
    return save_prior(settings.out, *parts, {"edits": vocabulary() | family_vocabulary()})


def export_painter(settings: Settings) -> Path:
    """The same for the text-to-image model; beside the editor it takes the editor's codec."""
    scale = editor_state(settings)["scaling_factor"].item()
    codec = load_codec(settings.work / "codec.safetensors", scaling_factor=scale)
    tokenizer = world_tokenizer(CAPTION_TOKENS)
    painter = Painter(*_special(tokenizer).tolist())
    checkpoint = settings.work / "painter.state"
    state = averaged(checkpoint) if settings.unfinished else load_file(settings.work / "painter.safetensors")
    painter.load_state_dict(with_all_words(state, tokenizer))
    parts = (codec, painter.text, tokenizer, painter.unet, make_scheduler(), Words(captions.words()))
    together = settings.out_t2i.resolve().parent == settings.out.resolve().parent
    return save_prior(settings.out_t2i, *parts, kind="text-to-image", vae_of=settings.out.name if together else None)


def main(settings: Settings) -> int:
    """Run the chosen stages; 2 and one line where one lacks what an earlier stage makes."""
    try:
        run_stages(settings)
    except (ValueError, OSError) as error:
        print(f"train_builtin: {error}", file=sys.stderr)
        return 2
    return 0


def run_stages(settings: Settings) -> None:
    """Run the chosen stages; what the device does not speed up in several processes."""
    console = Console()
    work, device = settings.work, settings.device
    work.mkdir(parents=True, exist_ok=True)
    spread = functools.partial(in_parallel, settings.processes)
    train = functools.partial(in_parallel, 1 if device != "cpu" else settings.processes)
    start_codec = start_editor = None
    if settings.start_from:
        start_codec, start_editor = work / "start-codec.safetensors", work / "start-editor.safetensors"
        write_start(settings.start_from, start_editor, start_codec)
    for stage in STAGES if settings.stage == "all" else (settings.stage,):
        console.print(f"[bold]{stage}[/bold]")
        if stage == "pictures":
            numbers = range(settings.first_shard, settings.first_shard + settings.shards)
            spread(_Pictures(work / "shards", numbers))
        elif stage == "codec":
            plan = Plan(settings.steps_codec, settings.lr_codec, ema=0.998, seed=settings.seed)
            share = settings.photo_share
            train(CodecWork(work / "shards", work, plan, settings.batch_codec, share, device, start_codec))
        elif stage == "latents":
            if not (work / "codec.safetensors").is_file():
                raise FileNotFoundError(
                    f"{work / 'codec.safetensors'}: expected the trained codec; --stage codec makes it"
                )
            spread(_Latents(work / "shards", work / "codec.safetensors", work / "latents"))
        elif stage == "instruct":
            write_tokens(work / "tokens.safetensors")
            plan = Plan(settings.steps_instruct, settings.lr_instruct, seed=settings.seed)
            train(
                DenoiserWork(
                    work / "latents",
                    work / "tokens.safetensors",
                    work,
                    plan,
                    settings.batch_instruct,
                    device,
                    start_editor,
                )
            )
        elif stage == "captions":
            spread(_Captions(work / "shards", work / "captions"))
        elif stage == "t2i":
            tokens = work / "caption-tokens.safetensors"
            write_caption_tokens(tokens)
            plan = Plan(settings.steps_t2i, settings.lr_t2i, seed=settings.seed)
            start, again = t2i_start(settings, start_editor)
            painter = (
                work / "latents",
                work / "captions",
                tokens,
                start,
                work,
                plan,
                settings.batch_t2i,
                device,
                again,
            )
            train(PainterWork(*painter))
        else:
            console.print(f"wrote {export_editor(settings)}")
            if (work / ("painter.state" if settings.unfinished else "painter.safetensors")).is_file():
                console.print(f"wrote {export_painter(settings)}")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
