import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifru_dist.errors import WorkspaceError
from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.files import FileEntry
from ifru_dist.workspace.layout import Layout
from ifru_dist.workspace.manifest import Calibration, Manifest, ModelRecord, decode, encode


def _entry(name: str) -> FileEntry:
    return FileEntry(f"{name}.arrow", len(name), name * 2)


def _manifest() -> Manifest:
    model = ModelRecord(
        spec=ModelSpec(name="lightgcn", dim=3),
        source="imported",
        options={"epochs": 5, "names": ["ä"]},
        seed=4,
        trained_version=2,
        base=(_entry("base-u"), _entry("base-i")),
        deltas=(_entry("delta"),),
        trained_interactions=8,
        unsolved_interactions=0.25,
        calibration=Calibration(
            damping=0.3,
            gap=0.1,
            gap_do_nothing=0.5,
            interactions=2,
            seed=6,
            version=2,
            solver={"newton_steps": "auto", "tolerance": 0.1},
        ),
    )
    return Manifest(
        version=3,
        parent="f00",
        kind="unlearn",
        created="2026-01-01T00:00:00+00:00",
        key_fingerprint="ab",
        epoch=1,
        layout=Layout(4, (5, 6)),
        ids=(_entry("ids-u"), _entry("ids-i")),
        examples=_entry("examples"),
        n_examples=9,
        graph=(_entry("graph-u"), _entry("graph-i")),
        degrees=(_entry("degree-u"), _entry("degree-i")),
        valid=_entry("valid"),
        test=_entry("test"),
        tombstones=(_entry("erased"),),
        n_erased=2,
        forgotten=(_entry("forgotten"),),
        held_out_erased=(_entry("held-out"),),
        model=model,
        requests=(_entry("requests"),),
        suppression=(_entry("suppression"),),
        extra={"rows": 1},
    )


_FIELDS = Layout(4, (5, 6, 2), ("user", "item", "hour"))


@pytest.mark.parametrize(
    "manifest", [_manifest(), replace(_manifest(), model=None, parent=None), replace(_manifest(), layout=_FIELDS)]
)
def test_a_manifest_survives_its_file(manifest: Manifest) -> None:
    assert decode(encode(manifest), "x.json") == manifest


def test_a_manifest_of_before_row_decay_reads_as_without() -> None:
    body = json.loads(encode(_manifest()).split(b"\n", 1)[1])
    assert body["model"]["spec"].pop("l2_row") == 0.0
    text = json.dumps(body)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert decode(f"{json.dumps({'sha256': digest})}\n{text}\n".encode(), "x.json") == _manifest()


def test_the_tables_stand_where_earlier_releases_wrote_them() -> None:
    value = json.loads(encode(_manifest()).split(b"\n", 1)[1])
    assert (value["tables"], value["layout"]) == (["user", "item"], {"partitions": 4, "sizes": [5, 6]})


def test_every_file_is_listed_once() -> None:
    paths = [entry.path for entry in _manifest().files()]
    assert (
        len(paths) == len(set(paths)) == json.dumps(json.loads(encode(_manifest()).split(b"\n", 1)[1])).count(".arrow")
    )


def test_a_manifest_that_is_cut_off_or_altered_is_damaged() -> None:
    whole = encode(_manifest())
    torn = [whole[:length] for length in range(0, len(whole) - 1, 7)]
    altered = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole) - 1, 7)]
    for data in torn + altered:
        with pytest.raises(WorkspaceError, match=r"000003\.json is damaged: .* restore it from a backup"):
            decode(data, "versions/000003.json")


def _file(body: str) -> bytes:
    """A manifest's file around a body."""
    return f"{json.dumps({'sha256': hashlib.sha256(body.encode()).hexdigest()})}\n{body}\n".encode()


def test_a_manifest_of_a_release_that_could_not_forget_rows() -> None:
    manifest = replace(_manifest(), forgotten=(), held_out_erased=())
    value = json.loads(encode(manifest).split(b"\n", 1)[1])
    assert (value.pop("forgotten"), value.pop("held_out_erased"), value["format"]) == ([], [], 1)
    assert decode(_file(json.dumps(value)), "x.json") == manifest


def test_a_manifest_of_a_release_that_could_not_calibrate() -> None:
    value = json.loads(encode(_manifest()).split(b"\n", 1)[1])
    for key in ("calibration", "trained_interactions", "unsolved_interactions"):
        del value["model"][key]
    model = replace(_manifest().model, calibration=None, trained_interactions=None, unsolved_interactions=0.0)
    assert decode(_file(json.dumps(value)), "x.json") == replace(_manifest(), model=model)


