"""Comments as HTML: Markdown without HTML, and then an allowlist all the same."""

from functools import lru_cache

import nh3
from markdown_it import MarkdownIt

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).disable(
    ["heading", "lheading", "image", "html_block", "html_inline"]
)
_TAGS = {"a", "blockquote", "br", "code", "em", "hr", "li", "ol", "p", "pre", "strong", "ul"}
_SCHEMES = {"http", "https", "mailto"}
_RELATION = "noopener nofollow ugc"


@lru_cache(maxsize=4096)
def rendered(text: str) -> str:
    r"""Safe HTML of a comment.

    >>> rendered("**Yes**, <b>but</b>")
    '<p><strong>Yes</strong>, &lt;b&gt;but&lt;/b&gt;</p>\n'
    """
    html = str(_MARKDOWN.render(text))
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes={"a": {"href", "title"}, "ol": {"start"}},
        url_schemes=_SCHEMES,
        link_rel=_RELATION,
    )
