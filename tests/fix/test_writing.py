import os
import stat

import pytest

from initcheck.fix.writing import NotWrittenError, write_atomically


def test_content_mode_and_link_stay(tmp_path):
    real = tmp_path / "real.py"
    real.write_bytes(b"old")
    real.chmod(0o750)
    link = tmp_path / "sub" / "link.py"
    link.parent.mkdir()
    link.symlink_to(real)
    write_atomically(link, b"new", b"old")
    assert real.read_bytes() == b"new"
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o750
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["link.py", "real.py", "sub"]


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path):
    path = tmp_path / "a.py"
    path.write_bytes(b"the user's new version")
    with pytest.raises(NotWrittenError, match="changed on disk"):
        write_atomically(path, b"new", b"old")
    assert path.read_bytes() == b"the user's new version"
    assert [p.name for p in tmp_path.iterdir()] == ["a.py"]


def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(NotWrittenError, match="No space left"):
        write_atomically(path, b"new", b"old")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.py"]


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda *args: False)  # the test may run as root, who may write anything
    with pytest.raises(NotWrittenError, match="read-only"):
        write_atomically(path, b"new", b"old")
