"""Markdown of names that would break a careless document."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from leukolens.reporting.markdown import code, escape, fence, plain, table
from reporting.example_run import HOSTILE


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_keep_their_columns(name):
    tokens = MarkdownIt("commonmark").enable("table").parse(table(["subject", name], [[name, "1"], ["b", "2"]]))
    assert [token.type for token in tokens].count("th_open") == 2
    assert [token.type for token in tokens].count("td_open") == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("/home/jane doe/weights", "weights"),
        (r"C:\Users\jane\weights", "weights"),
        ("~/private/weights/", "weights"),
        (r"\\server\share\cells", "cells"),
        ("cannot read /home/jane/a.bmp: damaged", "cannot read a.bmp: damaged"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("fold_0/all/a.bmp", "fold_0/all/a.bmp"),
        ("2/3 of 4 / 5", "2/3 of 4 / 5"),
        ("two\n lines", "two lines"),
        ("a\x1b[0m", "a\ufffd[0m"),
        (None, "None"),
    ],
)
def test_plain(value, text):
    assert plain(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("efficientnet_b0", "efficientnet_b0"),
        ("_x_", r"\_x\_"),
        ("a|b", r"a\|b"),
        ("<b>", "&lt;b>"),
        ("</b>", "&lt;/b>"),
        ("<!-- c", "&lt;!-- c"),
        ("&lt; &#60;", "&amp;lt; &amp;#60;"),
        ("<0.001 & less", "<0.001 & less"),
        ("> q", r"\> q"),
        ("2026-01-31", "2026-01-31"),
        ("# h", r"\# h"),
        ("12. x", r"12\. x"),
        ("12.5 px", "12.5 px"),
    ],
)
def test_escape(value, text):
    assert escape(value) == text
    assert escape(escape(value)) == text


def test_code_is_escaped_where_it_could_end():
    assert code("a" * 64) == f"`{'a' * 64}`"
    assert code("a`|b") == r"a\`\|b"


def test_fence_is_longer_than_what_it_holds():
    assert fence(["```", "# h"]) == "````text\n```\n# h\n````"
    assert fence([]) == ""
