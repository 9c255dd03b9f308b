"""``python -m dlngeo``: the command line."""

from dlngeo.cli import app

app(prog_name="dlngeo")
