"""Removes secrets from texts and byte streams.

Masked are:

- *known* secrets: values that were given to `Redactor`, as they are and as JSON, URLs,
  hexadecimal digits and base64 (in each of its three alignments) write them. A secret of several
  lines is known by its lines. Values, lines and encodings shorter than `SHORTEST` are not masked:
  they would mask much of every text.
- *shapes*: keys of this product, tokens of well-known services (`_SHAPES`), passwords in URLs.
- in texts only, what follows a telling name: `password = …`, `Authorization: Basic …`. In the
  output of jobs this would mask harmless values, such as `pad_token: [PAD]`.

Not recognized: other encodings, values that were split, and base64 that was wrapped inside of a
value. Masking prevents accidents; a program that means to betray its secrets can.
"""

# ruff: noqa: SLF001 -- `Redactor` and `StreamRedactor` are two halves of one thing
import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote, quote_plus

from ahocorasick_rs import BytesAhoCorasick, Implementation

MASK: Final = "***"
#: In characters.
SHORTEST: Final = 6

#: Longest token of a known shape, in bytes; what is longer is masked up to here.
_MAX_SHAPE_BYTES: Final = 4096
_WORD: Final = rb"[A-Za-z0-9_-]"
#: How tokens begin -> the whole token, of which the group `secret` is masked. Sources: the
#: services' documentation of their token formats.
_SHAPES: Final = {
    start: re.compile(rb"(?<![A-Za-z0-9])" + pattern)
    for starts, pattern in (
        # API keys and run tokens of this product.
        ((b"launch-", b"launchrun-"), rb"launch(?:run)?-(?P<secret>" + _WORD + rb"{40})"),
        # W&B. Its older keys, 40 hexadecimal digits, look like commits.
        ((b"wandb_v1_",), rb"(?P<secret>wandb_v1_" + _WORD + rb"{20,256})"),
        # GitHub and GitLab.
        (
            (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"),
            rb"(?P<secret>gh[pousr]_[A-Za-z0-9]{36,255})",
        ),
        ((b"github_pat_",), rb"(?P<secret>github_pat_[A-Za-z0-9_]{22,255})"),
        ((b"glpat-",), rb"(?P<secret>glpat-" + _WORD + rb"{20,255})"),
        # Clouds: AWS (the secret half has no shape of its own), Google.
        ((b"AKIA", b"ASIA"), rb"(?P<secret>A[KS]IA[A-Z0-9]{16})(?![A-Za-z0-9])"),
        ((b"AIza",), rb"(?P<secret>AIza" + _WORD + rb"{35})"),
        # Hugging Face, OpenAI and Anthropic, Slack, npm, PyPI, Docker Hub.
        ((b"hf_",), rb"(?P<secret>hf_[A-Za-z0-9]{30,128})"),
        (
            (b"sk-",),
            rb"(?P<secret>sk-(?=[A-Za-z_-]*[0-9])" + _WORD + rb"{32,256})",
        ),
        ((b"xoxb-", b"xoxp-", b"xoxa-"), rb"(?P<secret>xox[abp]-[A-Za-z0-9-]{20,255})"),
        ((b"npm_",), rb"(?P<secret>npm_[A-Za-z0-9]{36})"),
        ((b"pypi-",), rb"(?P<secret>pypi-" + _WORD + rb"{50,512})"),
        ((b"dckr_pat_",), rb"(?P<secret>dckr_pat_" + _WORD + rb"{20,255})"),
        # JSON web tokens.
        (
            (b"eyJ",),
            rb"(?P<secret>eyJ[A-Za-z0-9_-]{8,2048}\.eyJ[A-Za-z0-9_-]{8,2048}\.[A-Za-z0-9_-]{8,1024})",
        ),
    )
    for start in starts
}
#: user:password@host, and token@host, where the token is long enough to be none of `git@host`.
_URL: Final = re.compile(
    rb"://(?:[^\s/:@'\"]{0,256}:(?P<password>[^\s/@'\"]{1,1024})|(?P<token>[^\s/:@'\"]{16,1024}))@"
)
_STARTS: Final = (*_SHAPES, b"://")
#: By the number of its start.
_SHAPE_OF: Final = (*_SHAPES.values(), _URL)
#: Names of variables whose values are masked: `HF_TOKEN`, and not `TOKENIZERS_PARALLELISM`.
_TELLING: Final = re.compile(
    r"(?i)(?:^|_)(?:key|apikey|token|secret|password|passwd|credentials?)(?:_|$)"
)
#: The end of an unfinished line that may be the beginning of a token.
_OPEN: Final = re.compile(
    rb"(?:(?:" + rb"|".join(re.escape(start) for start in _SHAPES) + rb")[A-Za-z0-9_.-]{0,4096}"
    rb"|://[^\s/@'\"]{0,1300})\Z"
)

#: In texts: what precedes a secret, in the group `keep`.
_NAMED: Final = (
    re.compile(r"(?P<keep>\bhttps?://)[^\s/:@'\"]+(?P<after>@)"),
    re.compile(r"(?i)(?P<keep>\b(?:basic|bearer)\s+)[A-Za-z0-9+/=._~-]{8,}(?P<after>)"),
    re.compile(
        r"(?i)(?P<keep>(?:api_?key|password|passwd|secret|token|authorization)[\"']?\s*[=:]\s*[\"']?)"
        r"(?!(?:basic|bearer)\b)[^\s\"',;&*][^\s\"',;&]*(?P<after>)"
    ),
)

#: A password, or in its place a token of GitHub's, GitLab's or Hugging Face's.
_CREDENTIAL: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://"
    r"(?:[^/?#]*:[^/?#]*|(?:gh[a-z]_|github_pat_|gl[a-z]+-|hf_)[A-Za-z0-9_-]{16,})@"
)


