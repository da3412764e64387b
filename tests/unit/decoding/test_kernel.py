from __future__ import annotations

import ctypes
import gc
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from support.kernels import kernel_of, reason_or_same, reason_or_same_lines
from support.pages import LONE_SURROGATES, ODD, any_value, json_texts, page, pages, pages_with
from support.payloads import LINE_ITEMS, Payload

from bulkfetch.billing.details import DETAILS, schema_of
from bulkfetch.billing.schemas import INVOICE, LICENSE_BASED, ONE_TIME
from bulkfetch.decoding.fields import UNDECLARED, Field, Kind, LineItemSchema
from bulkfetch.decoding.jsontext import utf8_of
from bulkfetch.decoding.kernel import KINDS, MAX_STRANGERS, Decoded, Kernels, find_items
from bulkfetch.decoding.library import ABI, Refusal, load, load_from
from bulkfetch.decoding.pages import Page, PageDecoder, Response, items_of_lines
from bulkfetch.errors import MalformedBodyError

HEADER = (Path(__file__).parents[3] / "kernel" / "kernel.h").read_text()
EVERY_KIND = LineItemSchema("EveryKind", tuple(Field(kind.name.lower(), kind) for kind in Kind))
SCHEMAS = {
    row.schema.resource: row.schema
    for row in DETAILS.values()
    if row.schema and not row.schema.any_case  # test_any_case.py has those
}
WITH_NULLS = replace(EVERY_KIND, null_fits=True)
of_each_schema = pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())


def reason(text: str | bytes, schema: LineItemSchema = ONE_TIME) -> str | None:
    body = text if isinstance(text, bytes) else text.encode()
    return reason_or_same(kernel_of(schema), body, schema)


@of_each_schema
@given(st.data())
def test_the_kernel_gives_what_the_exact_way_does_or_refuses(
    schema: LineItemSchema, data: st.DataObject
) -> None:
    kernel = kernel_of(schema)
    any_page = st.one_of(pages(schema.fields), pages_with(schema.fields))
    event(reason_or_same(kernel, data.draw(any_page).encode(), schema) or "taken")


@given(pages(ONE_TIME.fields))
def test_the_kernel_keeps_whole_items_as_the_exact_way_does(text: str) -> None:
    assert reason(text, UNDECLARED) in (None, "it nests values too deep")


@given(st.lists(st.tuples(st.sampled_from(list(Kind)), json_texts), max_size=3))
def test_any_value_in_a_column_of_any_kind_is_as_on_the_exact_way(
    pairs: list[tuple[Kind, str]],
) -> None:
    row = ",".join(f'"{kind.name.lower()}": {value}' for kind, value in pairs)
    for schema in (EVERY_KIND, WITH_NULLS):
        reason(f'{{"items":[{{{row}}},{{}}]}}', schema)


def test_a_null_of_any_kind_is_rescued_unless_the_type_says_that_it_fits() -> None:
    row = ",".join(f'"{kind.name.lower()}":null' for kind in Kind)
    text = f'{{"items":[{{{row},"other":null}},{{}}]}}'.encode()
    for schema, rescued in (
        (EVERY_KIND, f'{{{row},"other":null}}'),
        (WITH_NULLS, '{"other":null}'),
    ):
        assert reason(text, schema) is None
        decoded = kernel_of(schema).decode_page(text)
        assert isinstance(decoded, Decoded)
        assert [each.null_count for each in decoded.columns.arrays] == [2] * len(Kind)
        assert decoded.columns.rescued.to_pylist() == [rescued, None]


@of_each_schema
def test_the_kernel_takes_most_odd_pages_and_refuses_some(schema: LineItemSchema) -> None:
    kernel = kernel_of(schema)
    texts = (page(Random(seed), Random(-seed), schema.fields).encode() for seed in range(200))
    reasons = [reason_or_same(kernel, text, schema) for text in texts]
    assert 120 <= reasons.count(None) <= 180


