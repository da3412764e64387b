"""Where settings and credentials come from: each line of the table in docs/environment.md, tried
with the program as a process."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from support.forks import run_bulkfetch

from bulkfetch.settings.environment import user_folder

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "environment.md"
PUBLIC_API = "api.partnercenter.microsoft.com"


@dataclass(slots=True)
class Place:
    """A home, a working directory and an environment, in which nothing but these is set."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir()
        self.cwd.mkdir()
        self.environ = {"HOME": str(self.home), "PYTHONPATH": str(ROOT), "PATH": os.defpath}
        if "SYSTEMROOT" in os.environ:  # Windows starts no Python without it
            self.environ["SYSTEMROOT"] = os.environ["SYSTEMROOT"]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def cwd(self) -> Path:
        return self.folder / "cwd"

    @property
    def configuration(self) -> Path:
        path = Path(user_folder(self.environ))
        path.mkdir(parents=True, exist_ok=True)
        return path

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return run_bulkfetch(*words, cwd=self.cwd, environ={**self.environ, **variables})

    def setting(self, name: str, *words: str, **variables: str) -> tuple[str, str]:
        """The value and the source of a setting, as `bulkfetch config` shows them."""
        done = self.run("config", "--json", *words, **variables)
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)[name]
        return shown["value"], shown["source"]

    def routes(self, **variables: str) -> dict[str, dict[str, str]]:
        """How each host is reached, as `bulkfetch config` shows it."""
        done = self.run("config", "--json", **variables)
        assert done.returncode == 0, done.stderr
        shown: dict[str, dict[str, str]] = json.loads(done.stdout)["proxies"]
        return shown

    def refusal(self, *words: str, **variables: str) -> str:
        """The one line with which a command is refused."""
        done = self.run(*words, **variables)
        assert done.returncode == 2, (done.returncode, done.stderr)
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def try_a_flag(place: Place) -> None:
    (place.configuration / "config.toml").write_text("page_size = 1")
    shown = place.setting("page_size", "--page-size", "3", BULKFETCH_PAGE_SIZE="2")
    assert shown == ("3", "--page-size")


