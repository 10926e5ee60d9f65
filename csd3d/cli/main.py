"""The `csd3d` command: choose a room, parse, run, and answer mistakes in one line.

A command is a module with a function `main(argv) -> int` that parses its words, runs, and returns the exit code. It is
imported only when its command is chosen, so that `csd3d --help` costs no torch. To add a command, add its line to
`COMMANDS`.

Exit codes: 0 done; 1 the run failed (diverged, out of memory) or `doctor` found the core broken; 2 something
in what the person gave is wrong; 130 interrupted.
"""

import atexit
import gc
import getpass
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tyro

from csd3d import __version__
from csd3d.cli.parse import read_words, split, subcommands, with_home
from csd3d.slow_imports import uncollected
from csd3d.user_errors import DEBUG_VARIABLE, explain


class Entry(NamedTuple):
    """Where a command lives (module name), the line that `csd3d --help` shows for it, and whether torchrun may start
    several processes of it, which share the work."""

    module: str
    help: str
    several: bool = False


COMMANDS: Mapping[str, Entry] = {
    "video": Entry("csd3d.cli.video", "Edit a clip from one sentence, steady over time.", several=True),
    "panorama": Entry(
        "csd3d.cli.panorama", "Edit a wide picture, a closed turn or a full sphere, without seams.", several=True
    ),
    "stitch": Entry("csd3d.cli.stitch", "Join photos taken on one spot into one panorama."),
    "image": Entry("csd3d.cli.image", "Edit a single picture from one sentence.", several=True),
    "generate": Entry("csd3d.cli.generate", "Make pictures from a caption, several that agree, or a wide one."),
    "segments": Entry("csd3d.cli.segments", "Write what hangs together in a clip or a picture as masks."),
    "translate": Entry(
        "csd3d.cli.translate", "Learn an edit once from a folder of pictures, then apply it in one pass."
    ),
    "personalise": Entry("csd3d.cli.personalise", "Let a prior learn a subject from a few pictures of it."),
    "world": Entry(
        "csd3d.cli.world", "Write sample clips, scenes, panoramas and photos whose edits are known exactly."
    ),
    "ui": Entry("csd3d.cli.ui", "Edit in a browser: drop a file, type a sentence, look."),
    "evaluate": Entry("csd3d.cli.evaluate", "Measure results against their source, several in one table."),
    "runs": Entry("csd3d.cli.runs", "List and show runs, and take a result back."),
    "priors": Entry("csd3d.cli.priors", "List the diffusion priors that can be used, and what each one knows."),
    "doctor": Entry("csd3d.cli.doctor", "Say what is installed and usable here, and what to do about what is not."),
}

INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (default: this process's) and return its exit code. Parses, runs, explains errors."""
    _name_the_user()
    atexit.register(gc.freeze)  # Python would look for garbage before it ends: seconds, with torch and diffusers there
    head, rest = split([with_home(word) for word in (sys.argv[1:] if argv is None else argv)])
    if "--version" in head:
        print(f"csd3d {__version__}")
        return 0
    try:
        try:
            name, debug = _command(head)
        except ValueError as mistake:
            print(f"csd3d: {mistake}", file=sys.stderr)
            return 2
        debug = debug or bool(os.environ.get(DEBUG_VARIABLE))
        if processes() > 1:
            return _several(name, rest, debug=debug)
        return _guarded(name, rest, debug=debug)
    except SystemExit as end:  # how the parser ends after --help (0), and after a mistake that is unknown to us (2)
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        return _nobody_reads()


def _name_the_user() -> None:
    """Torch asks who runs it; in a container that may be a number that no name belongs to."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def _nobody_reads() -> int:
    """The reader of our output (head, less) went away: nothing to say, nobody to say it to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _command(head: Sequence[str]) -> tuple[str, bool]:
    """The command that the first words name, and whether they ask for tracebacks. Raises ValueError as the parser."""
    if len(head) == 1 and head[0] in COMMANDS:
        return head[0], False
    top = read_words(_top_level(), head or ["--help"], prog="csd3d")
    return type(top.command).__name__, top.debug


def _top_level() -> Any:
    """The type of `csd3d [--version] [--debug] COMMAND`."""
    commands: Any = subcommands({name: entry.help for name, entry in COMMANDS.items()})

    @dataclass(frozen=True)
    class Top:
        """Edit NeRF scenes, videos, panoramas and photos from one sentence, consistently.

        To begin with a sample clip and an edit of it:

        csd3d world clip clip.mp4

        csd3d video clip.mp4 --prompt "make it snowy"
        """

        # the union of commands is built at run time
        command: tyro.conf.OmitSubcommandPrefixes[commands]  # pyright: ignore[reportInvalidTypeForm]
        """`csd3d COMMAND --help` says what each one takes."""
        version: tyro.conf.FlagCreatePairsOff[bool] = False
        """Print the version."""
        debug: tyro.conf.FlagCreatePairsOff[bool] = False
        """Show the traceback of an error instead of one line (as the environment variable CSD3D_DEBUG=1 does)."""

    return Top


def processes() -> int:
    """How many torchrun started, of which this is one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def _several(name: str, args: list[str], *, debug: bool) -> int:
    """Run one command with the help of the other processes; only rank 0 parses, writes and speaks."""
    if not COMMANDS[name].several:
        if os.environ.get("RANK") == "0":
            some = ", ".join(command for command, entry in COMMANDS.items() if entry.several)
            print(f"csd3d {name}: expected one process, got {processes()}; torchrun is for {some}", file=sys.stderr)
        return 2
    from csd3d.runs.crew import together  # imports torch

    return together(lambda: _guarded(name, args, debug=debug))


def _guarded(name: str, args: list[str], *, debug: bool) -> int:
    """Run one command; an error that a person can act on becomes one line on stderr and its exit code."""
    try:
        with uncollected():
            command = importlib.import_module(COMMANDS[name].module)
        code = command.main(args)
        print(end="", flush=True)  # unlike sys.stdout.flush, of no effect where it is closed: csd3d runs list >&-
        return code
    except KeyboardInterrupt as stop:  # a run that saved its state says where, and which signal stopped it
        if debug:
            raise
        print(f"\ncsd3d {name}: {str(stop) or 'interrupted'}", file=sys.stderr)
        return getattr(stop, "exit_code", INTERRUPTED)
    except BrokenPipeError:
        return _nobody_reads()
    except Exception as error:
        explained = None if debug else explain(error)
        if explained is None:
            raise
        message, code = explained
        print(f"csd3d {name}: {message}", file=sys.stderr)
        return code
