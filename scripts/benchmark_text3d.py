"""Compare ways of making a scene from a sentence: is what it names there, from all sides?

    python scripts/benchmark_text3d.py --work WORK [--out FOLDER] [--rows csd sds] [--quick]

Every scene is made by the method `csd-3d-cpu`, with the same cameras, seeds and number of renders in every row. Then it
is looked at from azimuths once around, and the network of `scripts/evaluate_t2i.py` (trained on WORK/shards, kept in
WORK/reader.safetensors) reads what is there; how views agree is measured without truth. Writes text3d.md, text3d.json
and a contact sheet for each sentence after every scene. What is done is kept in FOLDER/work: a run that was stopped
goes on where it was.
"""

import copy
import gc
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from csd3d.engine.validate import require, require_int
from csd3d.media.atomic import atomic_path, write_json, write_text
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.metrics import aggregate, jsonable, markdown_table
from csd3d.nerf import configs
from csd3d.nerf.text3d.data import cameras_at
from csd3d.runs.progress import RunProgress
from csd3d.world.edits import describe
from csd3d.world.scene import Scene, Thing
from scripts.benchmarks.composition import Reader, content_of, judge, train_reader
from scripts.benchmarks.entry import quiet, run_script
from scripts.benchmarks.kept import selected, work_folder
from scripts.benchmarks.text3d_views import colours_apart, opposite, ring_warp, seen_around

SCENES = (
    Scene((Thing("ball", (0.0, 0.0), colour="red"),), ground="grass"),
    Scene((Thing("cube", (0.0, 0.0), colour="blue"),), ground="sand"),
    Scene((Thing("snowman", (0.0, 0.0)),), ground="ice"),
    Scene((Thing("mushroom", (0.0, 0.0)),), ground="grass"),
    Scene((Thing("cone", (0.0, 0.0), colour="yellow"),), ground="stone"),
    Scene((Thing("tree", (0.0, 0.0)),), ground="sand"),
    Scene((Thing("cylinder", (0.0, 0.0), colour="green"),), ground="grass"),
    Scene((Thing("ring", (0.0, 0.0), colour="purple"),), ground="sand"),
    Scene((Thing("cube", (0.0, 0.0), material="gold"),), ground="stone"),
    Scene((Thing("ball", (0.0, 0.0), material="striped"),), ground="ice"),
    Scene((Thing("cone", (0.0, 0.0), colour="white"),), ground="lava"),
    Scene((Thing("ball", (-0.8, 0.0), colour="blue"), Thing("cube", (0.8, 0.0), colour="red")), ground="grass"),
)
"""What sentences name; the sentence is the caption of the scene."""
ROWS: Mapping[str, Mapping[str, Any]] = {
    "csd": {"method": "csd"},
    "sds": {"method": "sds"},
    "csd, kernel on features": {"method": "csd", "kernel_on": "features"},
    **{f"csd, N = {n}": {"method": "csd", "views_per_step": n} for n in (1, 2, 8)},
}
"""Settings of the pipeline that differ; csd alone has N = `views` renders a step. All have as many renders in all."""
MEASURES = ("found", "right", "exact", "warp", "colours", "opposite", "seconds")


@dataclass(frozen=True)
class Settings:
    """Compare ways of making a scene from a sentence."""

    work: Path = Path("work")
    """Folder of `train_builtin.py`: its pictures train the network that reads pictures."""
    out: Path = Path("outputs/benchmark_text3d")
    """Folder for the results, and for what was done so far."""
    scenes: int = 12
    """How many sentences."""
    seeds: int = 3
    """Scenes for each sentence and row."""
    steps: int = 1_500
    """Training steps of each."""
    render_px: tuple[int, ...] = (48, 64)
    """Sides of renders in training, each for an equal share of the steps."""
    views: int = 4
    """Renders of a step."""
    azimuths: int = 12
    """Views that are judged, once around, an even number."""
    eval_px: int = 96
    """Their side."""
    reader_steps: int = 8000
    """How long the reading network is trained."""
    rows: tuple[str, ...] = ()
    """Only these; none = all."""
    quick: bool = False
    """One sentence, few steps."""

    def __post_init__(self) -> None:
        require_int(self, 1, None, "scenes", "seeds", "steps", "views", "azimuths", "reader_steps")
        if self.scenes > len(SCENES):
            raise ValueError(f"scenes: expected at most {len(SCENES)}, got {self.scenes}")
        require(self, "azimuths", self.azimuths % 2 == 0, "an even number, for views from opposite sides")

    def effective(self) -> "Settings":
        """With `quick` spelled out."""
        few = replace(self, scenes=1, seeds=1, steps=min(self.steps, 3), render_px=(16,), views=2, azimuths=4)
        return replace(few, eval_px=32, reader_steps=min(self.reader_steps, 5)) if self.quick else self


