"""`csd3d priors`: which priors can be used here, and what each one knows. Reads names, sizes and JSON, no weights."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from csd3d.cli import cost
from csd3d.cli.parse import read_dataclass, with_first
from csd3d.media.atomic import atomic_folder
from csd3d.media.place import at_home, require_place
from csd3d.priors.families.table import Family
from csd3d.priors.loading import PLAIN, Loading
from csd3d.priors.memory import peak_bytes
from csd3d.priors.prompts.photographs import read_marks
from csd3d.priors.prompts.vocabulary import Vocabulary
from csd3d.priors.prompts.words import Words, read_known, with_learnt
from csd3d.priors.store.additions import about
from csd3d.priors.store.card import bytes_of, licence_of, weights_of
from csd3d.priors.store.resolve import (
    VAE_OF,
    VAE_SHA256,
    builtin_directory,
    check_directory,
    part_folder,
    read_json,
    resolve,
)

ALWAYS_BUILTIN = "builtin:instruct"
OTHER_BUILTIN = ("builtin:t2i",)

BIG_PRIOR = (
    "Any Stable Diffusion 1.x/2.x or InstructPix2Pix model in diffusers layout serves as well: --prior DIRECTORY, or "
    "--prior OWNER/NAME from the Hugging Face hub (timbrooks/instruct-pix2pix: several GB, wants a GPU). "
    "So do FLUX.2 klein, Kontext, Qwen-Image-Edit, SDXL, SD3 and others: docs/families.md lists them."
)


@dataclass(frozen=True)
class List:
    """List the built-in priors and those that the Hugging Face cache holds."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print them as a JSON list, for scripts."""


@dataclass(frozen=True)
class Show:
    """Show one prior: where it is, its kind and size, and every instruction or word it knows."""

    name: tyro.conf.Positional[str]
    """"builtin:instruct", a directory, a .safetensors file, or a hub id such as timbrooks/instruct-pix2pix."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what is known of it as JSON, for scripts."""
    prior_config: Path | None = None
    """For a .safetensors file: the folder with its configurations. None: that of the model that is recognised."""
    lora: tuple[str, ...] = ()
    """Say what this LoRA adds, FILE.safetensors:SCALE. As often as there are such files."""
    embedding: tuple[str, ...] = ()
    """Say what this textual inversion adds, FILE.safetensors. As often as there are such files."""
    measure: bool = False
    """Load it and measure how long a row of its network and a picture in its autoencoder take here."""
    device: str | None = None
    """Where that is measured. None: CUDA where there is one."""
    control: tuple[str, str] | None = None
    """Count a guard beside it, KIND MODEL: the folder or hub id of a ControlNet."""


@dataclass(frozen=True)
class Export:
    """Copy a prior into a folder of its own, complete, so that diffusers' own pipelines load it."""

    name: tyro.conf.Positional[str]
    """Such as "builtin:t2i"."""
    directory: tyro.conf.Positional[Path]
    """A folder that does not exist yet."""


