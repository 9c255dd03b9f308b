"""The snippets of the README run, in order, as one script."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_python_snippets(capsys):
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.S))
    exec(compile(code, "README.md", "exec"), {})
    distance, error, norm = (float(line) for line in capsys.readouterr().out.split())
    assert f"# {distance:.4f}..." in README
    assert error < 1e-3
    assert norm > 0


def test_commands_need_nothing_but_python():
    commands = re.findall(r"```sh\n(.*?)\n```", README, flags=re.S)
    assert len(commands) == 2
    assert all(re.fullmatch(r"python3 -m venv \.venv && [^\n]+", command) for command in commands)