def test_a_single_odd_value_is_taken_in_a_column_of_any_kind() -> None:
    odd = {value for values in ODD.values() for value in values} | {"null", "true", "{}"}
    refused = {
        (kind, value): why
        for kind in ODD
        for value in odd
        if (why := reason(f'{{"items":[{{"{kind.name.lower()}":{value}}}]}}', EVERY_KIND))
    }
    assert set(refused.values()) == {"a number has a long exponent"}
    assert len(refused) < 20


@pytest.mark.parametrize("payload", LINE_ITEMS, ids=str)
def test_real_pages_are_taken(payload: Payload) -> None:
    schema = schema_of(payload.provider, payload.line_item_type)
    assert schema is not None
    assert reason(utf8_of(payload.body), schema) is None
    assert reason(utf8_of(payload.body), UNDECLARED) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"items":[]}',
        ' {"items" : [ ] } \r\n',
        '{"items":[{}]}',
        '{\n  "items": [\n    {\n      "unitPrice": 5\n    }\n  ]\n}\n',
        '{"items":[{"customerName":null,"unitPrice":""}]}',
        '{"items":[{"unitPrice":"007"},{"unitPrice":"1e5"},{"unitPrice":1e5},{"unitPrice":-0}]}',
        '{"items":[{"quantity":340282366920938463463374607431768211457}]}',
        '{"items":[{"resellerMpnId":9223372036854775808},{"resellerMpnId":1.50}]}',
        r'{"items":[{"customerName":"\ud800","productName":"\ud83d\ude00\u0000"}]}',
        '{"items":[{"zzz":5,"aaa":{"b":[1, "\\u0041"]},"AAA":true,"":null}]}',
        '{"items":[{"attributes":{"objectType":"a","etag":"b"}},{"attributes":{}}]}',
        '{"items":[{"productQualifiers":["a",5]},{"productQualifiers":["b",null]}]}',
        '{"items":[{"cust\\u006fmerName":"a"}]}',
        '{"items":[{"orderDate":"2021-05-20T18:30:06.6045692-08:00"}],"serverTime":5}',
    ],
)
def test_these_pages_are_taken(text: str) -> None:
    assert reason(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"items":[{"customerName":"a","customerName":null}]}', "an object has a key twice"),
        ('{"items":[{"new":1,"new":1}]}', "an object has a key twice"),
        ('{"items":[],"items":[]}', "an object has a key twice"),
        ('{"items":[{"néw":1}]}', "an unknown key has escapes or is not ASCII"),
        (r'{"items":[{"n\u0065w":1}]}', "an unknown key has escapes or is not ASCII"),
        (r'{"items":[{"\ud800":1}]}', "an unknown key has escapes or is not ASCII"),
        (r'{"\u0069tems":[]}', "an unknown key has escapes or is not ASCII"),
        ('{"items":[{"unitPrice":1e12345}]}', "a number has a long exponent"),
        ('{"items":[{"new":' + "[" * 70 + "]" * 70 + "}]}", "it nests values too deep"),
        ('{"items":[5]}', "an item is not an object"),
        ('{"items":{}}', "it is not a page"),
        ("{}", "it is not a page"),
        ('{"items":[{"unitPrice":NaN}]}', "it is not JSON"),
        ('{"items":[{"customerName":"a"}]}x', "it is not JSON"),
        ('\ufeff{"items":[]}', "it is not a page"),
        (b'{"items":[{"customerName":"\xff"}]}', "it is not JSON"),
        (b'{"items":[{"customerName":"\xed\xa0\x80"}]}', "it is not JSON"),
        (b'{"items":[]}\0', "it is not JSON"),
    ],
)
def test_these_pages_are_refused(text: str | bytes, why: str) -> None:
    assert reason(text) == why


VARIANTS = ["customerName", "CustomerName", "CUSTOMERNAME", "customername"]


@given(st.lists(st.tuples(st.sampled_from(VARIANTS), st.sampled_from(['"a"', "1", "null"]))))
def test_keys_that_differ_in_case_only_are_as_on_the_exact_way(
    pairs: list[tuple[str, str]],
) -> None:
    row = ",".join(f'"{key}":{value}' for key, value in pairs)
    twice = len({key for key, _ in pairs}) < len(pairs)
    text = f'{{"items":[{{"unitPrice":1}},{{{row}}},{{"CustomerName":"x","unitPrice":2}}]}}'
    assert reason(text) == ("an object has a key twice" if twice else None)