@dataclass(frozen=True)
class Command:
    """List the diffusion priors that can be used, and what each one knows."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[Show, tyro.conf.subcommand("show")]
        | Annotated[Export, tyro.conf.subcommand("export")]
    ] = field(default_factory=List)
    """What to do."""


@dataclass(frozen=True)
class Described:
    """What is known of a prior without loading it."""

    name: str
    kind: str
    path: Path
    size_bytes: int
    vocabulary: Vocabulary | Words | None
    family: Family | None = None
    licence: str | None = None
    """As the model card states it."""
    weights_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    """Of every part that has weights, in the files that are read."""
    peaks_bytes: Mapping[int, int] = field(default_factory=dict[int, int])
    """Of a call for one row or picture, by the side of the picture in px."""
    added: tuple[str, ...] = ()
    """What LoRAs and textual inversions put into it, a line each."""

    @property
    def about(self) -> list[str]:
        """Family, licence and memory, a line each, as far as files tell them."""
        lines = [] if self.family is None else [f"family: {self.family.title}, rows {' '.join(self.family.branches)}"]
        lines += [] if self.licence is None else [f"licence by its card: {self.licence}"]
        if self.weights_bytes:
            parts = ", ".join(f"{name} {_gb(size)}" for name, size in self.weights_bytes.items())
            total = sum(self.weights_bytes.values())
            lines.append(f"memory for weights: {_gb(total)} GB ({parts}), as stored")
            if self.peaks_bytes:
                needed = ", ".join(f"{_gb(total + peak)} GB at {px} px" for px, peak in self.peaks_bytes.items())
                row = f"a row for a window of {cost.WINDOW} frames" if self._of_clips else "one row"
                lines.append(f"memory needed: {needed} (weights and {row} in half precision, by csd3d.priors.memory)")
        return [*lines, *self.added]

    @property
    def _of_clips(self) -> bool:
        return self.family is not None and self.family.of_clips

    def as_json(self) -> dict[str, Any]:
        """The same for scripts; `knows` holds wordings by edit, words by group, or None for any sentence."""
        knows = self.vocabulary
        if isinstance(knows, Words):
            known: dict[str, list[str]] | None = {name: list(words) for name, words in knows.by_group.items()}
        else:
            known = None if knows is None else {name: list(entry.wordings) for name, entry in knows.edits.items()}
        family = None if self.family is None else self.family.title
        facts = {"name": self.name, "kind": self.kind, "path": str(self.path), "size_bytes": self.size_bytes}
        facts |= {"family": family, "licence": self.licence, "weights_bytes": dict(self.weights_bytes)}
        facts |= {"peaks_bytes": dict(self.peaks_bytes), "added": list(self.added)}
        return {**facts, "knows": known}

    def summary(self) -> str:
        """Kind, size and how much it knows, in one line."""
        if isinstance(self.vocabulary, Words):
            knows = f"{sum(map(len, self.vocabulary.by_group.values()))} words"
        else:
            knows = "any sentence" if self.vocabulary is None else f"{len(self.vocabulary.edits)} edits"
        return f"{self.kind}, {self.size_bytes / 1e6:,.0f} MB, knows {knows}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 5e7 else f"{size / 1e9:.3f}"


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    return run(read_dataclass(Command, with_first(argv, "list"), prog="csd3d priors"))


def run(command: Command) -> int:
    """Print what was asked for; 0. Raises ValueError or FileNotFoundError when a name stands for no prior."""
    console = Console(soft_wrap=True, highlight=False)
    if isinstance(command.action, Show):
        action = command.action
        how = Loading(action.lora, action.embedding, action.prior_config, control=action.control)
        prior = describe(action.name, how)
        guard, builtin = _guard(how), prior.name.startswith("builtin")
        counted = cost.counted(prior.path, prior.kind, prior.family, builtin=builtin, guard=guard)
        if action.json:
            print(json.dumps(prior.as_json() | {"row_flops": dict(counted.rows_flops)}, indent=2))
            return 0
        lines = counted.lines
        if action.measure:
            if how.control is not None:
                how = replace(how, control=("edge", how.control[1]))  # which needs no picture, and costs the same
            lines += cost.measured(action.name, how, device=action.device)
        show(prior, console, lines)
    elif isinstance(command.action, Export):
        console.print(f"wrote {escape(str(export(command.action.name, command.action.directory)))}")
    elif command.action.json:
        print(json.dumps([prior.as_json() for prior in _usable()], indent=2))
    else:
        list_all(console)
    return 0


def builtin_names() -> list[str]:
    """The built-in priors that belong to this installation: the editor always, another one where its weights are."""
    return [ALWAYS_BUILTIN, *(name for name in OTHER_BUILTIN if builtin_directory(name).is_dir())]


def describe(name: str, how: Loading = PLAIN) -> Described:
    """Look at a prior's files.

    Raises:
        ValueError, FileNotFoundError: `name` stands for no prior, or for a hub id that is not in the cache.
    """
    found = resolve(name, how)
    path, kind = found.path, found.kind
    if path is None:
        path = cached().get(found.name)
        if path is None:
            raise FileNotFoundError(f"prior {name!r}: not in the Hugging Face cache yet; its first use fetches it")
        kind = check_directory(path)
    vocabulary = with_learnt(read_known(path), how, title=name)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    weights = weights_of(path)
    if found.weights is not None:
        size = found.weights.stat().st_size
        weights = {"file": size, **{part: own for part, own in weights.items() if part not in ("unet", "transformer")}}
    if (guard := _guard(how)) is not None:
        weights["controlnet"] = bytes_of(guard)
    family = replace(found, path=path, kind=kind).family
    vae, frames = part_folder(path, "vae"), cost.WINDOW if family is not None and family.of_clips else None
    sizes = {
        px: peak_bytes(path, vae, px, looks=kind == "instruct", frames=frames, guard=guard) for px in cost.SHOWN_PX
    }
    return Described(
        name, str(kind), path, size, vocabulary, family, licence_of(path), weights,
        {px: peak for px, peak in sizes.items() if peak is not None}, tuple(about(how)),
    )  # fmt: skip


def _guard(how: Loading) -> Path | None:
    """Where the ControlNet lies that is asked for: its folder, or that of a hub id in the cache. Raises
    FileNotFoundError for one that is nowhere, ValueError for what is none."""
    if how.control is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    name = how.control[1]
    folder = at_home(Path(name))
    if not folder.is_dir():
        found = try_to_load_from_cache(name, "config.json") if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None
        if not isinstance(found, str):
            raise FileNotFoundError(f"control: {name} is no folder and not in the Hugging Face cache yet")
        folder = Path(found).parent
    config = read_json(folder / "config.json", "not a ControlNet")
    if config.get("_class_name") != "ControlNetModel":
        raise ValueError(f"control: expected a ControlNet, got {name}, which is {config.get('_class_name')}")
    return folder


def export(name: str, directory: Path) -> Path:
    """Copy the prior into `directory`, with the vae that it may share with another; complete or not at all.

    Raises:
        ValueError, FileNotFoundError: `name` stands for no prior at hand, or `directory` is there already or cannot be.
    """
    source = describe(name).path
    if directory.exists():
        raise ValueError(f"directory: expected a folder that does not exist yet, got {directory}")
    require_place(directory)
    if source.resolve() in directory.resolve().parents:
        raise ValueError(f"directory: expected a folder outside of the prior, got {directory}")
    with atomic_folder(directory) as new:
        shutil.copytree(source, new, dirs_exist_ok=True)
        if not (new / "vae").is_dir():
            shutil.copytree(part_folder(source, "vae"), new / "vae")
            index = read_json(new / "model_index.json", "not a prior")
            others = {k: v for k, v in index.items() if k not in (VAE_OF, VAE_SHA256)}
            (new / "model_index.json").write_text(json.dumps(others, indent=2) + "\n", encoding="utf-8")
    return directory


def cached() -> dict[str, Path]:
    """Hub ids in the Hugging Face cache that hold a pipeline, each with its newest snapshot. Asks no network."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    found = {}
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        snapshots = sorted(repo.revisions, key=lambda revision: revision.last_modified)
        paths = [s.snapshot_path for s in snapshots if (s.snapshot_path / "model_index.json").is_file()]
        if paths:
            found[repo.repo_id] = paths[-1]
    return found


