"""Files with a few bytes changed, read in a child process with a time limit for each.

A file ends well if all that is asked for is done, or refused in one line as a person would see it. It must not hang,
kill the child, or raise what is a fault of ours. A child reads on until a file does not end: a fork costs more than the
reading. A process of its own forks the children, since one that has run threads may not.
"""

import json
import os
import random
import resource
import select
import shutil
import signal
import struct
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from csd3d.media.clip.formats import Encoding
from csd3d.media.clip.output import open_output
from csd3d.media.clip.source import open_clip
from csd3d.media.masks import read_mask
from csd3d.media.pictures.read import open_picture
from csd3d.media.pictures.write import write_picture
from csd3d.user_errors import explain

LIMIT_S = 60.0
"""After which a file hangs; none needs a second of its own."""
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


def outcomes(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """What comes of reading each file: (done, refused, raised, died or hangs; what it said)."""
    count = 0
    while count < len(paths):
        for end in _ends_in_a_child(paths[count:]):
            yield end
            count += 1


def _ends_in_a_child(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """The outcomes of one child: of all files, or up to the one at which it died or hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(paths, writing)
    os.close(writing)
    said, hangs, count = b"", False, 0
    for _ in paths:
        while b"\n" not in said:
            hangs = not select.select([reading], [], [], LIMIT_S)[0]
            part = b"" if hangs else os.read(reading, 1 << 16)
            if not part:
                break
            said += part
        line, whole, said = said.partition(b"\n")
        if not whole:
            break
        kind, text = json.loads(line)
        yield kind, text
        count += 1
    if hangs:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if count < len(paths):
        yield ("hangs", "") if hangs else ("died", f"code {code}")


def _in_child(paths: Sequence[Path], writing: int) -> None:
    """To the end of the process; a line for each file."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    for path in paths:
        os.write(writing, f"{json.dumps(_outcome(path))}\n".encode())
    os._exit(0)


def _outcome(path: Path) -> tuple[str, str]:
    try:
        use(path)
    except Exception as error:
        line = explain(error)
        if line is not None and line[0] and "\n" not in line[0]:
            return "refused", line[0]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__))
        return "raised", f"{type(error).__name__}: {str(error)[:200]} ({where})"
    return "done", ""


def main(folder: str, count: str, seed: str) -> None:
    """Change files of a folder, and of the prior in it, in turn; print each bad end, and how often each was seen."""
    corpus, rng, seen = Path(folder), random.Random(int(seed)), Counter[str]()
    files = sorted(path for path in (*corpus.iterdir(), *corpus.glob(f"{PRIOR}/**/*")) if path.is_file())
    damaged = list[Path]()
    for k in range(int(count)):
        whole, place = files[k % len(files)], corpus / f"case-{k}"
        damaged.append(place / whole.relative_to(corpus))
        if whole.parent == corpus:
            place.mkdir()
        else:
            shutil.copytree(corpus / PRIOR, place / PRIOR)
        damaged[k].write_bytes(mutated(whole.read_bytes(), rng))
    for k, (path, (kind, text)) in enumerate(zip(damaged, outcomes(damaged), strict=True)):
        seen[kind] += 1
        if kind not in ("done", "refused"):
            print(json.dumps({"file": path.name, "case": k, "end": kind, "said": text}), flush=True)
            continue  # what did it stays, to be looked at
        shutil.rmtree(corpus / f"case-{k}")
    print(json.dumps(seen))
