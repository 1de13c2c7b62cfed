"""HTML elements from text that is always escaped.

Only `Markup` goes into a page as it is, and only this module and the figures make any; every
other string is escaped. So a hospital called `<script>` stays a name.
"""

import html
from collections.abc import Sequence


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Markup | None

# Shown where a number is not defined.
UNDEFINED = "\N{EN DASH}"
# A table with more rows is folded away until it is asked for.
LONG = 24


def escaped(text: Child) -> Markup:
    """The text as HTML; markup stays as it is, and nothing stays nothing."""
    if text is None:
        return Markup()
    return text if isinstance(text, Markup) else Markup(html.escape(text))


def joined(*children: Child) -> Markup:
    """Children one after the other."""
    return Markup("".join(escaped(child) for child in children))


def element(name: str, *children: Child, **attributes: str | bool) -> Markup:
    """`<name attributes>children</name>`.

    A trailing underscore of an attribute is dropped and others become hyphens (`class_`,
    `aria_label`); True writes the bare attribute, False leaves it out.
    """
    written = []
    for key, value in attributes.items():
        if value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        written.append(
            f" {attribute}" if value is True else f' {attribute}="{html.escape(str(value))}"'
        )
    return Markup(f"<{name}{''.join(written)}>{joined(*children)}</{name}>")


def table(
    caption: str, head: tuple[str, ...], rows: Sequence[tuple[Child, ...]], *, text_columns: int = 1
) -> Markup:
    """A table with a caption, column headers and a header for each row.

    Args:
        caption: what the table shows.
        head: column headers.
        rows: cells; the first is the row's header.
        text_columns: so many columns, from the left, are text; the others are numbers.
    """
    kinds = ["text" if i < text_columns else "number" for i in range(len(head))]
    header = element(
        "tr",
        *(
            element("th", title, scope="col", class_=kind)
            for title, kind in zip(head, kinds, strict=True)
        ),
    )
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(
                element("td", cell, class_=kind)
                for cell, kind in zip(row[1:], kinds[1:], strict=True)
            ),
        )
        for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", element("span", caption)),
            element("thead", header),
            element("tbody", *body),
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def section(title: str, *children: Child) -> Markup:
    """A titled part of the page."""
    anchor = title.lower().replace(" ", "-")
    return element("section", element("h2", title, id=anchor), *children, aria_labelledby=anchor)


def folded(content: Markup, rows: int) -> Markup:
    """The table as it is, or folded away if it has too many rows to read past."""
    if rows <= LONG:
        return content
    return element("details", element("summary", "Show the table"), content)


def paragraph(text: str) -> Markup:
    """A paragraph."""
    return element("p", text)


def note(text: str) -> Markup:
    """A paragraph that stands out."""
    return element("p", text, class_="note")


def definitions(words: dict[str, str]) -> Markup:
    """Words and what they mean, a line each."""
    pairs = [joined(element("dt", word), element("dd", meaning)) for word, meaning in words.items()]
    return element("dl", *pairs)


def listing(items: list[str]) -> Child:
    """Nothing, one item, or a list of them."""
    if not items:
        return "none"
    if len(items) == 1:
        return items[0]
    return element("ul", *(element("li", item) for item in items))


def figure(value: float | None, form: str = ".3f") -> str:
    """A number for people; an en dash where it is not defined."""
    return UNDEFINED if value is None else format(value, form)


def whole(value: float | None) -> str:
    """A count for people, with thin spaces between thousands."""
    return UNDEFINED if value is None else f"{value:,.0f}".replace(",", "\u202f")
