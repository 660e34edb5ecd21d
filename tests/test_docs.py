"""What the documentation states of the code is true."""

import re
from pathlib import Path

import yaml

from sniproxy.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"


def test_settings_page_is_complete_and_holds_the_defaults() -> None:
    block = re.search(r"```yaml\n(.*?)```", (DOCS / "settings.md").read_text(), re.DOTALL)
    assert block is not None
    assert yaml.safe_load(block[1]) == Settings().model_dump(mode="json")
