"""Steering of a sampler along the gradient of an energy of attention maps, and choosing among first noises by it.

Before step i of T, a noisy latent is moved down the energy of its own cross-attention maps:

    z_t <- z_t - a_i grad E        a_i = step * sqrt(1 - i / (2 (T - 1)))                     as published, or
    z_t <- z_t - b_i rms(z_t) grad E / rms(grad E)      b_i = rms * sqrt(1 - i / (2 (T - 1)))

in the first half of the steps, once each; at 0, 20 and 40 % of the steps up to `rounds` times before that, until E is
at most the energy's target there (Attend-and-Excite; CONFORM has none). Maps are those of the row that reads the
caption, without guidance. Those of the step before, which CONFORM compares with, are the last ones read in it.

What is done to a particle depends on that particle alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from csd3d.attention.control import Control
from csd3d.attention.energy import Columns, Contrast, Energy, Excite, comparable, smoothed
from csd3d.attention.groups import Group, groups_in, groups_of
from csd3d.attention.layout import Box, Layout
from csd3d.attention.rows import Rows
from csd3d.attention.score import MapsRead, Steerable
from csd3d.attention.sites import Site, choose
from csd3d.attention.tail import read_tail
from csd3d.attention.words import Tokens
from csd3d.engine.types import Index, Latents, numbers
from csd3d.engine.validate import require, require_choice, require_int, require_number

ENERGIES: Mapping[str, type[Contrast] | type[Excite] | type[Layout]] = MappingProxyType(
    {"conform": Contrast, "excite": Excite, "layout": Layout}
)
"""The methods by name; the fields of their energies, but for boxes, and of `Steering` are the keys."""
PUBLISHED_LEVEL = 2
"""Of the maps that are read: 16 x 16 of 64 x 64 latents."""


@dataclass(frozen=True)
class Steering:
    """How a sampler is steered. What is None is what suits the prior, see `csd3d.priors.defaults.suited`."""

    energy: Energy = field(default_factory=Contrast)
    step: float | None = None
    """a_i of the module's text, in units of latents; 20 as published. Not beside `rms`."""
    rms: float | None = None
    """b_i: a share of the latent's own size instead."""
    until: float = 0.5
    """Share of the steps, from noise, in which latents are moved."""
    rounds: int | None = None
    """Most moves more in steps of refinement; 20 as published, 0: none."""
    columns: Columns | None = None
    """Tokens whose maps are compared: `all`, or `words`."""
    level: int | None = None
    """Of the sites: maps are so many times halved. Where neither this nor the prior's own says: 2, 16 x 16 maps in
    Stable Diffusion, or the deepest with cross-attention in networks that have none there."""
    sites: str | None = None
    """Begin of the names of the sites that are read; empty: all of the level."""

    def __post_init__(self) -> None:
        for name in ("step", "rms"):
            require_number(self, 0, None, name)
        require(self, "rms", self.step is None or self.rms is None, "none beside step")
        require_number(self, 0, 1, "until")
        require_int(self, 0, 1000, "rounds")
        require_choice(self, "columns")
        require_int(self, 0, 10, "level")

    @classmethod
    def of(cls, text: str, boxes: tuple[Box, ...] = ()) -> "Steering":
        """As a setting says it, `NAME` or `NAME:key=value,...`, with the boxes of `layout`.

        Raises:
            ValueError, TypeError: an unknown name or key, a value that makes no sense, `layout` without boxes, or boxes
                without it.
        """
        name, (energy, rest) = read_tail(
            text, {k: (e, cls) for k, e in ENERGIES.items()}, what="steer", hide=("energy", "boxes")
        )
        if bool(boxes) != (name == "layout"):
            raise ValueError(
                f'steer: expected layout beside --box "the ball=x0,y0,x1,y1" and nowhere else, got {text!r}'
            )
        energy |= {"boxes": boxes} if boxes else {}
        made: Callable[..., Energy] = ENERGIES[name]
        steering: Callable[..., Steering] = cls
        return steering(energy=made(**energy), **rest)

    def scaled(self, slope: Latents, z: Latents) -> Latents:
        """A gradient in the length of the first move of `z`."""
        if self.rms is None:
            assert self.step is not None
            return self.step * slope
        return self.rms * _rms(z) * slope / _rms(slope).clamp_min(1e-12)

    def chosen(self, sites: Sequence[Site]) -> tuple[Site, ...]:
        """The cross-attentions whose maps are read. Raises ValueError if there are none."""
        levels = {site.level for site in choose(sites, kind="cross")}
        level = min(PUBLISHED_LEVEL, max(levels, default=0)) if self.level is None else self.level
        at = choose(sites, kind="cross", levels=(level,))
        if not (found := tuple(site for site in at if site.name.startswith(self.sites or ""))):
            named = ", ".join(f"{s.name} at level {s.level}" for s in choose(sites, kind="cross"))
            raise ValueError(f"steer: expected sites and a level of the prior ({named}), got none such")
        return found


