"""Which proxy a request goes through."""

from __future__ import annotations

import base64
import copy
import ipaddress
import pickle
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.errors import SettingsError
from bulkfetch.settings.declared import Settings
from bulkfetch.settings.proxies import (
    Proxy,
    ProxyChoice,
    choose_route,
    except_for,
    for_obstore,
    for_requests,
    matching_entry,
    odd_entries,
    parse_proxy,
)
from bulkfetch.settings.proxyfaults import fault_of_connection, fault_of_status
from bulkfetch.settings.sources import read_settings
from bulkfetch.settings.values import Secret

API, PLAIN = "https://api.example/v1", "http://api.example/v1"
A, B, C = "http://a:1", "http://b:2", "http://c:3"
PASSWORD = "canary-Secret~9"


def chosen(url: str, environ: Mapping[str, str], setting: str | None = None) -> str:
    choice = None if setting is None else read_settings(Settings(), proxy=setting).proxy
    return str(choose_route(url, choice, environ))


@pytest.mark.parametrize(
    ("url", "environ", "setting", "expected"),
    [
        (API, {}, None, "direct"),
        (API, {"HTTPS_PROXY": A}, None, A),
        (API, {"https_proxy": A}, None, A),
        (API, {"https_proxy": A, "HTTPS_PROXY": B}, None, A),
        (API, {"https_proxy": "", "HTTPS_PROXY": B}, None, B),
        (API, {"https_proxy": "", "HTTPS_PROXY": "", "ALL_PROXY": C}, None, C),
        (API, {"HTTP_PROXY": A, "http_proxy": A}, None, "direct"),
        (API, {"ALL_PROXY": A}, None, A),
        (API, {"all_proxy": A, "ALL_PROXY": B}, None, A),
        (API, {"all_proxy": A, "HTTPS_PROXY": B}, None, B),
        (API, {"all_proxy": A, "https_proxy": B}, None, B),
        (PLAIN, {"HTTP_PROXY": A}, None, A),
        (PLAIN, {"http_proxy": A, "HTTP_PROXY": B}, None, A),
        (PLAIN, {"HTTPS_PROXY": A, "https_proxy": A}, None, "direct"),
        (PLAIN, {"HTTP_PROXY": A, "REQUEST_METHOD": "GET"}, None, "direct"),
        (PLAIN, {"http_proxy": A, "REQUEST_METHOD": "GET"}, None, A),
        (PLAIN, {"HTTP_PROXY": A, "ALL_PROXY": B, "REQUEST_METHOD": "GET"}, None, B),
        (API, {"HTTPS_PROXY": A, "REQUEST_METHOD": "GET"}, None, A),
        # the setting wins, but NO_PROXY limits it as well
        (API, {"HTTPS_PROXY": A}, B, B),
        (PLAIN, {"HTTP_PROXY": A}, B, B),
        (API, {"HTTPS_PROXY": A}, "none", "direct"),
        (API, {"HTTPS_PROXY": A}, " None ", "direct"),
        (API, {"HTTPS_PROXY": A}, "", "direct"),
        (API, {"NO_PROXY": "api.example"}, B, "direct"),
        (API, {"HTTPS_PROXY": A, "NO_PROXY": "api.example"}, None, "direct"),
        (API, {"HTTPS_PROXY": A, "no_proxy": "b", "NO_PROXY": "api.example"}, None, A),
        (API, {"HTTPS_PROXY": A, "no_proxy": "", "NO_PROXY": "api.example"}, None, "direct"),
        (API, {"HTTPS_PROXY": A, "NO_PROXY": ""}, None, A),
        # an env-file leaves quotes
        (API, {"HTTPS_PROXY": f'"{A}"', "NO_PROXY": "'b'"}, None, A),
        (API, {"HTTPS_PROXY": A, "NO_PROXY": '"api.example"'}, None, "direct"),
        (API, {"https_proxy": '""', "HTTPS_PROXY": B}, None, B),
        # loopback is as any other place
        ("https://localhost:1/v1", {"HTTPS_PROXY": A}, None, A),
        ("http://127.0.0.1:1/v1", {"HTTP_PROXY": A}, None, A),
        ("http://[::1]:1/v1", {"HTTP_PROXY": A, "NO_PROXY": "::1"}, None, "direct"),
    ],
)
def test_the_proxy_of_a_request_is_the_one_that_curl_would_take(
    url: str, environ: dict[str, str], setting: str | None, expected: str
) -> None:
    assert chosen(url, environ, setting) == expected


