"""How the page looks: its colours, by day, by night and on paper, and its style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bulkfetch.billing.details import PROVIDERS

# Any two of a row can be told apart with each kind of colour blindness, and each stands out from
# its background as WCAG 2.2 asks of graphics: a test measures both.
BY_DAY = (
    *("#2868c3", "#c96a00", "#095040", "#833b79", "#500e06"),
    *("#3b1b76", "#565f03", "#3d9ebf", "#767676"),
)
BY_NIGHT = (
    *("#4da3ff", "#f89f50", "#c3f6ce", "#945179", "#c74315"),
    *("#7561d4", "#f5df2c", "#1de0fe", "#9a9a9a"),
)
SHARED = len(BY_DAY) - 1
"""The number of the colour that providers share which have none of their own."""
_DAY = {"back": "#ffffff", "card": "#f4f5f7", "text": "#1c2128", "muted": "#59626f"}
_NIGHT = {"back": "#171a1f", "card": "#20252c", "text": "#e8eaed", "muted": "#a2abb8"}
_DAY |= {
    "edge": "#d3d8de",
    "zero": "#59626f",
    "bad": "#b3261e",
    "note": "#8a5a00",
    "good": "#1e6b3a",
}
_NIGHT |= {"edge": "#3a424d", "zero": "#a2abb8", "bad": "#ff8a80", "note": "#f2c063"}
_NIGHT |= {"good": "#7ddc9a"}


def colours_of(providers: Iterable[str]) -> dict[str, int]:
    """Return the number of the colour of each provider.

    It is the same on every page. Those that this version does not know share one.
    """
    found = sorted(providers, key=lambda name: (name not in PROVIDERS, name))
    unknown = [name for name in found if name not in PROVIDERS]
    spare = len(PROVIDERS) if len(unknown) == 1 and len(PROVIDERS) < SHARED else SHARED
    return {name: PROVIDERS.index(name) if name in PROVIDERS else spare for name in found}


def style() -> str:
    """Return the style sheet of the page."""
    return (
        f":root{{color-scheme:light dark;{_variables(_DAY, BY_DAY)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(_NIGHT, BY_NIGHT)}}}}}"
        + "".join(
            f".c{number}{{fill:var(--c{number});background:var(--c{number})}}"
            for number in range(len(BY_DAY))
        )
        + "".join(f".d{number}{{padding-right:calc(.7em + {number}ch)}}" for number in range(1, 26))
        + "".join(line.strip() for line in _SHEET.splitlines())
    )


def _variables(names: dict[str, str], colours: Sequence[str]) -> str:
    named = [f"--{name}:{colour}" for name, colour in names.items()]
    return ";".join([*named, *(f"--c{number}:{each}" for number, each in enumerate(colours))])


_SHEET = """
*{box-sizing:border-box}
html{background:var(--back);color:var(--text);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",Arial,sans-serif;
-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:1180px;padding:28px 24px 48px}
h1,h2,h3,li,figcaption,caption{overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 6px}
h2{font-size:1.25rem;margin:44px 0 10px;padding-top:14px;border-top:1px solid var(--edge)}
h3{font-size:1.02rem;margin:26px 0 6px}
p{margin:6px 0;max-width:100ch;overflow-wrap:anywhere}
.muted,figcaption,caption{color:var(--muted)}
nav ul,.legend,.tiles{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap}
nav ul{gap:2px 18px;margin-top:14px}
a{color:var(--c0)}
:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:12px;padding-right:1px;
margin:22px 0 0}
.tiles>div{background:var(--card);border:1px solid var(--edge);border-left:4px solid var(--edge);
border-radius:6px;padding:10px 14px 12px;min-width:0}
.tiles>.good{border-left-color:var(--good)}
.tiles>.note{border-left-color:var(--note)}
.tiles>.bad{border-left-color:var(--bad)}
dt{color:var(--muted);font-size:.87rem}
dd{margin:0}
.tiles b{display:block;font-size:1.45rem;line-height:1.3;font-weight:600;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tiles span{font-size:.87rem;color:var(--muted)}
.alert{border:1px solid var(--edge);border-left:4px solid var(--note);border-radius:6px;
background:var(--card);padding:8px 14px;margin:14px 0;max-width:none}
.alert.bad{border-left-color:var(--bad)}
figure{margin:10px 0 6px;break-inside:avoid}
figcaption{font-size:.87rem;margin-bottom:2px}
.legend{gap:2px 18px}
.legend li{min-width:0}
.key{display:inline-block;width:.8em;height:.8em;margin-right:.45em;border-radius:2px;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
.plot{padding:0 14px 0 58px}
.plot>svg{display:block;overflow:visible;font-size:.8rem;font-variant-numeric:tabular-nums;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
.plot text{fill:var(--muted)}
.end{text-anchor:end}
.middle{text-anchor:middle}
.start{text-anchor:start}
.grid{stroke:var(--edge);stroke-width:1}
.zero{stroke:var(--zero);stroke-width:1}
.bar rect{stroke:var(--back);stroke-width:.75;vector-effect:non-scaling-stroke}
.bar rect:hover{opacity:.75}
.area{fill:var(--c0);opacity:.18}
.line{fill:none;stroke:var(--c0);stroke-width:1.75;vector-effect:non-scaling-stroke}
.bound{fill:none;stroke:var(--muted);stroke-width:1.25;stroke-dasharray:5 4;
vector-effect:non-scaling-stroke}
.scroll{overflow-x:auto;margin:10px 0 4px;border:1px solid var(--edge);border-radius:6px}
table{border-collapse:collapse;width:100%;font-size:.9rem}
caption{text-align:left;padding:8px 12px;font-size:.87rem}
th,td{padding:4px .7em;text-align:left;vertical-align:top;border-top:1px solid var(--edge)}
thead th{color:var(--muted);font-weight:600;vertical-align:bottom;background:var(--card)}
thead .number{white-space:normal;overflow-wrap:anywhere;min-width:7.5em}
tbody th{font-weight:400}
.text{white-space:nowrap}
td.long{min-width:12em;overflow-wrap:anywhere}
th.long{min-width:14em;max-width:22em;overflow-wrap:anywhere}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tfoot th,tfoot td{font-weight:600;border-top:2px solid var(--zero)}
.minus{color:var(--bad)}
td.none{color:var(--muted)}
.gap td,.gap th{color:var(--muted);font-style:italic}
.badge{font-weight:600}
.badge.bad{color:var(--bad)}
.badge.note{color:var(--note)}
.badge.good{color:var(--good)}
footer{margin-top:44px;padding-top:12px;border-top:1px solid var(--edge);color:var(--muted);
font-size:.87rem}
code{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;font-size:.92em}
@media (max-width:700px){.wide{display:none}body{padding:18px 14px 36px}
.plot{padding:0 8px 0 50px}.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
td.long{min-width:24em}th,td{padding-left:.55em;padding-right:.55em}}
@page{margin:14mm}
@media print{:root{color-scheme:light}html{font-size:10.5px}body{max-width:none;padding:0}
nav{display:none}h2,h3,h2+p,h3+p{break-after:avoid}tr{break-inside:avoid}
tbody tr:nth-child(-n+3),tbody tr:last-child,tfoot tr{break-before:avoid}
.scroll{overflow:visible;border:0}.tiles>div{break-inside:avoid}
thead{display:table-header-group}tfoot{display:table-row-group}}
"""
