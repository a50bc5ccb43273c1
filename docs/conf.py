"""The documentation as a site: `make docs` writes build/docs.

Sphinx with MyST: released regularly, reads the Markdown that also renders on a forge, and fails the
build for a dead link, a missing anchor or a page outside the navigation. MkDocs has had no release
since 2024, and Zensical is younger than 1.0. The source directory is the repository, so that links
to the chart, the examples and the other pages at the root work on both.
"""

from pathlib import Path

project = "csi-s3"
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "charts/csi-s3/README.md",
    "e2e/README.md",
    "e2e/cluster/README.md",
    "examples/README.md",
]
exclude_patterns = [".*", "build", "dist", "csi_s3", "tests", "bench", "proto"]
extensions = ["myst_parser"]
myst_heading_anchors = 3
nitpicky = True
highlight_language = "none"  # blocks are shell, YAML and JSON, indented

html_theme = "furo"
html_title = "csi-s3"
html_extra_path = [str(Path(__file__).parent / "site")]  # index.html leads to the start page