def make(caption: str, seed: int, changes: Mapping[str, Any], settings: Settings, folder: Path) -> dict[str, Tensor]:
    """What `seen_around` sees of a scene that was made, and the seconds it took."""
    steps = settings.steps * settings.views // changes.get("views_per_step", settings.views)
    config: Any = copy.deepcopy(configs.csd_3d_cpu.config)
    config.output_dir, config.timestamp, config.vis = folder, "run", "tensorboard"
    config.max_num_iterations, config.machine.seed = steps, seed
    pipeline = config.pipeline
    pipeline.prompt, pipeline.seed = caption, seed
    pipeline.anneal_steps, pipeline.views_per_step = steps, settings.views
    pipeline.render_px, pipeline.datamanager.eval_px = settings.render_px, settings.eval_px
    for name, value in changes.items():
        setattr(pipeline, name, value)
    torch.manual_seed(seed)
    began = time.process_time()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    seconds = time.process_time() - began
    made = trainer.pipeline
    seen = seen_around(made.model, made.datamanager.orbit, settings.azimuths, settings.eval_px)
    del trainer, made
    gc.collect()  # nerfstudio's objects hold each other
    return seen | {"seconds": torch.tensor(seconds)}


def verdict(reader: Reader, rgb: Float[Tensor, "n 3 H W"], scene: Scene) -> dict[str, float]:
    """Shares of views in which the things are found, look as named, and nothing else is there."""
    judged = judge(reader.read(rgb), content_of([scene] * len(rgb)))
    found = (judged.found | ~judged.asked).all(1)
    return {name: float(v.float().mean()) for name, v in
            (("found", found), ("right", judged.all_right), ("exact", judged.exact))}  # fmt: skip


def agreement(made: Mapping[str, Tensor], settings: Settings) -> dict[str, float]:
    """How views agree with each other; the cameras are those of `make`."""
    places: Any = configs.csd_3d_cpu.config.pipeline.datamanager
    cameras = cameras_at(places.orbit().ring(settings.azimuths), settings.eval_px)
    rgb = made["rgb"]
    warp = ring_warp(cameras, rgb, made["distance"], made["opacity"])
    return {"warp": warp, "colours": colours_apart(rgb), "opposite": opposite(rgb)}


def benchmark(settings: Settings, progress: RunProgress) -> Path:
    """Measure everything and write it; returns the folder.

    Raises ValueError or FileNotFoundError for settings or a folder that cannot be used.
    """
    quick, settings = settings.quick, settings.effective()
    rows = selected(ROWS, settings.rows)
    reader = train_reader(settings.work / "shards", settings.work / "reader.safetensors", steps=settings.reader_steps)
    shared = ("steps", "render_px", "views", "azimuths", "eval_px")
    work = work_folder(settings.out / "work", {name: getattr(settings, name) for name in shared}, "builtin:t2i")
    records: list[dict[str, Any]] = []
    for scene in progress.track("sentences", SCENES[: settings.scenes], total=settings.scenes):
        caption, shown = describe(scene), dict[str, Tensor]()
        for seed in range(settings.seeds):
            for row, changes in rows.items():
                made = kept(work, (caption, seed, row), changes, settings)
                about = {"row": row, "caption": caption, "seed": seed, "seconds": float(made["seconds"])}
                records.append(about | verdict(reader, made["rgb"], scene) | agreement(made, settings))
                progress.say(f"{caption}, seed {seed}, {row}: right in {100 * records[-1]['right']:.0f} % of views")
                shown[f"{row}, seed {seed}"] = made["rgb"]
                write(records, caption, shown, settings, quick=quick)
    return settings.out


