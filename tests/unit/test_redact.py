"""No secret passes, wherever a stream is cut; the rest stays as it is."""

import base64
import contextlib
import json
import re
import time
from urllib.parse import quote, quote_plus, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.redact import MASK, Redactor

KEY = "launch-" + "aB3_-" * 8
TOKEN = "launchrun-" + "Zz9_-" * 8

secrets = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=6, max_size=40)
noise = st.text(st.sampled_from("ab \n\r:/@.=é€-"), max_size=60)


@given(secret=secrets, before=noise, after=noise, cuts=st.lists(st.integers(0, 400)))
def test_a_known_secret_never_passes_however_the_stream_is_cut(
    secret: str, before: str, after: str, cuts: list[int]
) -> None:
    redactor = Redactor([secret])
    whole = f"{before}{secret}{after}".encode()
    stream = redactor.stream()
    ends = sorted({min(cut, len(whole)) for cut in cuts} | {len(whole)})
    pieces = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    out = b"".join([*(stream.feed(piece) for piece in pieces), stream.flush()])
    assert secret.encode() not in out
    assert secret not in redactor.text(whole.decode())


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300)))
def test_bytes_without_secrets_pass_unchanged(data: bytes, cuts: list[int]) -> None:
    harmless = data.replace(b"=", b"").replace(b":", b"").replace(b" ", b"")
    stream = Redactor(["a-very-special-secret"]).stream()
    ends = sorted({min(cut, len(harmless)) for cut in cuts} | {len(harmless)})
    pieces = [harmless[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert b"".join([*(stream.feed(p) for p in pieces), stream.flush()]) == harmless


@given(length=st.integers(70_000, 200_000), at=st.floats(0, 1))
def test_a_line_without_end_is_bounded_and_still_clean(length: int, at: float) -> None:
    secret = "S3cretS3cret"
    position = int(length * at)
    data = b"x" * position + b" " + secret.encode() + b" " + b"x" * (length - position)
    stream = Redactor([secret]).stream()
    out, held = b"", 0
    for start in range(0, len(data), 4096):
        piece = data[start : start + 4096]
        given_out = stream.feed(piece)
        out += given_out
        held = max(held, start + len(piece) - len(out))
    out += stream.flush()
    assert secret.encode() not in out
    assert MASK.encode() in out
    assert held <= 80 * 1024


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"key {KEY}.", f"key launch-{MASK}."),
        (f"{TOKEN} is it", f"launchrun-{MASK} is it"),
        ("git clone https://ada:pw@host/r.git", f"git clone https://ada:{MASK}@host/r.git"),
        ("--index https://token@host/simple", f"--index https://{MASK}@host/simple"),
        ("Authorization: Basic YXBpOmtleQ==", f"Authorization: Basic {MASK}"),
        ("authorization: bearer abcdefgh.ijk", f"authorization: bearer {MASK}"),
        ("WANDB_API_KEY=0123456789abcdef", f"WANDB_API_KEY={MASK}"),
        ('{"password": "geheim"}', f'{{"password": "{MASK}"}}'),
        ("ssh://git@host/r.git", "ssh://git@host/r.git"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("launch-abc-item-1 started", "launch-abc-item-1 started"),
        ("the token expired", "the token expired"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, clean: str) -> None:
    assert Redactor().text(text) == clean


def test_secrets_are_known_in_their_lines_and_as_urls_write_them() -> None:
    redactor = Redactor(["first-line\nsecond-line", "pa/ss wörd"])
    assert "second-line" not in redactor.text("see second-line here")
    assert redactor.text("x=pa%2Fss%20w%C3%B6rd&y") == f"x={MASK}&y"


def encoded(secret: str, around: bytes) -> dict[str, bytes]:
    """The secret in the usual encodings, with something around it that moves it."""
    raw = around + secret.encode() + around
    return {
        "plain": raw,
        "json": json.dumps(raw.decode()).encode(),
        "json, not ascii": json.dumps(raw.decode(), ensure_ascii=False).encode(),
        "repr": repr(raw.decode()).encode(),
        "url": quote(raw, safe="").encode(),
        "url, lower": re.sub(r"%..", lambda m: m[0].lower(), quote(raw, safe="")).encode(),
        "url path": quote(raw).encode(),
        "form": quote_plus(raw).encode(),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "base64": base64.b64encode(raw),
        "base64, url-safe": base64.urlsafe_b64encode(raw),
    }


def in_pieces(redactor: Redactor, data: bytes, cuts: list[int]) -> bytes:
    stream = redactor.stream()
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return b"".join([*(stream.feed(piece) for piece in pieces), stream.flush()])


def unencoded(masked: bytes) -> bytes:
    """Everything that a reader could make of what is left."""
    text = masked.replace(b"*", b"")
    found = [masked, unquote_to_bytes(masked)]
    with contextlib.suppress(ValueError):
        found.append(bytes.fromhex(text.decode()))
    for skip in range(4):
        whole = masked.replace(b"*", b"A").strip(b'"')[skip:]
        for alphabet in (None, b"-_"):
            with contextlib.suppress(ValueError):
                found.append(base64.b64decode(whole + b"=" * (-len(whole) % 4), alphabet))
    return b"\0".join(found)


LETTERS = st.characters(min_codepoint=0x21, max_codepoint=0x17F, blacklist_categories=["C", "Z"])


@given(
    secret=st.text(LETTERS, min_size=8, max_size=60),
    around=st.sampled_from([b"", b".", b"..", b"...", b"user:", b'"', "é".encode()]),
    cuts=st.lists(st.integers(0, 300), max_size=5),
)
def test_no_usual_encoding_hides_a_secret_however_it_is_cut(
    secret: str, around: bytes, cuts: list[int]
) -> None:
    for form, data in encoded(secret, around).items():
        masked = in_pieces(Redactor([secret]), data, cuts)
        assert len(masked) == len(data), form
        assert secret.encode() not in unencoded(masked), (form, masked)


@pytest.mark.parametrize("secret", [KEY, TOKEN, 'pa/ss+wörd&=?"\\x', "a" * 40, "0123456789abcdef"])
@pytest.mark.parametrize("around", [b"", b"x", b"xy", b"xyz"])
def test_at_every_cut_the_same_is_masked(secret: str, around: bytes) -> None:
    for form, data in encoded(secret, around).items():
        whole = in_pieces(Redactor([secret]), data, [])
        assert whole.count(b"*") >= min(6, len(secret)), (form, data, whole)
        for cut in range(len(data)):
            assert in_pieces(Redactor([secret]), data, [cut]) == whole, (form, cut)


@pytest.mark.parametrize(
    "token",
    [
        KEY,
        TOKEN,
        "ghp_" + "aB3" * 12,
        "github_pat_" + "11ABCDEFG0" * 8,
        "glpat-" + "x1_y" * 5,
        "AKIA" + "Q7" * 8,
        "hf_" + "aBcDe" * 7,
        "sk-proj-" + "a1B2" * 12,
        "xoxb-" + "123456-" * 4,
        "AIza" + "x_1-Y" * 7,
        "wandb_v1_" + "Ab1" * 20,
        "npm_" + "a1" * 18,
        "eyJ" + "hbGciOi1" * 3 + ".eyJ" + "zdWIi1" * 4 + "." + "sig1" * 8,
        "https://ada:s3cret@host.example/r.git",
        "postgresql://launch:s3cret@db/x",
        "https://0123456789abcdef0123@host/simple",
    ],
)
def test_tokens_of_known_shapes_are_masked_at_every_cut(token: str) -> None:
    data = f"before {token} after\n".encode()
    whole = in_pieces(Redactor(), data, [])
    assert token.encode() not in whole
    assert len(whole) == len(data)
    for cut in range(len(data)):
        assert in_pieces(Redactor(), data, [cut]) == whole


@pytest.mark.parametrize(
    "text",
    [
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "risk-adjusted-return-of-the-portfolio-in-percent",
        "sk-learn-contrib-packages-of-interest-to-many-users",
        "pad_token: [PAD], eos_token = '</s>', num_tokens: 4096",
        "ssh://git@host/r.git and git@host:o/r.git, mail ada@host",
        "http://host:8080/a@b?x=1:2@3",
        "ghp_short, hf_model_name, launch-agent-1, npm_config_cache",
        " 10%|█         | 1/10 [00:01<00:09]\r 20%|██        |",
    ],
)
def test_ordinary_output_is_not_masked(text: str) -> None:
    data = text.encode()
    assert in_pieces(Redactor([KEY]), data, [7, 19]) == data


def test_secrets_that_overlap_are_masked_together() -> None:
    redactor = Redactor(["abcdefgh", "efghijkl"])
    assert in_pieces(redactor, b"-abcdefghijkl-", []) == b"-************-"
    for cut in range(14):
        assert in_pieces(redactor, b"-abcdefghijkl-", [cut]) == b"-************-"


def test_only_what_may_become_a_secret_waits() -> None:
    stream = Redactor(["S3cretS3cret"]).stream()
    assert stream.feed(b"50%") == b"50%"
    assert stream.feed(b" S3cr") == b" "
    assert stream.holds_back
    assert stream.feed(b"ipt") == b"S3cript"
    assert not stream.holds_back
    assert stream.feed(b"S3cretS") == b""
    # The output ends in the middle of a secret.
    assert stream.flush() == b"*" * 7


def test_a_redactor_knows_what_its_base_learns_later() -> None:
    base = Redactor(["first-secret"])
    own = Redactor(["own-secret-1"], base=base)
    stream = own.stream()
    assert stream.feed(b"first-secret own-secret-1 later-secret\n").endswith(b"later-secret\n")
    base.add("later-secret")
    assert stream.feed(b"later-secret\n") == b"*" * 12 + b"\n"
    assert base.text("own-secret-1") == "own-secret-1"


def test_short_values_are_no_secrets() -> None:
    assert Redactor(["a", "true"]).text("a true banana") == "a true banana"


@pytest.mark.parametrize("part", ["a.", "a-", "http://", "a://b", "token ", "basic "])
def test_a_long_text_takes_time_by_its_length(part: str) -> None:
    """What submitters write is cleaned on the event loop, where the heartbeat waits for it."""
    text = part * (256 * 1024 // len(part))
    before = time.process_time()
    Redactor(["a secret"]).text(text)
    assert time.process_time() - before < 5  # by the square of it: minutes
