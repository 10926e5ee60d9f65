"""What the Dockerfile names is there, and what the image runs, it runs without root."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = re.findall(
    r"^([A-Z]+) (.+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " "), re.MULTILINE
)


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    copied = [word for name, rest in STEPS if name == "COPY" for word in rest.split()[:-1]]
    assert {"csd3d", "video", "panorama", "pyproject.toml", "constraints.txt"} <= set(copied)
    assert not [name for name in copied if not (ROOT / name).exists()]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)


def test_the_image_holds_all_that_the_wheel_is_built_from() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.search(r"^packages = \[(.+)\]$", project, re.MULTILINE)
    assert packages is not None
    copied = {word for name, rest in STEPS if name == "COPY" for word in rest.split()[:-1]}
    assert set(re.findall(r'"(\w+)"', packages[1])) <= copied
    assert {"README.md", "LICENSE"} <= copied


def test_the_demo_runs_as_no_root_in_a_folder_of_ones_own() -> None:
    names = [name for name, _ in STEPS]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    steps = dict(STEPS)
    assert steps["USER"] != "root"
    assert steps["WORKDIR"] == "/work"
    assert steps["CMD"] == '["python", "/opt/csd3d/scripts/demo.py"]'


def test_a_user_without_a_name_has_one_and_a_home_to_write_to() -> None:
    env = dict(word.split("=", 1) for name, rest in STEPS if name == "ENV" for word in rest.split())
    assert {"USER", "HOME"} <= set(env)  # getpass.getuser reads USER before it asks the system
    assert any(f"chmod 777 {env['HOME']}" in rest for name, rest in STEPS if name == "RUN")
