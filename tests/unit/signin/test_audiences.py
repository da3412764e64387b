"""Tokens for Microsoft Graph: by every way to sign in, beside those for Partner Center."""

from __future__ import annotations

import base64
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.servers.entra import CANARY, REFRESH, TENANT, entra, of_user

from bulkfetch.errors import SettingsError, SignInError
from bulkfetch.partnercenter.whoami import check_login
from bulkfetch.sandbox import SandboxOptions
from bulkfetch.settings.declared import GRAPH, Settings
from bulkfetch.settings.values import Secret
from bulkfetch.signin.audiences import MICROSOFT_GRAPH, PERMISSION, rights_of, why_not_for_graph
from bulkfetch.signin.device import log_in
from bulkfetch.signin.logins import read_login
from bulkfetch.signin.source import (
    acquire,
    check_graph_token,
    graph_token_source,
    token_source,
)
from bulkfetch.signin.tokens import claims_of


async def no_sleep(_seconds: float) -> None: ...


GRAPH_ID = "00000003-0000-0000-c000-000000000000"


def jwt(**claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.sig-{CANARY}"


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({}, ""),
        ({"aud": GRAPH, "roles": [PERMISSION]}, ""),
        ({"aud": f"{GRAPH}/", "roles": ["User.Read", PERMISSION.lower()]}, ""),
        ({"aud": GRAPH_ID, "scp": f"openid {PERMISSION} User.Read"}, ""),
        ({"aud": GRAPH, "scp": "", "roles": [PERMISSION]}, ""),
        ({"aud": GRAPH}, "permission"),
        ({"aud": GRAPH, "roles": []}, "permission"),
        ({"aud": GRAPH, "roles": "PartnerBilling.Read.All"}, "permission"),
        ({"aud": GRAPH, "roles": [None, 5]}, "permission"),
        ({"aud": GRAPH, "scp": "PartnerBilling.Read"}, "permission"),
        ({"aud": GRAPH, "scp": ["x"]}, "permission"),
        ({"tid": TENANT}, "permission"),
        ({"aud": "https://api.partnercenter.microsoft.com", "roles": [PERMISSION]}, "is for https"),
        ({"aud": "https://graph.windows.net", "scp": PERMISSION}, "is for https"),
    ],
    ids=str,
)
def test_the_claims_of_a_token_say_whether_it_opens_the_export(
    claims: dict[str, Any], why: str
) -> None:
    said = why_not_for_graph(claims)
    assert bool(said) is bool(why)
    assert why in said


def test_a_user_s_scopes_count_before_the_roles_of_the_app() -> None:
    assert rights_of({"scp": "a b", "roles": ["c"]}) == ("a", "b")
    assert rights_of({"roles": ["c", 1]}) == ("c",)
    assert rights_of({}) == ()


@pytest.mark.parametrize("way", ["secret", "user", "login"])
async def test_every_way_through_entra_leads_to_both_apis(way: str, tmp_path: Path) -> None:
    async with entra(tmp_path) as there:
        settings = there.settings()
        if way == "user":
            settings = of_user(there)
        if way == "login":
            settings = there.settings(client_secret=None, login_file=tmp_path / "login.json")
            await log_in(settings, lambda said: None, sleep=no_sleep)
        center, graph = token_source(settings), graph_token_source(settings)
        tokens = [await center.token(), await graph.token(), await center.token()]
        renewed = await graph.renew(tokens[1])
        assert await center.token() == tokens[0], "each has a renewal of its own"
    claims = [claims_of(each) for each in (*tokens, renewed)]
    center_api = "https://api.partnercenter.microsoft.com"
    assert [each["aud"] for each in claims] == [center_api, GRAPH, center_api, GRAPH]
    assert renewed != tokens[1]
    if way != "secret":
        assert PERMISSION in claims[1]["scp"].split()
        check_graph_token(settings, tokens[1])


async def test_a_refresh_token_that_graph_renewed_is_kept_as_well(tmp_path: Path) -> None:
    given: list[str] = []
    async with entra(tmp_path) as there:
        settings = of_user(there, login_file=tmp_path / "login.json")
        await graph_token_source(settings, keep=lambda new: given.append(new.reveal())).token()
    login = read_login(tmp_path / "login.json")
    assert login is not None
    assert given == [login.refresh_token.reveal()] != [REFRESH]


