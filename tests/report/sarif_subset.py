"""The part of the SARIF 2.1.0 schema (OASIS, errata 01) that initcheck's logs use, stricter than the whole.

Restated from the specification, section by section: no property that it does not define, its required ones, its types
and enumerations. The complete schema is used as well if the environment variable ``SARIF_SCHEMA`` names a copy of
``sarif-schema-2.1.0.json``.
"""

from __future__ import annotations

from typing import Any

STRING = {"type": "string"}
TEXT = {"type": "string", "minLength": 1}
BAG = {"type": "object"}
POSITIVE = {"type": "integer", "minimum": 1}
INDEX = {"type": "integer", "minimum": -1}
LEVEL = {"enum": ["none", "note", "warning", "error"]}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def listed(item: Any, **limits: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, **limits}


MESSAGE = closed(["text"], text=TEXT, markdown=STRING)  # 3.11
ARTIFACT_LOCATION = closed([], uri={"type": "string", "format": "uri-reference"}, uriBaseId=STRING, index=INDEX)  # 3.4
REGION = closed(["startLine"], startLine=POSITIVE, startColumn=POSITIVE, endLine=POSITIVE, endColumn=POSITIVE)  # 3.30
PHYSICAL = closed(["artifactLocation"], artifactLocation=ARTIFACT_LOCATION, region=REGION)  # 3.29
LOGICAL = closed([], fullyQualifiedName=STRING, name=STRING, kind=STRING)  # 3.33
LOCATION = closed(  # 3.28
    [], id=INDEX, physicalLocation=PHYSICAL, logicalLocations=listed(LOGICAL, uniqueItems=True), message=MESSAGE
)
RULE = closed(  # 3.49
    ["id"],
    id=TEXT,
    name=STRING,
    shortDescription=MESSAGE,
    fullDescription=MESSAGE,
    help=MESSAGE,
    helpUri={"type": "string", "format": "uri"},
    defaultConfiguration=closed([], level=LEVEL),
    properties=BAG,
)
DRIVER = closed(  # 3.19
    ["name"],
    name=TEXT,
    version=STRING,
    semanticVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
    informationUri={"type": "string", "format": "uri"},
    rules=listed(RULE, uniqueItems=True),
)
RESULT = closed(  # 3.27
    ["message"],
    ruleId=STRING,
    ruleIndex=INDEX,
    level=LEVEL,
    message=MESSAGE,
    locations=listed(LOCATION),
    relatedLocations=listed(LOCATION, uniqueItems=True),
    partialFingerprints={"type": "object", "additionalProperties": STRING},
    properties=BAG,
)
INVOCATION = closed(  # 3.20
    ["executionSuccessful"],
    executionSuccessful={"type": "boolean"},
    exitCode={"type": "integer"},
    workingDirectory=ARTIFACT_LOCATION,
    toolExecutionNotifications=listed(closed(["message"], level=LEVEL, message=MESSAGE)),  # 3.58
)
RUN = closed(  # 3.14
    ["tool"],
    tool=closed(["driver"], driver=DRIVER),  # 3.18
    invocations=listed(INVOCATION),
    originalUriBaseIds={"type": "object", "additionalProperties": ARTIFACT_LOCATION},
    artifacts=listed(closed([], location=ARTIFACT_LOCATION), uniqueItems=True),  # 3.24
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results=listed(RESULT),
)
LOG = closed(  # 3.13
    ["version", "runs"],
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"enum": ["2.1.0"]},
    runs=listed(RUN),
)
