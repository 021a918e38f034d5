"""Pure parts of artifacts: manifests, signed URLs, schemas of inputs."""

import json
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest

from agent.control.auth.signing import SigningKeys
from agent.control.files.manifest import parse_manifest
from agent.control.files.signed_urls import SignedUrls
from agent.control.services.input_schemas import input_checks, to_json_schema
from agent.control.store.ids import new_artifact_id
from agent.model.errors import InvalidInputError, PermissionDeniedError

LINKS = SignedUrls(SigningKeys((b"k",)), "http://plane", 60.0)
EMPTY = "1B2M2Y8AsgTpgAmY7PhCfg=="


def manifest(**contents: object) -> bytes:
    return json.dumps({"version": 1, "contents": contents}).encode()


def test_entries_come_by_path_and_references_have_no_content():
    found = parse_manifest(
        manifest(b={"digest": EMPTY, "size": 0}, a={"digest": "etag", "ref": "s3://x", "size": 7})
    )
    assert [(each.path, each.md5, each.ref) for each in found] == [
        ("a", None, "s3://x"),
        ("b", "d41d8cd98f00b204e9800998ecf8427e", None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "no object `contents`"),
        (manifest(**{"/etc/passwd": {"digest": EMPTY}}), "leads out of the artifact"),
        (manifest(**{"a/../../b": {"digest": EMPTY}}), "leads out of the artifact"),
        (manifest(**{"a\0": {"digest": EMPTY}}), "is not a path"),
        (manifest(**{"": {"digest": EMPTY}}), "is not a path"),
        (manifest(a={"digest": "nonsense", "size": 1}), "not a digest of an artifact's file"),
        (manifest(a={"digest": EMPTY, "size": -1}), "no valid digest and size for 'a'"),
        (manifest(a={"digest": EMPTY, "size": True}), "no valid digest and size for 'a'"),
        (manifest(a=[]), "no valid digest and size for 'a'"),
        (manifest(a={"digest": EMPTY, "size": 1 << 63}), "no valid digest and size for 'a'"),
        (manifest(a={"digest": "\ud800", "ref": "s3://x"}), "no valid digest and size for 'a'"),
        (manifest(**{"a\ud800": {"digest": EMPTY}}), "is not a path"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_by_the_path(text, message):
    with pytest.raises(InvalidInputError, match=message):
        parse_manifest(text)


def _parts(address: str) -> tuple[str, str, str]:
    split = urlsplit(address)
    query = parse_qs(split.query)
    return split.path, query["expires"][0], query["signature"][0]


def test_an_address_names_the_file_and_is_good_for_its_subject_only():
    links = SignedUrls(SigningKeys((b"k" * 32,)), "http://plane:1", 60.0)
    path, expires, signature = _parts(links.content("read", "ann", "0" * 32, "lib/a b?.py"))
    assert path.endswith("/a%20b%3F.py")
    links.check(("read", "content", "ann", "0" * 32), expires, signature)
    for subject, key in (
        (("write", "content", "ann", "0" * 32), b"k" * 32),
        (("read", "content", "ann", "1" * 32), b"k" * 32),
        (("read", "content", "ann", "0" * 32), b"l" * 32),
    ):
        with pytest.raises(PermissionDeniedError, match="signature"):
            SignedUrls(SigningKeys((key,)), "", 60.0).check(subject, expires, signature)


def test_an_old_address_is_good_no_more():
    links = SignedUrls(SigningKeys((b"k" * 32,)), "", -1.0)
    _, expires, signature = _parts(links.run_file("write", "ann", "r", "a/b.txt"))
    with pytest.raises(PermissionDeniedError, match="has expired"):
        links.check(("write", "run-file", "ann", "r", "a/b.txt"), expires, signature)


@pytest.mark.parametrize("path", ["..", "a/.", ""])
def test_a_name_that_paths_swallow_is_replaced(path):
    address = LINKS.content("read", "ann", "0" * 32, path)
    assert urlsplit(address).path.endswith("/file")


def test_half_a_character_in_a_name_is_replaced():
    address = LINKS.content("read", "ann", "0" * 32, "a\ud800")
    assert urlsplit(address).path.endswith("/a%3F")


def test_ids_of_artifacts_can_stand_in_paths():
    ids = {new_artifact_id() for _ in range(500)}
    assert len(ids) == 500
    assert not set("".join(ids)) & set("+/=")


def test_required_marks_become_a_list_at_every_depth():
    schema = {
        "type": "object",
        "required": ["b"],
        "properties": {
            "a": {
                "type": "object",
                "required": True,
                "properties": {"x": {"type": "integer", "required": True}},
            },
            "b": {"type": "string", "required": False},
            "required": {"type": "array", "items": {"type": "string", "enum": ["x"]}},
        },
    }
    rules = to_json_schema(schema)
    jsonschema.Draft202012Validator.check_schema(rules)
    assert rules["required"] == ["b", "a"]
    assert rules["properties"]["a"]["required"] == ["x"]
    assert "required" not in rules["properties"]["b"]
    assert rules["properties"]["required"]["type"] == "array"


def check_inputs(schemas, overrides):
    for check in input_checks(schemas, overrides):
        check.run()


def test_a_schema_that_is_none_is_named():
    with pytest.raises(InvalidInputError, match=r"schema of `overrides\.run_config`"):
        check_inputs({"@wandb.config": {"type": "nonsense"}}, {"run_config": {}})


@pytest.mark.parametrize("required", [[{"a": 1}], [["x"]], [1, "a"], "a", {"a": 1}])
def test_a_list_of_required_names_that_is_none_is_named_or_ignored(required):
    schema = {"properties": {"a": {"required": True}}, "required": required}
    with pytest.raises(InvalidInputError, match=r"schema of|breaks the rule `required"):
        check_inputs({"@wandb.config": schema}, {"run_config": {}})


@pytest.mark.parametrize("target", ["#/$defs/missing", "http://127.0.0.1:9/schema.json"])
def test_a_reference_to_nowhere_in_a_schema_is_named_and_nothing_is_fetched(target):
    schema = {"type": "object", "properties": {"a": {"$ref": target}}}
    with pytest.raises(InvalidInputError, match=r"schema of `overrides\.run_config`"):
        check_inputs({"@wandb.config": schema}, {"run_config": {"a": 1}})


def test_patterns_are_checked_and_cannot_keep_the_server_busy():
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    check_inputs({"@wandb.config": schema}, {"run_config": {"a": "a" * 64}})
    with pytest.raises(InvalidInputError, match="breaks the rule `pattern"):
        check_inputs({"@wandb.config": schema}, {"run_config": {"a": "a" * 64 + "b"}})


def test_jobs_without_schemas_take_anything():
    check_inputs({}, {"run_config": {"a": 1}, "files": {"x": {}}})
    check_inputs({"@wandb.config": None, "files": None}, {"run_config": {"a": 1}})
