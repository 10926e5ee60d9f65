"""The `csd3d` command: what it imports, and what a person sees after a mistake."""

import errno
import getpass
import os
import pwd
import signal
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from csd3d import __version__
from csd3d.cli import main as cli
from csd3d.cli.parse import read_dataclass
from csd3d.runs.interrupt import RunInterrupted


@dataclass(frozen=True)
class Command:
    """A command of the tests."""

    steps: int = 3
    """How many."""


def room(monkeypatch: pytest.MonkeyPatch, run) -> None:
    """Put a command named `try` in the table, which reads `Command` and calls `run` with it."""
    module = types.ModuleType("room_of_the_tests")
    module.main = lambda argv: run(read_dataclass(Command, argv, prog="csd3d try"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "COMMANDS", {**cli.COMMANDS, "try": cli.Entry(module.__name__, "Try.")})
    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)


def fail_with(error: BaseException):
    def run(command: Command) -> int:
        raise error

    return run


def test_arguments_reach_the_command_and_its_code_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, lambda command: command.steps)
    assert cli.main(["try"]) == 3
    assert cli.main(["try", "--steps", "7"]) == 7


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ValueError("steps: expected 1 or more, got 0"), "steps: expected 1 or more, got 0", 2),
        (TypeError("prompt: expected a sentence, got 3"), "prompt: expected a sentence, got 3", 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.mp4"), "a.mp4: No such file or directory", 2),
        (FileNotFoundError("clip a.mp4 does not exist"), "clip a.mp4 does not exist", 2),
        (FileExistsError(errno.EEXIST, "File exists", "out.mp4"), "out.mp4: File exists", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/out.mp4"), "/out.mp4: Permission denied", 2),
        (
            RuntimeError("Symlink loop from 'mask.png'"),
            "expected a path that leads somewhere, got a link that leads in a circle (Symlink loop from 'mask.png')",
            2,
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "clips"), "clips: Is a directory", 2),
        (
            OSError(errno.ENOSPC, "No space left on device", "o.mp4"),
            "o.mp4: No space left on device; free some space",
            2,
        ),
        (ModuleNotFoundError("No module named 'av'", name="av"), "av cannot be imported (No module named 'av')", 2),
        (FloatingPointError("step 3, t 12: particles 0, 4 are not finite"), "step 3, t 12: particles 0, 4", 1),
        (MemoryError("cannot allocate\nat 0x3"), "out of memory: cannot allocate", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (RunInterrupted(Path("runs/a"), signal.SIGTERM), "stopped; the state is saved in runs/a", 143),
    ],
)
def test_a_mistake_is_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException, line: str, code: int
) -> None:
    room(monkeypatch, fail_with(error))
    assert cli.main(["try"]) == code
    out, err = capfd.readouterr()
    assert err.strip().startswith(f"csd3d try: {line}")
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    assert out == ""


def test_an_error_without_words_still_says_something() -> None:
    assert cli.explain(ValueError()) == ("ValueError", 2)
    of_torch = TypeError("size: overflow\nException raised from THPUtils_unpackLong at numbers.h:79\nframe #0: main")
    assert cli.explain(of_torch) == ("size: overflow", 2)
    assert cli.explain(FloatingPointError()) == ("the run diverged", 1)


def test_running_out_of_gpu_memory_is_a_failed_run() -> None:
    oom = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    assert cli.explain(oom) == ("out of memory: CUDA out of memory. Tried to allocate 2 GiB.", 1)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory", "a.mp4"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("could not create a primitive"),
        BlockingIOError(11, "Resource temporarily unavailable"),
        ImportError("stream.so: failed to map segment from shared object", name="av.stream"),
    ],
)
def test_running_out_of_memory_is_a_failed_run(error: Exception) -> None:
    explained = cli.explain(error)
    assert explained is not None
    assert explained[0].startswith("out of memory")
    assert explained[1] == 1


@pytest.mark.parametrize(
    "error", [KeyError("x"), AssertionError("ours"), RuntimeError("ours"), ImportError("n", name="csd3d.x")]
)
def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    room(monkeypatch, fail_with(error))
    with pytest.raises(type(error)):
        cli.main(["try"])


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    room(monkeypatch, fail_with(ValueError("steps")))
    if how == "variable":
        monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    with pytest.raises(ValueError, match="steps"):
        cli.main(["--debug", "try"] if how == "flag" else ["try"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["vidoe"], ["vidoe", "video"]),
        (["--debgu", "doctor"], ["--debgu", "--debug"]),
        (["try", "--stepz", "3"], ["--stepz", "--steps"]),
        (["try", "--steps", "many"], ["--steps", "many"]),
        (["try", "--steps"], ["--steps: expected a whole number, got none"]),
        (["try", "more"], ["expected no further words, got more"]),
    ],
)
def test_words_that_cannot_be_read_are_one_line_that_says_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], argv: list[str], words: list[str]
) -> None:
    room(monkeypatch, lambda command: 0)
    assert cli.main(argv) == 2
    out, err = capfd.readouterr()
    assert all(word in err for word in words), err
    assert len(err.splitlines()) == 1
    assert err.startswith("csd3d")
    assert out == ""


def test_help_version_and_no_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    room(monkeypatch, lambda command: 0)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"csd3d {__version__}"
    for argv in ([], ["--help"]):
        assert cli.main(argv) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in cli.COMMANDS)
    assert cli.main(["try", "--help"]) == 0
    assert "How many" in capsys.readouterr().out


def test_help_imports_no_room_and_nothing_heavy() -> None:
    program = (
        "import sys\nfrom csd3d.cli.main import main\nassert main(['--help']) == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'cv2', 'av', 'decord', 'video', 'csd3d.world'}\n"
        "print('imported', sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "imported []"
    assert "doctor" in done.stdout


def test_no_command_imports_the_model_libraries_before_it_has_read_its_words() -> None:
    program = (
        "import importlib, sys\nfrom csd3d.cli.main import COMMANDS\n"
        "for entry in COMMANDS.values():\n"
        "    importlib.import_module(entry.module)\n"
        "    for name in {'diffusers', 'transformers', 'nerfstudio', 'gradio'} & set(sys.modules):\n"
        "        sys.exit(f'{entry.module} imports {name}')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


PRINTING = "doctor.main = lambda argv: print('x' * 10**6) or 0\nsys.exit(cli.main(['doctor']))"
HELPING = "sys.exit(cli.main([]))"


@pytest.mark.parametrize("way", [PRINTING, HELPING], ids=["a command", "help"])
def test_a_reader_that_goes_away_is_no_error(way: str) -> None:
    program = f"import sys\nfrom csd3d.cli import doctor, main as cli\n{way}"
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert done.returncode == cli.BROKEN_PIPE
    assert done.stderr == ""


def test_a_user_without_a_name_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: (_ for _ in ()).throw(KeyError("uid not found")))
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    assert cli.main(["--version"]) == 0
    assert getpass.getuser() == str(os.getuid())
