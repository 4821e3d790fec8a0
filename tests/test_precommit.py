"""The hooks, run by the real pre-commit program on commits to a real git repository."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRE_COMMIT = Path(sys.executable).with_name("pre-commit")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PRE_COMMIT.exists() or shutil.which("git") is None, reason="needs pre-commit and git"),
]

BAD = """\
import torch.nn as nn
from torch import Tensor


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(16, 4)
        nn.init.xavier_uniform(self.out.weight)  # the old name

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)
"""
GOOD = BAD.replace("xavier_uniform(", "xavier_uniform_(")


class Repository:
    """A git repository with hooks of ours installed, as a user would have them."""

    def __init__(self, folder: Path, *hook_ids: str) -> None:
        yaml = pytest.importorskip("yaml")
        self.folder = folder / "repository"
        self.folder.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "PRE_COMMIT"))}
        self.environment = kept | {
            "HOME": str(folder),
            "PRE_COMMIT_HOME": str(folder / "cache"),
            "PYTHONPATH": str(ROOT),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        offered = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
        hooks = [self._local(offered[hook_id]) for hook_id in hook_ids]
        config = {"repos": [{"repo": "local", "hooks": hooks}]}
        self.run("git", "init", "--quiet")
        self.run("git", "config", "user.name", "A. Uthor")
        self.run("git", "config", "user.email", "author@example.org")
        (self.folder / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
        self.run(str(PRE_COMMIT), "install")

    @staticmethod
    def _local(hook: dict) -> dict:
        """The hook as we offer it, but run by this interpreter instead of one in an environment of its own."""
        program, *arguments = shlex.split(hook["entry"])
        assert program == "initcheck"
        entry = shlex.join([sys.executable, "-m", "initcheck", *arguments])
        return {**hook, "language": "system", "entry": entry}

    def run(self, *command: str) -> str:
        done = self.attempt(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )

    def commit(self, **files: str) -> tuple[bool, str]:
        """Commit files (``net_py="..."``); whether git took the commit, and what was printed."""
        for name, text in files.items():
            (self.folder / name.replace("_", ".")).write_text(text)
        self.run("git", "add", "--all")
        done = self.attempt("git", "commit", "-m", "change")
        return done.returncode == 0, done.stdout + done.stderr

    def commits(self) -> int:
        done = self.attempt("git", "rev-list", "--count", "HEAD")
        return int(done.stdout) if done.returncode == 0 else 0


def test_the_check_hook(tmp_path):
    repository = Repository(tmp_path, "initcheck")

    taken, printed = repository.commit(README_md="words\n")
    assert taken, printed
    assert "no files to check" in printed

    taken, printed = repository.commit(net_py=BAD)
    assert not taken
    assert "net.py:9:9: IC801" in printed
    assert repository.commits() == 1

    taken, printed = repository.commit(net_py=GOOD)
    assert taken, printed
    assert repository.commits() == 2

    taken, printed = repository.commit(plain_py="print('no model here')\n")
    assert taken, printed


def test_a_suppressed_finding_does_not_stop_a_commit(tmp_path):
    repository = Repository(tmp_path, "initcheck")
    taken, printed = repository.commit(net_py=BAD.replace("# the old name", "# noqa: IC801"))
    assert taken, printed


def test_the_configuration_counts(tmp_path):
    """pre-commit names the files one by one; excluded ones must stay excluded."""
    repository = Repository(tmp_path, "initcheck")
    taken, printed = repository.commit(net_py=BAD, pyproject_toml='[tool.initcheck]\nexclude = ["net.py"]\n')
    assert taken, printed
    taken, printed = repository.commit(pyproject_toml='[tool.initcheck]\nselcet = ["IC8"]\n', net_py=BAD + "\n")
    assert not taken
    assert "selcet" in printed


def test_the_fix_hook(tmp_path):
    repository = Repository(tmp_path, "initcheck-fix")
    taken, printed = repository.commit(net_py=BAD)
    assert not taken  # pre-commit stops a commit whose files a hook changed
    assert "files were modified by this hook" in printed
    assert (repository.folder / "net.py").read_text() == GOOD
    taken, printed = repository.commit()
    assert taken, printed
    assert repository.run("git", "show", "HEAD:net.py") == GOOD


def test_a_file_that_cannot_be_parsed_stops_the_commit(tmp_path):
    repository = Repository(tmp_path, "initcheck", "initcheck-fix")
    taken, printed = repository.commit(net_py=BAD, old_py='print "two"\n')
    assert not taken
    assert "old.py:1:1: IC001" in printed
    assert "Python 2" in printed
    assert (repository.folder / "net.py").read_text() == GOOD
