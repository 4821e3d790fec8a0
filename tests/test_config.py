"""Configuration: what is read, what overrides what, and errors that name file, key and what was expected."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from initcheck.config import Config, ConfigError, InputSpec, ModelSpec
from initcheck.config_file import OPTIONS, find_config, load_config, parse_codes, parse_inputs, parse_patterns
from initcheck.findings import Severity


def write(folder: Path, text: str, name: str = "pyproject.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def table(folder: Path, body: str) -> Config:
    write(folder, f"[tool.initcheck]\n{body}")
    return load_config(folder)


def test_every_key_of_the_table_is_read(tmp_path: Path) -> None:
    write(tmp_path, "", "net.py")
    config = table(
        tmp_path,
        """
        select = ["IC2", "IC801"]
        ignore = ["gain-mismatch"]
        fail-on = "error"
        exclude = ["build/"]
        force-exclude = true
        mode = "eval"
        timeout = 5
        jobs = 3
        device = "cuda:1"
        seeds = 4
        safe-fixes-only = true
        output-format = "json"
        show-info = true
        statistics = true
        [tool.initcheck.per-file-ignores]
        "tests/" = ["IC7"]
        [[tool.initcheck.models]]
        target = "net.py:Net"
        args = [10, [1, 2]]
        kwargs = { width = 64 }
        inputs = ["float32[2,3,8,8]", 3, true, ["float32[2,4]", "float32[2,4]"]]
        [[tool.initcheck.models]]
        target = "net.py:build.net(depth=2)"
        inputs = { tokens = "long[2,16]<100" }
        """,
    )
    assert config.select == ("IC2", "IC801")
    assert config.ignore == ("IC201",)
    assert config.fail_on is Severity.ERROR
    assert all((config.force_exclude, config.safe_fixes_only, config.show_info, config.statistics))
    assert (config.mode, config.timeout, config.jobs, config.device, config.seeds) == ("eval", 5.0, 3, "cuda:1", 4)
    assert config.output_format == "json"
    assert config.source == str(tmp_path / "pyproject.toml")
    first, second = config.models
    assert first == ModelSpec(
        str(tmp_path / "net.py"),
        "Net",
        (10, [1, 2]),
        {"width": 64},
        (
            InputSpec("float32", (2, 3, 8, 8)),
            3,
            True,
            (InputSpec("float32", (2, 4)), InputSpec("float32", (2, 4))),
        ),
    )
    assert (second.name, second.is_call) == ("build.net", True)
    assert second.keyword_inputs == {"tokens": InputSpec("int64", (2, 16), 100)}
    assert set(OPTIONS) >= {"select", "ignore", "per-file-ignores", "fail-on", "exclude", "models"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('selct = ["IC2"]', r"unknown key 'selct' \(did you mean 'select'\?\)"),
        ('select = "IC2"', "select: expected a list of strings, got a string"),
        ("select = [2]", "select: expected a list of strings"),
        ("select = []", "select: is empty"),
        ('ignore = ["IC999"]', "ignore: unknown code 'IC999'"),
        ('ignore = ["IC20x"]', "ignore: unknown code 'IC20x'"),
        ('ignore = [""]', "ignore: unknown code ''"),
        ('ignore = ["gain-mismach"]', r"unknown code 'gain-mismach' \(did you mean 'gain-mismatch'\?\)"),
        ('fail-on = "fatal"', "fail-on: expected one of error, warning, info, never; got 'fatal'"),
        ("fail-on = 3", "fail-on: expected one of .* got a number"),
        ('exclude = "build"', "exclude: expected a list of strings, got a string"),
        ('exclude = ["!"]', "exclude: '!' is not a pattern"),
        ('exclude = ["[z-a]"]', "exclude: '\\[z-a\\]' is not a pattern"),
        ('exclude = [" "]', "exclude: ' ' is not a pattern"),
        ("per-file-ignores = 1", "per-file-ignores: expected a table of pattern = \\[codes\\], got a number"),
        ('per-file-ignores = {"a.py" = ["IC998"]}', "per-file-ignores: 'a.py': unknown code 'IC998'"),
        ('per-file-ignores = {"a.py" = "IC2"}', "per-file-ignores: 'a.py': expected a list of strings"),
        ("timeout = 0", "timeout: expected a positive number of seconds, got 0"),
        ("timeout = true", "timeout: expected a positive number of seconds, got true or false"),
        ("timeout = nan", "timeout: expected a positive number"),
        ("jobs = 1.5", "jobs: expected a whole number of at least 1, got 1.5"),
        ("seeds = -1", "seeds: expected a whole number"),
        ('mode = "test"', "mode: expected one of train, eval; got 'test'"),
        ('device = "tpu"', "device: expected cpu, cuda, cuda:N or mps; got 'tpu'"),
        ("show-info = 1", "show-info: expected true or false, got a number"),
        ("models = {}", "models: expected tables"),
        ("models = [{}]", "models: number 1: expected target"),
        ('models = [{target = "net.py"}]', "models: number 1: 'net.py' is not a model: expected FILE.py:NAME"),
        ('models = [{target = "gone.py:Net"}]', "models: number 1: no such file: .*gone.py"),
        ('models = [{target = "net.py:1 + 1"}]', "neither a name nor a call"),
        ('models = [{target = "net.py:"}]', "neither a name nor a call"),
        ('models = [{target = "net.py:Net", input = []}]', r"unknown key 'input' \(did you mean 'inputs'\?\)"),
        ('models = [{target = "net.py:Net", args = 1}]', "args: expected a list, got a number"),
        ('models = [{target = "net.py:Net", kwargs = []}]', "kwargs: expected a table, got a list"),
        ('models = [{target = "net.py:Net()", args = [1]}]', "is a call already"),
        ('models = [{target = "net.py:Net", inputs = ["floot32[2]"]}]', "unknown dtype 'floot32' .*'float32'"),
        ('models = [{target = "net.py:Net", inputs = ["[2,3]"]}]', "is not an input: expected dtype"),
        ('models = [{target = "net.py:Net", inputs = ["float32[2,-1]"]}]', "is not an input"),
        ('models = [{target = "net.py:Net", inputs = "float32[2]"}]', "inputs: expected a list or"),
    ],
)
def test_a_mistake_is_an_error_that_names_file_key_and_expectation(tmp_path: Path, body: str, expected: str) -> None:
    write(tmp_path, "", "net.py")
    with pytest.raises(ConfigError, match=expected) as caught:
        table(tmp_path, body)
    assert str(tmp_path / "pyproject.toml") in str(caught.value)
    assert "[tool.initcheck]" in str(caught.value)


def test_bad_toml_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "[tool.initcheck\n")
    with pytest.raises(ConfigError, match=r"pyproject.toml: not valid TOML"):
        load_config(tmp_path)


def test_a_file_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "initcheck.toml").write_bytes(b"# \xff\n")
    with pytest.raises(ConfigError, match=r"initcheck.toml: not UTF-8"):
        load_config(tmp_path)


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.toml: cannot be read: No such file"):
        load_config(tmp_path, file=tmp_path / "gone.toml")


def test_the_nearest_file_with_a_table_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    outer = write(tmp_path, "[tool.initcheck]\nmode = 'eval'\n")
    write(tmp_path / "a", "[tool.other]\n")
    assert find_config(inner) == outer
    standalone = write(tmp_path / "a", "timeout = 3\n", "initcheck.toml")
    assert find_config(inner) == standalone
    assert load_config(inner).timeout == 3.0
    assert load_config(inner, isolated=True) == Config()


def test_no_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_config(tmp_path, isolated=True) == Config()
    assert Config().fail_on is Severity.WARNING


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, "[tool.initcheck]\nmode = 'eval'\nseeds = 2\nselect = ['IC2']\nignore = ['IC201', 'IC801']\n")
    config = load_config(tmp_path, {"mode": "train"})
    assert (config.mode, config.seeds, config.ignore) == ("train", 2, ("IC201", "IC801"))
    assert load_config(tmp_path, {"ignore": ("IC202",)}).ignore == ("IC201", "IC801", "IC202")
    chosen = load_config(tmp_path, {"select": ("IC801",)})
    assert chosen.selects("IC801", "a.py")
    assert not chosen.selects("IC202", "a.py")


def test_patterns_of_the_command_line_join_those_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, "[tool.initcheck]\nexclude = ['gen/']\n")
    config = load_config(tmp_path, {"exclude": (parse_patterns(["*_pb2.py"], tmp_path),)})
    assert config.excludes(tmp_path / "gen" / "a.py")
    assert config.excludes(tmp_path / "x" / "a_pb2.py")
    assert not config.excludes(tmp_path / "x" / "a.py")


@pytest.mark.parametrize(
    ("select", "ignore", "code", "wanted"),
    [
        (("IC",), (), "IC201", True),
        (("IC2",), (), "IC801", False),
        (("IC",), ("IC2",), "IC201", False),
        (("IC201",), ("IC2",), "IC201", True),
        (("IC2",), ("IC201",), "IC201", False),
        (("IC201",), ("IC201",), "IC201", False),
        (("IC2",), (), "IC001", True),  # what was not checked is said
        (("IC2",), (), "IC002", True),
        (("IC2",), (), "IC003", False),
        (("IC",), ("IC0",), "IC001", False),
        (("IC2",), ("IC002",), "IC002", False),
    ],
)
def test_the_longer_prefix_wins(select: tuple[str, ...], ignore: tuple[str, ...], code: str, wanted: bool) -> None:
    assert Config(select=select, ignore=ignore).selects(code, "a.py") is wanted


def test_per_file_ignores_are_relative_to_the_file_they_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = table(tmp_path, 'per-file-ignores = {"/tests/" = ["IC7"], "*_old.py" = ["IC801"]}')
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        monkeypatch.chdir(folder)
        assert not config.selects("IC701", tmp_path / "tests" / "a.py")
        assert config.selects("IC701", tmp_path / "sub" / "tests" / "a.py")
        assert config.selects("IC201", tmp_path / "tests" / "a.py")
    assert not config.selects("IC801", "net_old.py")


def test_folders_are_excluded_by_a_pattern_with_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = table(tmp_path, 'exclude = ["build/", "!build/keep.py"]')
    (tmp_path / "x" / "build").mkdir(parents=True)
    (tmp_path / "build").write_text("a file\n")
    assert config.excludes(tmp_path / "x" / "build")
    assert not config.excludes(tmp_path / "build")
    monkeypatch.chdir(tmp_path / "x")
    assert config.excludes("build")
    assert not config.excludes(".")


def test_rules_that_need_no_model_need_no_model() -> None:
    assert Config().needs_models
    assert not Config(select=("IC801",)).needs_models
    assert Config(select=("IC801",), measure=True).needs_models
    assert Config(select=("IC801", "IC202")).needs_models


def test_codes_may_be_prefixes_names_or_everything() -> None:
    assert parse_codes(["ic2", " IC801", "zero-weight-symmetry", "ALL"]) == ("IC2", "IC801", "IC701", "IC")


@pytest.mark.parametrize("text", ["float32[2,3]", "int64[2,16]<50257", "bool[]"])
def test_inputs_read_as_they_write(text: str) -> None:
    assert str(InputSpec.parse(text)) == text


def test_inputs_by_position_and_by_keyword() -> None:
    assert parse_inputs(["float32[1]", "mask=bool[2, 5]"]) == (
        (InputSpec("float32", (1,)),),
        {"mask": InputSpec("bool", (2, 5))},
    )
    with pytest.raises(ValueError, match="only integer inputs have an upper bound"):
        parse_inputs(["float32[1]<3"])


def test_a_configuration_travels_to_a_worker(tmp_path: Path) -> None:
    write(tmp_path, "", "net.py")
    config = table(tmp_path, 'exclude = ["a/"]\nmodels = [{target = "net.py:Net", kwargs = {a = 1}}]')
    assert pickle.loads(pickle.dumps(config)) == config
