"""The plan of the house: imports point one way, and the tests check shapes at run time."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import jaxtyping
import pytest
import torch

import csd3d.engine as engine

ROOT = Path(__file__).parent.parent

BELOW_EDITORS = {
    "csd3d.runs",
    "csd3d.attention",
    "csd3d.priors",
    "csd3d.media",
    "csd3d.metrics",
    "csd3d.world",
    "csd3d.engine",
}
MAY_IMPORT: dict[str, set[str]] = {
    "csd3d.engine": set(),
    "csd3d.attention": {"csd3d.engine"},
    "csd3d.media": {"csd3d.engine"},
    "csd3d.metrics": {"csd3d.engine"},
    "csd3d.world": {"csd3d.media"},
    "csd3d.priors": {"csd3d.media", "csd3d.attention", "csd3d.engine"},
    "csd3d.runs": {"csd3d.priors", "csd3d.media", "csd3d.attention", "csd3d.metrics", "csd3d.engine"},
    "csd3d.nerf": BELOW_EDITORS,
    "csd3d.translate": BELOW_EDITORS,
    "csd3d.personal": BELOW_EDITORS,
    "video": BELOW_EDITORS,
    "panorama": BELOW_EDITORS,
    "csd3d.ui": BELOW_EDITORS,
    "csd3d.evaluate": BELOW_EDITORS | {"video"},
    "csd3d.cli": BELOW_EDITORS
    | {"video", "panorama", "csd3d.translate", "csd3d.personal", "csd3d.ui", "csd3d.evaluate"},
}
"""Rooms that a room may enter besides itself. What is not listed (the doctor, scripts) may enter all of them."""

ONLY_IN = {
    "diffusers": {"csd3d.priors"},
    "transformers": {"csd3d.priors", "csd3d.evaluate"},  # the networks of metrics are no priors, and need no diffusers
    "nerfstudio": {"csd3d.nerf"},
    "gradio": {"csd3d.ui"},
    "torchvision": set(),  # families whose pipelines want it say so, see `csd3d.priors.families.table`
    "tyro": {"csd3d.cli", "csd3d.nerf"},
}
"""Libraries that belong to one room. Scripts, which train the priors, are no room."""

MODULES = sorted(path for package in ("csd3d", "video", "panorama") for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, anywhere in it, names in `from x import y` as x.y."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1]).split(".")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def room_of(name: str) -> str | None:
    return next((room for room in MAY_IMPORT if within(name, room)), None)


def violations(path: Path) -> Iterator[str]:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    room = room_of(name)
    for target in imports(path):
        other, library = room_of(target), target.split(".")[0]
        if library in ONLY_IN and room not in ONLY_IN[library]:
            yield f"{name} imports {target}, which belongs to {' and '.join(sorted(ONLY_IN[library]))}"
        if room and other and other != room and other not in MAY_IMPORT[room]:
            yield f"{name} imports {target}: {room} may not enter {other}"
        if room and within(target, "scripts"):
            yield f"{name} imports {target}, which is above every room"
        if room == "csd3d.engine" and not other and library not in {"torch", "jaxtyping", *sys.stdlib_module_names}:
            yield f"{name} imports {target}: the engine needs torch, jaxtyping and the standard library alone"


def circle(sources: Mapping[str, Path]) -> list[str]:
    """Modules that import each other in a circle, in functions or not; empty if there are none."""

    def module(name: str) -> str | None:
        return name if name in sources else module(name.rpartition(".")[0]) if "." in name else None

    graph = {
        name: {m for target in imports(path) if (m := module(target)) not in (None, name)}
        for name, path in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    assert list(violations(path)) == []


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("csd3d/engine/a.py", "import numpy"),
        ("csd3d/engine/a.py", "from csd3d.priors import codec"),
        ("csd3d/engine/a.py", "from csd3d import world"),
        ("csd3d/engine/a.py", "from ..priors import codec"),
        ("csd3d/engine/a.py", "def f():\n    import csd3d.runs"),
        ("csd3d/priors/a.py", "from csd3d.runs import manifest"),
        ("csd3d/world/a.py", "from csd3d.engine import run"),
        ("csd3d/metrics/a.py", "import diffusers.models"),
        ("csd3d/cli/a.py", "import transformers"),
        ("video/a.py", "import tyro"),
        ("csd3d/runs/a.py", "from csd3d.cli.main import main"),
        ("video/a.py", "from panorama import windows"),
        ("panorama/a.py", "from csd3d.nerf import views"),
        ("csd3d/nerf/a.py", "import video"),
        ("video/a.py", "from nerfstudio.engine import trainer"),
    ],
)
def test_what_points_the_other_way_is_found(where: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: line)
    assert len(list(violations(ROOT / where))) == 1


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("csd3d/engine/a.py", "import torch.nn\nfrom csd3d.engine.kernels import rbf\nimport math"),
        ("csd3d/priors/a.py", "import diffusers, transformers\nfrom csd3d.engine import Schedule"),
        ("csd3d/cli/a.py", "import video, panorama, csd3d.world"),
        ("video/a.py", "from csd3d import __version__\nfrom csd3d.runs import manifest\nfrom video import source"),
        ("csd3d/nerf/a.py", "import nerfstudio"),
    ],
)
def test_what_points_the_right_way_is_left_alone(where: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: line)
    assert list(violations(ROOT / where)) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle({module_name(path): path for path in MODULES}) == []


@pytest.mark.parametrize("back", ["import csd3d.nerf.a", "def f():\n    from csd3d.nerf.a import x"])
def test_a_circle_is_found(back: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {"a": "from csd3d.nerf.b import y", "b": "from csd3d.nerf import c", "c": back}
    monkeypatch.setattr(Path, "read_text", lambda self: lines[self.stem])
    found = circle({f"csd3d.nerf.{name}": ROOT / f"csd3d/nerf/{name}.py" for name in lines})
    assert set(found) == {"csd3d.nerf.a", "csd3d.nerf.b", "csd3d.nerf.c"}


def test_a_wrong_shape_is_an_error_in_tests() -> None:
    """The canary: if it lives, annotations are only decoration."""
    z = torch.zeros(2, 4, 8, 8)
    with pytest.raises(jaxtyping.TypeCheckError):
        engine.surrogate_loss(z, z[:1])
    with pytest.raises(jaxtyping.TypeCheckError):
        engine.surrogate_loss(z[0], z[0])
    with pytest.raises(jaxtyping.TypeCheckError):
        engine.rbf(torch.zeros(2, 3), 1.0)
    with pytest.raises(jaxtyping.TypeCheckError):
        engine.sq_distances(torch.zeros(2, 3, dtype=torch.long))


def test_every_ignored_check_says_why() -> None:
    ignored = re.compile(r"#\s*(?:pyright: ignore\[[^]]*]|noqa: \w+)")
    for path in MODULES:
        lines = path.read_text().splitlines()
        for number, (above, line) in enumerate(zip(["", *lines], lines, strict=False), 1):
            if found := ignored.search(line):
                reason = line[found.end() :].strip(" #-") or above.strip().startswith("#")
                assert reason, f"{path.relative_to(ROOT)}:{number} ignores a check without a reason"