@dataclass
class Steer:
    """Steering of one sampling; called before each of its steps, in order. Make one with `Steer.over`."""

    score: Steerable
    steering: Steering
    steps: int
    groups: Mapping[Tokens, tuple[Group, ...]]
    """Of each sentence."""
    controls: Sequence[Control] = ()
    """Which act while maps are read, as they do while the sampler predicts."""
    _before: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    @classmethod
    def over(
        cls, score: Steerable, steering: Steering, *, steps: int, group: str = "", controls: Sequence[Control] = ()
    ) -> "Steer":
        """For the sentences of `score`, of which `group` lists the things, see `groups_of`; empty: as they are found.

        Raises:
            ValueError: no things, words that are not in a sentence, or sites that the prior has not.
        """
        groups = {tokens: groups_of(tokens, group) if group else groups_in(tokens) for tokens in score.read("target")}
        for tokens, things in groups.items():
            if not things:
                said = " ".join(word.text for word in tokens.words)
                raise ValueError(f'group: expected things in the prompt, or --group "red ball | cube", got {said!r}')
        steering.chosen(score.sites)
        return cls(score, steering, steps, groups, controls)

    @property
    def reads_a_step(self) -> float:
        """How often maps are read at a step of the sampler, on average over its steps: at most."""
        assert self.steering.rounds is not None
        again = self.steering.rounds * len(self.steering.energy.targets)
        return self.steering.until + again / max(self.steps, 1)

    def __call__(self, z_t: Latents, t: int, step: int, index: Index) -> Latents:
        """Particles at timestep `t` before step number `step`, moved. Their numbers are `index`."""
        if step >= self.steering.until * self.steps:
            return z_t
        targets = {round(share * self.steps): target for share, target in self.steering.energy.targets.items()}
        target = targets.get(step, math.inf)
        assert self.steering.rounds is not None
        read = self.read(z_t, t, index, self._before)
        active = read.energy > target
        for _ in range(self.steering.rounds if step in targets else 0):
            if not bool(active.any()):
                break
            z_t = torch.where(active[:, None, None, None], self._moved(z_t, read, step), z_t)
            active = active & (read.energy > target)  # as published: looked at once more after it was enough
            read = self.read(z_t, t, index, self._before)
        self._before.update(zip(numbers(index), read.maps, strict=True))
        return self._moved(z_t, read, step)

    @torch.no_grad()
    def worth(self, z_t: Latents, t: int, index: Index) -> Float[Tensor, " n"]:
        """How surely the thing is seen that is seen least: the smallest peak of the nouns, in [0, 1]."""
        peaks = replace(self, steering=replace(self.steering, energy=Excite()))
        return 1 - peaks.read(z_t, t, index, {}, gradient=False).energy

    def go_on(self, other: "Steer", best: Int64[Tensor, " m"]) -> None:
        """Take over what `other` has read of particles `best`, which are 0 to m - 1 here."""
        self._before = {k: other._before[i] for k, i in enumerate(numbers(best)) if i in other._before}

    def read(
        self,
        z_t: Latents,
        t: int,
        index: Index,
        before: Mapping[int, Float[Tensor, "l a b"]],
        *,
        s: Latents | None = None,
        gradient: bool = True,
    ) -> MapsRead:
        """Maps, their energies once they are comparable and smooth, and the gradient of these by `z_t`.

        Args:
            z_t: at timestep `t`.
            index: their numbers.
            before: maps of the step before, of those that have any.
            s: their sources, for priors that look at them.
            gradient: whether it is wanted.
        """
        columns = self.steering.columns
        assert columns is not None

        def of_rows(A: Float[Tensor, "r l a b"], rows: Rows) -> Float[Tensor, " r"]:
            now = smoothed(comparable(A, rows.tokens, columns))
            energies: list[Tensor] = []
            for maps, tokens, particle in zip(now, rows.tokens, rows.particle, strict=True):
                earlier = before.get(particle)
                if earlier is not None:
                    earlier = smoothed(comparable(earlier[None].to(A), [tokens], columns))[0]
                energies.append(self.steering.energy(maps, earlier, self.groups[tokens]))
            return torch.stack(energies)

        sites = self.steering.chosen(self.score.sites)
        return self.score.read_energy(
            z_t, t, index, sites=sites, energy=of_rows, s=s, controls=self.controls, gradient=gradient
        )

    def _moved(self, z_t: Latents, read: MapsRead, step: int) -> Latents:
        """`z_t` after one move."""
        assert read.gradient is not None
        size = math.sqrt(1 - step / (2 * max(self.steps - 1, 1)))
        return z_t - size * self.steering.scaled(read.gradient, z_t)


def _rms(z: Latents) -> Float[Tensor, "n 1 1 1"]:
    return z.square().mean((1, 2, 3), keepdim=True).sqrt()


@dataclass(frozen=True)
class Pick:
    """Several noises for each picture, of which the one is kept that `Steer.worth` is highest for."""

    among: int = 1
    """Noises for each picture."""
    after: int = 0
    """Steps of the sampler after which they are looked at; 0 = at once."""

    def best(self, worth: Float[Tensor, " n"]) -> Int64[Tensor, " m"]:
        """Numbers of those that are kept, of `among` candidates for each of m pictures."""
        candidates = worth.view(-1, self.among)
        return candidates.argmax(1) + self.among * torch.arange(len(candidates), device=worth.device)
