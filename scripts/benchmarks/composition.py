"""What is in a picture of the world: a small network reads it, trained on pictures whose scenes are known.

It says which things are there, which colour or material each has, what they stand on and what time it is. Everything
that it is asked about generated pictures it is asked about real ones first (`questions`), where the answer is known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from csd3d.world.families import every_edit
from csd3d.world.scene import COLOURS, SIMPLE_SHAPES, Ground, Scene, SceneSampler, Shape, Thing, Time
from scripts.training.loop import Plan, train
from scripts.training.pictures import GROUPS_PER_SHARD, holds_photos, number_of, read_shard, shards, view_of

SHAPES: tuple[str, ...] = get_args(Shape)
LOOKS: tuple[str, ...] = (*COLOURS, "gold", "chrome", "wood", "striped")
"""Colours of what is matte, and materials."""
GROUNDS: tuple[str, ...] = get_args(Ground)
TIMES: tuple[str, ...] = get_args(Time)
NO_LOOK = -1
"""Of what is not there, and of things that have no choice (a tree)."""
INPUT_PX = 64


@dataclass(frozen=True)
class Content:
    """What is in pictures."""

    present: Bool[Tensor, "n 8"]
    """Which of `SHAPES`."""
    look: Int[Tensor, "n 8"]
    """Number in `LOOKS` of each, or `NO_LOOK`."""
    ground: Int[Tensor, " n"]
    time: Int[Tensor, " n"]

    def __getitem__(self, rows: Int[Tensor, " m"]) -> "Content":
        """Some of the pictures."""
        return Content(*(getattr(self, f.name)[rows] for f in fields(self)))


def look_of(thing: Thing) -> int:
    """Number of a thing's look in `LOOKS`, or `NO_LOOK`."""
    if thing.shape not in SIMPLE_SHAPES:
        return NO_LOOK
    return LOOKS.index(thing.colour if thing.material == "matte" else thing.material)


def content_of(scenes: Sequence[Scene]) -> Content:
    """What scenes hold."""
    present = torch.zeros(len(scenes), len(SHAPES), dtype=torch.bool)
    look = torch.full((len(scenes), len(SHAPES)), NO_LOOK)
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            present[i, SHAPES.index(thing.shape)] = True
            look[i, SHAPES.index(thing.shape)] = look_of(thing)
    ground = torch.tensor([GROUNDS.index(s.ground) for s in scenes], dtype=torch.long)
    return Content(present, look, ground, torch.tensor([TIMES.index(s.time) for s in scenes], dtype=torch.long))


class Reader(nn.Module):
    """A convolutional network whose answers about a thing come from where it sees the thing."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        a, b, c = width, 3 * width, 6 * width
        self.trunk = nn.Sequential(
            nn.Conv2d(3, a, 5, 2, 2), nn.GroupNorm(4, a), nn.SiLU(),
            nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(4, b), nn.SiLU(), _Residual(b),
            nn.Conv2d(b, c, 3, 2, 1), nn.GroupNorm(4, c), nn.SiLU(), _Residual(c), _Residual(c),
        )  # fmt: skip
        self.where = nn.Conv2d(c, len(SHAPES), 1)
        self.look = nn.Conv2d(c, len(SHAPES) * len(LOOKS), 1)
        self.place = nn.Linear(2 * c, len(GROUNDS) + len(TIMES))

    def forward(self, rgb: Float[Tensor, "n 3 H W"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits: present [n 8], look [n 8 10], ground [n 6], time [n 3]."""
        x = self.trunk(functional.adaptive_avg_pool2d(rgb, INPUT_PX) * 2 - 1)
        where = self.where(x).flatten(2)
        looks = self.look(x).unflatten(1, (len(SHAPES), len(LOOKS))).flatten(3)
        look = torch.einsum("nkp,nklp->nkl", where.softmax(2), looks)
        place = self.place(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))
        ground, time = place.split([len(GROUNDS), len(TIMES)], dim=1)
        return where.logsumexp(2) - 4, look, ground, time

    @torch.no_grad()
    def read(self, rgb: Float[Tensor, "n 3 H W"]) -> Content:
        """What it sees in pictures in [0, 1]."""
        parts = []
        for some in rgb.split(64):
            present, look, ground, time = self(some)
            simple = torch.tensor([s in SIMPLE_SHAPES for s in SHAPES])
            there = present > 0
            parts.append(
                (there, torch.where(there & simple, look.argmax(2), NO_LOOK), ground.argmax(1), time.argmax(1))
            )
        return Content(*(torch.cat(column) for column in zip(*parts, strict=True)))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1)
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return functional.silu(x + self.body(x))