@pytest.mark.parametrize(
    ("host", "no_proxy", "matches"),
    [
        # each of these was tried with curl 7.88, but for those of IPv6 blocks, brackets and /0
        ("a.test", "*", True),
        ("a.test", "*,b", False),
        ("a.test", " * ", False),
        ("a.test", "*.test", False),
        ("a.test", "test", True),
        ("a.test", ".test", True),
        ("a.test", "..test", False),
        ("a.test", ".a.test", True),
        ("a.test", "a.test.", True),
        ("a.test.", "a.test", True),
        ("a.test", "a.test:443", False),
        ("a.test", "b a.test", True),
        ("a.test", "b,\ta.test,,", True),
        ("a.test", "b;a.test", False),
        ("A.Test", "a.TEST", True),
        ("ba.test", "a.test", False),
        ("b.a.test", "a.test", True),
        ("test", "a.test", False),
        ("a.test", ",", False),
        ("a.test", ".", False),
        ("a.test", "", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.0/8", True),
        ("126.0.0.1", "127.0.0.0/7", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3/32", True),
        ("10.1.2.3", "10.1.2.3/33", False),
        ("10.1.2.3", "10.1.2.9/x", False),
        ("10.1.2.3", "10.0.0.0/-8", False),
        ("10.1.2.3", "0.0.0.0/0", True),
        ("10.1.2.3", "2.3", False),
        ("10.1.2.3", ".2.3", False),
        ("10.1.2.3", "10.1.2.3:1", False),
        ("10.1.2.3", "::ffff:10.0.0.0/104", False),
        ("localhost", "127.0.0.0/8", False),
        ("::1", "::1", True),
        ("::1", "[::1]", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("::1", "::/64", True),
        ("::1", "[::]/64", True),
        ("::1", "::2", False),
        ("::1", "[::1]:1", False),
        ("fe80::1%eth0", "fe80::/10", True),
        ("2001:db8::5", "2001:DB8::/32", True),
        ("2001:db9::5", "2001:db8::/32", False),
        ("2001:db8::5", "10.0.0.0/8", False),
        ("2001:db8::5", "2001:db8::/129", False),
    ],
)
def test_no_proxy_names_hosts_as_for_curl(host: str, no_proxy: str, matches: bool) -> None:
    assert (matching_entry(host, no_proxy) is not None) == matches


LABELS = st.lists(st.sampled_from(["a", "B", "corp", "x-1"]), min_size=1, max_size=4)


@given(host=LABELS, entries=st.lists(st.tuples(LABELS, st.booleans(), st.booleans())))
def test_a_name_stands_for_itself_and_all_names_below_it(
    host: list[str], entries: list[tuple[list[str], bool, bool]]
) -> None:
    words = [
        f"{'.' if dot_first else ''}{'.'.join(labels)}{'.' if dot_last else ''}"
        for labels, dot_first, dot_last in entries
    ]
    lower = [label.lower() for label in host]
    expected = any(
        lower[len(lower) - len(labels) :] == [label.lower() for label in labels]
        for labels, _, _ in entries
        if len(labels) <= len(lower)
    )
    assert (matching_entry(".".join(host), ", ".join(words)) is not None) == expected


@given(
    address=st.ip_addresses(),
    other=st.ip_addresses(),
    bits=st.integers(0, 128),
    flip=st.integers(0, 127),
)
def test_a_block_stands_for_the_addresses_that_share_its_bits(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    other: ipaddress.IPv4Address | ipaddress.IPv6Address,
    bits: int,
    flip: int,
) -> None:
    size = address.max_prefixlen
    near = type(address)(int(address) ^ (1 << flip % size))
    for network in (other, near):
        same_family = network.version == address.version
        first_bits = (int(each) >> max(0, size - bits) for each in (address, network))
        expected = same_family and bits <= size and len(set(first_bits)) == 1
        found = matching_entry(str(address), f"x,{network}/{bits}")
        assert (found is not None) == expected


def test_what_can_never_match_is_told() -> None:
    assert odd_entries("a.test, .b 10.0.0.0/8 ::1 [::1] fe80::/10 10.0.0.1") == []
    odd = ["*.b", "c:80", "10.0.0.0/99", "[::1]:80", "*"]
    assert odd_entries(",".join(["a", *odd])) == odd
    assert odd_entries("*") == odd_entries("") == []


@pytest.mark.parametrize(
    ("text", "address", "credentials"),
    [
        ("http://proxy.corp:3128", "http://proxy.corp:3128", None),
        ("HTTP://Proxy.Corp:3128/", "http://proxy.corp:3128", None),
        ("proxy.corp:3128", "http://proxy.corp:3128", None),
        ("proxy.corp", "http://proxy.corp:80", None),
        ("http://proxy.corp", "http://proxy.corp:80", None),
        ("http://proxy.corp:", "http://proxy.corp:80", None),
        ("https://proxy.corp", "https://proxy.corp:443", None),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080", None),
        ("http://[::1]:8080", "http://[::1]:8080", None),
        ("http://user:word@proxy:1", "http://proxy:1", ("user", "word")),
        ("user:word@proxy:1", "http://proxy:1", ("user", "word")),
        ("http://user@proxy:1", "http://proxy:1", ("user", "")),
        ("http://us%40er:p%3Aw%2f%23@proxy:1", "http://proxy:1", ("us@er", "p:w/#")),
        ("http://DOM%5Cuser:w@proxy:1", "http://proxy:1", ("DOM\\user", "w")),
        ("http://user:p@ss:w@proxy:1", "http://proxy:1", ("user", "p@ss:w")),
        ("http://%C3%BC:%E2%82%AC@proxy:1", "http://proxy:1", ("ü", "€")),
    ],
)
def test_the_address_of_a_proxy_is_read(
    text: str, address: str, credentials: tuple[str, str] | None
) -> None:
    proxy = parse_proxy(f" {text} ", "x")
    assert proxy.address == address
    found = proxy.credentials and tuple(each.reveal() for each in proxy.credentials)
    assert found == credentials


@pytest.mark.parametrize("scheme", ["socks", "socks4", "socks4a", "socks5", "SOCKS5H"])
def test_a_socks_proxy_is_refused_as_such(scheme: str) -> None:
    with pytest.raises(SettingsError, match="variable ALL_PROXY: is a SOCKS proxy") as caught:
        chosen(API, {"ALL_PROXY": f"{scheme}://user:{PASSWORD}@host:1080"})
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://",
        "http://:80",
        "http://proxy:0",
        "http://proxy:65536",
        "http://proxy:x",
        "http://pro xy:80",
        "http://proxy:80/path",
        "http://proxy:80?x",
        "http://[::1:80",
        "http://[12]:80",
        "ftp://proxy:80",
        "://proxy",
        "http:/proxy:80",
        "http//proxy:80",
        f"http://user:{PASSWORD}/x@proxy:80",
        f"http://user:{PASSWORD}#x@proxy:80",
        f"http://user:{PASSWORD}?x@proxy:80",
        f"http://user:{PASSWORD} x@proxy:80",
        f"http://user:{PASSWORD}%0d%0aX:y@proxy:80",
        f"http://user:{PASSWORD}%ff@proxy:80",
        f"http://us%3Aer:{PASSWORD}@proxy:80",
        f"http://user:{PASSWORD}@proxy:80:80",
    ],
)
def test_a_malformed_address_is_refused_and_not_repeated(text: str) -> None:
    for problem in (
        lambda: chosen(API, {"HTTPS_PROXY": text}),
        lambda: read_settings(Settings(), proxy=text),
    ):
        with pytest.raises(SettingsError) as caught:
            problem()
        assert PASSWORD not in str(caught.value)
        assert caught.value.__cause__ is None
    with pytest.raises(SettingsError, match=r"^environment variable https_proxy: "):
        chosen(API, {"https_proxy": text})


def test_a_malformed_address_counts_only_for_what_it_would_serve() -> None:
    assert chosen(API, {"HTTP_PROXY": "http://:x", "NO_PROXY": "b"}) == "direct"
    assert chosen(API, {"HTTPS_PROXY": "socks5://x", "NO_PROXY": "api.example"}) == "direct"


@given(
    user=st.text(min_size=1).filter(lambda text: text.isprintable() and ":" not in text),
    word=st.text(),
)
def test_credentials_survive_what_they_go_through(user: str, word: str) -> None:
    if not word.isprintable():
        return
    proxy = parse_proxy(f"http://{quote(user, safe='')}:{quote(word, safe='')}@proxy:1", "x")
    encoded = (proxy.authorization() or "").removeprefix("Basic ")
    assert base64.b64decode(encoded).decode() == f"{user}:{word}"
    assert parse_proxy(proxy.reveal(), "x") == proxy


def test_the_password_is_nowhere_to_be_seen() -> None:
    address = f"http://user:{PASSWORD}@proxy:1"
    settings = read_settings(Settings(), proxy=address)
    route = choose_route(API, settings.proxy, {})
    assert route.proxy is not None
    faults = [fault_of_status(route, route.proxy, status) for status in (403, 407, 502)]
    faults.append(fault_of_connection(route.proxy, "is down"))
    for each in (settings, settings.proxy, route, route.proxy, *faults):
        for shown in (repr(each), str(each), f"{each}", repr(copy.copy(each))):
            assert PASSWORD not in shown
    assert pickle.loads(pickle.dumps(settings.proxy)) == settings.proxy
    assert PASSWORD in "".join(route.proxy.secrets())


def test_libraries_are_given_the_same_route() -> None:
    through = choose_route(API, ProxyChoice(Secret("http://us%40er:p%23@proxy:1")), {})
    assert for_requests(through)["https"] == "http://us%40er:p%23@proxy:1"
    assert for_obstore(through) == {"proxy_url": "http://us%40er:p%23@proxy:1"}
    direct = choose_route(API, None, {})
    assert for_requests(direct) == {}
    assert for_obstore(direct)["proxy_excludes"].startswith("*,")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
def test_a_proxy_for_http_alone_is_said_not_to_lead_to_https(name: str) -> None:
    why = choose_route(API, None, {name: A}).why
    assert why == f"HTTPS_PROXY is not set; {name} is not for https"
    assert choose_route(API, None, {name: " "}).why == "no proxy is set"
    assert choose_route("http://localhost:1", None, {"HTTPS_PROXY": A}).why == "no proxy is set"


def test_a_server_of_this_process_is_asked_directly() -> None:
    choice = except_for(None, "http://127.0.0.1:5/v1")
    assert str(choose_route("http://127.0.0.1:5/v1", choice, {"HTTP_PROXY": A})) == "direct"
    assert str(choose_route("http://127.0.0.1:6/v1", choice, {"HTTP_PROXY": A})) == A
    choice = except_for(read_settings(Settings(), proxy=B).proxy, "http://127.0.0.1:5/v1")
    assert str(choose_route("http://127.0.0.1:5/x", choice, {})) == "direct"
    assert str(choose_route(API, choice, {})) == B


@pytest.mark.parametrize(
    ("status", "asks", "credentials", "text", "advice"),
    [
        (407, "", None, "asks for credentials", "HTTPS_PROXY: http://user:password@"),
        (407, "Basic realm=x", "u:w@", "refuses the credentials", "percent-encoded"),
        (407, "Negotiate, NTLM", "u:w@", "by Negotiate or NTLM", "Basic"),
        (407, "Negotiate, Basic realm=x", "u:w@", "refuses the credentials", "check"),
        (403, "", None, "does not connect to api.example: it answers 403", "NO_PROXY"),
        (502, "", None, "it answers 502", "check the name"),
        (504, "", None, "it answers 504", "check the name"),
    ],
)
def test_a_refusal_is_said_as_the_doing_of_the_proxy(
    status: int, asks: str, credentials: str | None, text: str, advice: str
) -> None:
    environ = {"HTTPS_PROXY": f"http://{credentials or ''}proxy:1"}
    route = choose_route(API, None, environ)
    assert isinstance(route.proxy, Proxy)
    fault = fault_of_status(route, route.proxy, status, asks)
    assert fault.text.startswith(f"the proxy {route.proxy} ")
    assert text in fault.text
    assert advice in fault.advice
    assert urlsplit(route.proxy.address).port == 1
