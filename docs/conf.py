"""How the documentation is built: ``sphinx-build -W -q -b html docs docs/_build/html``."""

import re
from typing import Any

import retrograde

project = "retrograde"
author = "the retrograde developers"
copyright = author
version = release = retrograde.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "jupyter_execute"]
templates_path = ["_templates"]

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's type slots say more: shapes and units
numpydoc_show_class_members = False  # the class template lists them
numpydoc_xref_param_type = False
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"retrograde\._.*")]  # docstrings may point at private parts

html_theme = "pydata_sphinx_theme"
html_title = "retrograde"
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("index", "tutorials/*", "how-to/*", "explanation/*")}
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_end": ["theme-switcher"],
}


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _escape, priority=0)


def _escape(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """``(k, *shape)`` and ``|x|`` stand unescaped in docstrings, where people read them."""
    lines[:] = [_BARS.sub(r"\|\1\|", line.replace("*shape", r"\*shape")) for line in lines]


_BARS = re.compile(r"\|([^|`]+)\|")
