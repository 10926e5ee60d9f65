"""Benchmarks as they are published: tables read, clips and results found."""

import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from csd3d.evaluate.layouts import cases_of_layout, read_layout
from csd3d.evaluate.spreadsheet import read_spreadsheet


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path.parent


def spreadsheet(path, rows):
    """An .xlsx whose first column has shared texts, the others inline ones."""
    shared = [row[0] for row in rows]
    lines = []
    for r, row in enumerate(rows, 1):
        cells = [f'<c r="A{r}" t="s"><v>{r - 1}</v></c>']
        cells += [
            f'<c r="{chr(65 + k)}{r}" t="inlineStr"><is><t>{escape(text)}</t></is></c>'
            for k, text in enumerate(row[1:], 1)
        ]
        lines.append(f'<row r="{r}">{"".join(cells)}</row>')
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        )
        file.writestr(
            "xl/sharedStrings.xml", f"<sst {space}>{''.join(f'<si><t>{escape(t)}</t></si>' for t in shared)}</sst>"
        )
    return path


TGVE = ["Video name", "Our GT caption", "Style Change Caption", "Object Change Caption", "Background Change Caption",
        "Multiple Changes Caption"]  # fmt: skip


def test_tgve_is_read_as_it_is(tmp_path):
    data = tmp_path / "loveu-tgve-2023"
    clip = picture(data / "DAVIS_480p" / "480p_frames" / "gold-fish" / "00000.jpg")
    rows = [TGVE, ["DAVIS Videos:", *[""] * 5], ["gold-fish", "Fish & water", "s", "o", "b", "m"]]
    spreadsheet(data / "LOVEU-TGVE_2023_data.xlsx", rows)
    entries = read_layout(data)
    assert [e.case.prompt for e in entries] == ["s", "o", "b", "m"]
    assert {e.case.source_prompt for e in entries} == {"Fish & water"}
    assert {e.case.source for e in entries} == {clip}
    for kind in ("style", "object"):
        picture(tmp_path / "mine" / "DAVIS_480p" / "gold-fish" / kind / "00000.jpg")
    cases, notes = cases_of_layout(entries, [tmp_path / "mine"])
    assert [c.name for c in cases] == ["gold-fish style", "gold-fish object"]
    assert cases[0].results == {"mine": tmp_path / "mine" / "DAVIS_480p" / "gold-fish" / "style"}
    assert notes == ["2 of 4 cases are measured, those that all methods have: mine lacks 2"]


@pytest.mark.parametrize("given", ["OpenVE-Bench/videos/{}", "videos/{}", "{}"])
def test_openve_bench_is_read_as_it_is(tmp_path, given):
    data, name = tmp_path / "OpenVE-Bench", "0000_global_style_Apply.mp4"
    clip = touch(data / "videos" / name)
    lines = ["edited_type,prompt,original_video", f'global_style,"Apply, please",{given.format(name)}']
    (data / "benchmark_videos.csv").write_text("\n".join(lines))
    (entry,) = read_layout(data)
    assert (entry.case.source, entry.case.prompt) == (clip, "Apply, please")
    stem = name.removesuffix(".mp4")
    for method, file in {
        "a": f"{stem}.mp4", "b": f"{stem}_edited.mp4", "c": f"global_style/{stem}/gen_{stem}.mp4",
    }.items():  # fmt: skip
        touch(tmp_path / method / file)
    (case,), notes = cases_of_layout([entry], [tmp_path / m for m in "abc"])
    assert list(case.results) == ["a", "b", "c"]
    assert notes == []


@pytest.mark.parametrize("kind", ["csv", "yaml"])
def test_the_file_of_a_batch_finds_what_the_batch_wrote(tmp_path, kind):
    clip, mask = touch(tmp_path / "beach.mp4"), touch(tmp_path / "mask.png")
    rows = ["clip,prompt,source_prompt,mask,output,steps", "beach.mp4,Make it snowy,a beach,mask.png,,3",
            "beach.mp4,make it night,,,dark.mkv,3"]  # fmt: skip
    if kind == "yaml":
        rows = ["- {clip: beach.mp4, prompt: Make it snowy, source_prompt: a beach, mask: mask.png}",
                "- {clip: beach.mp4, prompt: make it night, output: dark.mkv}"]  # fmt: skip
    (tmp_path / f"jobs.{kind}").write_text("\n".join(rows))
    touch(tmp_path / "edited" / "beach-make-it-snowy.mp4")
    touch(tmp_path / "edited" / "dark.mkv")
    cases, notes = cases_of_layout(read_layout(tmp_path / f"jobs.{kind}"), [tmp_path / "edited"])
    assert [(c.source, c.prompt, c.source_prompt, c.mask) for c in cases] == [
        (clip, "Make it snowy", "a beach", mask), (clip, "make it night", None, None),
    ]  # fmt: skip
    assert [c.results["edited"].name for c in cases] == ["beach-make-it-snowy.mp4", "dark.mkv"]
    assert notes == []


