"""Composition: what is read from pictures is compared with scenes as it should be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from csd3d.world.families import every_edit
from csd3d.world.scene import Scene, SceneSampler, Thing
from scripts.benchmarks.composition import (
    LOOKS,
    NO_LOOK,
    SHAPES,
    Reader,
    content_of,
    judge,
    known_pictures,
    questions,
    soften,
    train_reader,
)
from scripts.benchmarks.composition_tables import counts_table, looks_table, rows_of, to_markdown
from scripts.training.pictures import GROUPS_PER_SHARD

BALL, CUBE, TREE = SHAPES.index("ball"), SHAPES.index("cube"), SHAPES.index("tree")
SCENE = Scene(
    (
        Thing("ball", (0.0, 0.0), colour="blue"),
        Thing("cube", (1.0, 0.0), colour="red", material="gold"),
        Thing("tree", (2.0, 0.0)),
    ),
    time="night",
)


def test_content_is_what_the_scene_holds() -> None:
    content = content_of([SCENE, Scene(())])
    assert content.present.nonzero().tolist() == [[0, k] for k in sorted((BALL, CUBE, TREE))]
    assert LOOKS[int(content.look[0, BALL])] == "blue"
    assert LOOKS[int(content.look[0, CUBE])] == "gold"
    assert content.look[0, TREE] == NO_LOOK
    assert content.time.tolist() == [2, 0]


def test_a_missing_a_wrong_and_an_extra_thing_are_told_apart() -> None:
    wanted = content_of([SCENE])
    things = SCENE.things
    seen = {
        "same": things,
        "missing": things[1:],
        "colour": (replace(things[0], colour="green"), *things[1:]),
        "extra": (*things, Thing("ring", (3.0, 0.0))),
    }
    verdicts = {k: judge(content_of([replace(SCENE, things=v, time="day")]), wanted) for k, v in seen.items()}
    assert {k for k, v in verdicts.items() if bool(v.all_right)} == {"same", "extra"}
    assert {k for k, v in verdicts.items() if bool(v.exact)} == {"same"}
    assert not bool(verdicts["missing"].found[0, BALL])
    assert bool(verdicts["colour"].found[0, BALL])
    assert not bool(verdicts["colour"].right[0, BALL])
    assert not any(bool(v.time) for v in verdicts.values())
    assert all(bool(v.ground) for v in verdicts.values())


def test_questions_are_half_about_what_is_there_and_leave_out_what_hides() -> None:
    truth = content_of([SCENE])
    visible = truth.present.clone()
    visible[0, CUBE] = False
    blind = content_of([replace(SCENE, things=())])
    assert questions(truth, truth, visible).tolist() == [True] * 4
    assert questions(blind, truth, visible).tolist() == [False, False, True, True]


def test_the_answer_about_a_thing_comes_from_where_it_is() -> None:
    torch.manual_seed(0)
    reader = Reader()
    present, look, ground, time = reader(torch.rand(2, 3, 128, 128))
    assert (present.shape, look.shape, ground.shape, time.shape) == ((2, 8), (2, 8, 10), (2, 6), (2, 3))
    seen = reader.read(torch.rand(3, 3, 64, 64))
    assert bool((seen.look[~seen.present] == NO_LOOK).all())
    assert bool((seen.look[:, TREE] == NO_LOOK).all())


def test_softening_keeps_flat_pictures_and_the_mean_of_others() -> None:
    flat = torch.full((1, 3, 6, 6), 0.3)
    torch.testing.assert_close(soften(flat), flat)
    dot = torch.zeros(1, 3, 7, 7)
    dot[:, :, 3, 3] = 1.0
    assert soften(dot)[0, 0, 3, 3] == pytest.approx(0.25)
    torch.testing.assert_close(soften(dot).sum(), dot.sum())


def write_shard(folder: Path) -> None:
    """Two groups of red and of blue pictures; one edit of each is a style."""
    known = every_edit()
    style = next(i for i, e in enumerate(known) if e.kind == "style")
    night = next(i for i, e in enumerate(known) if e.name == "night")
    images = torch.zeros(2, 4, 3, 16, 16, dtype=torch.uint8)
    images[0, :, 0], images[1, :, 2] = 255, 255
    names = {"edits": json.dumps([e.name for e in known])}
    folder.mkdir()
    save_file(
        {"images": images, "edits": torch.tensor([[style, night, -1]] * 2)}, folder / "shard-00001.safetensors", names
    )


def test_it_learns_from_shards_and_keeps_what_it_learnt(tmp_path: Path) -> None:
    write_shard(tmp_path / "shards")
    ((pictures, content),) = known_pictures(tmp_path / "shards")
    scene = SceneSampler().sample(GROUPS_PER_SHARD)
    assert len(pictures) == 4, "no styles, nothing that is missing"
    assert bool((content.present[:2] == content_of([scene]).present).all())
    assert content.time[1] == 2
    reader = train_reader(tmp_path / "shards", tmp_path / "reader.safetensors", steps=2, batch=2)
    again = train_reader(tmp_path / "nothing", tmp_path / "reader.safetensors", steps=2)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(reader(x)[1], again(x)[1])
    with pytest.raises(FileNotFoundError, match="expected shards of pictures"):
        train_reader(tmp_path / "nothing", tmp_path / "other.safetensors", steps=1)


def test_the_page_counts_captions_by_their_things() -> None:
    scenes = [SCENE, replace(SCENE, things=SCENE.things[:1])]
    seen = content_of([replace(SCENE, things=SCENE.things[1:]), scenes[1]])
    rows = rows_of(scenes, judge(seen, content_of(scenes)))
    assert [t["right"] for t in rows[0]["things"]] == [False, True, True]
    table = counts_table({"generated": rows})
    assert "| generated, 1 thing | 1 | 100.0" in table
    assert "| generated, 3 things | 1 | 66.7" in table
    assert "| ball | 2 | 50.0" in looks_table(rows)
    about = {"prior": "p", "weights": "w", "steps": 2, "s_text": 3.0, "size_px": 64, "seed": 0, "command": "c"}
    about["minutes"] = 0.0
    page = to_markdown(
        {"generated": rows}, {"real pictures": (97, 100)}, [{"s_text": 2.0, "n": 4, "right": 0.5, "all": 0.2}], about
    )
    assert "not reached" in page
