#!/usr/bin/env python3
"""Writes the page's files as C++: tools/embed_files.py OUT.cc FILE...

The result depends on the files' names and bytes alone. index.html is served as "/", FILE as "/page/FILE".
"""
import hashlib
import pathlib
import sys

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
ESCAPES = {ord("\n"): "\\n", ord("\t"): "\\t", ord('"'): '\\"', ord("\\"): "\\\\"}


def literal(data):
    """A C++ string literal, one line of the file to a line; bytes beyond ASCII as three octal digits."""
    lines = data.splitlines(keepends=True) or [b""]
    text = []
    for line in lines:
        text.append("".join(ESCAPES.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in line))
    # "??" may begin a trigraph in older C++.
    return "\n".join(f'        "{line}"'.replace("??", "?\\?") for line in text)


def entry(path):
    data = path.read_bytes()
    url = "/" if path.name == "index.html" else f"/page/{path.name}"
    tag = hashlib.sha256(data).hexdigest()[:20]
    return (f'    {{"{url}", "{CONTENT_TYPES[path.suffix]}", "\\"{tag}\\"",\n'
            f"     std::string_view(\n{literal(data)},\n        {len(data)})}},\n")


def main(out, *names):
    paths = sorted(map(pathlib.Path, names), key=lambda path: path.name)
    text = ('// Written by tools/embed_files.py.\n#include "server/page/page.h"\n\nnamespace tandem::server {\n'
            "namespace {\n\nconstexpr PageFile kFiles[] = {\n" + "".join(map(entry, paths)) +
            "};\n\n}  // namespace\n\nstd::span<const PageFile> page_files() { return kFiles; }\n\n"
            "}  // namespace tandem::server\n")
    pathlib.Path(out).write_text(text)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