def is_telling_name(name: str) -> bool:
    """Whether the name of a variable says that its value is secret."""
    return _TELLING.search(name) is not None


def has_credential(url: str) -> bool:
    """Whether a URL contains a password or token, also where the rest of it is malformed."""
    return _CREDENTIAL.match(url) is not None


#: Start (inclusive) and end (exclusive) of the bytes that are masked.
_Span = tuple[int, int]


class _Literals:
    """Byte strings that are looked for in one pass."""

    def __init__(self, literals: Iterable[bytes] = ()) -> None:
        self.longest = 0
        self._literals: dict[bytes, None] = {}
        self._beginnings: dict[bytes, list[bytes]] = {}
        self._search: BytesAhoCorasick | None = None
        self.add(literals)

    def add(self, literals: Iterable[bytes]) -> None:
        for literal in literals:
            if literal not in self._literals:
                self._literals[literal] = None
                self._search = None
                self.longest = max(self.longest, len(literal))
                # By two bytes, and by one for the end of a text.
                self._beginnings.setdefault(literal[:2], []).append(literal)
                self._beginnings.setdefault(literal[:1], [])

    def find(self, data: bytes) -> list[tuple[int, int, int]]:
        """The number, the start and the end of every occurrence."""
        if not self._literals:
            return []
        if self._search is None:
            kind = Implementation.ContiguousNFA
            self._search = BytesAhoCorasick(self._literals, implementation=kind)
        return self._search.find_matches_as_indexes(data, overlapping=True)

    def begun_at(self, tail: bytes) -> int:
        """First offset from which `tail` is a prefix of a literal; `len(tail)` if there is none."""
        for at in range(max(0, len(tail) - self.longest + 1), len(tail)):
            found = self._beginnings.get(tail[at : at + 2])
            if found is not None and (
                at + 1 == len(tail) or any(each.startswith(tail[at:]) for each in found)
            ):
                return at
        return len(tail)


