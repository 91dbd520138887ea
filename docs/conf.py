"""The site: `make site` builds it from the Markdown of the project. Nothing is fetched, and no page needs a network."""

from importlib.metadata import version as installed
from typing import Any

project, author, release = "trimtab", "the trimtab authors", installed("trimtab")
html_title = "trimtab"
root_doc = "docs/index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
include_patterns = [
    "docs/**",
    "design/*.md",
    "organisms/brindlemoor/*.md",
    "benchmarks/README.md",
    "tests/README.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LOG.md",
]
exclude_patterns = [".venv*", "runs", "build", "src", "docs/site/**", "docs/*.py", "docs/*.json"]
default_role = "code"
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

# Markdown: headings can be linked to; notebooks are shown as they were run (the tests run them again)
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_extra_path = ["site"]
html_show_sourcelink = False
html_copy_source = False
pygments_dark_style = "monokai"


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _plain)


def _plain(*event: Any) -> None:
    """Docstrings are text: |x| in them is a norm, and no substitution."""
    lines = event[-1]
    lines[:] = [line.replace("|", "\\|") for line in lines]
