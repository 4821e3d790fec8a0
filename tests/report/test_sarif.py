"""SARIF 2.1.0: valid, and what a code scanning service needs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import report_samples as samples
import sarif_subset

from initcheck.config import Config
from initcheck.findings import Location
from initcheck.report import render
from initcheck.results import FileResult, RunResult


def log(result: RunResult, sources: dict[str, str] = samples.SOURCES, **options: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(render(result, sources, Config(output_format="sarif", **options)))
    return loaded


RUNS = {
    "findings": samples.run(),
    "clean": samples.CLEAN,
    "errors": samples.run(errors=("gone.py: no such file",)),
    "empty": RunResult(()),
}


@pytest.mark.parametrize("name", RUNS)
def test_logs_are_valid(name: str) -> None:
    document = log(RUNS[name], show_info=True)
    jsonschema.Draft7Validator(sarif_subset.LOG, format_checker=jsonschema.FormatChecker()).validate(document)
    complete = os.environ.get("SARIF_SCHEMA")
    if complete:
        schema = json.loads(Path(complete).read_text(encoding="utf-8"))
        jsonschema.validators.validator_for(schema)(schema).validate(document)


def test_a_result_points_at_its_rule_its_artifact_and_its_region() -> None:
    (run,) = log(samples.run())["runs"]
    first = run["results"][0]
    assert run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == first["ruleId"] == "IC202"
    place = first["locations"][0]["physicalLocation"]
    assert run["artifacts"][place["artifactLocation"]["index"]]["location"]["uri"] == "models/deep.py"
    assert place["region"] == {"startLine": 8, "startColumn": 39, "endLine": 8, "endColumn": 70}
    assert first["level"] == "error"
    assert first["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "Deep.layers.0.weight"
    assert first["relatedLocations"][0]["physicalLocation"]["region"]["startLine"] == 5


def test_a_rule_brings_its_page() -> None:
    rule = log(samples.run())["runs"][0]["tool"]["driver"]["rules"][0]
    assert rule["name"] == "ForwardVanishing"
    assert rule["shortDescription"]["text"]
    assert len(rule["help"]["markdown"]) > 100


def test_the_invocation_tells_whether_the_tool_did_its_job() -> None:
    (good,) = log(samples.run())["runs"][0]["invocations"]
    assert (good["executionSuccessful"], good["exitCode"]) == (True, 1)
    (bad,) = log(samples.run(errors=("gone.py: no such file",)))["runs"][0]["invocations"]
    assert (bad["executionSuccessful"], bad["exitCode"]) == (False, 2)
    assert bad["toolExecutionNotifications"][0]["message"]["text"] == "gone.py: no such file"


def test_the_fingerprint_stays_when_lines_above_move_and_changes_with_the_line() -> None:
    def fingerprint(finding_line: int, source: str) -> str:
        finding = replace(samples.DEPRECATED, location=Location("a.py", finding_line, 1, finding_line, 4))
        document = log(RunResult((FileResult("a.py", findings=(finding,)),)), {"a.py": source})
        text: str = document["runs"][0]["results"][0]["partialFingerprints"]["initcheck/v1"]
        return text

    assert fingerprint(1, "f(x)\n") == fingerprint(3, "\n\n    f(x)\n")
    assert fingerprint(1, "f(x)\n") != fingerprint(1, "g(x)\n")


def test_equal_lines_have_fingerprints_of_their_own() -> None:
    twice = tuple(replace(samples.DEPRECATED, location=Location("a.py", line, 1, line, 4)) for line in (1, 2))
    document = log(RunResult((FileResult("a.py", findings=twice),)), {"a.py": "f(x)\nf(x)\n"})
    first, second = (result["partialFingerprints"]["initcheck/v1"] for result in document["runs"][0]["results"])
    assert (first[-2:], second[-2:]) == (":1", ":2")
    assert first[:-2] == second[:-2]


def test_paths_are_uris(tmp_path: Path) -> None:
    outside = tmp_path / "a b.py"
    finding = replace(samples.DEPRECATED, location=Location(str(outside), 1))
    inside = replace(samples.DEPRECATED, location=Location("odd name%.py", 1))
    document = log(RunResult((FileResult("x.py", findings=(finding, inside)),)))
    uris = {
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in document["runs"][0]["results"]
    }
    assert uris == {outside.as_uri(), "odd%20name%25.py"}
