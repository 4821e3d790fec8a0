"""Analysed code that misbehaves costs itself only: real files, one run, and nothing is left behind."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from textwrap import indent

import psutil
import pytest

from initcheck import worker
from initcheck.cli import main
from initcheck.config import FORMATS, Config
from initcheck.engine import Run, run
from initcheck.report import render

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the misbehaviour is POSIX's")

MODELS = """
import atexit, ctypes, os, signal, socket, subprocess, sys, threading, time, urllib.request
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))


class Good(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(x)


class Bad(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 4)
{body}

    def forward(self, x):
        return self.fc(x)


class Last(Good):
    pass
"""

FATAL = {
    "raises": ("raise ValueError('no such width')", "ValueError: no such width"),
    "exits": ("sys.exit(3)", "SystemExit: 3"),
    "dies": ("os._exit(7)", "exit code 7"),
    "segfaults": ("ctypes.string_at(0)", "SIGSEGV"),
    "aborts": ("os.abort()", "SIGABRT"),
    "hangs": ("while True: pass", "longer than 8 s"),
    "sleeps_undisturbed": (
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM): signal.signal(number, signal.SIG_IGN)\n"
        "time.sleep(1000)",
        "longer than 8 s",
    ),
    "alarms": ("signal.alarm(1); time.sleep(1000)", "SIGALRM"),
    "eats_memory": ("kept = []\nwhile True: kept.append(b'x' * (50 << 20))", "more than 900 MiB of memory"),
    "bombs_threads": (
        "while True: threading.Thread(target=time.sleep, args=(1000,)).start()",
        "more than 1024 threads",
    ),
    "bombs_forks": ("while True: os.fork()", "start no more processes"),
    "closes_files": ("os.closerange(3, 1000)", "closed its files"),
    "recurses": ("sys.setrecursionlimit(10**9)\ndef f(): return f() + 1\nf()", ""),
    "asks": ("input('a number? ')", "EOFError"),
    "downloads": ("urllib.request.urlopen('http://example.org', timeout=50)", "the network"),
    "connects": ("socket.create_connection(('192.0.2.1', 80))", "the network"),
    "kills_the_server": ("os.kill(os.getppid(), signal.SIGKILL)", "signal no other process"),
    "deletes": ("os.remove(os.path.expanduser('~/initcheck-test-old.txt'))", "change no files"),
    "writes": (
        "os.open(os.path.join(os.path.expanduser('~'), 'initcheck-test-new.txt'), os.O_CREAT | os.O_WRONLY)",
        "write no files",
    ),
    "runs_a_shell": ("os.system('echo')", "no shell commands"),
}
"""What a constructor does, and what is said of it (empty: any reason)."""

HARMLESS = {
    "prints": "print('NOISE'); os.write(1, b'NOISE'); os.write(2, b'NOISE'); sys.stderr.write('NOISE')",
    "moves": "os.chdir('/')",
    "removes_its_folder": ("import tempfile\nfolder = tempfile.mkdtemp()\nos.chdir(folder)\nos.rmdir(folder)"),
    "leaves_words": "atexit.register(lambda: open('/tmp/initcheck-atexit', 'w'))",
    "leaves_a_thread": "threading.Thread(target=time.sleep, args=(1000,)).start()",
    "leaves_a_process": "subprocess.Popen(['sleep', '987654'], start_new_session=True)",
    "handles_signals": "signal.signal(signal.SIGTERM, lambda *_: None)",
    "exchanges_streams": "sys.stdout = sys.stderr = sys.stdin = None",
}


NAMES = sorted([*FATAL, *HARMLESS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    bodies = {name: body for name, (body, _) in FATAL.items()} | HARMLESS
    for name, body in bodies.items():
        (folder / f"{name}.py").write_text(MODELS.format(body=indent(body, " " * 8)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def outcome(folder: Path) -> Run:
    return run([folder], Config(timeout=8, memory_limit=900 << 20, jobs=4))


@pytest.mark.slow
def test_a_run_over_misbehaving_files_has_no_error_of_its_own(outcome: Run) -> None:
    assert outcome.result.errors == ()
    assert [Path(file.path).stem for file in outcome.result.files] == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FATAL))
def test_a_model_that_cannot_be_built_costs_only_itself(outcome: Run, name: str) -> None:
    """One IC002 at its class with the reason; the models before and after it in the file are analysed."""
    file = next(file for file in outcome.result.files if Path(file.path).stem == name)
    assert [report.model for report in file.models] == ["Good", "Last"]
    (finding,) = file.findings
    assert (finding.code, finding.model, finding.location.line) == ("IC002", "Bad", 17)
    assert FATAL[name][1] in finding.message
    assert "Traceback" not in finding.message


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_what_a_model_does_to_its_process_ends_with_it(outcome: Run, name: str) -> None:
    file = next(file for file in outcome.result.files if Path(file.path).stem == name)
    assert [report.model for report in file.models] == ["Good", "Bad", "Last"]
    assert file.all_findings() == []
    lines = Path(file.path).read_text(encoding="utf-8").splitlines()
    headers = [number for number, line in enumerate(lines, start=1) if line.startswith("class")]
    assert [report.location.line for report in file.models if report.location] == headers


@pytest.mark.slow
def test_nothing_is_left_behind(outcome: Run, capfd: pytest.CaptureFixture[str]) -> None:
    captured = capfd.readouterr()
    assert "NOISE" not in captured.out + captured.err
    assert not Path("/tmp/initcheck-atexit").exists()
    assert not Path("~/initcheck-test-new.txt").expanduser().exists()
    left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if "987654" in (p.info["cmdline"] or [])]
    assert left == []
    ours = psutil.Process().children(recursive=True)
    assert all("resource_tracker" in " ".join(p.cmdline()) or "forkserver" in " ".join(p.cmdline()) for p in ours)


def _good(folder: Path, count: int) -> list[Path]:
    paths = []
    for index in range(count):
        path = folder / f"net{index}.py"
        body = "nn.init.xavier_uniform(self.fc.weight)" if index % 2 else "self.width = 2"
        path.write_text(MODELS.format(body=indent(body, " " * 8)), encoding="utf-8")
        paths.append(path)
    return paths


def test_the_order_does_not_depend_on_the_number_of_jobs(tmp_path: Path) -> None:
    """The same bytes with one job and with four (but for the time it took), in every format."""
    paths = _good(tmp_path, 5)
    printed: list[list[str]] = []
    for jobs in (1, 4):
        config = Config(jobs=jobs, show_info=True)
        done = run(paths, config)
        files = tuple(replace(f, models=tuple(replace(m, seconds=0.0) for m in f.models)) for f in done.result.files)
        result = replace(done.result, files=files, seconds=0.0)
        printed.append([render(result, done.sources, replace(config, output_format=form)) for form in FORMATS])
    assert printed[0] == printed[1]
    assert all("net3.py" in text for text in printed[0])


@pytest.mark.slow
def test_where_there_is_no_fork_processes_are_spawned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_CONTEXT", [])
    monkeypatch.setattr(worker.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    text = MODELS.format(body="        os._exit(7)")
    (tmp_path / "net.py").write_text(text, encoding="utf-8")
    (file,) = run([tmp_path / "net.py"], Config()).result.files
    assert worker._CONTEXT[0].get_start_method() == "spawn"
    assert [report.model for report in file.models] == ["Good", "Last"]
    assert [f.code for f in file.findings] == ["IC002"]


def test_a_current_folder_that_is_gone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main([str(tmp_path)]) == 2
    assert "the current folder no longer exists" in capsys.readouterr().err