def _usable() -> list[Described]:
    """Priors at hand whose files are whole."""
    found: list[Described] = []
    for name in [*builtin_names(), *cached()]:
        with suppress(ValueError, OSError):
            found.append(describe(name))
    return found


def list_all(console: Console) -> None:
    """One line for every prior at hand; one that is broken is listed with what is wrong with it."""
    for name in [*builtin_names(), *cached()]:
        try:
            prior = describe(name)
            console.print(f"[bold]{escape(name)}[/bold]  {prior.summary()}\n    {escape(str(prior.path))}")
        except (ValueError, OSError) as error:
            console.print(f"[bold]{escape(name)}[/bold]  [red]unusable[/red]: {escape(str(error))}")
    console.print(f"\n{BIG_PRIOR}")


def show(prior: Described, console: Console, cost_lines: Sequence[str] = ()) -> None:
    """Everything there is to say about one prior."""
    console.print(f"[bold]{escape(prior.name)}[/bold]  {prior.summary()}\n    {escape(str(prior.path))}")
    card = prior.path / "README.md"
    if card.is_file():
        console.print(f"    model card: {escape(str(card))}")
    for line in (*prior.about, *cost_lines):
        console.print(f"    {escape(line)}")
    if prior.vocabulary is None:
        return
    if isinstance(prior.vocabulary, Words):
        console.print("\nWords it knows; a caption such as 'a red ball and a blue cube on grass, at night' joins them:")
        for name, words in prior.vocabulary.by_group.items():
            console.print(f"  [bold]{escape(name)}[/bold]  {escape(', '.join(words))}")
        return
    console.print("\nInstructions it knows; each line is one edit, other wordings after the first:")
    kinds: dict[str, list[tuple[str, ...]]] = {}
    for entry in prior.vocabulary.edits.values():
        kinds.setdefault(entry.kind, []).append(entry.wordings)
    marks = read_marks(prior.path)
    for kind, edits in kinds.items():
        mark = f"  on photographs: {marks[kind]}" if kind in marks else ""
        console.print(f"\n[bold]{escape(kind)}[/bold]{mark}")
        for first, *others in edits:
            console.print(f"  {escape(first)}" + (f"  [dim]({escape('; '.join(others))})[/dim]" if others else ""))