def test_patterns_and_found_masks_of_a_batch(tmp_path):
    clips = [touch(tmp_path / "holiday" / name) for name in ("a.mp4", "b.mp4")]
    picture(tmp_path / "frames" / "1.png")
    rows = ["clip,prompt,mask", "holiday/*.mp4,make it snowy,auto", "frames/*.png,make it night,~/m.png"]
    (tmp_path / "jobs.csv").write_text("\n".join(rows))
    entries = read_layout(tmp_path / "jobs.csv")
    assert [e.case.source for e in entries] == [*clips, tmp_path / "frames" / "*.png"]
    assert [e.case.mask for e in entries] == [None, None, Path.home() / "m.png"]
    assert [e.places[0] for e in entries] == [
        "a-make-it-snowy.mp4", "b-make-it-snowy.mp4", "clip-make-it-night.mp4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- {original_video: a.mp4, prompt: x, edited_type: y}\n- {original_video: a.mp4}", "and a prompt in every"),
        ("- {original_video: a.mp4, prompt: x, edited_type: y}\n- {prompt: x}", "original_video and"),
        ("- {clip: a.mp4, prompt: [x, y]}", "one value in each cell"),
        ("- {clip: a.mp4, prompt: x, output: .}", "name of a result"),
    ],
)
def test_rows_of_yaml_that_make_no_sense_are_refused(tmp_path, text, reason):
    touch(tmp_path / "videos" / "a.mp4")
    touch(tmp_path / "a.mp4")
    (tmp_path / "jobs.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_layout(tmp_path / "jobs.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2", "expected columns clip, prompt"),
        ("clip,prompt\nnone.mp4,x", "which does not exist"),
        ("clip,prompt\nbeach.mp4,", "expected a clip and a prompt"),
        ("clip,prompt\nbeach.mp4,x\nbeach.mp4,x", "once"),
        ("clip,prompt", "at least one row"),
        ("Video name,Our GT caption,Style Change Caption\nfish,a,b", "expected the clip 'fish'"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path, text, reason):
    touch(tmp_path / "beach.mp4")
    (tmp_path / "jobs.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        read_layout(tmp_path / "jobs.csv")


def test_methods_that_are_missing_or_have_nothing_are_refused(tmp_path):
    touch(tmp_path / "beach.mp4")
    (tmp_path / "jobs.csv").write_text("clip,prompt\nbeach.mp4,x")
    entries = read_layout(tmp_path)
    with pytest.raises(FileNotFoundError, match="folder of results"):
        cases_of_layout(entries, [tmp_path / "nowhere"])
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="a lacks 1"):
        cases_of_layout(entries, [tmp_path / "a"])
    with pytest.raises(ValueError, match="'a' twice"):
        cases_of_layout(entries, [tmp_path / "a", tmp_path / "a"])


def test_a_sheet_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a sheet"):
        read_spreadsheet(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as file:
        file.writestr("x", "y")
    with pytest.raises(ValueError, match="cannot be read"):
        read_spreadsheet(tmp_path / "b.xlsx")
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("xl/worksheets/sheet1.xml", "<worksheet>" + "<row/>" * 1000 + "</worksheet>")
    data = (tmp_path / "a.xlsx").read_bytes()
    for at in range(len(data)):  # any byte of it
        (tmp_path / "b.xlsx").write_bytes(data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"^evaluate: .*b\.xlsx"):
            read_spreadsheet(tmp_path / "b.xlsx")
    spreadsheet(tmp_path / "c.xlsx", [["only names"]])
    with pytest.raises(ValueError, match="rows"):
        read_spreadsheet(tmp_path / "c.xlsx")
