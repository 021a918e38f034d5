"""A control plane that answers what it is told to, checks every document against the schema,
and remembers what it was asked."""

import base64
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from graphql import build_schema, parse, validate

from tests.unit.jobs.plane import Plane

Json = dict[str, Any]
KEY = "launch-" + "k" * 40
WHEN = "2026-01-01T00:00:00.000Z"


class RefusalError(Exception):
    """An error of the wire."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.body = {"message": message, "extensions": {"code": code, "hint": hint}}


def item(item_id: str = "abcdefghijkl", **over: Any) -> Json:
    return {
        "id": item_id, "state": "PENDING", "phase": "QUEUED", "lostContact": False,
        "name": "hello", "displayName": "hello", "job": None,
        "entityName": "ada", "projectName": "default", "queueName": "default",
        "runName": None, "author": "ada", "priority": 2, "createdAt": WHEN, "updatedAt": WHEN,
        "startedAt": None, "finishedAt": None, "stopRequested": False, "attempt": 1,
        "activity": None, "agentId": None, "agentName": None, "cause": None, "message": None,
        "exitCode": None, "warnings": [], "runSpec": {}, "facts": {}, "attempts": [],
        "events": [
            {"at": WHEN, "phase": "QUEUED", "attempt": 1, "epoch": 0, "actor": "ada",
             "text": "submitted"}
        ],
        "explanation": {
            "cause": "SCHEDULE_NO_AGENT", "summary": "No live agent serves this queue.",
            "remedy": "Start one.", "details": ["The queue is `default`."],
        },
        **over,
    }  # fmt: skip


def ended(phase: str = "SUCCEEDED", code: int | None = 0, **over: Any) -> Json:
    attempt = {
        "number": 1, "phase": phase, "agentName": "desk", "cause": None, "message": None,
        "exitCode": code, "startedAt": WHEN, "finishedAt": WHEN, "setupLogBytes": 3,
        "jobLogBytes": 3,
    }  # fmt: skip
    return item(
        phase=phase, state="CLAIMED", exitCode=code, startedAt=WHEN, finishedAt=WHEN,
        attempts=[attempt], agentName="desk", **over,
    )  # fmt: skip


def queue(name: str = "default", **over: Any) -> Json:
    return {
        "id": f"id-{name}", "name": name, "entityName": "ada", "resource": "local-container",
        "paused": False, "prioritizationMode": "V0", "createdBy": "ada", "createdAt": WHEN,
        "config": {}, "warnings": [], "templateVariables": [],
        "counts": [{"phase": "QUEUED", "count": 2}],
        "agents": [], **over,
    }  # fmt: skip


def agent(name: str = "desk", **over: Any) -> Json:
    return {
        "id": f"id-{name}", "name": name, "hostname": "host", "agentStatus": "POLLING",
        "lost": False, "draining": False, "stopPolling": False, "heartbeatAt": WHEN,
        "createdAt": WHEN, "version": "0.1.0", "entityName": "ada", "queueNames": ["default"],
        "capacity": {"slots": 4, "cpus": 2.0, "memory": 2**30, "gpus": ["0"]}, "items": [], **over,
    }  # fmt: skip


Answer = Callable[[Json], Any]


class FarEnd:
    """Use `answers[field]` for what a root field gives; a callable gets the variables.

    What is not among them is asked of `jobs`, which keeps artifacts.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "viewer": {"id": "u", "name": "ada", "username": "ada", "entity": "ada", "admin": True},
            "launchQueues": [queue(), queue("training")],
            "launchAgents": [agent()],
            "launchItems": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": []},
            "launchItem": lambda asked: item(asked["id"]),
        }
        self.asked: list[tuple[str, Json]] = []
        #: Fields and methods whose next call is carried out and not answered.
        self.unanswered: set[str] = set()
        #: So many requests are refused with 503, as by a server that begins to run.
        self.unready = 0
        self.rest: list[tuple[str, str, bytes]] = []
        self.logs: dict[str, bytes] = {"setup": b"setup\n", "job": b"job\n"}
        schema = (files("agent.control.graphql") / "schema.graphql").read_text()
        self._schema = build_schema(schema)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.jobs = Plane(url=self.url)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def forget(self, kind: str, field: str) -> None:
        """Be a server that does not know this field yet."""
        del self._schema.type_map[kind].fields[field]

    def last(self, field: str) -> Json:
        """Variables of the last call of a field."""
        return [variables for name, variables in self.asked if name == field][-1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def graphql(self, body: Json) -> Json:
        document = parse(body["query"])
        complaints = validate(self._schema, document)
        if complaints:
            return {"errors": [{"message": str(complaints[0])}]}
        operation = document.definitions[0]
        field = operation.selection_set.selections[0].name.value
        self.asked.append((field, body["variables"]))
        if field not in self.answers:
            return self.jobs.answer(operation.name.value, body["variables"] or {})
        answer = self.answers[field]
        try:
            given = answer(body["variables"]) if callable(answer) else answer
        except RefusalError as refusal:
            return {"errors": [refusal.body], "data": None}
        return {"data": {field: given}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        far_end = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if not self._allowed():
                    return
                if self.path == "/graphql":
                    answer = json.dumps(far_end.graphql(json.loads(body))).encode()
                    self._answer(200, answer, far_end.asked[-1][0])
                    return
                far_end.rest.append(("POST", self.path, body))
                self._answer(200, json.dumps({"url": f"{far_end.url}/login/link?token=t"}).encode())

            def do_GET(self) -> None:
                if self.path.startswith("/blob/"):
                    foreign = "Authorization" in self.headers  # it carries its own right
                    body = b"" if foreign else far_end.jobs.kept(self.path.split("/")[2])
                    self._answer(400 if foreign else 200, body)
                    return
                if not self._allowed():
                    return
                parts = urlsplit(self.path)
                far_end.rest.append(("GET", self.path, b""))
                channel = parts.path.rpartition("/")[2]
                offset = int(parse_qs(parts.query).get("offset", ["0"])[0])
                self._answer(200, far_end.logs[channel][offset:])

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                far_end.rest.append(("PUT", self.path, body))
                kept = far_end.jobs.keep(self.path.split("/")[2], body)
                self._answer(200 if kept else 422, b"", "PUT")

            def _allowed(self) -> bool:
                if far_end.unready:
                    far_end.unready -= 1
                    self._answer(503, b'{"errors": [{"message": "The server is starting."}]}')
                    return False
                given = self.headers.get("Authorization", "").removeprefix("Basic ")
                if base64.b64decode(given) == f"api:{KEY}".encode():
                    return True
                self._answer(401, b'{"errors": [{"message": "This API key is not known."}]}')
                return False

            def _answer(self, status: int, body: bytes, call: str = "POST") -> None:
                if call in far_end.unanswered:
                    far_end.unanswered.remove(call)
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        return Handler


def words(text: str) -> str:
    """A text in one line, to be searched whatever its columns."""
    return re.sub(r"\s+", " ", text)