def kept(
    work: Path, which: tuple[str, int, str], changes: Mapping[str, Any], settings: Settings
) -> Mapping[str, Tensor]:
    """What was made of a caption, a seed and a row; made now, if it was not yet."""
    caption, seed, row = which
    name = "-".join(f"{caption} {seed} {row}".replace(",", "").split())
    path = work / f"{name}.safetensors"
    if not path.is_file():
        with quiet(work / "nerfstudio.log"):
            made = make(caption, seed, changes, settings, work / "runs" / name)
        with atomic_path(path) as part:
            save_file(made, part)
    return load_file(path)


def write(
    records: list[dict[str, Any]], caption: str, shown: Mapping[str, Tensor], settings: Settings, *, quick: bool
) -> None:
    """Bring tables and the sheet of a sentence up to date."""
    columns = [f"{360 * i // settings.azimuths} deg" for i in range(settings.azimuths)]
    sheet = settings.out / "sheets" / f"{'-'.join(caption.split())}.png"
    save_picture(contact_sheet(shown, columns=columns, cell_px=settings.eval_px), sheet)
    about = asdict(settings) | {"work": None, "out": None, "quick": quick, "torch": torch.__version__}
    write_json(settings.out / "text3d.json", jsonable({"settings": about, "records": records}))
    write_text(settings.out / "text3d.md", to_markdown(records, settings))


def to_markdown(records: list[dict[str, Any]], settings: Settings) -> str:
    """The tables: by row, and by sentence."""
    header = ["% of views", "scenes", "things found", "as named", "and no others"]
    header += ["warp error, %", "colours apart, %", "opposite sides apart, %", "processor s a scene"]
    rows = [
        [
            row,
            found["right"].n,
            *(f"{100 * found[m].value:.0f}" for m in MEASURES[:3]),
            *(f"{100 * found[m].value:.2f}" if found[m].n else None for m in MEASURES[3:6]),
            f"{found['seconds'].value:.0f}",
        ]
        for row, found in aggregate(records, "row", MEASURES).items()
    ]
    names = list(dict.fromkeys(r["row"] for r in records))
    by_sentence = []
    for caption in dict.fromkeys(r["caption"] for r in records):
        shares = aggregate([r for r in records if r["caption"] == caption], "row", MEASURES)
        by_sentence.append(
            [caption, *(f"{100 * shares[n]['right'].value:.0f}" if n in shares else None for n in names)]
        )
    return (
        "# A scene from a sentence\n\n"
        f"`csd-3d-cpu` with `builtin:t2i`, {settings.steps} steps of {settings.views} renders of "
        f"{' and '.join(map(str, settings.render_px))} px, {settings.seeds} seed(s); {settings.azimuths} azimuths, "
        "judged by the network of `scripts/evaluate_t2i.py`. All rows have as many renders; N, how many of them a step "
        f"has, is {settings.views} where a row does not say.\n\n"
        "Warp error: mean difference between neighbouring views at the points that both show, by the depth of the "
        "field. Colours apart: of the views' histograms from their mean. Opposite sides apart: mean difference between "
        "views from opposite sides, mirrored; next to nothing where a thing has a face on both, or is round. "
        "Definitions in `scripts/benchmarks/text3d_views.py`.\n\n"
        f"{markdown_table(header, rows)}\n## Things as named, % of views, by sentence\n\n"
        f"{markdown_table(['', *names], by_sentence)}"
    )


def main(settings: Settings) -> int:
    """Compare; 2 and one line when settings cannot be used."""
    return run_script(lambda progress: f"{benchmark(settings, progress)}/text3d.md, text3d.json, sheets/")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
