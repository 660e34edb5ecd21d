"""A Kubernetes secret as the kubelet mounts it: `tls.crt` -> `..data/tls.crt`, and `..data` -> a directory of its own."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path


class SecretMount:
    """A folder in which all files of a secret change at once, as one link is renamed over another."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder = folder
        self._times = count(1)
        folder.mkdir(parents=True, exist_ok=True)
        self.swap(files)
        for name in files:
            (folder / name).symlink_to(f"..data/{name}")

    def __truediv__(self, name: str) -> str:
        """The path of one of its files, as an object names it."""
        return str(self.folder / name)

    def swap(self, files: Mapping[str, str]) -> None:
        """Another version of the secret."""
        version = self.folder / f"..ts{next(self._times)}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_text(content)
        draft = self.folder / "..data_tmp"
        draft.symlink_to(version.name)
        draft.rename(self.folder / "..data")

    def write(self, name: str, content: str) -> None:
        """One file in place, or beside the others, as tools do that know of no versions."""
        (self.folder / name).write_text(content)
