"""The engine with a score of one's own: eight particles agree on one of two answers, both of them right."""

import torch

from csd3d.engine import Batch, CsdConfig, Index, Latents, Noised, Objective, Schedule, descend, run


class TwoAnswers:
    """A `Score`. It stands for a diffusion model of pictures that are +1 or -1 everywhere, equally often, for which
    E[z | z_t] = tanh(sqrt(ab) sum(z_t) / (1 - ab)), so that the noise it would predict is known exactly."""

    schedule = Schedule.scaled_linear()

    def target(self, x: Noised) -> Latents:
        ab = self.schedule.alpha_bar(x.t)
        clean = torch.tanh(ab**0.5 * x.z_t.sum((1, 2, 3), keepdim=True) / (1 - ab))
        return (x.z_t - ab**0.5 * clean) / (1 - ab) ** 0.5

    def source(self, x: Noised) -> Latents:
        raise AssertionError("only residual='source' asks for a prediction of the sources")


class FreeLatents:
    """`Particles` that are nothing but tensors, all of them moved in every step."""

    steps_per_epoch = 1

    def __init__(self, z: Latents) -> None:
        self.z = z

    def draw(self, rng: torch.Generator) -> Batch:
        return Batch(z=self.z, s=self.z, index=torch.arange(len(self.z)))

    def move(self, index: Index, g: Latents, *, lr: float) -> None:
        self.z, _ = descend(self.z, g, None, lr=lr)  # None: SGD, which has no moments


def answers(config: CsdConfig) -> list[float]:
    """The mean value of each particle at the end."""
    rng = torch.Generator().manual_seed(0)
    particles = FreeLatents(0.1 * torch.randn(8, 4, 2, 2, generator=rng))  # n c h w
    for info in run(particles, Objective(TwoAnswers(), config), rng=rng):
        if info.step % 100 == 0:
            print(f"step {info.step}: t {info.t}, gradient {info.gradient_rms:.2f}, kernel {info.kernel_mean}")
    return [round(float(z.mean()), 1) for z in particles.z]


if __name__ == "__main__":
    plain = {"residual": "noise", "lr": 0.3, "t_min": 300, "t_max": 900}
    print("each for itself:", answers(CsdConfig(coupling="independent", **plain)))
    print("all together:   ", answers(CsdConfig(coupling="svgd", bandwidth=0.0, repulsion=0.0, **plain)))
