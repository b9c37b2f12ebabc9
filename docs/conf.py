"""How Sphinx builds the site: ``make docs``. Every warning is an error there."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]
# for the tutorials, which are run while the site is built, each in an empty folder: fastscore and pytest as a reader
# calls them, and where the benchmarks are
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), str(DOCS), os.environ.get("PYTHONPATH")]))
os.environ["FASTSCORE_SOURCE"] = str(ROOT)
os.environ["COLUMNS"] = "88"
os.environ["PYTHONWARNINGS"] = "ignore::FutureWarning"  # of torch's own use of torch

import fastscore  # noqa: E402

project = "fastscore"
author = "The fastscore authors"
copyright = "The fastscore authors, MIT licence"
release = version = fastscore.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docstrings",
    "generated",
]
exclude_patterns = ["_build", "template_operator"]
nitpicky = True
# types of others, for which no inventory is fetched: the site builds without a network
nitpick_ignore_regex = [
    (r"py:class", r"\w+\[.*"),  # what napoleon cuts out of dict[str, int]
    (r"py:meth", r"release"),  # of a lock, which is no part of the reference
    (r"py:class", r"fastscore\.models\.refinenet\.Layout"),  # how many blocks: of no use to a caller
    (r"py:class", r"ButSteps"),  # the keywords of `samplers.sample`, which lists them
    (r"py:.*", r"(torch|nn|np|numpy|collections|contextlib|json|os|pathlib|typing)\..*"),
    (r"py:.*", r"(.*\.)?T"),  # type variables
    (r"py:.*", r"(Tensor|Module|Path|PathLike|Sequence|Callable|Mapping|Iterator|Iterable|Any|NamedTuple|Literal)"),
]

html_theme = "furo"
html_title = f"fastscore {release}"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of the machine that builds the site
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_default_options = {"no-value": True}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Warns", ("Returns, Raises", "returns_style")]
