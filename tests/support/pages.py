"""Legal pages of line items, as text: realistic rows with one or two mutations, in any layout.

`page` draws from two `random.Random`: an ordinary one for the realistic part, and one that
Hypothesis may control for what a test is about.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import TypeAlias

from hypothesis import strategies as st

from bulkfetch.decoding.fields import Field, Kind

Pairs: TypeAlias = "list[tuple[str, str]]"
"""Keys and values of an object, both as JSON source text."""


def _split(values: str) -> list[str]:
    return values.split()


TEXTS = [
    *_split(r"""
        "" "x" "USD" "2b8940db-5089-539c-e757-520ed1d1bc88" "org:9060d13d" "0002" "12.50"
        "2019-01-03T19:53:55.1292512+00:00" "null" "true" "[]" "-" "\u0041\/\b\f\n\r\t" "\\"
        "\\\\" "\\\"" "\"" "a\u0022b" "\u0000" "\u001f\u007f"
    """),
    '"Office 365 Enterprise E3"',
    '" "',
    '"Grüße, 東京 😀"',
    r'"Gr\u00fc\u00dfe \ud83d\ude00"',
    r'"say \"unitPrice\":\"5\" \\"',
    r'"[\"Price for given billing period\",\"15.0%\"]"',
    r'"{ \"ImageType\": null, \"VMName\": \"a\\\\b\"}"',
    '"\x7f\u2028\ufeff"',
]
LONE_SURROGATES = [r'"\ud800"', r'"a\udfffb"', r'"\ude00\ud83d"', r'"\uD83Dx"', r'"\ud83d\u0041"']
NUMBERS = _split("""
    0 1 -1 25 820 14.4 0.085 1.0 -0 -0.0 0.00 100 1.3111679999999999 0.1999968000511991808131
    99999999999999 99999999999999.999999999999999999999999 -0.5 0.000000000000000000000001 4391507
    123456789012345678 9223372036854775807 12.340000 -9223372036854775808 10000000000000.0
    10000000000000.00000000000000000000000000000