class Redactor:
    """Knows secrets and removes them; `add` may be called at any time.

    With `base`, it knows the secrets of that one as well, also those that are added to it later.
    """

    def __init__(self, secrets: Iterable[str] = (), *, base: "Redactor | None" = None) -> None:
        self._base = base
        self._literals = _Literals(_STARTS if base is None else ())
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Remember a secret; see this module for the forms in which it is recognized."""
        for line in secret.splitlines():
            if len(line.strip()) >= SHORTEST:
                self._literals.add(_forms_of(line.strip()))

    def text(self, text: str) -> str:
        """The text without secrets; each is replaced by `MASK`."""
        data = text.encode("utf-8", "surrogatepass")
        pieces, at = [], 0
        for start, end in self._spans(data):
            pieces += [data[at:start], MASK.encode()]
            at = end
        text = b"".join([*pieces, data[at:]]).decode("utf-8", "surrogatepass")
        for pattern in _NAMED:
            text = pattern.sub(rf"\g<keep>{MASK}\g<after>", text)
        return text

    def stream(self) -> "StreamRedactor":
        """A redactor for bytes that arrive in pieces."""
        return StreamRedactor(self)

    @property
    def longest(self) -> int:
        """The most bytes that one secret can have in a stream."""
        own = max(_MAX_SHAPE_BYTES, self._literals.longest)
        return own if self._base is None else max(own, self._base.longest)

    def _spans(self, data: bytes) -> list[_Span]:
        """What has to be masked: in order, not overlapping, not adjacent."""
        merged: list[_Span] = []
        for start, end in sorted(self._found(data)):
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        return merged

    def _found(self, data: bytes) -> Iterator[_Span]:
        if self._base is not None:
            yield from self._base._found(data)
        shapes = _SHAPE_OF if self._base is None else ()
        for number, start, end in self._literals.find(data):
            if number >= len(shapes):
                yield start, end
            elif (shape := shapes[number].match(data, start)) and shape.lastgroup:
                yield shape.span(shape.lastgroup)

    def _open_at(self, tail: bytes) -> int:
        """Where the last part of an unfinished line begins that may become a secret."""
        shape = _OPEN.search(tail)
        return min(shape.start() if shape else len(tail), self._begun_at(tail))

    def _begun_at(self, tail: bytes) -> int:
        """Where a literal begins that ends beyond `tail`; its length if there is none."""
        start = self._literals.begun_at(tail)
        return start if self._base is None else min(start, self._base._begun_at(tail))


class StreamRedactor:
    """Masks bytes in pieces, wherever they were cut, by as many asterisks.

    The length of the stream stays, so that an offset in what was masked is an offset in the
    source. Only an end that may become a secret is held back, at most `Redactor.longest` bytes.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._waiting = b""
        #: What of the waiting bytes belongs to a secret that was seen whole.
        self._covered: list[_Span] = []

    @property
    def holds_back(self) -> bool:
        """Whether some bytes were not returned yet."""
        return bool(self._waiting)

    def feed(self, data: bytes) -> bytes:
        """Take a piece; return the bytes that can be masked by now."""
        data = self._waiting + data
        line = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if line < len(data):
            line = max(line, len(data) - self._redactor.longest)
            line += self._redactor._open_at(data[line:])
        return self._masked(data, line)

    def flush(self) -> bytes:
        """Mask and return the rest; a long beginning of a known secret is masked, too."""
        rest = len(self._waiting)
        begun = self._redactor._begun_at(self._waiting)
        is_start = any(start.startswith(self._waiting[begun:]) for start in _STARTS)
        cut = [(begun, rest)] if rest - begun >= SHORTEST and not is_start else []
        return self._masked(self._waiting, rest, cut)

    def _masked(self, data: bytes, end: int, cut: Iterable[_Span] = ()) -> bytes:
        spans = [*self._redactor._spans(data), *self._covered, *cut]
        self._waiting = data[end:]
        self._covered = [(max(0, start - end), last - end) for start, last in spans if last > end]
        if not spans:
            return data[:end]
        masked = bytearray(data)
        for start, last in spans:
            masked[start:last] = b"*" * (last - start)
        return bytes(masked[:end])


def _forms_of(line: str) -> set[bytes]:
    """How a line may be written."""
    raw = line.encode("utf-8", "surrogatepass")
    texts = {
        line,
        json.dumps(line)[1:-1],
        json.dumps(line, ensure_ascii=False)[1:-1],
        repr(line)[1:-1],
    }
    forms = {text.encode("utf-8", "surrogatepass") for text in texts}
    for quoted in (quote(raw), quote(raw, safe=""), quote_plus(raw)):
        forms |= {quoted.encode(), _LOWER_ESCAPES.sub(_lower, quoted.encode())}
    forms |= {raw.hex().encode(), raw.hex().upper().encode()}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw)
        # The first and the last characters also depend on what is around the secret.
        whole = encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        forms |= {whole, whole.translate(_URL_SAFE)}
    return {form for form in forms if len(form) >= SHORTEST}


_LOWER_ESCAPES: Final = re.compile(rb"%[0-9A-F]{2}")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def _lower(match: re.Match[bytes]) -> bytes:
    return match[0].lower()
