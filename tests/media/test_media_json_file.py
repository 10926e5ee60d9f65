"""Any bytes as a JSON file: the value, or one line that names the file."""

import pytest

from csd3d.media.json_file import load_json


def test_what_is_json_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('\ufeff{"ä": [1, 2.5, null]}'.encode("utf-8-sig")[3:])
    assert load_json(path, "thing") == {"ä": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": "\xe9"}', "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"1" * 10_000, "not valid JSON"),
        (b"\0\0\0\x08ftypmp42", "not valid JSON"),
    ],
)
def test_what_is_none_is_one_line(tmp_path, data, match):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match) as caught:
        load_json(path, "thing")
    assert str(caught.value).startswith(f"thing: {path}")
    assert "\n" not in str(caught.value)
