"""The folder of a run is on the disk before anything is in it."""

import os

from csd3d.media import atomic
from csd3d.runs.folder import claim_name, start_run
from csd3d.runs.manifest import Manifest


def test_a_new_folder_has_its_name_on_the_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(atomic.os, "fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")))
    for k in (1, 2):
        path = claim_name("a", "b", base=tmp_path / "runs")
        assert flushed[-1] == str(path.parent)
        assert flushed.count(str(tmp_path)) == 1
        assert len(flushed) == 1 + k
    with start_run(tmp_path / "mine" / "run", Manifest("image", {}, 0)):
        assert {str(tmp_path), str(tmp_path / "mine")} <= set(flushed[3:])
