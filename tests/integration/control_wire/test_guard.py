"""Who is let in: every route without a key, hosts, origins, guesses, sign-in."""

import asyncio
import re

import pytest
from yarl import URL

from agent.control.middleware.access import RouteAccess, access_of
from agent.control.request_data import COOKIE
from agent.control.store.accounts import Role
from tests.integration.control_wire.agents import Agent
from tests.integration.control_wire.wire import SPEC, open_wire

VIEWER = "{ viewer { username entity } }"


def _routes(app):
    for route in app.router.routes():
        method = "GET" if route.method == "*" else route.method
        path = re.sub(r"\{[^}]*\}", "x", route.resource.canonical)
        yield method, path, access_of(route.resource)


async def test_every_route_without_a_key_is_refused_unless_it_is_declared_public(wire):
    seen = set()
    for method, path, access in _routes(wire.server.app):
        async with wire.nobody.request(method, path) as answer:
            seen.add(access)
            if access in {RouteAccess.KEY, RouteAccess.SCRAPE, RouteAccess.ADDRESS}:
                assert answer.status == 401, path
            elif access is RouteAccess.PAGE and method in {"GET", "HEAD"}:
                assert answer.status == 303, path
                assert answer.headers["Location"] == f"/login?next={path}", path
            elif access is RouteAccess.PAGE:
                assert answer.status == 401, path
            else:
                assert answer.status not in {401, 500}, path
    assert seen == set(RouteAccess)


async def test_an_unknown_path_says_nothing_without_a_key(wire):
    assert await wire.nobody.status("GET", "/admin") == 401
    assert await wire.ann.status("GET", "/admin") == 404


async def test_a_wrong_method_is_told_to_those_who_have_a_key(wire):
    assert await wire.nobody.status("GET", "/graphql") == 401
    assert await wire.ann.status("GET", "/graphql") in {404, 405}


@pytest.mark.parametrize(
    "header",
    [
        "Basic !!!",
        "Basic YXBp",
        "Basic YXBpOg==",
        "Bearer",
        "Bearer launch-" + "x" * 40,
        "Digest abc",
        "Basic YXBpOv/+",
    ],
)
async def test_a_credential_that_is_none_is_refused_in_the_shape_clients_print(wire, header):
    headers = {"Authorization": header}
    body = {"query": VIEWER}
    async with wire.nobody.request("POST", "/graphql", headers=headers, json=body) as answer:
        assert answer.status == 401
        assert (await answer.json())["errors"][0]["message"]
        assert "Basic" in answer.headers["WWW-Authenticate"]


async def test_a_key_works_as_basic_and_as_bearer(wire):
    headers = {"Authorization": f"Bearer {wire.ann.key}"}
    assert (
        await wire.nobody.status("POST", "/graphql", headers=headers, json={"query": VIEWER}) == 200
    )
    assert (await wire.ann.data(VIEWER))["viewer"] == {"username": "ann", "entity": "ann"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8450", "localhost.evil", ""])
async def test_a_foreign_name_is_misdirected_even_for_public_routes(wire, host):
    for path in ("/healthz", "/login", "/graphql"):
        assert await wire.ann.status("GET", path, headers={"Host": host}) == 421


async def test_our_own_names_are_answered(wire):
    for host in ("localhost", "127.0.0.1:1", "[::1]:99", f"localhost:{wire.server.port}"):
        assert await wire.nobody.status("GET", "/healthz", headers={"Host": host}) == 200


async def test_a_request_with_two_hosts_or_none_is_misdirected(wire):
    for head in (b"Host: localhost\r\nHost: localhost\r\n", b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\n" + head + b"Connection: close\r\n\r\n")
        status = (await reader.readline()).split()[1]
        assert status in {b"421", b"400"}
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "header",
    [
        b"Authorization: Bearer \xff\xfe",
        b"Authorization: Basic \xff\xfe",
        b"Authorization: Bearer launchrun-" + b"\xc3\xa9" * 40,
        b"Cookie: COOKIE=abc.\xff\xfe",
    ],
)
async def test_a_credential_that_is_no_text_is_a_wrong_one(wire, header):
    name = wire.server.app[COOKIE].encode()
    lines = [b"Host: localhost", header.replace(b"COOKIE", name), b"Connection: close", b"", b""]
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.server.port)
    writer.write(b"POST /graphql HTTP/1.1\r\n" + b"\r\n".join(lines))
    assert (await reader.readline()).split()[1] == b"401"
    writer.close()
    await writer.wait_closed()


