"""Prepared data exist once they are complete, whoever builds them and whatever interrupts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from launcher.data import digests, store
from launcher.data.cache import FILES, CacheWriter, TokenCache, content_digest, tokens_digest
from launcher.data.digests import file_digest
from launcher.data.rows import Encoded
from launcher.errors import InputError


def build(cache_dir: Path, key: str, content: str) -> store.Stored:
    with store.new_folder(cache_dir, key) as folder:
        (folder / "file").write_text(content)
        return store.commit(folder, {"content": content})


def test_nothing_is_found_before_the_marker(tmp_path: Path) -> None:
    with store.new_folder(tmp_path, "k") as folder:
        (folder / "file").write_text("x")
        assert store.find(tmp_path, "k") is None
        store.commit(folder, {"n": 1})
        found = store.find(tmp_path, "k")
        assert found is not None
        assert (found.folder, found.meta) == (folder, {"n": 1})


def test_of_two_builders_the_first_to_finish_is_taken(tmp_path: Path) -> None:
    with store.new_folder(tmp_path, "k") as slow:
        (slow / "file").write_text("slow")
        fast = build(tmp_path, "k", "fast")
        taken = store.commit(slow, {"content": "slow"})
    assert taken == fast == store.find(tmp_path, "k")
    assert not slow.exists()
    assert (fast.folder / "file").read_text() == "fast"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with store.new_folder(tmp_path, "k") as folder:
            (folder / "file").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list((tmp_path / "k").iterdir())
    assert store.find(tmp_path, "k") is None


@pytest.mark.parametrize("damage", ["cut", "gone", "marker"])
def test_a_damaged_folder_is_built_again(tmp_path: Path, damage: str) -> None:
    stored = build(tmp_path, "k", "content")
    if damage == "cut":
        (stored.folder / "file").write_text("con")
    elif damage == "gone":
        (stored.folder / "file").unlink()
    else:
        (tmp_path / "k" / store.MARKER).write_text('{"folder": "bui')
    assert store.find(tmp_path, "k") is None
    assert build(tmp_path, "k", "content") == store.find(tmp_path, "k")


def test_the_key_is_that_of_the_settings_in_any_order() -> None:
    assert store.key_of({"a": 1, "b": (2,)}) == store.key_of({"b": [2], "a": 1})
    assert store.key_of({"a": 1}) != store.key_of({"a": "1"})


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    rows = []
    with CacheWriter(tmp_path / "train") as writer:
        for _ in range(50):
            size = int(dice.integers(1, 20))
            ids = dice.integers(0, 200_000, size).tolist()
            mask = (dice.random(size) < 0.5).tolist()
            rows.append(Encoded(ids, mask, label=int(dice.integers(-1, 3))))
            writer.append(rows[-1], content_digest(ids))
    cache = TokenCache(tmp_path / "train")
    assert len(cache) == 50
    for i, row in enumerate(rows):
        assert cache[i].input_ids.tolist() == row.input_ids
        assert cache[i].loss_mask.tolist() == row.loss_mask
        assert cache[i].label == row.label
        assert cache.num_targets[i] == (1 if row.label >= 0 else sum(row.loss_mask[1:]))
    assert cache.lengths.tolist() == [len(row.input_ids) for row in rows]
    assert cache.lengths[cache.shortest] == cache.lengths.min()
    for outside in (-1, 50):
        with pytest.raises(IndexError):
            cache[outside]


def test_truncation_keeps_the_tail() -> None:
    row = Encoded([1, 2, 3, 4, 9], [False, True, False, True, True], label=2, tail=1)
    assert row.truncated(5) is row
    assert row.truncated(3).input_ids == [1, 2, 9]
    assert row.truncated(3).loss_mask == [False, True, True]
    assert Encoded([1, 2, 3], [True] * 3).truncated(2).input_ids == [1, 2]


def test_a_digest_is_remembered_only_for_a_file_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cache_dir = tmp_path / "a.txt", tmp_path / "cache"
    file.write_text("one")
    first = file_digest(file, cache_dir)
    assert not list(cache_dir.rglob("*.json")), "just written: may change within one clock tick"

    monkeypatch.setattr(digests, "RACY_NANOSECONDS", -60_000_000_000)  # as if it were long ago
    os.utime(file, (1_000_000_000, 1_000_000_000))
    assert file_digest(file, cache_dir) == first
    (memo,) = cache_dir.rglob("*.json")
    memo.write_text(memo.read_text().replace(first, "remembered"))
    assert file_digest(file, cache_dir) == "remembered"

    file.write_text("two")
    os.utime(file, (1_000_000_000, 1_000_000_000))  # of the same size, with its old time
    assert file_digest(file, cache_dir) not in (first, "remembered")
    memo.write_text("torn")
    assert len(file_digest(file, cache_dir)) == 64


def tokens(cache_dir: Path) -> store.Stored:
    with store.new_folder(cache_dir, "k") as folder:
        with CacheWriter(folder / "train") as writer:
            writer.append(Encoded([1, 2, 3], [True, True, True], 0), 0)
        return store.commit(folder, {"digests": {"train": tokens_digest(folder / "train")}})


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_altered_at_equal_size_is_known(tmp_path: Path, name: str) -> None:
    path = tokens(tmp_path).folder / "train" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = store.find(tmp_path, "k")
    assert found is not None
    assert found.altered == "train"


def test_a_copy_is_what_was_written(tmp_path: Path) -> None:
    """Its times and inodes are others; its bytes are the same."""
    tokens(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    found = store.find(tmp_path / "new", "k")
    assert found is not None
    assert found.altered is None


@pytest.mark.parametrize("which", ["key", "build"])
def test_a_folder_that_others_can_change_is_refused(tmp_path: Path, which: str) -> None:
    stored = tokens(tmp_path)
    folder = stored.folder if which == "build" else stored.folder.parent
    folder.chmod(0o770)
    with pytest.raises(InputError, match=r"written to by others .mode 0770.*chmod -R go-w"):
        store.find(tmp_path, "k")
    subprocess.run(["chmod", "-R", "go-w", str(stored.folder.parent)], check=True)
    assert store.find(tmp_path, "k") is not None


def test_a_marker_leads_nowhere_else(tmp_path: Path) -> None:
    stored = tokens(tmp_path)
    marker = stored.folder.parent / store.MARKER
    for folder in ("../../elsewhere", "/etc", "", ".", 7):
        marker.write_text(json.dumps({"folder": folder, "sizes": {}, "meta": {}}))
        assert store.find(tmp_path, "k") is None, folder
