"""Notebooks as scripts."""

import json

import pytest

from agent.model.errors import InvalidInputError
from agent.model.job.notebook import notebook_to_script


def notebook(*sources, language="python"):
    cells = [{"cell_type": "code", "source": source} for source in sources]
    cells.insert(0, {"cell_type": "markdown", "source": ["# title"]})
    metadata = {"kernelspec": {"language": language}}
    return json.dumps({"nbformat": 4, "metadata": metadata, "cells": cells})


def test_code_cells_stand_in_order_and_run():
    text = notebook(["x = 1\n", "y = 2"], "print(x + y)", "")
    script = notebook_to_script(text, "a.ipynb")
    assert script == "x = 1\ny = 2\n\nprint(x + y)\n"


@pytest.mark.parametrize(
    ("source", "script"),
    [
        ("!pip install six\nimport six", "pass\nimport six\n"),
        ("%matplotlib inline\nx = 1", "pass\nx = 1\n"),
        ("if True:\n    !ls\nx = 1", "if True:\n    pass\nx = 1\n"),
        ("x?\nprint??\n?x\ny = 1", "pass\npass\npass\ny = 1\n"),
        ("x = (7\n% 4)", "x = (7\n% 4)\n"),
        ('s = """\n!not a command\n"""', 's = """\n!not a command\n"""\n'),
        ("%%bash\nrm -rf x", "\n"),
        ("%%time\nx = 1", "x = 1\n"),
    ],
)
def test_what_only_ipython_takes_is_dropped(source, script):
    made = notebook_to_script(notebook(source), "a.ipynb")
    assert made == script
    compile(made, "a.py", "exec")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing", "'a.ipynb' is not a Jupyter notebook"),
        ('{"worksheets": []}', "not a Jupyter notebook"),
        ("[1]", "not a Jupyter notebook"),
        (notebook("x <- 1", language="R"), "is written in R"),
    ],
)
def test_what_is_no_notebook_is_named(text, words):
    with pytest.raises(InvalidInputError, match=words):
        notebook_to_script(text, "a.ipynb")
