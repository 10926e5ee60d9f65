"""Files with a few bytes changed, each read in a child process with a time limit.

A child ends well if all it asks for is done, or refused in one line as a person would see it. It must not hang, die, or
raise what is a fault of ours. A process of its own forks the children, since one that has run threads may not.
"""

import json
import os
import random
import resource
import select
import shutil
import signal
import struct
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from csd3d.media.clip.formats import Encoding
from csd3d.media.clip.output import open_output
from csd3d.media.clip.source import open_clip
from csd3d.media.masks import read_mask
from csd3d.media.pictures.read import open_picture
from csd3d.media.pictures.write import write_picture
from csd3d.user_errors import explain

LIMIT_S = 60.0
"""After which a child hangs; none needs a second of its own."""
MEMORY = 8 << 30
PRIOR = "prior"
"""Name of a folder that is a prior."""
PICTURES = (".png", ".jpg", ".tif", ".webp")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with bits flipped, bytes set, put in or taken out, a number replaced, or its end missing."""
    changed, n = bytearray(data), len(data)
    at = rng.randrange(n)
    how = rng.choice(("bit", "bits", "cut", "head", "zero", "insert", "repeat", "number", "tail"))
    if how in ("bit", "bits"):
        for _ in range(1 if how == "bit" else 24):
            changed[rng.randrange(n)] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del changed[max(at, 1) :]
    elif how == "head":
        for _ in range(4):
            changed[rng.randrange(min(n, 256))] = rng.randrange(256)
    elif how == "zero":
        changed[at : at + 32] = bytes(len(changed[at : at + 32]))
    elif how == "insert":
        changed[at:at] = rng.randbytes(rng.randrange(1, 32))
    elif how == "repeat":
        changed[at:at] = changed[at : at + rng.randrange(1, 256)]
    elif how == "number":
        number = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000, 0x7FFF))
        changed[at : at + 4] = struct.pack(rng.choice(("<I", ">I")), number)
    else:
        del changed[-rng.randrange(1, min(64, n)) :]
    return bytes(changed)


def copy_clip(path: Path) -> None:
    """Read a clip as an edit does and write it again."""
    with open_clip(path, max_frames=20) as clip:
        list(clip.chunks(16))
        out = path.with_name("out.mkv" if path.suffix in (".mkv", ".ts") else "out.mp4")
        with open_output(out, clip.info, Encoding(crf=40), tags=clip.info.tags, notes=[]) as writer:
            for _, rgb in clip.chunks(16, exact=True):
                writer.write(rgb)
    open_clip(out).close()


def copy_picture(path: Path) -> None:
    """Read a picture as picture, mask and frame, and write it again in other formats."""
    refused = None
    for read in (_write_everywhere, read_mask, lambda one: open_clip(one.parent).read(0, 1)):
        try:
            read(path)
        except Exception as error:
            if explain(error) is None:
                raise
            refused = error
    if refused is not None:
        raise refused


def _write_everywhere(path: Path) -> None:
    picture = open_picture(path)
    (path.parent / "out").mkdir()
    for suffix in PICTURES:
        write_picture(path.parent / "out" / f"o{suffix}", picture.pixels, alpha=picture.alpha, tags=picture.tags)


def load_prior(path: Path) -> None:
    """Load the prior that a file belongs to."""
    from csd3d.priors.auto import load_prior

    load_prior(str(next(folder for folder in path.parents if folder.name == PRIOR)), device="cpu")


def use(path: Path) -> None:
    """Read a file as what it is."""
    if PRIOR in [folder.name for folder in path.parents]:
        load_prior(path)
    elif path.suffix in PICTURES:
        copy_picture(path)
    else:
        copy_clip(path)


def outcome(path: Path) -> tuple[str, str]:
    """What comes of reading `path` in a child: (done, refused, raised, died or hangs; what it said)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(path, writing)
    os.close(writing)
    said, hangs, ends = b"", False, time.monotonic() + LIMIT_S
    while True:
        hangs = not select.select([reading], [], [], max(ends - time.monotonic(), 0))[0]
        part = b"" if hangs else os.read(reading, 1 << 16)
        if not part:
            break
        said += part
    if hangs:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if hangs:
        return "hangs", ""
    kind, _, text = said.decode("utf-8", "replace").partition(" ")
    return (kind, text) if code == 0 and kind else ("died", f"code {code}")


def _in_child(path: Path, writing: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    try:
        use(path)
        said = "done "
    except Exception as error:
        line = explain(error)
        if line is not None and line[0] and "\n" not in line[0]:
            said = f"refused {line[0]}"
        else:
            where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__))
            said = f"raised {type(error).__name__}: {str(error)[:200]} ({where})"
    os.write(writing, said.encode("utf-8", "replace"))
    os._exit(0)


def main(folder: str, count: str, seed: str) -> None:
    """Change files of a folder, and of the prior in it, in turn; print each bad end, and how often each was seen."""
    corpus, rng, seen = Path(folder), random.Random(int(seed)), Counter[str]()
    files = sorted(path for path in (*corpus.iterdir(), *corpus.glob(f"{PRIOR}/**/*")) if path.is_file())
    for k in range(int(count)):
        whole, place = files[k % len(files)], corpus / f"case-{k}"
        path = place / whole.relative_to(corpus)
        if whole.parent == corpus:
            place.mkdir()
        else:
            shutil.copytree(corpus / PRIOR, place / PRIOR)
        path.write_bytes(mutated(whole.read_bytes(), rng))
        kind, text = outcome(path)
        seen[kind] += 1
        if kind not in ("done", "refused"):
            print(json.dumps({"file": whole.name, "case": k, "end": kind, "said": text}), flush=True)
            continue  # what did it stays, to be looked at
        shutil.rmtree(place)
    print(json.dumps(seen))
