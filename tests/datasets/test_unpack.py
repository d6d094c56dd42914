"""An archive writes nothing outside its folder, and no files remain if it is refused."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.datasets._download import unpack
from pipeline.errors import UserError


def zip_of(path: Path, members: dict[str, bytes], *, mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as bundle:
        for name, data in members.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            bundle.writestr(member, data)
    return path


def tar_of(path: Path, members: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tape:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, len(data)
            tape.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_an_archive_is_unpacked_and_the_folder_is_removed(tmp_path: Path, pack: Callable[..., Path]) -> None:
    archive = pack(tmp_path / "a", {"top/x.txt": b"x", "y.txt": b"y"})
    with unpack(archive, tmp_path) as folder:
        assert (folder / "top/x.txt").read_bytes() == b"x" and (folder / "y.txt").read_bytes() == b"y"
        (folder / "y.txt").rename(tmp_path / "kept")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "kept"]


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize("name", ["../evil", "good/../../evil", "{root}/evil"])
def test_members_outside_are_refused(tmp_path: Path, pack: Callable[..., Path], name: str) -> None:
    name = name.format(root=tmp_path)
    archive = pack(tmp_path / "a", {"good/x": b"x", name: b"evil"})
    with (
        pytest.raises(UserError, match="would be written outside the folder; nothing was unpacked"),
        unpack(archive, tmp_path),
    ):
        pytest.fail("it was unpacked")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "pack",
    [
        lambda path: zip_of(path, {"link": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777),
        lambda path: tar_of(path, {"link": b""}, kind=tarfile.SYMTYPE, link="/etc/passwd"),
        lambda path: tar_of(path, {"link": b""}, kind=tarfile.SYMTYPE, link="inside"),
        lambda path: tar_of(path, {"link": b""}, kind=tarfile.LNKTYPE, link="../a"),
        lambda path: tar_of(path, {"link": b""}, kind=tarfile.FIFOTYPE),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, pack: Callable[[Path], Path]) -> None:
    archive = pack(tmp_path / "a")
    with pytest.raises(UserError, match="'link' is a link or a device; nothing was"), unpack(archive, tmp_path):
        pytest.fail("it was unpacked")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def flipped(data: bytes) -> bytes:
    return data[:20_000] + bytes(100) + data[20_100:]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(("pack", "damage"), [(zip_of, flipped), (tar_of, half)])
def test_a_damaged_archive_is_a_user_error(
    tmp_path: Path, pack: Callable[..., Path], damage: Callable[[bytes], bytes]
) -> None:
    archive = pack(tmp_path / "a", {"x": os.urandom(50_000)})
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(UserError, match=r"a: damaged \(.*\); remove it"), unpack(tmp_path / "a", tmp_path):
        pytest.fail("it was unpacked")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"<html>")
    with pytest.raises(UserError, match="not a zip or tar file"), unpack(tmp_path / "a", tmp_path):
        pytest.fail("it was unpacked")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
