"""The page's server lets in what it should. Needs the extra `ui`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from csd3d.ui.jobs import Jobs
from csd3d.ui.known import Known

pytest.importorskip("gradio", reason="the extra ui is not installed")
testclient = pytest.importorskip("starlette.testclient")
serve = pytest.importorskip("csd3d.ui.serve")
PICTURE = b"\x89PNG"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the folder of runs, and beside it what nobody may have."""
    path = tmp_path_factory.mktemp("guard")
    (path / "secret.png").write_bytes(PICTURE)
    (path / "runs").mkdir()
    (path / "runs" / "link.png").symlink_to(path / "secret.png")
    return path


@pytest.fixture(scope="module", params=[None, "open sesame"], ids=["local", "password"])
def client(home: Path, request: pytest.FixtureRequest) -> Iterator:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(home / "runs" / "uploads" / ".page"))
        folder = serve.make_folder(home / "runs")
        app = serve.app_of(folder, Jobs(), {"none": Known()}, max_mb=1, host="127.0.0.1", password=request.param)
        with testclient.TestClient(app, base_url="http://127.0.0.1") as made:
            made.auth = ("anybody", request.param) if request.param else None
            yield made


def hand_in(client, name: str, content: bytes = PICTURE):
    return client.post("/gradio_api/upload", files={"files": (name, content)})


def test_nobody_comes_in_without_the_password(client) -> None:
    asks = client.auth is not None
    assert client.get("/").status_code == 200
    for auth in (("anybody", "wrong"), ("anybody", "")):
        assert (client.get("/", auth=auth).status_code == 401) == asks
        assert (
            client.post("/gradio_api/upload", auth=auth, files={"files": ("a.png", b"")}).status_code == 401
        ) == asks


def test_another_host_needs_a_password(tmp_path: Path) -> None:
    folder = serve.make_folder(tmp_path)
    with pytest.raises(ValueError, match=r"expected a --password beside another host.*got none for 0\.0\.0\.0"):
        serve.app_of(folder, Jobs(), {"none": Known()}, max_mb=1, host="0.0.0.0", password=None)


def test_uploads_are_bounded(client, home: Path) -> None:
    assert hand_in(client, "a.png", b"x" * (10**6 + 1)).status_code == 413
    assert not [path for path in home.rglob("*") if path.is_file() and path.stat().st_size > 10**6]
    assert client.post("/gradio_api/queue/join", content=b" " * (10**6 + 1), headers=JSON).status_code == 413


@pytest.mark.parametrize(
    "name", ["../../../../evil.png", "/evil.png", "<img src=x onerror=alert(1)>.png", "..\\evil.png"]
)
def test_what_is_handed_in_lies_in_the_folder(client, home: Path, name: str) -> None:
    (held,) = hand_in(client, name).json()
    assert Path(held).resolve().is_relative_to(home / "runs" / "uploads" / ".page")
    assert Path(held).read_bytes() == PICTURE
    assert "<" not in held


@pytest.mark.parametrize(
    "path", ["{home}/secret.png", "http://127.0.0.1/a.png", "{home}/runs/uploads/.page/../../../secret.png"]
)
def test_no_file_of_the_machine_is_taken_for_an_upload(client, home: Path, path: str) -> None:
    data = [{"path": path.format(home=home), "meta": {"_type": "gradio.FileData"}}, "everywhere"]
    body = {"data": data, "fn_index": 1, "session_hash": "a", "event_data": None}
    for headers in (JSON, {"content-type": "text/plain"}):
        sent = client.post("/gradio_api/queue/join", content=json.dumps(body), headers=headers)
        assert sent.status_code == 403


def test_a_page_of_elsewhere_starts_nothing(client) -> None:
    sent = client.post("/gradio_api/queue/join", json={}, headers={"sec-fetch-site": "cross-site"})
    assert sent.status_code == 403
    assert client.get("/", headers={"host": "elsewhere.example"}).status_code == 400


def test_no_script_runs_of_what_was_handed_in(client) -> None:
    (held,) = hand_in(client, "a.svg", b"<svg/>").json()
    shown = client.get(f"/gradio_api/file={held}")
    assert shown.status_code in (200, 403)
    assert shown.headers["content-security-policy"] == "sandbox"


@pytest.mark.parametrize(
    "address", ["/etc/passwd", "{home}/secret.png", "{home}/runs/../secret.png", "{home}/runs/link.png"]
)
def test_no_file_of_the_machine_can_be_had(client, home: Path, address: str) -> None:
    assert client.get(f"/gradio_api/file={address.format(home=home)}").status_code == 403
