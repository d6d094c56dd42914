"""Artifacts are complete or absent, record their facts, and are refused after a change."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import artifact
from pipeline.errors import UserError


def make(path: Path, files: dict[str, str], **meta: Any) -> artifact.Artifact:
    with artifact.create(path, kind="network", meta=meta) as folder:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return artifact.load(path, kind="network")


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, also hidden files: content of each file, None for a folder."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


def set_meta(path: Path, **changes: Any) -> None:
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, **changes}))


def test_holds_payload_facts_and_hashes(tmp_path: Path) -> None:
    loaded = make(tmp_path / "deep" / "a", {"w.bin": "weights", "sub/x.txt": "x"}, note="hi", order=(1, 2))
    assert loaded.kind == "network"
    assert loaded.meta["note"] == "hi" and loaded.meta["order"] == [1, 2]
    assert loaded.meta["files"]["w.bin"] == hashlib.sha256(b"weights").hexdigest()
    assert loaded.file("sub/x.txt").read_text() == "x"
    assert sorted(snapshot(tmp_path / "deep")) == ["a", "a/meta.json", "a/sub", "a/sub/x.txt", "a/w.bin"]


def test_the_body_may_add_facts(tmp_path: Path) -> None:
    meta: dict[str, Any] = {"a": 1}
    with artifact.create(tmp_path / "a", kind="onnx", meta=meta):
        meta["b"] = 2
    assert artifact.load(tmp_path / "a", kind="onnx").meta["b"] == 2


def test_a_new_artifact_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    make(tmp_path / "a", {"old.txt": "1"})
    assert list(make(tmp_path / "a", {"new.txt": "2"}).meta["files"]) == ["new.txt"]
    assert sorted(snapshot(tmp_path)) == ["a", "a/meta.json", "a/new.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, UserError])
@pytest.mark.parametrize("older", [True, False])
def test_a_failing_body_changes_nothing(tmp_path: Path, error: type[BaseException], older: bool) -> None:
    if older:
        make(tmp_path / "a", {"w.bin": "old"})
    before = snapshot(tmp_path)
    with pytest.raises(error), artifact.create(tmp_path / "a", kind="network", meta={}) as folder:
        (folder / "w.bin").write_text("half")
        raise error
    assert snapshot(tmp_path) == before


def test_facts_that_json_cannot_hold_change_nothing(tmp_path: Path) -> None:
    make(tmp_path / "a", {"w.bin": "old"})
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        make(tmp_path / "a", {"w.bin": "new"}, miou=float("nan"))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("moment", [1, 2])
def test_an_interrupted_replacement_restores_the_old_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    make(tmp_path / "a", {"w.bin": "old"})
    before, rename, calls = snapshot(tmp_path), Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == moment:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a", {"w.bin": "new"})
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("what", ["file", "folder"])
def test_other_files_and_folders_are_never_replaced(tmp_path: Path, what: str) -> None:
    if what == "file":
        (tmp_path / "photos").write_text("mine")
    else:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "cat.jpg").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="photos exists and is no artifact, so it is not replaced"):
        make(tmp_path / "photos", {"w.bin": "new"})
    assert snapshot(tmp_path) == before


def test_an_empty_folder_is_replaced_and_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "disk")
    for text in ("1", "2"):
        assert make(tmp_path / "a", {"w.bin": text}).file("w.bin").read_text() == text
    assert (tmp_path / "a").is_symlink() and (tmp_path / "disk" / "w.bin").read_text() == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "disk"]


def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a: cannot be written \(Not a directory\)|\(File exists\)"):
        make(tmp_path / "file" / "a", {})


def damaged(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def build(tmp_path: Path) -> Path:
        path = tmp_path / "a"
        make(path, {"w.bin": "weights", "x.bin": "x"})
        change(path)
        return path

    return build


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda tmp_path: tmp_path / "nowhere", r"nowhere: has no meta\.json.* create it with: dvc repro"),
        (damaged(lambda path: (path / "meta.json").unlink()), r"has no meta\.json"),
        (damaged(lambda path: (path / "meta.json").write_text("{")), r"meta\.json: not JSON .*dvc repro -f"),
        (damaged(lambda path: (path / "meta.json").write_bytes(b"\xff\xfe")), "not JSON"),
        (damaged(lambda path: (path / "meta.json").write_text("[" * 100_000)), "not JSON"),
        (damaged(lambda path: (path / "meta.json").write_text("[]")), "holds a list where a JSON object is needed"),
        (damaged(lambda path: (path / "meta.json").write_text("{}")), "missing: kind, format, files"),
        (damaged(lambda path: set_meta(path, format=2)), "got format 2; allowed: 1"),
        (damaged(lambda path: set_meta(path, kind="onnx")), "got an artifact of kind 'onnx'; needed: 'network'"),
        (damaged(lambda path: set_meta(path, files=["w.bin"])), "files must map names to sha256"),
        (damaged(lambda path: set_meta(path, files={"w.bin": 5})), "files must map names to sha256"),
        (damaged(lambda path: (path / "w.bin").unlink()), "payload 'w.bin' is missing"),
        (damaged(lambda path: (path / "w.bin").write_text("tampered")), "payload 'w.bin' was changed"),
    ],
)
def test_load_refuses(tmp_path: Path, build: Callable[[Path], Path], message: str) -> None:
    path = build(tmp_path)
    with pytest.raises(UserError, match=message):
        artifact.load(path, kind="network")


def test_load_reports_every_payload_at_once(tmp_path: Path) -> None:
    make(tmp_path / "a", {"w.bin": "w", "x.bin": "x", "y.bin": "y"})
    (tmp_path / "a" / "w.bin").unlink()
    (tmp_path / "a" / "x.bin").write_text("changed")
    with pytest.raises(UserError, match=r"2 problems\n  payload 'w.bin' is missing\n  payload 'x.bin' was changed"):
        artifact.load(tmp_path / "a", kind="network")


def test_without_verification_only_missing_files_are_found(tmp_path: Path) -> None:
    make(tmp_path / "a", {"w.bin": "w", "x.bin": "x"})
    (tmp_path / "a" / "w.bin").write_text("changed")
    assert artifact.load(tmp_path / "a", kind="network", verify=False).kind == "network"
    (tmp_path / "a" / "x.bin").unlink()
    with pytest.raises(UserError, match="missing"):
        artifact.load(tmp_path / "a", kind="network", verify=False)


@pytest.mark.parametrize("name", ["../secret", "sub/../../secret", "ABSOLUTE"])
@pytest.mark.parametrize("verify", [True, False])
def test_payload_outside_the_folder_is_refused(tmp_path: Path, name: str, verify: bool) -> None:
    (tmp_path / "secret").write_text("s")
    make(tmp_path / "a", {"sub/w.bin": "w"})
    name = str(tmp_path / "secret") if name == "ABSOLUTE" else name
    set_meta(tmp_path / "a", files={name: artifact.sha256(tmp_path / "secret")})
    with pytest.raises(UserError, match="is outside the artifact"):
        artifact.load(tmp_path / "a", kind="network", verify=verify)


def test_file_refuses_what_meta_does_not_list(tmp_path: Path) -> None:
    loaded = make(tmp_path / "a", {"w.bin": "w"})
    (tmp_path / "a" / "stray").write_text("")
    with pytest.raises(UserError, match=r"has no file 'stray'; its files: w\.bin"):
        loaded.file("stray")


def test_a_fact_that_an_older_version_did_not_write_is_a_user_error(tmp_path: Path) -> None:
    meta = make(tmp_path / "a", {"w.bin": "weights"}, model={"name": "smp", "options": {}}, note="hi").meta
    assert meta["model"] == {"name": "smp", "options": {}} and meta.get("parity") is None and "parity" not in meta
    again = r"a/meta\.json: missing: {}; another version wrote it; write the artifact again with: dvc repro -f"
    with pytest.raises(UserError, match=again.format("parity")):
        meta["parity"]
    with pytest.raises(UserError, match=again.format(r"model\.options\.encoder")):
        meta["model"]["options"]["encoder"]
    assert json.loads(artifact.dump_json(meta)) == meta == copy.deepcopy(meta) == pickle.loads(pickle.dumps(meta))


def test_labels_that_are_missing_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a/meta\.json: 'classes' is missing"):
        make(tmp_path / "a", {}).labels  # noqa: B018


def test_equal_content_has_equal_hashes_in_any_folder_at_any_time(tmp_path: Path) -> None:
    first = make(tmp_path / "a", {"b": "2", "a": "1"}, seed=1)
    second = make(tmp_path / "far" / "away", {"a": "1", "b": "2"}, seed=1)
    os.utime(second.file("a"), (0, 0))
    assert first.hash == second.hash
    assert (first.path / "meta.json").read_bytes() == (second.path / "meta.json").read_bytes()
    assert artifact.files_hash({"a": "1", "b": "2"}) == artifact.files_hash({"b": "2", "a": "1"})
    assert make(tmp_path / "c", {"a": "1", "b": "3"}).hash != first.hash
    assert make(tmp_path / "d", {"a": "1", "c": "2"}).hash != first.hash


def test_json_is_sorted_and_refuses_nan() -> None:
    assert artifact.dump_json({"b": [1], "a": "ü"}) == '{\n  "a": "\\u00fc",\n  "b": [\n    1\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        artifact.dump_json({"x": float("inf")})


def test_sha256_without_file_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(os.urandom(3 << 20))
    expected = hashlib.sha256((tmp_path / "f").read_bytes()).hexdigest()
    assert artifact.sha256(tmp_path / "f") == expected
    monkeypatch.delattr(hashlib, "file_digest", raising=False)  # as in Python 3.10
    assert artifact.sha256(tmp_path / "f") == expected


def test_write_text_replaces_and_makes_folders(tmp_path: Path) -> None:
    for text in ("one", "two"):
        artifact.write_text(tmp_path / "new" / "f.json", text)
        assert snapshot(tmp_path) == {"new": None, "new/f.json": text.encode()}


def test_interrupted_write_text_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact.write_text(tmp_path / "f.json", "old")

    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        artifact.write_text(tmp_path / "f.json", "new")
    assert snapshot(tmp_path) == {"f.json": b"old"}


def test_read_json_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"device\.json: no such file; write it with: dvc repro device"):
        artifact.read_json(tmp_path / "device.json", advice="write it with: dvc repro device")


@pytest.mark.parametrize("copied", [None, 0, 5])
def test_a_copied_file_is_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: int | None
) -> None:
    """None: as the kernel copies; else it refuses, as between two file systems, after so many bytes."""
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(bytes(range(250)) * 100)
    target.write_bytes(b"older and longer" * 10_000)

    def refusing(reader: int, writer: int, count: int) -> int:
        if copied and not os.lseek(reader, 0, os.SEEK_CUR):
            return os.write(writer, os.read(reader, copied))
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if copied is not None:
        monkeypatch.setattr(os, "copy_file_range", refusing)
    artifact.copy_file(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert source.stat().st_nlink == target.stat().st_nlink == 1
    with pytest.raises(FileNotFoundError):
        artifact.copy_file(tmp_path / "missing", target)


def test_a_folder_of_the_caller_stays_after_an_error_and_becomes_the_artifact(tmp_path: Path) -> None:
    out, scratch, digests = tmp_path / "a", tmp_path / "work" / "files", {"w.bin": "known", "other": "unused"}
    with (
        pytest.raises(KeyboardInterrupt),
        artifact.create(tmp_path / "a", kind="onnx", meta={}, scratch=scratch) as own,
    ):
        (own / "w.bin").write_text("w")
        raise KeyboardInterrupt
    assert sorted(snapshot(tmp_path)) == ["work", "work/files", "work/files/w.bin"]
    (scratch / "meta.json").write_text("of a run that was killed")
    with artifact.create(out, kind="onnx", meta={}, scratch=scratch, digests=digests) as own:
        (own / "x.bin").write_text("x")
    assert artifact.load(out, kind="onnx", verify=False).meta["files"] == {
        "w.bin": "known", "x.bin": hashlib.sha256(b"x").hexdigest(),
    }  # fmt: skip
    assert sorted(snapshot(tmp_path)) == ["a", "a/meta.json", "a/w.bin", "a/x.bin", "work"]


def test_a_run_that_was_killed_while_it_renamed(tmp_path: Path) -> None:
    """Killed between the two renames, or after them, while it removed the older artifact."""
    out, scratch, old = tmp_path / "a", tmp_path / "work" / "files", tmp_path / "work" / "files-old"
    with artifact.create(out, kind="onnx", meta={}, scratch=scratch) as own:
        (own / "w.bin").write_text("older")
    before = snapshot(out)
    out.rename(old)
    scratch.mkdir()
    (scratch / "meta.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt), artifact.create(out, kind="onnx", meta={}, scratch=scratch):
        raise KeyboardInterrupt
    assert snapshot(out) == before and not old.exists()
    shutil.copytree(out, old)
    with artifact.create(out, kind="onnx", meta={}, scratch=scratch) as own:
        (own / "w.bin").write_text("new")
    assert (out / "w.bin").read_text() == "new"
    assert sorted(snapshot(tmp_path)) == ["a", "a/meta.json", "a/w.bin", "work"]
