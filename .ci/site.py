"""Check a built site: no page fetches anything from elsewhere, and every link within leads to a page and a place on it.

    python .ci/site.py build/docs

Links that a reader may follow to other sites are no fault. The exit code is 1 if there is one.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {"action", "data", "poster", "src", "srcset"}
"""Attributes whose address a browser asks for, or sends to; of links, `href` of the element `link` does too."""
ELSEWHERE = re.compile(r"\s*(https?:)?//")
IN_STYLES = re.compile(r"""(?:@import|url\()\s*["']?\s*((?:https?:)?//[^"')\s;]+)""")


class Page(HTMLParser):
    """What a page fetches, which places it has, and where it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.places: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and the place of an element."""
        for name, value in attrs:
            if name in FETCHED or (tag == "link" and name == "href"):
                self.fetched.append(value or "")
            elif name == "id":
                self.places.add(value or "")
            elif tag == "a" and name == "href":
                self.links.append(value or "")
            elif name == "style":
                self.fetched += IN_STYLES.findall(value or "")


def main(folder: Path) -> int:
    """Print each fault."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.html"))}
    pages = {path: Page(text) for path, text in texts.items()}
    faults = [] if pages else [f"{folder} has no pages"]
    for path in sorted(folder.rglob("*.css")):
        faults += [f"{path} fetches {address}" for address in IN_STYLES.findall(path.read_text(encoding="utf-8"))]
    for path, page in pages.items():
        faults += [f"{path} fetches {address}" for address in page.fetched if ELSEWHERE.match(address)]
        for link in {*page.links, *page.fetched}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            known = pages.get(target)
            if not target.exists() or (known and parts.fragment and unquote(parts.fragment) not in known.places):
                faults.append(f"{path} links to {link}, which is not there")
    print("\n".join([*faults, f"{len(pages)} pages, {len(faults)} faults"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
