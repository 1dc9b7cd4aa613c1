"""The examples of docs/data.md run as they stand there."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", PAGE.read_text(), flags=re.MULTILINE)
    examples = [block for block in blocks if block.lstrip().startswith("from ")]
    assert len(examples) == 3
    names: dict[str, object] = {}
    for example in examples:
        exec(re.sub(r"^ {4}", "", example.strip("\n"), flags=re.MULTILINE), names)
    assert len(capsys.readouterr().out.split()) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hall.h5", "office.h5"]


def test_the_command_of_the_page_has_these_options(capsys):
    from channels.dichasus import main

    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for option in re.findall(r"`(--[a-z-]+)", PAGE.read_text()):
        assert option in told
