"""The newest table of each claim on one page of the documentation.

    python -m benchmarks.page           writes docs/benchmarks.md

Tables are taken as they were printed, with what did not go our way; only their headings move down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGE", "page"]

_ROOT = Path(__file__).parent.parent
_RESULTS = Path(__file__).parent / "results"
PAGE = _ROOT / "docs" / "benchmarks.md"

_OPENING = """\
# Benchmarks

Every figure here was printed by a script in `benchmarks/`, which `make bench` runs beside the peers, on the
day that is named. Contenders take turns within a run, and what counts are ratios within a table: two tables
belong to two runs. Rows of the library are bold. Where a peer is ahead, the table shows it.
"""


@dataclass(frozen=True)
class _Claim:
    """A file of results.

    Attributes:
        name: In the file's name, between the date and the device.
        sections: How many of its sections the page shows, the first ones; None for all.
        picture: Its file in `docs/images`, shown below what the results open with; "" for none.
        shows: What can be seen there, for those who cannot.
    """

    name: str
    sections: int | None = None
    picture: str = ""
    shows: str = ""


_SCALING = _Claim(
    "scaling",
    picture="scaling.png",
    shows="Cost of a product in gradients, against the number of unknowns, where it rises to little more "
    "than one gradient, against the number of vectors at once, where it falls, and against the number of "
    "mini-batches, where it hardly changes",
)

_CHAPTERS: dict[str, list[str | _Claim]] = {
    "Products": ["product", "widths", "batches", _SCALING, "setup"],
    "Dense Hessians": ["dense"],
    "Eigenvalues and linear systems": [
        "eigen",
        "eigen-products",
        "eigen-time",
        "spectrum-end-to-end",
        "digits-eigen",
        "linear",
    ],
    "Minimisation": [
        _Claim("optim", 3),
        "solver-overhead",
        "recycling",
        "optim-real",
        "regressions",
        "train-digits",
    ],
    "Curvature of networks": ["trace", "density", "curvature-peers", "vocabulary", "minilm"],
}


def page() -> str:
    """The page, from the results that there are."""
    parts = [_OPENING]
    for title, claims in _CHAPTERS.items():
        parts.append(f"## {title}\n")
        for entry in claims:
            claim = entry if isinstance(entry, _Claim) else _Claim(entry)
            parts += [_shown(path, claim) for path in _newest(claim.name)]
    return "\n".join(parts).rstrip() + "\n"


def _newest(name: str) -> Iterable[Path]:
    """The newest file of this name for each device."""
    pattern = re.compile(rf"(\d{{4}}-\d\d-\d\d)-{re.escape(name)}-([a-z]+)\.md")
    newest = {}
    for path in sorted(_RESULTS.iterdir()):
        if (match := pattern.fullmatch(path.name)) is not None:
            newest[match[2]] = path
    return newest.values()


def _shown(path: Path, claim: _Claim) -> str:
    """The text of a file with its headings two levels down, and its date."""
    date = path.name[:10]
    title, *sections = re.split(r"^(?=## )", path.read_text(), flags=re.MULTILINE)
    shown = sections[: claim.sections]
    heading, _, rest = title.partition("\n")
    if date not in heading:
        heading = f"{heading}, {date}"
    picture = [f"![{claim.shows}](images/{claim.picture})", ""] if claim.picture else []
    text = "\n".join([heading, rest.rstrip(), "", *picture, *(section.rstrip() + "\n" for section in shown)])
    if len(shown) < len(sections):
        text += f"\n{len(sections) - len(shown)} more tables are in `benchmarks/results/{path.name}`.\n"
    return re.sub(r"^(#+ )", r"##\1", text, flags=re.MULTILINE)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"written to {PAGE.relative_to(_ROOT)}")
