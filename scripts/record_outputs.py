"""Make small runs of every editor and write down the hashes of what they leave: a change that should change nothing.

    python scripts/record_outputs.py WORK --record before.json      # at the commit that one starts from
    python scripts/record_outputs.py WORK2 --against before.json    # later: says what differs, exit code 1 if anything

Everything runs on the CPU by the command line, as a person would, on sample data of the project's own world. Hashes
hold for one machine and one set of installed packages.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SAMPLES = (
    "world clip clip.mp4 --seed 8 --frames 9 --height 96 --width 128",
    "world panorama turn.jpg --kind strip --turn 360 --height 64 --seed 2",
    "world panorama strip.jpg --kind strip --turn 120 --height 64 --seed 3",
    "world panorama sphere.jpg --kind sphere --height 64 --seed 4",
    "world photo photo.png --seed 8 --width 128 --height 96",
    "world scene scene --seed 8 --train-views 6 --test-views 2 --width 64 --height 64",
)
"""What makes the sources; `mask.png` and `batch.csv` are made beside them."""

DRAWN = "a yellow cylinder and a blue cone and a red cube on grass"
CAPTION = f"--source-prompt '{DRAWN}' --prompt 'a yellow cylinder and a purple cone and a red cube on grass'"

RUNS: Mapping[str, str] = {
    "video": "video clip.mp4 --prompt 'make it snowy' --steps 3 --output OUT.mp4",
    "video-turns": "video clip.mp4 --prompt 'make it night' --steps 2 --frames-per-step 4 --no-steady --output OUT",
    "video-motion": "video clip.mp4 --prompt 'make it snowy' --steps 2 --coupling motion --output OUT.mkv --codec ffv1",
    "video-mask": "video clip.mp4 --prompt 'make it snowy' --steps 2 --mask mask.png --feather 2 --output OUT.mkv",
    "video-keyframes": "video clip.mp4 --prompt 'make it sunset' --steps 2 --keyframes 3 --output OUT.webm",
    "video-times": "video clip.mp4 --prompt '0-0.2s: make it snowy, 0.2-1s: make it night' --steps 2 --output OUT.mp4",
    "video-dds": f"video clip.mp4 --method dds {CAPTION} --steps 2 --strength 0.7 --output OUT.mp4",
    "video-paper": "video clip.mp4 --prompt 'make it snowy' --preset paper --steps 2 --detail 0 --output OUT.gif",
    "video-preview": "video clip.mp4 --prompt 'make it snowy' --steps 8 --preview --output OUT.png",
    "strip": "panorama strip.jpg --prompt 'make it snowy' --steps 2 --output OUT.png",
    "strip-paper": "panorama strip.jpg --prompt 'make it snowy' --preset paper --steps 2 --output OUT.tif",
    "turn": "panorama turn.jpg --prompt 'make it night' --steps 2 --output OUT.jpg",
    "regions": (
        "panorama turn.jpg --prompt-at '0,0.4=make it night' --prompt 'make it snowy' --steps 2 --output OUT.png"
    ),
    "sphere": "panorama sphere.jpg --prompt 'make it sunset' --steps 2 --output OUT.png",
    "image": "image photo.png --prompt 'make it snowy' --steps 3 --mask mask.png --output OUT.png",
    "image-cds": f"image photo.png --method cds {CAPTION} --steps 2 --output OUT.webp",
    "image-coupled": f"image photo.png --method dds --coupling svgd --lr 0.1 {CAPTION} --steps 2 --output OUT.png",
    "generate": "generate --prompt 'a red ball and a blue cube on grass' --n 2 --steps 2 --output OUT.png",
    "generate-ddim": "generate --prompt 'a red ball on grass' --method ddim --n 2 --steps 3 --output OUT.png",
    "generate-wide": "generate --prompt 'a red ball on grass' --n 1 --width 160 --wrap --steps 2 --output OUT.png",
    "translate": f"translate train pictures --source-prompt '{DRAWN}' --task 'night={{}}, at night' --steps 2",
    "translated": "translate apply translate-run/network.safetensors clip.mp4 --task night --output OUT.mp4",
}
"""Each run's command; OUT stands for its name. `video-resumed`, `batch` and `scene` come on top."""

SCENE = (
    "csd-edit-cpu --data scene --pipeline.prompt 'make it snowy' --pipeline.scene-steps 6 --pipeline.edit-every 4 "
    "--pipeline.views-per-edit 4 --pipeline.edit-steps 2 --max-num-iterations 12 --vis tensorboard "
    "--output-dir scene-out --timestamp now"
)


