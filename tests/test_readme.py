"""The snippets of each section of the README, and of each page below, run by themselves."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets(text):
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S))


SECTIONS = {
    title: code
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", README, flags=re.S | re.M)
    if (code := snippets(text))
}
STARTS = ("start-optimiser.md", "start-theorist.md", "start-data.md")
PAGES = {page: snippets((ROOT / "docs" / page).read_text(encoding="utf-8")) for page in (*STARTS, "torch.md")}
# What a section prints, where no comment beside it shows its first digits.
PRINTED = {"In pymanopt": lambda error: error < 1e-3, "In PyTorch": lambda error: error < 0.03}


@pytest.mark.parametrize("title", [*SECTIONS, *PAGES])
def test_each_section_runs_by_itself(title, capsys):
    code = {**SECTIONS, **PAGES}[title]
    if title in ("In PyTorch", "torch.md"):
        pytest.importorskip("torch")
    exec(compile(code, title, "exec"), {})
    printed = capsys.readouterr().out.split()
    if title in PRINTED:
        assert PRINTED[title](*map(float, printed))
    else:
        shown = re.findall(r"print\(.*\)  # (\S+)\.\.\.", code)
        assert len(shown) == len(printed) == code.count("print(")
        assert all(number.startswith(digits) for digits, number in zip(shown, printed, strict=True)), printed


def test_the_sections_are_those_that_are_expected():
    names = {"In geomstats", "Your own metric", "Training as a flow", "What noise adds"}
    assert set(SECTIONS) == {*PRINTED, *names}
    assert all(PAGES.values())


def test_commands_need_nothing_but_python():
    commands = re.findall(r"```sh\n(.*?)\n```", README, flags=re.S)
    assert len(commands) == 2
    assert all(re.fullmatch(r"python3 -m venv \.venv && [^\n]+", command) for command in commands)