def try_a_keyword(place: Place) -> None:
    code = "import bulkfetch; print(bulkfetch.read_settings(page_size=3).page_size)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=place.cwd,
        env={**place.environ, "BULKFETCH_PAGE_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


def try_a_variable(place: Place) -> None:
    (place.configuration / "config.toml").write_text("page_size = 1")
    assert place.setting("page_size", BULKFETCH_PAGE_SIZE="2")[0] == "2"
    assert place.setting("page_size", BULKFETCH_PAGE_SIZE="")[0] == "1"
    assert place.setting("page_size", BULKFETCH_PAGE_SIZE='""')[0] == "1"


def try_a_named_file(place: Place) -> None:
    (place.configuration / "config.toml").write_text("page_size = 1\nmax_attempts = 1")
    (place.cwd / "mine.toml").write_text("page_size = 4")
    named = ("--config", "mine.toml")
    assert place.setting("page_size", *named) == ("4", "mine.toml, key page_size")
    assert place.setting("max_attempts", *named) == ("8", "default")


def try_a_file_named_by_a_variable(place: Place) -> None:
    (place.cwd / "mine.toml").write_text("page_size = 4")
    (place.cwd / "other.toml").write_text("page_size = 5")
    assert place.setting("page_size", BULKFETCH_CONFIG="mine.toml")[0] == "4"
    named = ("--config", "other.toml")
    assert place.setting("page_size", *named, BULKFETCH_CONFIG="mine.toml")[0] == "5"


def try_the_file_of_the_user(place: Place) -> None:
    file = place.configuration / "config.toml"
    file.write_text("page_size = 1")
    assert place.setting("page_size") == ("1", f"{file}, key page_size")


def try_a_file_that_merely_lies_there(place: Place) -> None:
    (place.cwd / "bulkfetch.toml").write_text("page_size = 1")
    done = place.run("config", "--json")
    assert json.loads(done.stdout)["page_size"]["value"] == "2000"
    assert done.stderr.count("\n") == 1
    assert "bulkfetch.toml" in done.stderr
    assert "--config bulkfetch.toml" in done.stderr
    quiet = place.run("export", "lake", "--quiet")
    assert "bulkfetch.toml" not in quiet.stderr


def try_a_misspelt_variable(place: Place) -> None:
    words = place.refusal("config", BULKFETCH_TOKEN_COMAND="x")
    assert "did you mean BULKFETCH_TOKEN_COMMAND?" in words
    assert len(words) < 160
    assert len(place.refusal("config", BULKFETCH_ZZZ="x")) < 160


def try_the_variables_of_a_service(place: Place) -> None:
    variables = {
        "BULKFETCH_PORT": "tcp://10.0.0.1:80",
        "BULKFETCH_SERVICE_HOST": "10.0.0.1",
        "BULKFETCH_SERVICE_PORT": "80",
        "BULKFETCH_SERVICE_PORT_HTTP": "80",
        "BULKFETCH_PORT_80_TCP_ADDR": "10.0.0.1",
        "BULKFETCH_API_PORT_80_TCP": "tcp://10.0.0.1:80",
        "BULKFETCH_API_SERVICE_HOST": "10.0.0.1",
        "BULKFETCH_NAME": "/web/bulkfetch",
        "BULKFETCH_ENV_LANG": "C",
    }
    assert place.setting("page_size", **variables) == ("2000", "default")


def try_quotes(place: Place) -> None:
    assert place.setting("page_size", BULKFETCH_PAGE_SIZE='"500"\r')[0] == "500"
    assert place.setting("cloud", BULKFETCH_CLOUD=" 'china' ")[0] == "china"


def try_a_kept_login(place: Place) -> None:
    assert place.setting("login_file")[0] == str(place.configuration / "login.json")
    assert "no credentials" in place.refusal("invoices", "list")
    (place.configuration / "login.json").write_text("{}")
    (place.configuration / "login.json").chmod(0o600)
    assert "is not a login of bulkfetch" in place.run("invoices", "list").stderr


def try_paths(place: Place) -> None:
    (place.home / "ca.pem").write_text("certificates")
    for path in ("~/ca.pem", "$HOME/ca.pem", "${HOME}/ca.pem", "%HOME%/ca.pem"):
        expected = str(place.home / "ca.pem")
        assert place.setting("ca_file", "--ca-file", path)[0] == expected
        assert place.setting("ca_file", BULKFETCH_CA_FILE=f"'{path}'")[0] == expected
    assert "the variable NOWHERE in" in place.refusal("config", "--ca-file", "$NOWHERE/ca.pem")
    for output in ("~/lake", "$HOME/lake", "%HOME%/lake"):
        assert f"{place.home / 'lake'} is not an archive" in place.run("verify", output).stderr
    assert "the variable NOWHERE in" in place.refusal("verify", "$NOWHERE/lake")
    assert list(place.cwd.iterdir()) == []


def try_relative_paths_in_a_file(place: Place) -> None:
    folder = place.cwd / "conf"
    folder.mkdir()
    (folder / "ca.pem").write_text("certificates")
    (folder / "mine.toml").write_text("ca_file = 'ca.pem'\ntoken_command = './token'")
    named = ("--config", "conf/mine.toml")
    assert place.setting("ca_file", *named)[0] == str(folder / "ca.pem")
    assert place.setting("token_command", *named)[0] == f"{folder}/token …"


def try_a_program_in_the_working_directory(place: Place) -> None:
    program = place.cwd / "give-token"
    program.write_text(f"#!/bin/sh\ntouch '{place.folder}/ran'\necho token\n")
    program.chmod(0o755)
    for path in (".", f"{os.defpath}{os.pathsep}", "."):
        done = place.run("invoices", "list", BULKFETCH_TOKEN_COMMAND="give-token", PATH=path)
        assert done.returncode == 1, done.stderr
        assert "there is no such program in PATH" in done.stderr
        assert not (place.folder / "ran").exists()


@contextmanager
def serving_tls(folder: Path) -> Iterator[str]:
    """Serve an empty list of invoices with a certificate that only `folder`/ca.pem vouches for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            uri = self.path.removeprefix("/v1")
            page = {"totalCount": 0, "items": [], "links": {"self": {"uri": uri}}}
            body = json.dumps(page).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://localhost:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def try_certificates(place: Place) -> None:
    with serving_tls(place.folder) as url:
        words = ["invoices", "list", "--base-url", url, "--token", "t", "--max-attempts", "1"]
        ours, none = str(place.folder / "ca.pem"), str(place.folder / "none.pem")
        assert place.run(*words).returncode == 1
        assert place.run(*words, "--ca-file", ours).returncode == 0
        for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            for value in (ours, f'"{ours}"'):
                done = place.run(*words, **{variable: value})
                assert (done.returncode, done.stderr) == (0, ""), done.stderr
            done = place.run(*words, **{variable: none})
            assert done.returncode == 1
            assert f"environment variable {variable}: there is no file {none}" in done.stderr
        done = place.run(*words, REQUESTS_CA_BUNDLE=none, CURL_CA_BUNDLE=ours)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("REQUESTS_CA_BUNDLE") == 1
        others = {"SSL_CERT_FILE": ours, "REQUESTS_CA_BUNDLE": none, "CURL_CA_BUNDLE": none}
        assert place.setting("ca_file", **others) == (ours, "environment variable SSL_CERT_FILE")
        others["BULKFETCH_CA_FILE"] = ours
        source = "environment variable BULKFETCH_CA_FILE"
        assert place.setting("ca_file", **others) == (ours, source)
        (place.home / "ca.pem").write_bytes(Path(ours).read_bytes())
        for named in ("~/ca.pem", "$HOME/ca.pem", "%HOME%/ca.pem"):
            assert place.run(*words, REQUESTS_CA_BUNDLE=named).returncode == 0, named
    for content, said in (
        (b"", "has no certificates in PEM, and is not used"),
        (b"\x30\x82DER", "has no certificates in PEM, and is not used"),
        (None, "is a folder, and not used"),
    ):
        odd = place.folder / said.partition(",")[0]
        odd.write_bytes(content) if content is not None else odd.mkdir()
        done = place.run("config", CURL_CA_BUNDLE=str(odd))
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        assert f"environment variable CURL_CA_BUNDLE: {odd} {said}" in done.stderr
    done = place.run("config", CURL_CA_BUNDLE="$NOWHERE/ca.pem")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "environment variable CURL_CA_BUNDLE: the variable NOWHERE" in done.stderr


def try_proxies(place: Place) -> None:
    api, login, a, b = PUBLIC_API, "login.microsoftonline.com", "http://a:1", "http://b:2"
    for given, shown in (
        ({"HTTPS_PROXY": a}, a),
        ({"HTTPS_PROXY": a, "https_proxy": b}, b),
        ({"ALL_PROXY": a}, a),
        ({"HTTPS_PROXY": f'"{a}"'}, a),
        ({"HTTPS_PROXY": a, "BULKFETCH_PROXY": b}, b),
        ({"HTTPS_PROXY": a, "BULKFETCH_PROXY": "none"}, "direct"),
        ({"HTTPS_PROXY": a, "NO_PROXY": api}, "direct"),
        ({"HTTP_PROXY": a}, "direct"),
    ):
        assert place.routes(**given)[api]["value"] == shown, given
    assert place.routes(HTTPS_PROXY=a, NO_PROXY=api)[login]["value"] == a
    assert "HTTP_PROXY is not for https" in place.routes(HTTP_PROXY=a)[api]["source"]


def try_a_home_that_takes_no_file(place: Place) -> None:
    for variables in (
        {"HOME": "/dev/null"},
        {"HOME": "/proc/none"},
        {"HOME": ""},
        {"HOME": "."},
        {"HOME": str(place.home), "XDG_CONFIG_HOME": "/dev/null"},
    ):
        done = place.run("export", "--sandbox", "--quiet", str(place.folder / "lake"), **variables)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "no credentials" in place.refusal("invoices", "list", **variables)
        words = (
            "login",
            "--tenant-id",
            "t",
            "--client-id",
            "c",
            "--authority",
            "https://127.0.0.1:9",
        )
        done = place.run(*words, **variables)
        assert done.returncode in (1, 2)
        assert "--login-file" in done.stderr
    assert list(place.cwd.iterdir()) == []


def try_a_volume(place: Place) -> None:
    for name in ("lost+found", ".snapshot", "System Volume Information"):
        (place.folder / "lake" / name).mkdir(parents=True)
    for name in (".DS_Store", ".gitkeep", "Thumbs.db", "desktop.ini"):
        (place.folder / "lake" / name).touch()
    lake = str(place.folder / "lake")
    assert place.run("export", "--sandbox", "--quiet", lake).returncode == 0
    assert place.run("verify", lake).returncode == 0


def try_an_address_of_one_slash(place: Place) -> None:
    for command in (("export",), ("verify",), ("repair",), ("accept", "X")):
        words = place.refusal(
            command[0], "s3:/bucket/lake", *command[1:], BULKFETCH_TOKEN="t", BULKFETCH_BASE_URL=""
        )
        assert "write s3://bucket/lake" in words
    assert list(place.cwd.iterdir()) == []


TRIALS: dict[str, Callable[[Place], None]] = {
    "a flag": try_a_flag,
    "a keyword argument in Python": try_a_keyword,
    "a variable `BULKFETCH_…`": try_a_variable,
    "`--config FILE`": try_a_named_file,
    "`BULKFETCH_CONFIG`": try_a_file_named_by_a_variable,
    "`config.toml` in your configuration folder": try_the_file_of_the_user,
    "`bulkfetch.toml` in the working directory": try_a_file_that_merely_lies_there,
    "a misspelt variable `BULKFETCH_…`": try_a_misspelt_variable,
    "variables of a Kubernetes service or a Docker link named `bulkfetch`, or `bulkfetch-…`": (
        try_the_variables_of_a_service
    ),
    "quotes and blanks around a variable": try_quotes,
    "`login.json` in your configuration folder": try_a_kept_login,
    "`~`, `~user`, `$NAME`, `${NAME}`, `%NAME%` in a path": try_paths,
    "a relative path in a TOML file": try_relative_paths_in_a_file,
    "a program of `token_command` without a folder": try_a_program_in_the_working_directory,
    "SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE": try_certificates,
    "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY": try_proxies,
    "a home that is missing, read-only or not ours": try_a_home_that_takes_no_file,
    "`lost+found`, `.DS_Store`, `.gitkeep` and their like in the output directory": try_a_volume,
    "an address of one slash, such as `s3:/bucket`": try_an_address_of_one_slash,
}


def places_of_the_page() -> list[str]:
    """The first cell of each line of the table."""
    rows = re.findall(r"^\| (.+?) \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [row for row in rows if row not in ("place", "---")]


@pytest.mark.parametrize("row", places_of_the_page())
def test_each_line_of_the_table_is_true(row: str, place: Place) -> None:
    TRIALS[row](place)


def test_every_trial_has_a_line_in_the_table() -> None:
    assert list(TRIALS) == places_of_the_page()
