"""Pictures through a trained network, one pass each.

The network works at the size that it was trained at; what it changed is scaled up and added to the picture itself, so
that fine detail is not lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from csd3d.media.geometry import from_working, to_working, working_size
from csd3d.priors.loading import Loading
from csd3d.priors.store.fingerprint import fingerprint_of
from csd3d.priors.text_to_image import TextToImagePrior
from csd3d.runs.checkpoint import as_saved, load_checkpoint, save_checkpoint
from csd3d.translate.network import Translator, make_translator


@dataclass(frozen=True)
class Trained:
    """A trained network with its prior."""

    prior: TextToImagePrior
    network: Translator
    tasks: tuple[str, ...]
    size_px: int
    """Short side at which it works."""

    def task(self, name: str) -> int:
        """Number of a task. Raises ValueError, naming those there are."""
        if name not in self.tasks:
            raise ValueError(f"task: expected {' or '.join(self.tasks)}, got {name!r}")
        return self.tasks.index(name)

    @torch.no_grad()
    def __call__(self, rgb: Float[Tensor, "n 3 H W"], task: str) -> Float[Tensor, "n 3 H W"]:
        """Translate pictures of one size, in [0, 1]."""
        number, device = self.task(task), self.prior.device
        height, width = rgb.shape[-2:]
        size = working_size(
            Fraction(width, height), self.size_px, self.prior.codec.factor, source_px=min(height, width)
        )
        s = self.prior.codec.encode(to_working(rgb.to(device), size))
        z = torch.cat([self.network(x[None], torch.tensor([number], device=device)) for x in s])
        change = self.prior.codec.decode(z) - self.prior.codec.decode(s)
        return (rgb + from_working(change, size, height, width).to(rgb)).clamp(0, 1)


def save_trained(path: Path, trained: Trained, captions: Sequence[str]) -> None:
    """Write the network as one file (float16), with its tasks, their captions and what its prior was."""
    state = {k: v.half() for k, v in trained.network.state_dict().items()}
    record = {"kind": "translator", "tasks": list(trained.tasks), "captions": list(captions)}
    record |= {"prior": trained.prior.name, "size_px": trained.size_px}
    record |= {"lora": list(trained.prior.how.lora), "embedding": list(trained.prior.how.embedding)}
    record["fingerprint"] = fingerprint_of(trained.prior)
    save_checkpoint(path, state, record)


def load_trained(path: Path, *, prior: TextToImagePrior | str | None = None, device: str | None = None) -> Trained:
    """Read a network and load the prior that it was trained with, for its codec.

    Args:
        path: of the network.
        prior: that prior, or its name. None: by the name in the file, which may be anybody's: nothing is fetched for
            it.
        device: of a prior that is loaded.

    Raises:
        FileNotFoundError, ValueError: It or its prior cannot be read, or the prior is another one by now.
    """
    saved = load_checkpoint(path)
    record = saved.record
    if record.get("kind") != "translator":
        raise ValueError(f"network: expected one that csd3d translate train wrote, got {path}")
    with as_saved(path):
        name, captions, tasks, size = (record[key] for key in ("prior", "captions", "tasks", "size_px"))
        lora, embedding = (tuple(map(str, record.get(key, ()))) for key in ("lora", "embedding"))
    if not isinstance(prior, TextToImagePrior):
        how = Loading(lora, embedding)
        prior = TextToImagePrior.load(prior or name, device=device, how=how, offline=prior is None)
    if fingerprint_of(prior) != record.get("fingerprint"):
        raise ValueError(f"network: {path} was trained with another version of the prior {name!r}")
    with as_saved(path):
        network = make_translator(prior, captions).to(prior.device)
        network.load_state_dict(saved.tensors)
        return Trained(prior, network.eval(), tuple(tasks), int(size))
