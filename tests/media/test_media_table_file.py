"""Any text as a table: its rows, or one line that names the file."""

import pytest

from csd3d.media.table_file import load_table


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'x,y\n1,"a, b"\n'),
        ("a.CSV", "x;y\n1;a, b\n"),
        ("a.csv", "x\ty\r\n1\ta, b\r\n"),
        ("a.csv", "\ufeffx;y\n1;a, b;;\n"),
        ("a.yaml", "- {x: '1', y: 'a, b'}"),
    ],
)
def test_separators_quotes_and_empty_cells(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert load_table(path, "thing") == [{"x": "1", "y": "a, b"}]


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.csv", b"", "at least one row"),
        ("a.csv", b"x,y\n", "at least one row"),
        ("a.csv", b"x,x\n1,2\n", "each column once, got x"),
        ("a.csv", b"x;y\n1;2;3\n", "line 2: expected 2 cells between ';', got 3"),
        ("a.csv", b'x,y\n1,"2\n', "cannot be read"),
        ("a.csv", b"x,y\n\xe9,2\n", "cannot be read"),
        ("a.yaml", b"- {x: 2001-13-01}", "cannot be read"),
        ("a.yaml", b"- {x: !!timestamp soon}", "cannot be read"),
        ("a.yaml", b"- {x: !!bool maybe}", "cannot be read"),
        ("a.yaml", b"- {x: !!int ''}", "cannot be read"),
        ("a.yaml", b"[" * 5000, "cannot be read"),
        ("a.yaml", b"x: y", "at least one row"),
        ("a.txt", b"x,y\n1,2\n", "a .csv, .yaml or .yml file"),
    ],
)
def test_what_is_none_is_one_line(tmp_path, name, data, match):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match) as caught:
        load_table(path, "thing")
    assert str(caught.value).startswith("thing: ")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
