"""The snippets of each section of the README run, by themselves."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SECTIONS = {
    title: "\n".join(snippets)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", README, flags=re.S | re.M)
    if (snippets := re.findall(r"```python\n(.*?)```", text, flags=re.S))
}
# What a section prints, told from the text of the README and that output.
PRINTED = {
    "In geomstats": lambda distance: f"# {distance:.4f}..." in README,
    "In pymanopt": lambda error: error < 1e-3,
    "In PyTorch": lambda error: error < 0.03,
    "Your own metric": lambda norm: f"# {norm:.4f}..." in README,
}


@pytest.mark.parametrize("title", SECTIONS)
def test_each_section_runs_by_itself(title, capsys):
    if title == "In PyTorch":
        pytest.importorskip("torch")
    exec(compile(SECTIONS[title], f"README.md: {title}", "exec"), {})
    numbers = [float(line) for line in capsys.readouterr().out.split()]
    assert title not in PRINTED or PRINTED[title](*numbers)


def test_the_sections_are_those_that_print_and_two_more():
    assert set(SECTIONS) == {*PRINTED, "Training as a flow", "What noise adds"}


def test_commands_need_nothing_but_python():
    commands = re.findall(r"```sh\n(.*?)\n```", README, flags=re.S)
    assert len(commands) == 2
    assert all(re.fullmatch(r"python3 -m venv \.venv && [^\n]+", command) for command in commands)