def loss_of(reader: Reader, rgb: Float[Tensor, "n 3 H W"], truth: Content) -> Float[Tensor, ""]:
    """Sum of the losses of all questions."""
    present, look, ground, time = reader(rgb)
    return (
        functional.binary_cross_entropy_with_logits(present, truth.present.float())
        + functional.cross_entropy(look.flatten(0, 1), truth.look.flatten(), ignore_index=NO_LOOK)
        + 0.3 * functional.cross_entropy(ground, truth.ground)
        + 0.3 * functional.cross_entropy(time, truth.time)
    )


def known_pictures(folder: Path) -> Iterator[tuple[UInt8[Tensor, "m 3 S S"], Content]]:
    """Pictures of the middle of the world from training shards, at the size the network reads, and what they hold.

    No styles, and nothing that captions have no word for.
    """
    known = every_edit()
    for path in shards(folder):
        if holds_photos(number_of(path)):
            continue
        images, edits = read_shard(path)
        rows, scenes = [], []
        for g, row in enumerate(edits.tolist()):
            seed = number_of(path) * GROUPS_PER_SHARD + g
            if view_of(seed) != "middle":
                continue
            scene = SceneSampler().sample(seed)
            for k, e in enumerate([None, *row]):
                if e is None or (e >= 0 and known[e].on_scene and known[e].wordings):
                    rows.append((g, k))
                    scenes.append(scene if e is None else known[e].scene(scene))
        group, picture = torch.tensor(rows).T
        small = functional.adaptive_avg_pool2d(images[group, picture].float(), INPUT_PX)
        yield small.round().to(torch.uint8), content_of(scenes)


def train_reader(folder: Path, out: Path, *, steps: int, batch: int = 48, seed: int = 0) -> Reader:
    """The network, trained on the shards in `folder`; `out` keeps its weights, and its state while it is trained.

    Half of the pictures are softened, as a codec and a small model soften them, and half are mirrored.

    Raises:
        FileNotFoundError: There are no shards.
    """
    torch.manual_seed(seed)
    reader = Reader()
    if out.is_file():
        reader.load_state_dict(load_file(out))
        return reader.eval()
    found = list(known_pictures(folder))
    if not found:
        raise FileNotFoundError(
            f"{folder}: expected shards of pictures (train_builtin.py --stage pictures), found none"
        )
    rgb = torch.cat([pictures for pictures, _ in found])
    truth = Content(*(torch.cat([getattr(c, f.name) for _, c in found]) for f in fields(Content)))

    def loss(step: int, rng: torch.Generator) -> Tensor:
        rows = torch.randint(len(rgb), (batch,), generator=rng)
        x = rgb[rows].float() / 255
        flip, soft = torch.rand(2, batch, 1, 1, 1, generator=rng) < 0.5
        x = torch.where(flip, x.flip(3), x)
        return loss_of(reader, torch.where(soft, soften(x), x), truth[rows])

    out.parent.mkdir(parents=True, exist_ok=True)
    weights = train(reader, loss, Plan(steps, lr=2e-3, warmup=100, ema=0.99, seed=seed), out.with_suffix(".state"))
    save_file(weights, out)
    reader.load_state_dict(weights)
    return reader.eval()


def soften(rgb: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """Pictures after a binomial filter of three pixels."""
    one = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(one, one).expand(3, 1, 3, 3)
    return functional.conv2d(functional.pad(rgb, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)


@dataclass(frozen=True)
class Verdict:
    """Answers about pictures against what they should hold, each [n 8] or [n]; `asked` says where there is a thing."""

    asked: Bool[Tensor, "n 8"]
    found: Bool[Tensor, "n 8"]
    """The thing is there."""
    right: Bool[Tensor, "n 8"]
    """The thing is there and looks as it should."""
    extra: Bool[Tensor, "n 8"]
    """A thing is there that should not be."""
    ground: Bool[Tensor, " n"]
    time: Bool[Tensor, " n"]

    @property
    def all_right(self) -> Bool[Tensor, " n"]:
        """Every thing that should be there is, as it should look."""
        return (self.right | ~self.asked).all(1)

    @property
    def exact(self) -> Bool[Tensor, " n"]:
        """The same, and nothing else is there."""
        return self.all_right & ~self.extra.any(1)


def judge(seen: Content, wanted: Content) -> Verdict:
    """Compare what is seen with what was asked for."""
    found = seen.present & wanted.present
    right = found & (seen.look == wanted.look)
    return Verdict(
        wanted.present,
        found,
        right,
        seen.present & ~wanted.present,
        seen.ground == wanted.ground,
        seen.time == wanted.time,
    )


def questions(seen: Content, truth: Content, visible: Bool[Tensor, "n 8"]) -> Bool[Tensor, " q"]:
    """Whether each answer about real pictures is right, questions about presence and absence being as many.

    For every thing that can be seen: is it there and looks so? And for as many things that are not there, in order: is
    it there? Things that hide or are cut off are not asked for.
    """
    verdict = judge(seen, truth)
    yes = verdict.right[visible & truth.present]
    no = ~seen.present[~truth.present]
    return torch.cat([yes, no[: len(yes)]])
