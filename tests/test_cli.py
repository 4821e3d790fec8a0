"""The command line: options, exit codes, streams. The engine is replaced by one that says what it was given."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from initcheck import __version__, engine
from initcheck.cli import main
from initcheck.config import Config, InputSpec
from initcheck.findings import Finding, Location, Severity
from initcheck.progress import Progress
from initcheck.results import FileResult, FixSummary, RunResult

FINDING = Finding("IC202", "forward-vanishing", Severity.ERROR, "the signal vanishes", Location("net.py", 3, 5, 3, 9))


class FakeEngine:
    """Stands for ``engine.run``: keeps its arguments, gives back what it was told to."""

    def __init__(self) -> None:
        self.findings: tuple[Finding, ...] = ()
        self.errors: tuple[str, ...] = ()
        self.error: BaseException | None = None
        self.fixes: FixSummary | None = None
        self.paths: list[str] = []
        self.config = Config()
        self.seconds = 0.0

    def run(self, paths: Sequence[str | Path], config: Config, tell: Callable[[str], None] | None = None) -> engine.Run:
        self.paths, self.config = [str(path) for path in paths], config
        if tell is not None:
            tell("net.py: Net")
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        file = FileResult("net.py", findings=self.findings, fixes=self.fixes)
        return engine.Run(RunResult((file,), self.errors, 0.1), {"net.py": "a\nb\nx = bad(1)\n"})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(engine, "run", fake.run)
    monkeypatch.chdir(tmp_path)
    return fake


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("severity", "fail_on", "code"),
    [
        (None, None, 0),
        ("info", None, 0),
        ("warning", None, 1),
        ("error", None, 1),
        ("warning", "error", 0),
        ("error", "error", 1),
        ("info", "info", 1),
        ("error", "never", 0),
    ],
)
def test_the_exit_code_follows_fail_on(fake: FakeEngine, severity: str | None, fail_on: str | None, code: int) -> None:
    if severity:
        fake.findings = (replace(FINDING, severity=Severity.parse(severity)),)
    assert main(["--fail-on", fail_on] if fail_on else []) == code


def test_an_error_of_the_run_wins_over_findings(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.findings, fake.errors = (FINDING,), ("gone.py: no such file or folder",)
    assert main(["--fail-on", "never"]) == 2
    captured = capsys.readouterr()
    assert "initcheck: error: gone.py: no such file or folder" in captured.err
    assert "IC202" in captured.out


def test_a_crash_is_exit_code_2_and_one_line(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = RuntimeError("boom")
    assert main(["."]) == 2
    captured = capsys.readouterr()
    assert captured.err.strip().splitlines()[-1].startswith("initcheck: internal error: RuntimeError: boom")
    assert "Traceback" not in captured.err
    assert main([".", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_shows_its_traceback_only_on_demand(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.errors = ("defect in initcheck: rule IC202 crashed\nTraceback (most recent call last):",)
    assert main([]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_130(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = KeyboardInterrupt()
    assert main([]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--bogus"], "--bogus"),
        (["--select", "IC999"], "unknown code 'IC999'"),
        (["--select", ","], "expected codes such as IC2,IC801"),
        (["--ignore", "IC2,XX1"], "unknown code 'XX1'"),
        (["--fail-on", "fatal"], "fatal"),
        (["--output-format", "xml"], "xml"),
        (["--timeout", "0"], "above 0"),
        (["--jobs", "0"], "above 0"),
        (["--memory-limit", "8"], "expected a size such as"),
        (["--seeds", "x"], "not a valid integer"),
        (["--precision", "fp8"], "'fp8' is not one of 'fp32', 'bf16', 'fp16'"),
        (["--data", "none.pt"], "no such file"),
        (["--data", "data.csv"], "expected FILE.pt or FILE.py:LOADER"),
        (["--device", "tpu"], "expected cpu, cuda, cuda:N or mps"),
        (["--exclude", "!"], "is not a pattern"),
        (["--model", "gone.py:Net"], "no such file"),
        (["--model", "net"], "expected FILE.py:NAME"),
        (["--input", "float32[2]"], "--input needs exactly one model"),
        (["--config", "x.toml", "--isolated"], "exclude each other"),
        (["--config", "x.toml"], "x.toml: cannot be read"),
        (["explain"], "Missing argument"),
        (["explain", "IC999"], "there is no rule 'IC999'"),
        (["rules", "src"], "unexpected extra argument"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2_with_a_reason_on_stderr(
    fake: FakeEngine, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.out == ""


def test_a_bad_configuration_file_is_exit_code_2(
    fake: FakeEngine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.initcheck]\nselekt = []\n")
    assert main([]) == 2
    assert "pyproject.toml: [tool.initcheck] unknown key 'selekt' (did you mean 'select'?)" in capsys.readouterr().err
    assert main(["--isolated"]) == 0


# --- arguments --------------------------------------------------------------------------------------------------------


def test_no_path_means_the_current_folder(fake: FakeEngine) -> None:
    assert main([]) == 0
    assert fake.paths == ["."]


def test_a_path_called_like_a_command_can_be_checked(fake: FakeEngine) -> None:
    assert main(["./rules"]) == 0
    assert fake.paths == ["./rules"]
    assert main(["check", "rules", "explain"]) == 0
    assert fake.paths == ["rules", "explain"]
    fake.paths = []
    assert main(["rules"]) == 0
    assert fake.paths == []


def test_every_option_reaches_the_engine(fake: FakeEngine, tmp_path: Path) -> None:
    arguments = (
        "a.py b --select IC2,IC801 --select ic7 --ignore IC201 --fail-on error --exclude build/,*_pb2.py --mode eval "
        "--timeout 2.5 --memory-limit 500M -j 3 --fix --safe-fixes-only --diff --measure --device cuda:1 --seeds 4 "
        "--precision bf16 --train-steps 9 "
        "--output-format json "
        "--output-file out.json --show-info --statistics -q --debug --force-exclude"
    )
    assert main(arguments.split()) == 0
    assert fake.paths == ["a.py", "b"]
    config = fake.config
    assert (config.select, config.ignore, config.fail_on) == (("IC2", "IC801", "IC7"), ("IC201",), Severity.ERROR)
    assert config.excludes("x_pb2.py")
    assert (config.mode, config.timeout, config.jobs, config.device, config.seeds) == ("eval", 2.5, 3, "cuda:1", 4)
    assert (config.precision, config.train_steps) == ("bf16", 9)
    assert config.memory_limit == 500 << 20
    flags = ("fix", "safe_fixes_only", "diff", "measure", "show_info", "statistics", "quiet", "debug", "force_exclude")
    assert all(getattr(config, flag) for flag in flags)
    assert json.loads((tmp_path / "out.json").read_text())["findings"] == []


def test_a_flag_that_is_not_given_leaves_the_file_alone(fake: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.initcheck]\nshow-info = true\nmode = 'eval'\ntimeout = 9\n")
    assert main([]) == 0
    assert (fake.config.show_info, fake.config.mode, fake.config.timeout) == (True, "eval", 9.0)
    assert main(["--mode", "train"]) == 0
    assert fake.config.mode == "train"


def test_the_configuration_is_that_of_the_checked_project(fake: FakeEngine, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "pyproject.toml").write_text("[tool.initcheck]\nmode = 'eval'\n")
    (project / "src" / "a.py").write_text("")
    for paths in (["project/src/a.py"], ["project/src", "project"], ["project/src/a.py", "project/gone.py"]):
        assert main(paths) == 0
        assert fake.config.mode == "eval", paths
    assert main(["."]) == 0
    assert fake.config.mode == "train"


def test_a_model_on_the_command_line(fake: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("")
    assert main(["--model", "net.py:Net(width=2)", "--input", "float32[2,3]", "--input", "mask=bool[2]"]) == 0
    (spec,) = fake.config.models
    assert (spec.path, spec.expression, spec.is_call) == (str(tmp_path / "net.py"), "Net(width=2)", True)
    assert spec.inputs == (InputSpec("float32", (2, 3)),)
    assert spec.keyword_inputs == {"mask": InputSpec("bool", (2,))}
    assert fake.paths == ["net.py"]
    assert fake.config.only_listed_models


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_stdout_carries_only_the_report(fake: FakeEngine, capsys: pytest.CaptureFixture[str], form: str) -> None:
    fake.findings, fake.errors = (FINDING,), ("gone.py: no such file or folder",)
    assert main(["--output-format", form, "--statistics"]) == 2
    json.loads(capsys.readouterr().out)


def test_an_output_file_takes_the_report(fake: FakeEngine, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fake.findings = (FINDING,)
    assert main(["--output-file", "report.txt"]) == 1
    assert "IC202" in (tmp_path / "report.txt").read_text(encoding="utf-8")
    assert capsys.readouterr().out == ""
    assert main(["--output-file", "no/such/folder/report.txt"]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_the_diff_alone_is_on_stdout(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.findings = (FINDING,)
    fake.fixes = FixSummary((FINDING,), (), "--- a/net.py\n+++ b/net.py\n@@ -1 +1 @@\n-a\n+b\n")
    assert main(["--diff"]) == 1
    captured = capsys.readouterr()
    assert captured.out == fake.fixes.diff
    assert "would fix" in captured.err


@pytest.mark.parametrize(
    ("choice", "environment", "colored"),
    [("auto", {}, True), ("auto", {"NO_COLOR": "1"}, False), ("never", {}, False), ("always", {"NO_COLOR": "1"}, True)],
)
def test_colour_on_a_terminal(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch, choice: str, environment: dict[str, str], colored: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    fake.findings = (FINDING,)
    stdout = Terminal()
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["--color", choice]) == 1
    assert ("\x1b[" in stdout.getvalue()) is colored


def test_no_colour_into_a_pipe(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.findings = (FINDING,)
    assert main([]) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_a_stdout_that_lacks_a_character_gets_a_replacement(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.findings = (replace(FINDING, message="σ² vanishes"),)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main([]) == 1
    assert b"?? vanishes" in raw.getvalue()


def test_progress_speaks_only_after_a_while_and_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(patience=5) as tell:
        tell("a.py")
    assert capsys.readouterr().err == ""
    with Progress(patience=0.05, interval=5) as tell:
        tell("a.py: Net")
        time.sleep(0.3)
    captured = capsys.readouterr()
    assert captured.err == "initcheck: analysing a.py: Net (0 s)\n"
    assert captured.out == ""
    with Progress(enabled=False, patience=0.01) as tell:
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


# --- the process: torch, pipes, the console script -------------------------------------------------------------------


def run_python(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(engine.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["explain", "IC201"], 0),
        (["explain", "IC201", "--color", "always"], 0),
        (["rules"], 0),
        (["rules", "--output-format", "markdown"], 0),
        (["--select", "IC999"], 2),
        (["--config", "gone.toml"], 2),
        (["no_model.py"], 0),
        (["broken.py"], 1),
        (["gone.py"], 2),
        (["--select", "IC801", "deprecated.py"], 1),
    ],
)
def test_torch_is_not_imported_where_no_model_is_built(tmp_path: Path, arguments: list[str], code: int) -> None:
    (tmp_path / "no_model.py").write_text("print('hello')\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "deprecated.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = nn.Linear(2, 2)\n        nn.init.xavier_uniform(self.fc.weight)\n"
    )
    program = (
        "import sys\nfrom initcheck.cli import main\ncode = main(sys.argv[1:])\n"
        "print('IMPORTED', *(name for name in ('torch', 'libcst') if name in sys.modules))\nsys.exit(code)"
    )
    done = run_python(program, *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "IMPORTED"


def test_help_loads_neither_rich_nor_libcst(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom initcheck.cli import main\nmain(['--help'])\n"
        "print('IMPORTED', *sorted({'rich', 'libcst', 'torch', 'numpy', 'pathspec'} & set(sys.modules)))"
    )
    done = run_python(program, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "IMPORTED"
    for word in ("--select", "--fix", "--measure", "initcheck explain CODE", "initcheck rules", "Exit code"):
        assert word in done.stdout


def test_a_reader_that_leaves_early_causes_no_traceback(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    root = str(Path(engine.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "initcheck", "rules"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"initcheck {__version__}\n"


def test_explain_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "ic201", "zero-weight-symmetry"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# IC201 gain-mismatch\n")
    assert "# IC701 zero-weight-symmetry\n" in out


def test_rules_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "--output-format", "json"]) == 0
    listed: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert {"code", "name", "severity", "by_consequence", "level", "fix", "summary"} == set(listed[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a process alone")
def test_an_interrupt_does_not_wait_for_a_model_that_hangs(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(
        "import time\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(3, 3)\n"
        "        time.sleep(1000)\n\n"
        "    def forward(self, x):\n        return self.fc(x)\n"
    )
    root = str(Path(engine.__file__).parent.parent)
    command = [sys.executable, "-m", "initcheck", "hangs.py", "--timeout", "900"]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell runs behind it
    ) as process:
        try:
            assert process.stderr is not None
            assert any(b"Net" in line for line in process.stderr)  # progress tells that its constructor runs
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a process alone")
def test_an_interrupted_measurement_prints_what_is_done(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(64, 10)\n\n"
        "    def forward(self, x):\n        return self.fc(x)\n"
    )
    root = str(Path(engine.__file__).parent.parent)
    command = [sys.executable, "-m", "initcheck", "net.py", "--measure", "--train-steps", "10000000"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell runs behind it
    ) as process:
        try:
            assert process.stderr is not None
            assert any(b"training" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 130
            assert b"interrupted; this is what had been done" in err
            assert b"Net measured on cpu" in out
            assert b"broken off after: the pass" in out
        finally:
            process.kill()
