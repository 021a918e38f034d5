"""Branches, tags and commits: what a remote has, and which commit a reference means."""

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
class RemoteRefs:
    """The output of `git ls-remote --symref`."""

    #: Full reference name to object; peeled tags end in `^{}`.
    objects: dict[str, str]
    #: Branch that HEAD points at.
    default: str | None

    @property
    def names(self) -> list[str]:
        """Branches and tags, in their short form."""
        heads = (re.sub(r"^refs/(heads|tags)/", "", ref) for ref in self.objects)
        return sorted({name for name in heads if not name.endswith("^{}") and name != "HEAD"})


def parse_refs(output: str) -> RemoteRefs:
    """Read the output of `git ls-remote --symref`."""
    objects: dict[str, str] = {}
    default = None
    for line in output.splitlines():
        value, _, name = line.partition("\t")
        if not value.startswith("ref: "):
            objects[name] = value
        elif name == "HEAD":
            default = value.removeprefix("ref: ").removeprefix("refs/heads/")
    return RemoteRefs(objects, default)


def check_ref(url: str, ref: str | None) -> None:
    """Refuse what cannot be a reference, such as an option.

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
    """Whether it is a full commit id."""
    return ref is not None and _COMMIT.fullmatch(ref.lower()) is not None


def is_short_commit(ref: str | None) -> bool:
    """Whether it may be the beginning of a commit id."""
    return ref is not None and _SHORT.fullmatch(ref.lower()) is not None


def ref_patterns(ref: str | None) -> tuple[str, ...]:
    """Patterns for `git ls-remote`, so that the server sends few references."""
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


def pick_commit(refs: RemoteRefs, ref: str | None) -> Pin | None:
    """The commit of a reference: branch, then tag (as W&B's agent and `git clone` do).

    A leading `origin/`, as W&B's jobs may have it, is ignored where no reference has that name.
    """
    if ref is None:
        commit = refs.objects.get("HEAD")
        return Pin(commit, f"default branch {refs.default or ''}".strip()) if commit else None
    if ref.startswith("refs/"):
        return _named(refs, ref, ref)
    for name in dict.fromkeys((ref, ref.removeprefix("origin/"))):
        found = _named(refs, f"refs/heads/{name}", f"branch {name}") or _named(
            refs, f"refs/tags/{name}", f"tag {name}"
        )
        if found is not None:
            return found
    return None


def ref_not_found(url: str, ref: str | None, refs: RemoteRefs) -> JobError:
    """The error for a reference that does not exist, with a similar one."""
    if not refs.objects:
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
        hint=did_you_mean(ref, refs.names, "branch"),
    )


def _named(refs: RemoteRefs, ref: str, found_as: str) -> Pin | None:
    commit = refs.objects.get(f"{ref}^{{}}") or refs.objects.get(ref)
    return Pin(commit, found_as) if commit else None
