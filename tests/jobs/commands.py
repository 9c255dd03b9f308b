"""What the tests of the commands share."""

import json

from typer.testing import CliRunner

from dlngeo.cli import app

QUICK = {
    "compare": ["--rank", "3", "--depths", "1,3", "--observed", "0.6", "--iterations", "8"],
    "flow": ["--size", "3", "--target-rank", "2", "--depths", "1,3", "--time", "20"],
    "sample": ["--steps", "60", "--thin", "2", "--shape", "2x3", "--chains", "4"],
}


def call(*arguments, **options):
    return CliRunner().invoke(app, [*map(str, arguments)], **options)


def succeed(*arguments, **options):
    result = call(*arguments, **options)
    assert result.exit_code == 0, result.output
    return result


def result_of(folder):
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def assert_one_line_and_code_2(result, message):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("dlngeo: ")
    assert message in result.stderr
