"""Helm, built from its Go module: Debian has none."""

from .go_programs import GoProgram

PROGRAM = GoProgram(
    "helm.sh/helm/v4/cmd/helm", "v4.3.1", "helm.sh/helm/v4/internal/version.version"
)
