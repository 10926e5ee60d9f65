"""scripts/setup.sh on made-up machines (a fake uv, fake Pythons, no network), and what the wheel holds."""

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("awk", "bash", "cat", "cksum", "cp", "df", "dirname", "flock", "mkdir", "mv", "paste", "rm", "sed", "sleep")
TOOLS += ("sort", "touch", "tr")

FAKE_UV = """#!/bin/bash
echo "$@" >> "$CALLS"
if [[ $1 == venv ]]; then
    mkdir -p "${@: -1}/bin" && cp "$VENV_PYTHON" "${@: -1}/bin/python"
else
    sleep "${FAKE_SLEEP:-0}"
    exit "${FAKE_CODE:-0}"
fi
"""

FAKE_PYTHON = """#!/bin/bash
[[ $1 == -I ]] && {{ echo "$BROKEN"; exit; }}
[[ $2 == *sys.executable* ]] && {{ echo "$0"; exit; }}
[[ $2 == *ensurepip* ]] && exit {venv_missing}
[[ $2 == *version_info* && -n "{old}" ]] && {{ [[ $2 == *exit* ]] && exit 1; echo "{old}"; exit; }}
exec "{real}" "$@"
"""


class Machine:
    """A checkout with nothing but what setup.sh reads, and a PATH with nothing but what the test puts there."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.project, self.calls = folder / "bin", folder / "project", folder / "calls"
        self.bin.mkdir(parents=True)
        (self.project / "scripts").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh"):
            shutil.copy(ROOT / name, self.project / name)
        for tool in TOOLS:
            path = shutil.which(tool)
            if path:
                (self.bin / tool).symlink_to(path)
        self.env = {"PATH": str(self.bin), "HOME": str(folder), "CALLS": str(self.calls), "BROKEN": ""}

    def add_uv(self) -> None:
        self._write(self.bin / "uv", FAKE_UV)

    def add_python(self, name: str = "python3.11", *, old: str = "", venv_missing: bool = False) -> None:
        text = FAKE_PYTHON.format(real=sys.executable, old=old, venv_missing=int(venv_missing))
        self._write(self.bin / name, text)
        self.env["VENV_PYTHON"] = str(self.bin / name)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *args: str, **env: str) -> subprocess.Popen:
        command = [str(self.bin / "bash"), str(self.project / "scripts/setup.sh"), *args]
        return subprocess.Popen(
            command, env={**self.env, **env}, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def setup(self, *args: str, **env: str) -> tuple[int, str]:
        """Run setup.sh: (exit code, what it said)."""
        process = self.start(*args, **env)
        err = process.communicate(timeout=60)[1]
        return process.returncode, err

    def installs(self) -> list[str]:
        """The target of every installation so far."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line.split()[-1] for line in lines if line.startswith("pip install")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.add_uv()
    made.add_python()
    return made


def test_a_second_call_does_nothing(machine: Machine) -> None:
    assert machine.setup()[0] == 0
    assert machine.installs() == [".[dev]"]
    assert "-c constraints.txt -e .[dev]" in machine.calls.read_text()
    (machine.bin / "uv").unlink()  # nothing that could install is left
    assert machine.setup() == (0, "")
    assert machine.setup("core") == (0, "")


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_what_is_asked_for_installs_again(machine: Machine, file: str) -> None:
    machine.setup("dev,ui")
    with (machine.project / file).open("a") as text:
        text.write("\n# changed\n")
    assert machine.setup("dev")[0] == 0
    assert machine.installs() == [".[dev,ui]", ".[dev,ui]"]  # an update keeps the extras that were there


def test_an_extra_is_added_once(machine: Machine) -> None:
    for extras in ("core", "dev", "nerf", "nerf,dev", "dev"):
        assert machine.setup(extras)[0] == 0
    assert machine.installs() == [".", ".[dev]", ".[dev,nerf]"]


def test_a_failed_installation_leaves_no_stamp(machine: Machine) -> None:
    code, said = machine.setup(FAKE_CODE="3")
    assert code == 1
    assert "installation failed" in said
    assert machine.setup()[0] == 0
    assert machine.installs() == [".[dev]", ".[dev]"]
    assert machine.setup() == (0, "")


@pytest.mark.parametrize("broken", ["", "torch"])
def test_an_interrupted_installation_is_taken_up_and_rebuilt_if_broken(machine: Machine, broken: str) -> None:
    process = machine.start(FAKE_SLEEP="30")
    while not machine.installs():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (machine.project / ".venv/old").touch()
    code, said = machine.setup(BROKEN=broken)
    assert code == 0
    assert len(machine.installs()) == 2
    assert ("left torch broken" in said) == bool(broken)
    assert (machine.project / ".venv/old").exists() != bool(broken)


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_two_at_once_install_once(machine: Machine) -> None:
    pair = [machine.start(FAKE_SLEEP="0.5") for _ in range(2)]
    said = "".join(process.communicate(timeout=60)[1] for process in pair)
    assert [process.returncode for process in pair] == [0, 0]
    assert machine.installs() == [".[dev]"]
    assert "waiting for it" in said


def test_without_uv_it_uses_venv_and_pip(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.add_python(venv_missing=True)
    code, said = machine.setup()
    assert code == 1
    assert "lacks its venv module" in said
    assert "python3-venv" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(("versions", "found"), [([], "none"), (["3.8"], "3.8"), (["3.13", "3.9"], "3.13 3.9")])
def test_no_suitable_python_is_said_in_one_line(tmp_path: Path, versions: list[str], found: str) -> None:
    machine = Machine(tmp_path)
    for name, version in zip(("python", "python3"), versions, strict=False):
        machine.add_python(name, old=version)
    code, said = machine.setup()
    assert code == 1
    assert "needs Python 3.10, 3.11 or 3.12" in said
    assert f"found {found};" in said
    assert len(said.strip().splitlines()) == 1


def test_an_old_python_before_a_good_one_is_passed_over(machine: Machine) -> None:
    machine.add_python("python3.11", old="3.8")
    machine.add_python("python3")
    assert machine.setup()[0] == 0


def test_wrong_arguments_are_one_line(machine: Machine) -> None:
    code, said = machine.setup("dev nerf; ls")
    assert (code, len(said.strip().splitlines())) == (1, 1)
    code, said = machine.setup(PYTHON="/no/such/python")
    assert code == 1
    assert "/no/such/python" in said
    assert machine.installs() == []


def test_the_wheel_holds_the_packages_and_the_weights(tmp_path: Path) -> None:
    build = "from hatchling.build import build_wheel; print(build_wheel(__import__('sys').argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        licence = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    packages = [ROOT / name for name in ("csd3d", "video", "panorama")]
    files = {str(f.relative_to(ROOT)) for p in packages for f in p.rglob("*") if f.is_file() and f.suffix != ".pyc"}
    assert inside == files
    assert {"csd3d/cli/main.py", "csd3d/py.typed"} <= inside
    assert len(licence) == 1


def test_the_weights_stay_small() -> None:
    weights = ROOT / "csd3d" / "weights"
    assert sum(os.path.getsize(f) for f in weights.rglob("*") if f.is_file()) < 40e6
