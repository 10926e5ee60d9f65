"""What each of several processes does in `test_nerf_ranks.py`."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from csd3d.engine.regularisers import FeatureLoss, FeatureSite, PatchNce
from csd3d.engine.types import Batch, Latents, Noised
from csd3d.nerf.viewer import Pause
from csd3d.runs.ranks import SharedScore, broadcast, gather, local_indices, map_sharded
from tests.nerf.tiny import ToyEditor, config_for, trainer_for

VIEWS = 4


def inverted(rgb: torch.Tensor) -> torch.Tensor:
    """An edit on which views do not agree."""
    return 1 - rgb


def outcome(folder: Path, *, rank: int = 0, world: int = 1, coupling: str = "depth") -> dict[str, Any]:
    """One batch of views edited together, then the gradient of one step of distillation, after which all is saved."""
    scene = folder / "scene"
    config = config_for(
        scene,
        folder,
        folder / f"out{world}",
        prompt=None,
        prior="builtin",
        coupling=coupling,
        views_per_edit=VIEWS,
        distil_views=VIEWS // world,
        distil_px=16,
        edit_steps=4,
    )
    trainer = trainer_for(config, rank=rank, world=world)
    pipeline = trainer.pipeline
    toy = pipeline.current.prior = ToyEditor(inverted)
    pipeline.current.prompt = "turn it round"
    views = pipeline.driver.edit(0)
    images, rows = pipeline.datamanager._images.clone(), list(toy.rows)
    pipeline.driver = pipeline.make_driver("distil")
    pipeline.schedule.request_edit()
    pipeline.eval()  # so that no ray is jittered, of whatever rank
    losses = pipeline.get_train_loss_dict(1)[1]
    torch.stack(list(losses.values())).sum().backward()
    trainer._end = 2
    trainer.save_checkpoint(1)
    gradients = {name: p.grad for name, p in pipeline.model.named_parameters() if p.grad is not None}
    return {"views": views, "images": images, "rows": rows, "gradients": gradients, "folder": trainer.checkpoint_dir}


class FeatureToy(ToyEditor):
    """A score whose features are its latents."""

    def feature_gradient(self, x: Noised, site: FeatureSite, loss: FeatureLoss) -> Latents:
        self.rows.append(len(x.z_t))
        with torch.enable_grad():
            z = x.z_t.clone().requires_grad_()
            return torch.autograd.grad(loss([z * (1 + x.index.view(-1, 1, 1, 1))], [x.s_t]), z)[0]


def feature_gradient() -> torch.Tensor:
    """PatchNCE's gradient for 3 particles, of which every process does its share."""
    z, s, e = torch.randn(3, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    toy = FeatureToy(inverted)
    gradient = PatchNce(SharedScore(toy), patches=5)(toy.schedule.noised(Batch(z, s, torch.arange(3)), 100, e))
    assert toy.rows == [len(local_indices(3))]
    return gradient


def main() -> None:
    """Of one of two processes; its words are the folder and its rank."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    done = outcome(folder, rank=rank, world=2)
    done["all"] = gather(torch.tensor([[10.0 * i] for i in local_indices(5)]), 5)
    done["first"] = map_sharded(1, lambda mine: torch.tensor([[float(i)] for i in mine]))
    done["features"] = feature_gradient()
    done["paused"] = broadcast([Pause(rank == 0)])[0].paused
    torch.save({k: v for k, v in done.items() if k != "folder"}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()