def test_a_manifest_of_a_release_that_could_not_vacuum_keeps_all_versions() -> None:
    value = json.loads(encode(_manifest()).split(b"\n", 1)[1])
    assert value.pop("retained_from") == 1
    assert decode(_file(json.dumps(value)), "x.json") == _manifest()


def test_another_format_is_refused_with_the_remedy() -> None:
    body = encode(_manifest()).decode().split("\n", 1)[1].rstrip("\n").replace('"format": 1', '"format": 99')
    with pytest.raises(WorkspaceError, match="has format 99; this program reads 1: use a matching release"):
        decode(_file(body), "x.json")


def test_a_successor_differs_in_what_changed() -> None:
    manifest = _manifest()
    successor = manifest.successor(parent_digest="abc", kind="train", created="now", n_erased=5)
    assert (successor.version, successor.parent, successor.kind, successor.n_erased) == (4, "abc", "train", 5)
    assert replace(successor, version=3, parent="f00", kind="unlearn", created=manifest.created, n_erased=2) == manifest


# ------------------------------------------------------------------------------------------------- what is not trusted


def _altered(place: tuple[str | int, ...], value: Any) -> bytes:
    """A manifest with one value replaced, and the checksum of that."""
    body = json.loads(encode(_manifest()).split(b"\n", 1)[1])
    inner = body
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return _file(json.dumps(body))


def _places(value: Any, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every value stands in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in [(*place, key), *_places(item, (*place, key))]]


_PLACES = _places(json.loads(encode(_manifest()).split(b"\n", 1)[1]))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([2**63, -1, 2**60, "..", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(place=st.sampled_from(_PLACES), value=_JSON)
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_place_is_read_or_refused(place: tuple[str | int, ...], value: Any) -> None:
    try:
        manifest = decode(_altered(place, value), "x.json")
    except WorkspaceError as error:
        message = str(error)
    else:  # read as it stands, so what is written again says the same
        message = "x.json"
        assert decode(encode(manifest), "x.json") == manifest or "nan" in repr(manifest)
    assert "x.json" in message
    assert "\n" not in message


@given(value=_JSON)
@settings(deadline=None)
def test_any_value_instead_of_a_manifest_is_refused(value: Any) -> None:
    with pytest.raises(WorkspaceError, match=r"x\.json"):
        decode(_file(json.dumps(value)), "x.json")


@given(data=st.binary(max_size=200))
def test_any_bytes_instead_of_a_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(WorkspaceError, match=r"x\.json is damaged"):
        decode(data, "x.json")


def test_a_manifest_nested_beyond_reading_is_refused() -> None:
    for body in ("[" * 100_000, '{"format": 1, "extra": ' + "[" * 100_000 + "]" * 100_000 + "}"):
        with pytest.raises(WorkspaceError, match=r"x\.json"):
            decode(_file(body), "x.json")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("ids", 0, "path"), "/etc/passwd"),
        (("ids", 0, "path"), "../other/ids.arrow"),
        (("examples", "path"), "examples/../../x.arrow"),
        (("examples", "path"), "examples\\x.arrow"),
        (("graph", 1, "path"), "./graph/x.arrow"),
        (("graph", 1, "path"), "graph//x.arrow"),
        (("valid", "path"), ""),
        (("valid", "path"), "split/a\0b"),
        (("test", "path"), "a/" * 600 + "b"),
        (("model", "base", 0, "path"), "tables/"),
        (("model", "deltas", 0, "size_bytes"), -1),
        (("model", "deltas", 0, "size_bytes"), "5"),
        (("n_examples",), -1),
        (("n_examples",), 2**60),
        (("n_examples",), 9.0),
        (("n_erased",), True),
        (("layout", "partitions"), 0),
        (("layout", "partitions"), 65_537),
        (("layout", "sizes"), [5]),
        (("layout", "sizes"), [5, 2**31]),
        (("layout", "sizes"), [5, -6]),
        (("tables",), ["user", "../item"]),
        (("tables",), "ui"),
        (("tables",), ["user"]),
        (("model", "spec", "dim"), 0),
        (("model", "spec", "dim"), 2**60),
        (("model", "spec", "hidden"), [2**60]),
        (("model", "spec", "name"), "os.system('x')"),
        (("model", "spec", "colour"), "blue"),
        (("model", "unsolved_interactions"), -0.5),
        (("version",), 0),
        (("retained_from",), 0),
        (("unknown",), 1),
    ],
)
def test_a_value_that_no_version_can_have_is_named(place: tuple[str | int, ...], value: Any) -> None:
    name = str(place[0])
    with pytest.raises(
        WorkspaceError, match=rf"x\.json cannot be used \((layout\.)?{name}.*: restore it from a backup"
    ):
        decode(_altered(place, value), "x.json")
