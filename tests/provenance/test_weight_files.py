"""The bytes of weight files identify a network's weights, not the names of the files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.provenance.weight_files import fingerprint

ROOT = Path(__file__).parents[2]


def test_files_and_folders_by_their_bytes_and_names_as_they_are(tmp_path: Path) -> None:
    file, folder = tmp_path / "x.pth", tmp_path / "hub"
    file.write_bytes(b"one")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    options = {"weights": str(folder), "encoder_weights": str(file), "architecture": str(file), "options": {}}
    before = fingerprint(options)
    assert before["encoder_weights"] == {"value": str(file), "sha256": hashlib.sha256(b"one").hexdigest()}
    assert set(before) == {"weights", "encoder_weights"} and fingerprint(options) == before
    (folder / "model.safetensors").write_bytes(b"two")
    after = fingerprint(options)
    assert after["weights"] != before["weights"] and after["encoder_weights"] == before["encoder_weights"]
    assert fingerprint({"weights": "hf://a/b", "encoder_weights": None}) == {"weights": {"value": "hf://a/b"}}
    assert fingerprint({}) == {}
