"""No secret passes, wherever a stream is cut; the rest stays as it is."""

import time

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


def test_short_values_are_no_secrets() -> None:
    assert Redactor(["a", "true"]).text("a true banana") == "a true banana"


@pytest.mark.parametrize("part", ["a.", "a-", "http://", "a://b", "token ", "basic "])
def test_a_long_text_takes_time_by_its_length(part: str) -> None:
    """What submitters write is cleaned on the event loop, where the heartbeat waits for it."""
    text = part * (256 * 1024 // len(part))
    before = time.process_time()
    Redactor(["a secret"]).text(text)
    assert time.process_time() - before < 5  # by the square of it: minutes
