"""What a Dockerfile names, read by BuildKit's own parser."""

import pytest

from agent.builders.image.dockerfile import adds_remote_content, instructions, named_images


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("FROM a:1 AS one\nFROM one\nCOPY --from=one x y\nCOPY --from=0 x y", ["a:1"]),
        ("ARG TAG=3\nFROM --platform=linux/amd64 r.example/a:${TAG}", ["r.example/a:3"]),
        ("ARG IMAGE='a/b'\nFROM $IMAGE\nFROM ${OTHER:-c}\nFROM ${IMAGE:+d}", ["a/b", "c", "d"]),
        ("FROM scratch\nCOPY --chown=1 --from=b:2 x y", ["b:2"]),
        ("FROM a\nRUN --mount=type=bind,from=c,target=/c --mount=from=d x", ["a", "c", "d"]),
        ("# FROM no\nFROM \\\n  # a comment\n  a", ["a"]),
        ("# escape=`\nFROM `\n a", ["a"]),
        # Of two values the one before the first FROM counts, and may name others.
        ("ARG TAG=1\nFROM base:${TAG}\nARG TAG=2\nRUN true", ["base:1"]),
        ("ARG V=3.11\nARG IMAGE=python:${V}-slim\nFROM ${IMAGE}", ["python:3.11-slim"]),
        ("ARG A=1 B=2\nFROM x:${A}.$B", ["x:1.2"]),
        ('ARG TAG="1"\nFROM "base:${TAG}"', ["base:1"]),
        ("ARG A\nFROM base:${A:-${B:-7}}", ["base:7"]),
        ("FROM base:${UNSET-x}", ["base:x"]),
        ("FROM base-${TARGETARCH}:$BUILDOS", ["base-arm64:linux"]),
        ("FROM --platform=$BUILDPLATFORM golang AS build\nFROM build", ["golang"]),
        # Words of programs are no instructions.
        ("FROM a\nRUN <<EOF\nfrom torch import nn\nFROM evil\nEOF\n", ["a"]),
        ("FROM a\nCOPY <<'E' /x.py\nfrom os import path\nE\nRUN x --from=y", ["a"]),
        ("FROM a\nRUN python -c 'import os' \\\n  && tool --from=b", ["a"]),
        ('FROM a\nLABEL from="x"\nCMD ["--from=b"]', ["a"]),
        ("from a as B\ncopy --from=b x y\nCOPY --from=C x y", ["a", "C"]),
        ('FROM a\nRUN --mount="type=bind,from=b" x', ["a", "b"]),
        ("FROM a\r\nCOPY --from=b x y\r\n", ["a", "b"]),
        ("\ufeffFROM a", ["a"]),
        ("FROM base:${X#a}", ["base:${X#a}"]),
        ("ARG X=\nFROM ubuntu:22.04 AS b\nFROM b", ["ubuntu:22.04"]),
        ("FROM a\nARG foo=b\nFROM $foo", ["a"]),
        ('FROM a\nLABEL description="this is a build \\\n   from single-arch"\nUSER x', ["a"]),
        ('ARG FOO=${FOO:-"${BAR}x"}\nFROM a:$FOO', ["a:x"]),
        ("FROM a\nRUN cat > /f <<'EOF'\nfrom b import c\nEOF", ["a"]),
        ("FROM a\nRUN cat > /f <<-EOF\n\tFROM b\n\tEOF", ["a"]),
        ("this is none", []),
        ("", []),
    ],
)  # fmt: skip
def test_images_that_a_dockerfile_names(text, names):
    assert list(named_images(text, "linux/arm64")) == names


@pytest.mark.parametrize(
    ("line", "remote"),
    [
        ("ADD https://files.example/data.csv /data.csv", True),
        ("ADD a.txt http://files.example/b /data/", True),
        ("ADD git@git.example:team/repo.git /src", True),
        ("ADD https://git.example/team/repo.git#main /src", True),
        ("ARG U=https://files.example/x\nADD $U /x", True),
        ("ARG U=https://files.example\nADD ${U}/x /x", True),
        ("ADD --checksum=sha256:aa https://files.example/data.csv /data.csv", False),
        ("ADD data.tar.gz https:/", False),
        ("COPY https.txt /", False),
        ("RUN curl https://files.example/x", False),
        ("RUN <<EOF\nADD https://files.example/x /\nEOF", False),
    ],
)
def test_only_buildkit_can_tell_whether_remote_content_has_changed(line, remote):
    assert adds_remote_content(f"FROM a\n{line}\n") is remote


def test_here_documents_are_one_instruction():
    found = instructions("FROM a\nRUN <<EOF\nFROM b\nEOF\nUSER x\n")
    assert [each.name for each in found] == ["FROM", "RUN", "USER"]