def test_a_field_may_be_missing_new_or_elsewhere_from_row_to_row() -> None:
    draw = Random(5)
    names = [field.name for field in LICENSE_BASED.fields] + ["new", "newer", "Newest"]
    rows = []
    for _ in range(300):
        draw.shuffle(names)
        pairs = [f'"{name}":{any_value(draw)}' for name in names[: draw.randint(0, 12)]]
        rows.append("{" + ",".join(pairs) + "}")
    text = f'{{"items":[{",".join(rows)}]}}'
    assert reason(text, LICENSE_BASED) in (None, "a number has a long exponent")


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 4095, 4097, 20_000])
def test_columns_grow_to_any_number_of_rows(rows: int) -> None:
    row = '{"customerName":"é","quantity":-1.5,"productQualifiers":["a"],"orderDate":null}'
    text = ",".join([row] * (rows // 2) + ["{}"] * (rows - rows // 2))
    assert reason(f'{{"items":[{text}]}}') is None


def test_a_text_of_a_megabyte_is_kept() -> None:
    long = json.dumps("é\\n" * 300_000)
    assert (
        reason(f'{{"items":[{{"customerName":{long},"new":{long},"unitPrice":{long}}}]}}') is None
    )


def test_more_unknown_keys_than_a_schema_ever_grows_by_are_refused() -> None:
    for keys in (MAX_STRANGERS, MAX_STRANGERS + 1):
        row = ",".join(f'"new{number}":{number}' for number in range(keys))
        why = reason(f'{{"items":[{{{row}}},{{}}]}}')
        assert why == (None if keys == MAX_STRANGERS else "it has too many unknown keys")


@pytest.mark.parametrize("depth", [20, 57, 58, 240, 300, 1_030, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("place", ['{{"items":[{{"nested":{}}}]}}', '{{"nested":{},"items":[]}}'])
def test_nesting_is_taken_or_refused_whatever_the_depth(
    depth: int, opening: str, closing: str, place: str
) -> None:
    text = place.format(opening * depth + "1" + closing * depth)
    assert reason(text) == (None if depth <= 57 else "it nests values too deep") or depth == 58


def test_a_page_cut_anywhere_is_refused() -> None:
    text = (
        '{"items":[{"customerName":"a\\u00e9é","quantity":-1.50,"new":[{}]}],"links":{}}'.encode()
    )
    assert reason(text) is None
    for end in range(len(text)):
        assert reason(text[:end]) is not None


@given(st.integers(0, 10**6), st.data())
def test_a_page_with_a_changed_byte_is_as_on_the_exact_way(seed: int, data: st.DataObject) -> None:
    body = bytearray(page(Random(seed), Random(seed), ONE_TIME.fields[-12:]).encode())
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(
        st.one_of(st.sampled_from(b'"\\{}[],: 0e.-n'), st.integers(0, 255))
    )
    reason(bytes(body))


# Whatever a server sends

PIECES = [
    *(bytes([byte]) for byte in b'"\\{}[],:-+.0e \n\0\x1f\x0c\xff\xc3'),
    *(b"\xc0\x80", b"\xe2\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"),  # no UTF-8
    *(b"\xef\xbb\xbf", b"\xc2\xa0", b"\r\n", b"\\ud800", b"\\u0000", b"\\x"),
    *(b"E9", b"e99999", b"{}", b"[]", b"null", b"nul", b"NaN", b'"":1,', b'"a":{"a":1,"a":2},'),
    *(b'"items":[],', b'"Items":[],', b'"item\\u0073":[],', b'"totalCount":1,', b'"links":{},'),
    *(b"[" * depth + b"]" * depth for depth in (50, 70, 300)),
]
ALL_SCHEMAS = {row.schema.resource: row.schema for row in DETAILS.values() if row.schema}.values()


def spoil(body: bytes, draw: Random) -> bytes:
    """Put a piece into a body, or in place of a byte; at either end, or anywhere; or cut it off."""
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        at = draw.choice((0, len(body), *(draw.randrange(len(body) + 1) for _ in range(4))))
        body = body[:at] + draw.choice(PIECES) + body[at + draw.randrange(2) :]
    return body if draw.randrange(20) else body[: draw.randrange(len(body) + 1)]


def name_of(schema: LineItemSchema | None) -> str:
    return "undeclared" if schema is None else schema.resource


def said(decode: Callable[[], Response[Page] | Page]) -> tuple[object, ...] | None:
    """Return all that a body says, or None if it is malformed."""
    try:
        found = decode()
    except MalformedBodyError:
        return None
    page = found.page if isinstance(found, Response) else found
    for array in page.columns.arrays:
        array.validate(full=True)
    columns = page.columns
    envelope = found.envelope if isinstance(found, Response) else None
    return page.rows, page.digest, columns.arrays, columns.rescued, columns.rescues, envelope


@pytest.mark.parametrize("schema", [*ALL_SCHEMAS, None], ids=name_of)
@given(st.integers(0, 2**64))
def test_any_body_says_the_same_on_both_ways_or_is_malformed_on_both(
    schema: LineItemSchema | None, seed: int
) -> None:
    draw, exact = Random(seed), Kernels()
    exact.decode_page = lambda *_: None  # type: ignore[method-assign]
    exact.decode_lines = lambda *_: None  # type: ignore[method-assign]
    kernel_of(ONE_TIME)
    ours, theirs = PageDecoder("D1", schema), PageDecoder("D1", schema, exact)
    body = page(draw, draw, (schema or ONE_TIME).fields).encode()
    lines = body[body.index(b"[") + 1 : body.rindex(b"]")].replace(b"},{", b"}\n{")
    body, lines = spoil(body, draw), spoil(lines, draw)
    assert said(lambda: ours.decode(body)) == said(lambda: theirs.decode(body))
    assert said(lambda: ours.decode_lines(lines)) == said(lambda: theirs.decode_lines(lines))


# Lines


@of_each_schema
@given(st.data())
def test_lines_are_as_on_the_exact_way(schema: LineItemSchema, data: st.DataObject) -> None:
    texts = data.draw(st.lists(pages(schema.fields), max_size=3))
    rows = [
        json.dumps(row) for text in texts for row in json.loads(text)["items"]
    ]  # in another spelling, each on a line
    ends = st.sampled_from(["\n", "\r\n", "\n\n", " \n\t\r\n"])
    lines = "".join(row + data.draw(ends) for row in rows)
    if data.draw(st.booleans()):
        lines = lines.rstrip()
    event(reason_or_same_lines(kernel_of(schema), lines.encode(), schema) or "taken")


@pytest.mark.parametrize(
    "lines",
    ["{}{}", "{},", "{\n}", "[]", '{"a":1}\n{"a":', "{}\n5", '{"a":"\n"}', "\x0b\n", "\xa0"],
)
def test_lines_that_are_not_one_object_each_are_malformed_on_both_ways(lines: str) -> None:
    assert isinstance(kernel_of(ONE_TIME).decode_lines(lines.encode()), Refusal)
    with pytest.raises(MalformedBodyError):
        PageDecoder("D1", ONE_TIME).decode_lines(lines.encode())


def test_lines_become_a_page_whichever_way() -> None:
    text = b'{"customerName":"a","new":1}\r\n\n{"customerName":"b","customerName":"c"}'
    decoder = PageDecoder("D1", ONE_TIME)
    page = decoder.decode_lines(text)
    assert decoder.batch(page, 5).column("line_number").to_pylist() == [5, 6]
    assert page.columns.rescued.to_pylist() == [
        '{"new":1}',
        '{"customerName":"b","customerName":"c"}',
    ]
    with pytest.raises(MalformedBodyError, match="line 3: the body is not JSON"):
        items_of_lines(b"{}\n\n{")


# Where the items are


@given(pages(ONE_TIME.fields))
def test_the_items_are_found_without_decoding_them(text: str) -> None:
    kernel = kernel_of(ONE_TIME)
    found, decoded = (
        find_items(b"\xef\xbb\xbf" + text.encode(), 3),
        kernel.decode_page(text.encode()),
    )
    if isinstance(decoded, Decoded):
        assert found == (decoded.items_start + 3, decoded.items_end + 3)


# The library


def test_each_kind_has_the_arrow_type_of_its_column() -> None:
    library = load()
    kernel_of(ONE_TIME)
    assert not isinstance(library, Refusal)
    for kind, number in KINDS.items():
        assert library.kernel_format(number) == format_of(kind.arrow_type)
    assert set(KINDS) == set(Kind)


def format_of(arrow_type: pa.DataType) -> bytes:
    """The format string of a type in the Arrow C data interface: the first member of its schema."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    capsule = arrow_type.__arrow_c_schema__()
    return ctypes.c_char_p.from_address(get(capsule, b"arrow_schema")).value or b""


def test_the_numbers_of_the_header_are_those_of_the_module() -> None:
    (listed,) = re.findall(r"enum kernel_kind \{(.*?)\}", HEADER, re.DOTALL)
    names = [name.removeprefix("KERNEL_") for name in re.findall(r"\w+", listed)]
    assert names == [kind.name for kind in KINDS] + ["KINDS"]
    assert re.findall(r"#define KERNEL_ABI (\d+)", HEADER) == [str(ABI)]
    assert re.findall(r"#define KERNEL_MAX_STRANGERS (\d+)", HEADER) == [str(MAX_STRANGERS)]


def test_a_schema_that_the_kernel_cannot_have_takes_the_exact_way() -> None:
    fields = (Field("näme", Kind.TEXT), Field("a", Kind.INTEGER), Field("A", Kind.TEXT))
    schema = LineItemSchema("Odd", fields)
    assert kernel_of(schema).decode_page(b'{"items":[]}') == Refusal(
        "the kernel cannot have this schema"
    )
    page = PageDecoder("D1", schema).decode(b'{"items":[{"a":1}]}').page
    assert page.columns.arrays[1].to_pylist() == [1]


def test_invoices_are_columns_of_the_kernel_too() -> None:
    schema = LineItemSchema("Invoice", INVOICE)
    assert (
        reason('{"items":[{"invoiceDetails":[{"links":{ }}],"totalCharges":1.10}]}', schema) is None
    )


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_kernel.so").write_bytes(b"not a library")
    refused = load_from(tmp_path / "_kernel.so")
    assert isinstance(refused, Refusal)
    assert refused.reason.startswith("the kernel cannot be loaded: ")


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("int kernel_abi(void) { return 999; }", "the kernel cannot be loaded"),
        (None, "the kernel has version 999, and 2 is needed"),
    ],
)
def test_a_library_of_another_version_is_refused(
    tmp_path: Path, code: str | None, why: str
) -> None:
    if code is None:
        names = re.findall(r"\b(kernel_\w+)\(", HEADER)
        code = "".join(f"int {name}(void) {{ return 999; }}\n" for name in dict.fromkeys(names))
    (tmp_path / "other.c").write_text(code)
    library = tmp_path / "other.so"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "other.c")]
    subprocess.run(command, check=True)
    refused = load_from(library)
    assert isinstance(refused, Refusal)
    assert refused.reason.startswith(why)


@pytest.mark.parametrize("blanks", [0, 1, 14, 40])
def test_rows_are_bounded_however_long_they_are(blanks: int) -> None:
    """Room for rows is made ahead, for as many as the first ones promise."""
    most = 1 << 20
    kernel = kernel_of(LineItemSchema("Small", (Field("a", Kind.BOOLEAN),)))
    for rows in (most, most + 1):
        body = b'{"items":[' + b"{}," + (b" " * blanks + b"{},") * (rows - 2) + b"{}]}"
        lines = (b"{}" + b" " * blanks + b"\n") * rows
        for decoded in (kernel.decode_page(body), kernel.decode_lines(lines)):
            if rows > most:
                assert isinstance(decoded, Refusal)
                assert decoded.reason == "it is too large"
            else:
                assert isinstance(decoded, Decoded)
                assert decoded.rows == rows


def test_why_pages_take_the_exact_way_is_counted() -> None:
    kernel_of(ONE_TIME)
    exact = Kernels().exact
    decoder = PageDecoder("D1", ONE_TIME, Kernels(exact))
    decoder.decode(b'{"items":[{"customerName":"a"}]}')
    assert not exact
    for _ in "ab":
        decoder.decode('{"items":[{"é":1}]}'.encode())
    assert exact == {"an unknown key has escapes or is not ASCII": 2}


def run(program: str, **environment: str) -> tuple[int, str]:
    """Run a program in a Python of its own, and return how it ended and what it printed."""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), **environment},
    )
    return ended.returncode, ended.stdout.strip()


def test_the_exact_way_can_be_asked_for() -> None:
    program = (
        "from bulkfetch.decoding.kernel import Kernels\n"
        "from bulkfetch.decoding.pages import PageDecoder\n"
        "from bulkfetch.billing.schemas import ONE_TIME\n"
        "kernels = Kernels()\n"
        'PageDecoder("D1", ONE_TIME, kernels).decode(b\'{"items":[{}]}\')\n'
        "print(kernels.are_here, dict(kernels.exact))"
    )
    assert run(program, BULKFETCH_KERNEL="off") == (0, "False {'BULKFETCH_KERNEL is off': 1}")


@pytest.mark.parametrize("names", [("a\0b", "c"), ("é",), ()])
def test_a_schema_that_the_kernel_cannot_have_is_refused(names: tuple[str, ...]) -> None:
    """A field beyond the NUL of another would get its values, for example."""
    schema = LineItemSchema("Odd", tuple(Field(name, Kind.TEXT) for name in names))
    refused = kernel_of(schema).decode_page(b'{"items":[{"a":"q","c":"7"}]}')
    assert refused == Refusal("the kernel cannot have this schema")


def test_other_users_of_ctypes_may_declare_the_functions_of_python_otherwise() -> None:
    program = (
        "import ctypes\n"
        "from bulkfetch.decoding.pages import PageDecoder\n"
        "from bulkfetch.billing.schemas import ONE_TIME\n"
        "shared = ctypes.pythonapi.PyCapsule_New\n"
        "shared.restype, shared.argtypes = ctypes.c_int, (ctypes.c_int, ctypes.py_object)\n"
        'print(PageDecoder("D1", ONE_TIME).decode(b\'{"items":[{},{}]}\').page.rows)'
    )
    assert run(program) == (0, "2")


# Memory


def test_a_column_outlives_its_page() -> None:
    decoded = kernel_of(ONE_TIME).decode_page(b'{"items":[{"customerName":"a","quantity":1}]}')
    assert isinstance(decoded, Decoded)
    column = next(each for each in decoded.columns.arrays if each.null_count == 0)
    del decoded
    gc.collect()
    assert column.to_pylist() == ["a"]


def test_decoding_again_and_again_keeps_no_memory() -> None:
    resource = pytest.importorskip("resource")
    kernel = kernel_of(ONE_TIME)
    text = page(Random(1), Random(1), ONE_TIME.fields).encode()
    refused = text.replace(b'"items"', b'"Items"')

    def peak_after(rounds: int) -> int:
        for _ in range(rounds):
            kernel.decode_page(text)
            kernel.decode_page(refused)
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    before = peak_after(500)
    assert peak_after(5_000) - before < 4_000


def test_one_kernel_serves_many_threads() -> None:
    """They begin at the same time, and each meets the unknown fields of its own pages."""
    kernel = kernel_of(LICENSE_BASED)
    texts = [
        page(Random(seed), Random(-seed), LICENSE_BASED.fields).encode() for seed in range(120)
    ]
    start = threading.Barrier(4)

    def work(part: int) -> int:
        start.wait(timeout=30)
        reasons = [reason_or_same(kernel, text, LICENSE_BASED) for text in texts[part::4]]
        return reasons.count(None)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) > 60


def test_text_that_is_not_unicode_is_rescued_as_it_was_escaped() -> None:
    for value in LONE_SURROGATES:
        assert reason(f'{{"items":[{{"customerName":{value}}}]}}') is None
