"""The commands of a page: what stands between ```sh and ```, one command after the other."""

import re
from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """What is fenced as that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """In the order in which they are typed; lines that go on are joined, comments left out."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s+)#\s.*$", "", line).strip()
            if command:
                found.append(re.sub(r" +", " ", command))
    return found
