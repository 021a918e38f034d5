"""A Git server: smart HTTP over TLS with basic authentication, before `git http-backend`.

Run by path with the name of a JSON file (see `Settings`); it stands alone and imports nothing of
this package. Besides repositories it serves `/moved/PATH` (redirects to `/PATH` on the same
host) and `/elsewhere/PATH` (redirects to `/PATH` under the host's other name).

Of Git LFS it serves downloads: `PATH/info/lfs/objects/batch`, and the objects, which lie as
files named by their digest in the folder `lfs` of a repository. Below `/leading-away/` the
batch answers with addresses at a cloud's metadata service.
"""

import base64
import hmac
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

_BLOCK = 64 * 1024
_LFS = "/info/lfs/objects/"
_LFS_TYPE = "application/vnd.git-lfs+json"
_AWAY = "/leading-away/"


@dataclass(frozen=True)
class Settings:
    """What the server is told; the file is readable by its owner only."""

    port: int
    repositories: str
    certificate: str
    key: str
    username: str
    password: str
    access_log: str


class Server(ThreadingHTTPServer):
    """Accepts on loopback; each connection has a thread, in which TLS is negotiated too."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        login = f"{settings.username}:{settings.password}".encode()
        self.credentials = f"Basic {base64.b64encode(login).decode()}"
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(settings.certificate, settings.key)
        super().__init__(("127.0.0.1", settings.port), Handler)

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection; a slow handshake must not keep others waiting."""
        plain, address = super().get_request()
        wrapped = self.tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def handle_error(self, request: object, client_address: object) -> None:
        """Note a broken connection in one line: clients that refuse the certificate are many."""
        del request
        print(f"{client_address}: {sys.exc_info()[1]!r}", file=sys.stderr, flush=True)


class Handler(BaseHTTPRequestHandler):
    """One connection; several requests may follow each other on it."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """Serve the list of refs, and files for dumb clients."""
        self._serve()

    def do_POST(self) -> None:
        """Serve a fetch or a push."""
        self._serve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited name
        """Say nothing: the access log says it."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Add a line to the access log."""
        del size
        status = code.value if isinstance(code, HTTPStatus) else code
        user = "with-login" if self.headers.get("Authorization") else "-"
        line = f"{self.headers.get('Host', '-')} {user} {self.command} {self.path} {status}\n"
        with Path(self.server.settings.access_log).open("a") as log:
            log.write(line)

    def _serve(self) -> None:
        with tempfile.TemporaryFile() as body:
            self._read_body(body)
            size = body.tell()
            body.seek(0)
            target = self._redirection()
            if target:
                self._refuse(HTTPStatus.FOUND, "Location", target)
            elif not self._authorized():
                self._refuse(
                    HTTPStatus.UNAUTHORIZED, "WWW-Authenticate", 'Basic realm="launch tests"'
                )
            elif _LFS in self.path:
                self._serve_lfs(body)
            else:
                self._run_backend(body, size)

    def _serve_lfs(self, body: IO[bytes]) -> None:
        repository, _, asked = self.path.partition(_LFS)
        folder = Path(self.server.settings.repositories, repository.lstrip("/"), "lfs")
        if asked == "batch" and self.command == "POST":
            self._reply(json.dumps(self._batch(json.load(body), folder)).encode(), _LFS_TYPE)
        elif asked.isalnum() and (folder / asked).is_file():
            self._reply((folder / asked).read_bytes(), "application/octet-stream")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "Content-Type", _LFS_TYPE)

    def _batch(self, asked: dict[str, Any], folder: Path) -> dict[str, Any]:
        base = f"https://{self.headers['Host']}"
        # As public hosts do, lest a client that came by ssh be asked for a password.
        header = {"Authorization": self.server.credentials}
        if self.path.startswith(_AWAY):
            base, folder = "https://169.254.169.254", self._without_away(folder)
            header = {}
        path = self.path.removesuffix("batch")
        answers = []
        for each in asked["objects"]:
            if (folder / each["oid"]).is_file():
                found = {"href": f"{base}{path}{each['oid']}", "header": header}
                answers.append(each | {"actions": {"download": found}})
            else:
                error = {"code": 404, "message": "Object does not exist"}
                answers.append(each | {"error": error})
        return {"transfer": "basic", "objects": answers}

    def _without_away(self, folder: Path) -> Path:
        root = self.server.settings.repositories
        return Path(root, folder.relative_to(Path(root, _AWAY.strip("/"))))

    def _reply(self, content: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _redirection(self) -> str | None:
        host = self.headers.get("Host", "")
        if self.path.startswith("/moved/"):
            return f"https://{host}{self.path.removeprefix('/moved')}"
        if self.path.startswith("/elsewhere/"):
            name, _, port = host.rpartition(":")
            other = "127.0.0.1" if name == "localhost" else "localhost"
            return f"https://{other}:{port}{self.path.removeprefix('/elsewhere')}"
        return None

    def _authorized(self) -> bool:
        given = self.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode(), self.server.credentials.encode())

    def _refuse(self, status: HTTPStatus, header: str, value: str) -> None:
        self.send_response(status)
        self.send_header(header, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _read_body(self, body: IO[bytes]) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            self._read_chunks(body)
            return
        left = int(self.headers.get("Content-Length") or 0)
        self._copy(body, left)

    def _read_chunks(self, body: IO[bytes]) -> None:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            self._copy(body, size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers

    def _copy(self, body: IO[bytes], left: int) -> None:
        while left:
            block = self.rfile.read(min(left, _BLOCK))
            if not block:
                message = "the client closed the connection within its request"
                raise ConnectionError(message)
            body.write(block)
            left -= len(block)

    def _run_backend(self, body: IO[bytes], size: int) -> None:
        with subprocess.Popen(
            ["git", "http-backend"],
            stdin=body,
            stdout=subprocess.PIPE,
            env=self._environment(size),
        ) as backend:
            assert backend.stdout is not None
            self._answer(backend.stdout)

    def _environment(self, size: int) -> dict[str, str]:
        path, _, query = self.path.partition("?")
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROJECT_ROOT": self.server.settings.repositories,
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(size),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_USER": self.server.settings.username,
            "REMOTE_ADDR": self.client_address[0],
        }

    def _answer(self, output: IO[bytes]) -> None:
        """Pass the backend's headers on, and its body in chunks, as its length is unknown."""
        status, headers = HTTPStatus.OK.value, []
        while line := output.readline().strip():
            name, _, value = line.decode().partition(":")
            if name.lower() == "status":
                status = int(value.split()[0])
            elif name.lower() != "content-length":
                headers.append((name, value.strip()))
        self.send_response(status)
        for name, value in (*headers, ("Transfer-Encoding", "chunked")):
            self.send_header(name, value)
        self.end_headers()
        while block := output.read1(_BLOCK):  # type: ignore[attr-defined]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
        self.wfile.write(b"0\r\n\r\n")


def main() -> None:
    """Serve until a signal ends the process."""
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text()))
    if shutil.which("git") is None:
        sys.exit("git is not installed")
    Server(settings).serve_forever()


if __name__ == "__main__":
    main()
