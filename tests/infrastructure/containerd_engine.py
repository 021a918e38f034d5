"""A second engine with the containerd image store.

It has a network of its own; the registries of `tests/services` are carried into it under the
same loopback address, so that images have one name on both sides.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import shell_image
from .engine import Engine
from .process import run

_ROOT = Path(__file__).parents[2]


@contextmanager
def running(folder: Path, ports: tuple[int, ...]) -> Iterator[Engine]:
    """Start it below a folder with a short path; `ports` are registries on loopback."""
    features = {"features": {"containerd-snapshotter": True}}
    engine = Engine(folder / "e", folder / "r", folder / "d.sock", isolated=True, settings=features)
    with ExitStack() as stack:
        stack.callback(engine.stop)
        engine.start()
        inside = ["nsenter", f"--net=/proc/{engine.daemon.pid()}/ns/net"]
        run([*inside, "ip", "link", "set", "lo", "up"])
        for port in ports:
            way = f"unix:{folder}/{port}.sock"
            stack.enter_context(_relay([], way, f"tcp:127.0.0.1:{port}"))
            stack.enter_context(_relay(inside, f"tcp:127.0.0.1:{port}", way))
        shell_image.ensure(engine.host)
        yield engine


@contextmanager
def _relay(prefix: list[str], source: str, target: str) -> Iterator[None]:
    argv = [*prefix, sys.executable, "-m", "tests.infrastructure.relay", source, target]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
