"""The notebook runs from top to bottom, as a person runs it, but that it edits fewer frames with fewer steps."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "examples" / "first_steps.ipynb"
SECONDS = 240
RUN = """
import json, re, sys
from IPython.core.interactiveshell import InteractiveShell
from csd3d.engine import CsdConfig
QUICK = {
    "^!csd3d (?:video|panorama) .*": r"\\g<0> --steps 2",
    "--frames 8": "--frames 4",
    'mask="auto"': r"\\g<0>, csd=CsdConfig(steps=2)",
}
shell = InteractiveShell.instance()
shell.user_ns["CsdConfig"] = CsdConfig
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        shell.user_ns["_exit_code"] = 0
        source = "".join(cell["source"])
        for as_it_is, quick in QUICK.items():
            source = re.sub(as_it_is, quick, source, flags=re.M)
        done = shell.run_cell(source)
        if not done.success or shell.user_ns["_exit_code"]:
            sys.exit(source)
"""


def test_the_notebook_is_committed_without_results() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> None:
    pytest.importorskip("IPython")
    programs = tmp_path_factory.mktemp("programs")
    (programs / "csd3d").symlink_to(warm_python)
    env = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(warm_python), "-c", RUN, str(NOTEBOOK)],
        cwd=tmp_path,
        env=env | {"IPYTHONDIR": str(programs)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    assert {"snowy.mp4", "red.png", "night.jpg"} <= {path.name for path in tmp_path.iterdir()}