async def test_allowed_and_external_names_are_answered(tmp_path):
    settings = {"allowed_hosts": ("gpu-box",), "external_url": "https://launch.example.org"}
    async with open_wire(tmp_path, **settings) as wire:
        for host in ("gpu-box:1", "launch.example.org"):
            assert await wire.nobody.status("GET", "/healthz", headers={"Host": host}) == 200
        assert await wire.nobody.status("GET", "/healthz", headers={"Host": "other"}) == 421


async def _session(wire, key: str | None = None) -> dict[str, str]:
    """The cookie of a browser that signed in with a key; ann's by default."""
    form = {"key": key or wire.ann.key, "next": "/launch"}
    headers = {"Origin": wire.server.url}
    async with wire.nobody.request("POST", "/login", data=form, headers=headers) as answer:
        assert answer.status == 303
        morsel = next(iter(answer.cookies.values()))
        assert morsel["httponly"]
        assert morsel["samesite"] == "Strict"
        assert morsel["path"] == "/"
        assert answer.headers["Location"] == "/launch"
        return {"Cookie": f"{morsel.key}={morsel.value}"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "OWN", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "OWN"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "OWN", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
async def test_a_cookie_changes_things_only_from_our_own_pages(wire, headers, status):
    own = {name: value.replace("OWN", wire.server.url) for name, value in headers.items()}
    cookie = await _session(wire)
    body = {"query": VIEWER}
    seen = await wire.nobody.status("POST", "/graphql", headers=cookie | own, json=body)
    assert seen == status


async def test_a_foreign_origin_is_refused_with_a_key_as_well(wire):
    headers = {"Origin": "https://evil.example"}
    assert await wire.ann.status("POST", "/graphql", headers=headers, json={"query": VIEWER}) == 403


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_graphql_takes_json_only(wire, kind):
    headers = {"Content-Type": kind}
    assert (
        await wire.ann.status("POST", "/graphql", headers=headers, data=b'{"query":"{a}"}') == 400
    )


async def test_no_page_of_another_site_may_read(wire):
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    async with wire.nobody.request("OPTIONS", "/graphql", headers=headers) as answer:
        assert answer.status in {401, 403, 404, 405}
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


async def test_every_answer_carries_the_security_headers(wire):
    for path in ("/healthz", "/login", "/graphql", "/nothing"):
        async with wire.nobody.request("GET", path) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "Server" not in answer.headers


async def test_a_thousand_wrong_keys_are_too_many_and_the_right_one_still_works(wire):
    wrong = wire.caller("launch-" + "x" * 40)
    answers = [await wrong.status("POST", "/graphql", json={"query": VIEWER}) for _ in range(1000)]
    assert answers[0] == 401
    assert answers[-1] == 429
    async with wrong.request("POST", "/graphql", json={"query": VIEWER}) as answer:
        assert int(answer.headers["Retry-After"]) >= 1
    assert (await wire.ann.data(VIEWER))["viewer"]["username"] == "ann"


async def test_wrong_keys_in_the_form_are_counted_too(wire):
    headers = {"Origin": wire.server.url}
    for _ in range(60):
        async with wire.nobody.request(
            "POST", "/login", data={"key": "wrong"}, headers=headers
        ) as answer:
            where = answer.headers["Location"]
    assert where == "/login?failed=throttled"


async def test_a_browser_signs_in_and_out(wire):
    cookie = await _session(wire)
    assert await wire.nobody.status("GET", "/launch", headers=cookie) == 200
    own = {"Origin": wire.server.url}
    assert await wire.nobody.status("POST", "/logout", headers=cookie | own) == 303
    assert await wire.nobody.status("GET", "/launch", headers=cookie) == 303


async def test_signing_out_without_a_session_is_no_error(wire):
    assert await wire.nobody.status("POST", "/logout", headers={"Origin": wire.server.url}) == 303


async def test_signing_in_is_refused_from_another_site(wire):
    form = {"key": wire.ann.key}
    headers = {"Origin": "https://evil.example"}
    assert await wire.nobody.status("POST", "/login", data=form, headers=headers) == 403
    assert await wire.nobody.status("POST", "/login", data=form) == 403


@pytest.mark.parametrize(
    ("wanted", "goes"),
    [
        ("/launch/items/x?tab=1", "/launch/items/x?tab=1"),
        ("", "/launch"),
        ("https://evil.example/", "/launch"),
        ("//evil.example", "/launch"),
        ("/\\evil.example", "/launch"),
        ("javascript:alert(1)", "/launch"),
        ("/x\r\nSet-Cookie: a=b", "/launch"),
    ],
)
async def test_signing_in_leads_to_our_own_pages_only(wire, wanted, goes):
    form = {"key": wire.ann.key, "next": wanted}
    headers = {"Origin": wire.server.url}
    async with wire.nobody.request("POST", "/login", data=form, headers=headers) as answer:
        assert answer.headers["Location"] == goes


async def test_a_link_signs_in_once(wire):
    async with wire.ann.request("POST", "/launch/sign-in-links") as answer:
        link = URL((await answer.json())["url"])
    assert link.origin() == URL(wire.server.url)
    async with wire.nobody.request("GET", link.path_qs) as answer:
        assert answer.headers["Location"] == "/launch"
        morsel = next(iter(answer.cookies.values()))
    cookie = {"Cookie": f"{morsel.key}={morsel.value}"}
    assert await wire.nobody.status("GET", "/launch", headers=cookie) == 200
    async with wire.nobody.request("GET", link.path_qs) as answer:
        assert answer.headers["Location"] == "/login?failed=link"


async def test_the_server_itself_makes_links_too(wire):
    link = URL(await wire.server.sign_in_url(wire.admin))
    async with wire.nobody.request("GET", link.path_qs) as answer:
        assert answer.cookies


async def test_a_session_makes_no_link_which_would_be_a_fresh_sign_in(wire):
    headers = await _session(wire) | {"Origin": wire.server.url}
    assert await wire.nobody.status("POST", "/launch/sign-in-links", headers=headers) == 403


async def test_a_restart_revives_neither_a_session_nor_a_link(tmp_path):
    """And a session that was not ended goes on."""
    async with open_wire(tmp_path) as wire:
        bob = await wire.user("bob")
        ended, kept = await _session(wire, bob.key), await _session(wire, bob.key)
        link = URL(await wire.server.sign_in_url(wire.admin)).path_qs
        async with wire.nobody.request("GET", link) as answer:
            assert answer.headers["Location"] == "/launch"
        out = ended | {"Origin": wire.server.url}
        assert await wire.nobody.status("POST", "/logout", headers=out) == 303
    async with open_wire(tmp_path) as wire:
        assert await wire.nobody.status("GET", "/launch", headers=ended) == 303
        assert await wire.nobody.status("GET", "/launch", headers=kept) == 200
        async with wire.nobody.request("GET", link) as answer:
            assert answer.headers["Location"] == "/login?failed=link"


async def test_links_and_pages_are_for_people(wire):
    await wire.team("team")
    robot = await wire.agent_key("team")
    assert await robot.status("POST", "/launch/sign-in-links") == 403
    assert await robot.status("GET", "/launch") == 403
    form, headers = {"key": robot.key}, {"Origin": wire.server.url}
    async with wire.nobody.request("POST", "/login", data=form, headers=headers) as answer:
        assert answer.headers["Location"] == "/login?failed=kind"


async def test_a_session_ends_with_its_key(wire):
    bob = await wire.user("bob")
    accounts = wire.server.services.accounts
    principal = await accounts.authenticate(bob.key)
    session = await accounts.sign_in(principal)
    cookie = {"Cookie": f"{wire.server.app[COOKIE]}={session}"}
    assert await wire.nobody.status("GET", "/launch", headers=cookie) == 200
    await accounts.revoke_key(wire.admin, principal.key_id)
    async with asyncio.timeout(10):
        while await wire.nobody.status("GET", "/launch", headers=cookie) == 200:
            await asyncio.sleep(0.05)


async def test_a_forged_cookie_is_no_session(wire):
    cookie = await _session(wire)
    forged = {"Cookie": cookie["Cookie"][:-1] + "0"}
    if forged != cookie:
        assert await wire.nobody.status("GET", "/launch", headers=forged) == 303


async def test_telemetry_is_not_wanted(wire):
    for path in ("/sdk/otel/v1/metrics", "/sdk/otel/v1/logs"):
        assert await wire.nobody.status("POST", path) == 404


async def test_metrics_open_with_the_scrape_key_only(wire, tmp_path):
    bob, robot = await wire.user("bob"), await wire.agent_key("ann")
    for caller in (wire.nobody, wire.ann, bob, robot, wire.caller(""), wire.caller("x" * 40)):
        assert await caller.status("GET", "/metrics") == 401
    key = tmp_path / "scrape-key"
    key.write_text("scrape-0123456789abcdef\n")
    async with open_wire(tmp_path / "other", scrape_key_file=key) as other:
        prometheus = other.caller("scrape-0123456789abcdef")
        assert await prometheus.status("GET", "/metrics") == 200
        assert await prometheus.status("GET", "/launch/items/x/attempts/1/logs/job") == 401
        for caller in (other.nobody, other.ann, other.caller("scrape-0123456789abcdeg")):
            assert await caller.status("GET", "/metrics") == 401


async def test_probes_and_metrics(tmp_path):
    key = tmp_path / "scrape-key"
    key.write_text("scrape-0123456789abcdef")
    async with open_wire(tmp_path / "data", scrape_key_file=key) as wire:
        await _probes_and_metrics(wire, wire.caller("scrape-0123456789abcdef"))


async def _probes_and_metrics(wire, prometheus):
    assert await wire.nobody.status("GET", "/healthz") == 200
    assert await wire.nobody.status("GET", "/readyz") == 200
    await wire.ann.data(
        "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }",
        i={"queueName": "default", "runSpec": SPEC},
    )
    async with prometheus.request("GET", "/metrics") as answer:
        text = await answer.text()
    assert 'launch_queue_items{entity="ann",phase="queued",queue="default"} 1.0' in text
    assert 'launch_http_request_seconds_count{route="/graphql",status="200"} 1.0' in text
    await (await Agent.register(wire.ann, "ann", "default")).claim()
    async with prometheus.request("GET", "/metrics") as answer:
        text = await answer.text()
    assert 'launch_claim_seconds_count{outcome="claimed"} 1.0' in text
    assert 'launch_http_request_seconds_count{route="/graphql",status="200"} 2.0' in text
    assert 'launch_agents{entity="ann",status=' in text


async def test_a_viewer_of_one_entity_does_not_see_another(wire):
    bob = await wire.user("bob")
    await wire.team("team", bob=Role.VIEWER)
    assert (await bob.data('{ entity(name: "ann") { id } }'))["entity"] is None
    assert (await bob.data('{ entity(name: "team") { name isTeam } }'))["entity"] == {
        "name": "team",
        "isTeam": True,
    }
    assert (await bob.data('{ project(entityName: "ann", name: "model-registry") { id } }'))[
        "project"
    ] is None


async def test_the_audit_log_is_a_page_for_administrators(wire):
    cookie = await _session(wire)
    wrong = {"key": "launch-wrong"}
    headers = {"Origin": wire.server.url}
    async with wire.nobody.request("POST", "/login", data=wrong, headers=headers) as answer:
        assert answer.headers["Location"] == "/login?failed=key"
    async with wire.nobody.request("GET", "/launch/audit", headers=cookie) as answer:
        text = await answer.text()
        assert answer.status == 200
    for part in ("session.begin", "queue.save", "127.0.0.1", "UNAUTHENTICATED", "not signed in"):
        assert part in text
    bob = await wire.user("bob")
    await wire.team("team", bob=Role.ADMIN)
    assert await bob.status("GET", "/launch/audit") == 403
    assert await bob.status("GET", "/launch/audit?entity=ann") == 404
    async with bob.request("GET", "/launch/audit?entity=team") as answer:
        assert "member.set" in await answer.text()


async def test_a_key_sent_as_a_cookie_is_no_session(wire):
    cookie = {"Cookie": f"{wire.server.app[COOKIE]}={wire.ann.key}"}
    await wire.ann.data(VIEWER)
    assert await wire.nobody.status("GET", "/launch", headers=cookie) == 303
