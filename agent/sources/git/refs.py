"""From a branch, tag or commit as people write it to the commit that it is now."""

import re
from dataclasses import dataclass
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.names import did_you_mean

_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT: Final = re.compile(r"[0-9a-f]{4,39}")
#: What git allows in no reference.
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|/$|\.$|^/")


@dataclass(frozen=True, slots=True)
class Pin:
    """A commit, and how it was found: `branch main`, `tag v1.2`, `commit`."""

    commit: str
    found_as: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What `git ls-remote --symref` told."""

    #: Full reference name to object; peeled tags end in `^{}`.
    refs: dict[str, str]
    #: Branch that HEAD stands for.
    default: str | None

    @property
    def names(self) -> list[str]:
        """Branches and tags, as people write them."""
        heads = (re.sub(r"^refs/(heads|tags)/", "", ref) for ref in self.refs)
        return sorted({name for name in heads if not name.endswith("^{}") and name != "HEAD"})


def parse_listing(output: str) -> Listing:
    """Read the output of `git ls-remote --symref`."""
    refs: dict[str, str] = {}
    default = None
    for line in output.splitlines():
        value, _, name = line.partition("\t")
        if not value.startswith("ref: "):
            refs[name] = value
        elif name == "HEAD":
            default = value.removeprefix("ref: ").removeprefix("refs/heads/")
    return Listing(refs, default)


def check_ref(url: str, ref: str | None) -> None:
    """Refuse what cannot be a reference, options before all.

    Raises:
        JobError: `SOURCE_INVALID`.
    """
    if ref is None:
        return
    if not ref or ref.startswith("-") or _FORBIDDEN.search(ref):
        raise JobError(
            Cause.SOURCE_INVALID,
            f"Git: {url}: '{ref}' cannot be a branch, tag or commit.",
            hint="Write its name as `git branch`, `git tag` or `git log` shows it.",
        )


def is_full_commit(ref: str | None) -> bool:
    """Whether it names a commit completely."""
    return ref is not None and _COMMIT.fullmatch(ref.lower()) is not None


def is_short_commit(ref: str | None) -> bool:
    """Whether it may be the beginning of a commit."""
    return ref is not None and _SHORT.fullmatch(ref.lower()) is not None


def patterns(ref: str | None) -> tuple[str, ...]:
    """What to ask the server for; a server with many references then sends few."""
    if ref is None:
        return ("HEAD",)
    if ref.startswith("refs/"):
        return (ref, f"{ref}^{{}}")
    plain = ref.removeprefix("origin/")
    kinds = ("heads", "tags")
    names = dict.fromkeys((ref, plain))
    return tuple(
        f"refs/{kind}/{name}{peeled}" for name in names for kind in kinds for peeled in ("", "^{}")
    )


def pick(listing: Listing, ref: str | None) -> Pin | None:
    """The commit of a reference: branch, then tag (as W&B's agent and `git clone` do).

    An `origin/` in front, as W&B's jobs may have it, is left out if nothing has that name.
    """
    if ref is None:
        commit = listing.refs.get("HEAD")
        return Pin(commit, f"default branch {listing.default or ''}".strip()) if commit else None
    if ref.startswith("refs/"):
        return _named(listing, ref, ref)
    for name in dict.fromkeys((ref, ref.removeprefix("origin/"))):
        found = _named(listing, f"refs/heads/{name}", f"branch {name}") or _named(
            listing, f"refs/tags/{name}", f"tag {name}"
        )
        if found is not None:
            return found
    return None


def not_found(url: str, ref: str | None, listing: Listing) -> JobError:
    """The error for a reference that is not there, with the nearest that is."""
    if not listing.refs:
        return JobError(
            Cause.SOURCE_NOT_FOUND, f"Git: {url}: the repository is empty; it has no commit yet."
        )
    if ref is None:
        return JobError(
            Cause.SOURCE_NOT_FOUND,
            f"Git: {url}: the repository has no default branch.",
            hint="Name a branch, tag or commit with `-g`.",
        )
    return JobError(
        Cause.SOURCE_NOT_FOUND,
        f"Git: {url}: there is no branch, tag or commit '{ref}'.",
        hint=did_you_mean(ref, listing.names, "branch"),
    )


def _named(listing: Listing, ref: str, found_as: str) -> Pin | None:
    commit = listing.refs.get(f"{ref}^{{}}") or listing.refs.get(ref)
    return Pin(commit, found_as) if commit else None