def main() -> int:
    """Run everything, then record or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for the runs; what is in it is deleted")
    parser.add_argument("--record", type=Path, help="write the hashes to this file")
    parser.add_argument("--against", type=Path, help="compare with the hashes in this file")
    parser.add_argument("--only", nargs="*", default=None, help="names of runs")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    make_sources(args.work)
    found = {name: digest for name in names(args.only) for name, digest in hashes(args.work, name)}
    if args.record:
        args.record.write_text(json.dumps(found, indent=1) + "\n")
    if args.against:
        return compare(json.loads(args.against.read_text()), found, args.only)
    return 0


def names(only: Sequence[str] | None) -> list[str]:
    """The runs that are wanted, in order."""
    known = [*RUNS, "video-resumed", "batch", "scene"]
    return known if only is None else [name for name in known if name in only]


def make_sources(work: Path) -> None:
    """Sample data, a mask whose left half is white, and a table of two jobs."""
    import numpy as np
    from PIL import Image

    for line in SAMPLES:
        csd3d(work, line)
    for name, source in (("mask.png", "photo.png"),):
        with Image.open(work / source) as picture:
            width, height = picture.size
        levels = np.zeros((height, width), np.uint8)
        levels[:, : width // 2], levels[:, width // 2 : width // 2 + 4] = 255, 128
        Image.fromarray(levels).save(work / name)
    (work / "pictures").mkdir()
    for k in range(2):
        shutil.copy(work / "photo.png", work / "pictures" / f"{k}.png")
    (work / "batch.csv").write_text("clip,prompt,output,steps\nclip.mp4,make it snowy,batch-1.mp4,1\n")


def hashes(work: Path, name: str) -> Iterator[tuple[str, str]]:
    """Make one run; the SHA-256 of each file that it leaves for a person."""
    began = time.monotonic()
    if name == "scene":
        yield from scene_hashes(work)
    elif name == "batch":
        batch(work)
        yield "batch/batch-1.mp4", sha256(work / "edited" / "batch-1.mp4")
    elif name == "video-resumed":
        yield from resumed_hashes(work)
    else:
        run_dir = "" if name in ("translated", "video-preview") else f" --run-dir {name}-run"
        csd3d(work, RUNS[name].replace("OUT", f"out/{name}") + run_dir)
        yield from file_hashes(work, name)
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def file_hashes(work: Path, name: str) -> Iterator[tuple[str, str]]:
    """Of the results and the sheet of a run."""
    results = [p for p in (work / "out").glob(f"{name}*") if p.stem in (name, f"{name}-1", f"{name}-2")]
    files = [f for p in results for f in (sorted(p.glob("*.png")) if p.is_dir() else [p])]
    sheets = [work / f"{name}-run" / "sheet.png", work / f"{name}-run" / "network.safetensors"]
    for file in [*sorted(files), *(sheet for sheet in sheets if sheet.exists())]:
        yield f"{name}/{file.relative_to(work)}", sha256(file)


def resumed_hashes(work: Path) -> Iterator[tuple[str, str]]:
    """A run of three steps that began as one of one."""
    begun = RUNS["video"].replace("OUT", "out/video-resumed").replace("--steps 3", "--steps 1")
    csd3d(work, f"{begun} --run-dir video-resumed-run")
    csd3d(work, "video --resume --run-dir video-resumed-run --steps 3")
    yield from file_hashes(work, "video-resumed")


def batch(work: Path) -> None:
    """Many clips: by the command, or by the script that was there before it."""
    script = ROOT / "scripts" / "edit_video.py"
    if script.exists():
        call(work, [sys.executable, str(script), "batch.csv"])
    else:
        csd3d(work, "video batch batch.csv")


def scene_hashes(work: Path) -> Iterator[tuple[str, str]]:
    """The views that a scene's edit puts in the place of photographs."""
    import shlex

    call(work, [tool("ns-train"), *shlex.split(SCENE)])
    for file in sorted((work / "scene-out").rglob("edited_views/**/*.png")):
        yield f"scene/{file.name}", sha256(file)


def csd3d(work: Path, line: str) -> None:
    """Run `csd3d LINE` in the folder."""
    import shlex

    words = shlex.split(line)
    device = [] if words[0] in ("world",) or "batch" in words else ["--device", "cpu"]
    if "--preview" in words:
        device = ["--device", "cpu"]
    call(work, [tool("csd3d"), *words, *device])


def tool(name: str) -> str:
    """A program that was installed beside this interpreter."""
    return str(Path(sys.executable).with_name(name))


def call(work: Path, words: Sequence[str]) -> None:
    """Run a program in the folder, quietly; what it said is shown if it fails."""
    (work / "out").mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(words, cwd=work, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compare(before: Mapping[str, str], after: Mapping[str, str], only: Sequence[str] | None) -> int:
    """Say what differs; 1 if anything does."""
    before = {k: v for k, v in before.items() if only is None or k.split("/")[0] in only}
    for name in sorted(set(before) | set(after)):
        if before.get(name) != after.get(name):
            print(f"differs: {name}" if name in before and name in after else f"only in one: {name}")
    same = before == after
    print(f"{len(after)} files, " + ("all as before" if same else "not as before"))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