async def test_a_managed_identity_asks_for_graph_by_its_resource(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IDENTITY_HEADER", SandboxOptions().identity_header)
    async with entra(tmp_path) as there:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{there.origin}/identity/token")
        settings = there.settings(managed_identity="system", client_secret=None)
        assert claims_of(await graph_token_source(settings).token())["aud"] == GRAPH


@pytest.mark.parametrize("spelling", ["$TOKEN_AUDIENCE", "${TOKEN_AUDIENCE}", "in its environment"])
def test_a_token_command_gets_the_api_in_its_words_and_in_its_environment(spelling: str) -> None:
    program = "import os, sys; print(sys.argv[1] if '://' in sys.argv[1] else os.environ['X'])"
    program = program.replace("'X'", "'TOKEN_AUDIENCE'")
    settings = Settings(token_command=Secret(shlex.join([sys.executable, "-c", program, spelling])))
    assert acquire(settings, audience=MICROSOFT_GRAPH).token == GRAPH
    assert acquire(settings).token == "https://api.partnercenter.microsoft.com"


async def test_a_command_that_prints_the_same_token_for_both_is_told_what_to_print() -> None:
    token = jwt(aud="https://api.partnercenter.microsoft.com", scp="user_impersonation")
    command = shlex.join([sys.executable, "-c", f"print('{token}')"])
    settings = Settings(token_command=Secret(command))
    with pytest.raises(SignInError) as raised:
        check_graph_token(settings, await graph_token_source(settings).token())
    assert str(raised.value) == (
        "the token is for https://api.partnercenter.microsoft.com, not for Microsoft Graph: "
        "the token command must print one for the API that $TOKEN_AUDIENCE names, with the "
        f"permission {PERMISSION}"
    )


async def test_a_token_that_was_given_opens_partner_center_alone() -> None:
    settings = Settings(token=Secret(CANARY))
    with pytest.raises(SignInError, match="none for Microsoft Graph: give graph_token too"):
        graph_token_source(settings)
    both = Settings(token=Secret(CANARY), graph_token=Secret(f"{CANARY}-graph"))
    source = graph_token_source(both)
    assert await source.token() == f"{CANARY}-graph"
    assert await token_source(both).token() == CANARY
    with pytest.raises(SignInError, match=r"\(graph_token, 401\).*not for Microsoft Graph"):
        await source.renew(f"{CANARY}-graph")
    with pytest.raises(SettingsError, match="no credentials"):
        graph_token_source(Settings())


def test_an_app_without_the_permission_is_told_what_to_add_and_no_token_is_shown() -> None:
    settings = Settings(tenant_id=TENANT, client_id="a", client_secret=Secret("s"))
    with pytest.raises(SignInError) as raised:
        check_graph_token(settings, jwt(aud=GRAPH, roles=["User.Read.All"]))
    assert str(raised.value).startswith(
        f"the token does not have the permission {PERMISSION} of Microsoft Graph: add the "
        f"permission {PERMISSION} to the app's registration"
    )
    assert CANARY not in str(raised.value)
    given = Settings(token=Secret("t"), graph_token=Secret("g"))
    with pytest.raises(SignInError, match="give another graph_token"):
        check_graph_token(given, jwt(aud=GRAPH))
    check_graph_token(given, "opaque")


def test_a_token_for_graph_of_another_tenant_than_the_invoices_is_refused() -> None:
    settings = Settings(token=Secret("t"), graph_token=Secret("g"))
    other = "22222222-2222-2222-2222-222222222222"
    claims = {"aud": GRAPH, "roles": [PERMISSION]}
    with pytest.raises(SignInError, match=f"is of tenant {other}, and the invoices are of tenant"):
        check_graph_token(settings, jwt(**claims, tid=other), TENANT)
    for token in (jwt(**claims, tid=TENANT.upper()), jwt(**claims), "opaque"):
        check_graph_token(settings, token, TENANT)
    check_graph_token(settings, jwt(**claims, tid=other), "unknown")


async def test_a_check_of_the_login_says_what_graph_allows(tmp_path: Path) -> None:
    async with entra(tmp_path) as there:
        there.now = time.time()
        graph_url = f"{there.origin}/graph"
        user = await check_login(of_user(there, graph_url=graph_url))
        alone = Secret(SandboxOptions().token)
        opaque = await check_login(
            there.settings(token=alone, graph_token=Secret("g"), graph_url=graph_url)
        )
        center = await check_login(there.settings(token=alone, graph_url=graph_url))
        nowhere = await check_login(there.settings())
        asked = [path for path in there.asked if path.startswith("/graph")]
    assert asked == [], "a check asks Graph nothing"
    assert (user.graph, user.why_not_graph) == (True, "")
    assert opaque.graph is None
    assert (center.graph, nowhere.graph) == (False, False)
    assert "none for Microsoft Graph" in center.why_not_graph
    assert user.expires_at is not None
    shown = {
        line.partition("  ")[2].strip() if "Graph's" not in line else line[16:]
        for each in (user, opaque, center, nowhere)
        for line in each.lines(user.expires_at)
        if line.startswith("Graph's exports")
    }
    assert "can be asked for" in shown
    assert any(line.startswith("not known") for line in shown)
    assert any("graph_url does not say" in line for line in shown)
    assert user.to_dict()["graph"] is True