""")
ODD_NUMBERS = [
    *_split("""
        1e5 1E+2 25e-2 0e5 1e400 -1e400 1e-400 0e999 1e53 1e60 1e76 1e77 1e-24 1e-25 1e13 1e14
        1e18 1e19 9e18 5e-1 1e999999999999 1e99999999999999999999 1.0e1 0e99999999999999999999
        1e00000000000000000000001 0.1e-23 0.1e-24 100000000000000e-1 9223372036854775808
        -9223372036854775809 100000000000000 -99999999999999.9999999999999999999999999
        0.0000000000000000000000001 0.10000000000000000000000000
        99999999999999999999999999999999999999
        340282366920938463463374607431768211457 1e-216 5E-0120 1e-100 1e-2147483647 1E-05 0e-99
    """),
    "1" + "0" * 59,
    "-" + "7" * 60,
    "9" * 52,
    "9" * 53,
    "9" * 76,
    "9" * 77,
    "1" + "0" * 53,
    "0." + "3" * 60,
    "0." + "0" * 100 + "50",
    "5" + "0" * 60 + "e-120",
    "1" * 30 + "." + "1" * 30,
    str(2**255),
]
TEXT_NUMBERS = [
    '"0"',
    '"25"',
    '"14.4"',
    '"-3.50"',
    '"820"',
    '"0.1999968000511991808131"',
    '"1"',
    '"4649221"',
]
ODD_TEXT_NUMBERS = [
    *_split(r"""
        "+1" "007" ".5" "1." "1e5" "" "0x1" "NaN" "Infinity" "-" "-.5" "1,5" "--1" "00" "-0"
        "-007" "1E2" "1_0" "\u0031" "1\u0030" "١" "." "12.5.1" "1000000000000000"
        "0.0000000000000000000000001" "1.00000000000000000000000000" "1\n" "9223372036854775808"
        "1.0" "1e-216" "1E-2147483647" "1\u0065-216" "1e\u002d216" "1e-21\u0036" "true" "\t1"
        "1\u0000" "1\"" "-1e-2"
    """),
    '" 1"',
    '"1 "',
    '"1\x7f"',
    '"999999999999999999999999999999999999999999999999999999999999"',
]
DATES = [
    *(
        '"2016-03-06T00:00:00"',
        '"2018-07-15T00:00:00Z"',
        '"2018-02-08T22:40:37.5897760Z"',
        '"0001-01-01T00:00:00"',
    ),
    *(
        '"2019-01-03T19:53:55.129251+00:00"',
        '"9999-12-31T23:59:59.999999Z"',
        '"2021-05-01T00:00:00.0000000"',
    ),
    *('"2025-04-03"', '"0001-01-01"', '"2024-02-29"'),
]
ODD_DATES = [
    *_split(r"""
        "2018-02-08T22:40:37.5897767Z" "2019-02-04T09:22:40.1767993-08:00"
        "2019-02-04T09:22:40+05:30" "" "0001-01-01T00:00:00+08:00" "0001-01-01T00:00:00.0000001Z"
        "9999-12-31T23:59:59.9999999Z" "9999-12-31T23:59:59-00:01" "0000-01-01T00:00:00"
        "2020-01-01T24:00:00" "2016-12-31T23:59:60Z" "2020-02-30T00:00:00" "2020-02-29T00:00:00"
        "2019-02-29T00:00:00" "2100-02-29T00:00:00" "unset" "٢٠٢٠-01-01T00:00:00" "2019-02-29"
        "2020-01-01T00:00" "2020-1-1T00:00:00" "2020-01-01T00:00:00z" "2020-01-01t00:00:00"
        "2020-01-01T00:00:00-00:00" "2020-01-01T00:00:00+0000" "2020-01-01T00:00:00."
        "2020-01-01T00:00:00,5Z" "2020-01-01T00:00:00+24:00" "2020-01-01T00:00:00+23:59"
        "2020-01-01T00:00:00-12:60" "+2020-01-01T00:00:00" "2020-01-01T00:00:00ZZ"
        "2020-01-01T00:00:00\n" "2020\u002d01-01T00:00:00" "1969-12-31T23:59:59.9999999"
        "12020-01-01T00:00:00" "1960-06-06T06:06:06.0000005Z" "2020-01-01\ud800" "\"2020\""
        "2020-W01-1T00:00:00" "2020-13-01T00:00:00" "2020-00-01T00:00:00" "2020-01-01Z" "4/3/2025"
        "2020-01-01T" "2020-01-01+00:00" "20200101" "2020-01-1" "2020-W01-1" "0000-01-01"
    """),
    '" "',
    '"2020-01-01 00:00:00"',
    '"2020-01-01T00:00:00 Z"',
    '"2020-01-01T00:00:00.00000000000000000000000000000000000000001"',
    '"2020-01-01T00:00:00.0000000000000000000000000000000000000000"',
]
LISTS = ["[]", '["AddOn","Trial"]', '[""]', r'["\u0041","x\"y","😀"]', '["a","a","a"]']
ODD_LISTS = [
    *_split(r"""
        [null] ["AddOn",null] [1] ["a",1] [[]] [{}] [true] ["\ud800"] [["a"]] [null,null]
    """),
]
OBJECT_TYPES = [
    '{"objectType":"OneTimeInvoiceLineItem"}',
    '{"objectType":""}',
    "{}",
    r'{"objectType":"a\"\\"}',
]
ODD_OBJECT_TYPES = [
    *_split(r"""
        {"objectType":null} {"objectType":5} {"objectType":"a","x":"y"} {"objectType":"a","x":5}
        {"x":5} {"x":null} {"objectType":"a","x":null} {"objectType":"a","objectType":"b"}
        {"ObjectType":"a"} {"unitPrice":"5"} {"":""} {"objectType":{}} {"objectType":["a"]}
        {"objectType":"\udc00"} {"object\u0054ype":"a"} {"objectType":null,"objectType":"a"}
        {"objectType":"a","etag":"2020-01-01T00:00:00"}
    """),
    '{"objectType":"a","quantity":"5","x":{"consumedQuantity":"1"}}',
]
CONSTANTS = ["null", "true", "false"]

USUAL: dict[Kind, list[str]] = {
    Kind.TEXT: TEXTS,
    Kind.INTEGER: ["0", "-1", "4391507", "123456789012345678"],
    Kind.DECIMAL: NUMBERS[:18],
    Kind.DATE: DATES,
    Kind.BOOLEAN: ["true", "false"],
    Kind.TEXT_LIST: LISTS,
    Kind.OBJECT_TYPE: OBJECT_TYPES,
}
ODD: dict[Kind, list[str]] = {
    Kind.TEXT: [*TEXTS, *LONE_SURROGATES],
    Kind.INTEGER: [*NUMBERS, *ODD_NUMBERS, *TEXT_NUMBERS, *ODD_TEXT_NUMBERS],
    Kind.DECIMAL: [*NUMBERS, *ODD_NUMBERS, *TEXT_NUMBERS, *ODD_TEXT_NUMBERS],
    Kind.DATE: [*DATES, *ODD_DATES],
    Kind.BOOLEAN: ['"true"', "0", "1", '""'],
    Kind.TEXT_LIST: [*LISTS, *ODD_LISTS],
    Kind.OBJECT_TYPE: [*OBJECT_TYPES, *ODD_OBJECT_TYPES],
}
ANY_VALUES = [value for values in ODD.values() for value in values] + CONSTANTS
FOREIGN_KEYS = [
    *_split(r"""
        "attributes/objectType" "invoiceLineItemTypce" "PartnerName" "" "é" "a\"b" "\\" "😀"
        "x\":\"y" ":" "\u0000" "x\"unitPrice" "\"unitPrice" "\"consumedQuantity" "x\\\"quantity"
        "\u0022quantity" "links" "items" "objectType" "_rescued" "invoice_id" "a.b" "\ud800"
        "line_number" "totalCount" "zzz" "AAA" "\"resellerMpnId" "\"mpnId"
    """),
    '"unitPrice "',
]
ENVELOPE: Pairs = [
    ('"totalCount"', "2"),
    ('"continuationToken"', '"d19617b8,0705c4a9"'),
    ('"attributes"', '{"objectType":"Collection"}'),
    ('"links"', '{"self":{"uri":"/invoices/D1?size=2&offset=0","method":"GET","headers":[]}}'),
]
ODD_ENVELOPE: Pairs = [
    *[
        ('"totalCount"', value)
        for value in ("null", '"2"', "2.0", "-5", "1234567890123456789", "1e2", "[]")
    ],
    *[('"continuationToken"', value) for value in ("null", '""', "5", r'"\ud800"', "{}")],
    *[
        ('"attributes"', value)
        for value in ("null", "{}", '{"objectType":null}', '{"unitPrice":"5"}', "[]")
    ],
    *[
        ('"links"', value)
        for value in ("null", "{}", '{"next":null}', '{"self":{"uri":5}}', '{"last":{"uri":""}}')
    ],
    (
        '"links"',
        '{"next":{"uri":"/x?offset=2","headers":[{"key":"MS-ContinuationToken","value":"t","quantity":"1"}]}}',
    ),
    *[
        ('"summary"', value)
        for value in (
            "5",
            '"2020-01-01T00:00:00"',
            "[[],[1]]",
            '{"a":{"b":[]}}',
            "[1,null]",
            "[{}]",
        )
    ],
    *[
        ('"summary"', f'{{"{name}":"5"}}')
        for name in ("unitPrice", "quantity", "consumedQuantity", "mpnId", r"\"tax")
    ],
    *[
        ('"summary"', f'[{{"a":1}},{{"{name}":"5"}}]')
        for name in ("unitPrice", "listPrice", "amount", "a")
    ],
    ('"items "', "[]"),
    ('"Items"', '[{"unitPrice":"1"}]'),
    ('"unitPrice"', '"5"'),
    ('"quantity"', '"5"'),
    (r'"x\"consumedQuantity"', '"5"'),
]


def page(usual: Random, odd: Random, fields: tuple[Field, ...]) -> str:
    """Return the text of a legal page: realistic, but for a few mutations (none in one page of
    eight)."""
    rows = [_row(usual, fields) for _ in range(usual.choice((0, 1, 1, 2, 2, 3)))]
    if usual.random() < 0.25:
        _give_numbers_as_text(usual, rows, fields)
    if usual.random() < 0.15:
        _strange_field(usual, rows)
    envelope = [pair for pair in ENVELOPE if usual.random() < 0.7]
    for _ in range(odd.choice((0, 1, 1, 1, 1, 2, 2, 3))):
        odd.choice(_MUTATIONS)(odd, rows, envelope, fields)
    usual.shuffle(envelope)
    return _layout(usual, rows, envelope)


def _row(usual: Random, fields: tuple[Field, ...]) -> Pairs:
    kept = usual.choice((1.0, 0.95, 0.5))
    return [
        (json.dumps(each.name), usual.choice(USUAL[each.kind]))
        for each in fields
        if usual.random() < kept
    ]


def _give_numbers_as_text(usual: Random, rows: list[Pairs], fields: tuple[Field, ...]) -> None:
    numeric = {
        json.dumps(each.name) for each in fields if each.kind in (Kind.INTEGER, Kind.DECIMAL)
    }
    often = usual.choice((1.0, 0.5))
    for row in rows:
        row[:] = [
            (
                key,
                usual.choice(TEXT_NUMBERS) if key in numeric and usual.random() < often else value,
            )
            for key, value in row
        ]


def _strange_field(usual: Random, rows: list[Pairs]) -> None:
    key = usual.choice(FOREIGN_KEYS)
    for row in rows:
        row.insert(usual.randint(0, len(row)), (key, usual.choice([*TEXTS, *DATES])))


def _change(odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]) -> None:
    kinds = {json.dumps(each.name): each.kind for each in fields}
    if row := _some(odd, rows):
        place = odd.randrange(len(row))
        key, _ = row[place]
        row[place] = (key, odd.choice(ODD[kinds.get(key, Kind.TEXT)]))


def _change_kind(
    odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]
) -> None:
    """Change a value of a kind that is drawn first, so that the rare kinds come as often as
    text."""
    kind = odd.choice(list(USUAL))
    keys = {json.dumps(each.name) for each in fields if each.kind is kind}
    if (row := _some(odd, rows)) and (
        places := [at for at, (key, _) in enumerate(row) if key in keys]
    ):
        place = odd.choice(places)
        row[place] = (row[place][0], odd.choice(ODD[kind]))


def _anything(odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]) -> None:
    if row := _some(odd, rows):
        place = odd.randrange(len(row))
        row[place] = (row[place][0], any_value(odd))


def _null(odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]) -> None:
    if row := _some(odd, rows):
        place = odd.randrange(len(row))
        row[place] = (row[place][0], "null")


def _foreign(odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]) -> None:
    if rows:
        row = odd.choice(rows)
        row.insert(odd.randint(0, len(row)), (odd.choice(FOREIGN_KEYS), any_value(odd)))


def _foreign_text(
    odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]
) -> None:
    if rows:
        row = odd.choice(rows)
        value = odd.choice([*TEXTS, *TEXT_NUMBERS, *DATES])
        row.insert(odd.randint(0, len(row)), (odd.choice(FOREIGN_KEYS), value))


def _twice(odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]) -> None:
    if row := _some(odd, rows):
        key, value = odd.choice(row)
        row.insert(odd.randint(0, len(row)), (key, odd.choice((value, "null", any_value(odd)))))


def _other_case(odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]) -> None:
    if row := _some(odd, rows):
        place = odd.randrange(len(row))
        key, value = row[place]
        other = odd.choice((key.upper(), key.lower(), key[:1] + key[1:2].upper() + key[2:]))
        if "\\" in key:
            return
        if odd.random() < 0.5:
            row[place] = (other, value)
        else:
            row.insert(odd.randint(0, len(row)), (other, odd.choice((value, any_value(odd)))))


def _escaped_key(
    odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]
) -> None:
    if row := _some(odd, rows):
        place = odd.randrange(len(row))
        key, value = row[place]
        if "\\" not in key and len(key) > 2:
            row[place] = (
                f'"\\u{ord(key[1]):04x}{key[2:]}' if ord(key[1]) < 0x10000 else key,
                value,
            )


def _nested_too_deep_for_columns(
    odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]
) -> None:
    depth = odd.choice((2, 30, 250))
    opening, closing = odd.choice((("[", "]"), ('{"a":', "}"), ('[{"unitPrice":"5","a":', "}]")))
    depth = depth // 2 if len(closing) == 2 else depth
    value = opening * depth + odd.choice(CONSTANTS) + closing * depth
    if rows and odd.random() < 0.5:
        odd.choice(rows).append(('"nested"', value))
    else:
        envelope[:] = [*(pair for pair in envelope if pair[0] != '"nested"'), ('"nested"', value)]


def _odd_envelope(
    odd: Random, rows: list[Pairs], envelope: Pairs, fields: tuple[Field, ...]
) -> None:
    key, value = odd.choice(ODD_ENVELOPE)
    envelope[:] = [*(pair for pair in envelope if pair[0] != key), (key, value)]


def _some(odd: Random, rows: list[Pairs]) -> Pairs | None:
    filled = [row for row in rows if row]
    return odd.choice(filled) if filled else None


_MUTATIONS: list[Callable[[Random, list[Pairs], Pairs, tuple[Field, ...]], None]] = [
    *(
        _change,
        _change_kind,
        _change_kind,
        _anything,
        _null,
        _null,
        _foreign,
        _foreign_text,
        _foreign_text,
        _twice,
    ),
    *(_other_case, _escaped_key, _nested_too_deep_for_columns, _odd_envelope, _odd_envelope),
]


def any_value(odd: Random) -> str:
    """Return any JSON value, most often a small one."""
    shape = odd.choice("vvvvvlo")
    if shape == "v":
        return odd.choice(ANY_VALUES)
    if shape == "l":
        return "[" + ",".join(any_value(odd) for _ in range(odd.randint(0, 2))) + "]"
    pairs = [f"{odd.choice(FOREIGN_KEYS)}:{any_value(odd)}" for _ in range(odd.randint(0, 2))]
    return "{" + ",".join(pairs) + "}"


def _layout(usual: Random, rows: list[Pairs], envelope: Pairs) -> str:
    gap, colon, newline = usual.choice(
        (
            ("", ":", ""),
            ("", ":", ""),
            ("", ":", ""),
            (" ", ": ", ""),
            ("\n  ", ": ", "\n"),
            ("\r\n\t", " :\t", "\r\n"),
        )
    )

    def written(pairs: Pairs) -> str:
        return "{" + ",".join(f"{gap}{key}{colon}{value}" for key, value in pairs) + gap + "}"

    items = (
        ("[" + ",".join(gap + written(row) for row in rows) + newline + "]") if rows else f"[{gap}]"
    )
    where = usual.randint(0, len(envelope))
    return written([*envelope[:where], ('"items"', items), *envelope[where:]]) + newline


_strings = st.one_of(
    st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.text(max_size=8).map(json.dumps),
    st.sampled_from([*TEXTS, *LONE_SURROGATES, *ODD_DATES, *ODD_TEXT_NUMBERS]),
)
_numbers = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,59})(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,4})?", fullmatch=True),
    st.sampled_from([*NUMBERS, *ODD_NUMBERS]),
)
_keys = st.one_of(st.sampled_from(FOREIGN_KEYS), _strings)


def _composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(_keys, inner).map(":".join)
    return st.one_of(
        st.lists(inner, max_size=3).map(lambda values: f"[{','.join(values)}]"),
        st.lists(pairs, max_size=3).map(lambda values: f"{{{','.join(values)}}}"),
    )


json_texts = st.recursive(
    st.one_of(_strings, _numbers, st.sampled_from(CONSTANTS)), _composed, max_leaves=8
)
"""Any JSON value, as source text."""

seeds = st.integers(0, 2**32 - 1).map(Random)


def pages(fields: tuple[Field, ...]) -> st.SearchStrategy[str]:
    """Any legal page of rows with these fields."""
    return st.builds(page, seeds, st.randoms(use_true_random=False), st.just(fields))


@st.composite
def pages_with(draw: st.DrawFn, fields: tuple[Field, ...]) -> str:
    """Draw a realistic page; in one of its rows a field has any JSON as its value."""
    seed = draw(seeds)
    row = _row(seed, fields)
    field = draw(st.sampled_from(fields))
    key = json.dumps(field.name)
    value = draw(st.one_of(json_texts, st.sampled_from(ODD[field.kind])))
    row = [*(pair for pair in row if pair[0] != key), (key, value)]
    extra = draw(st.lists(st.tuples(_keys, json_texts), max_size=1))
    return _layout(seed, [_row(seed, fields), [*row, *extra]], ENVELOPE)
