"""Pipes whose ends a test holds, small ones, so that they are soon full."""

import fcntl
import os
import re
from select import PIPE_BUF


class Pipe:
    """A pipe of one page, and both its ends."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BUF)
        self._ends = {self.reader, self.writer}

    def close(self, end: int) -> None:
        """One end, if it is still open."""
        if end in self._ends:
            self._ends.remove(end)
            os.close(end)

    def read_all(self) -> bytes:
        """Until nobody holds the writing end any more; ours is closed first."""
        self.close(self.writer)
        read = bytearray()
        while more := os.read(self.reader, 65536):
            read += more
        return bytes(read)

    def read_through(self, last: str) -> bytes:
        """Until a line has come that looks so."""
        read = bytearray()
        while not re.search(rb"^%s\n\Z" % last.encode(), read, re.MULTILINE):
            read += os.read(self.reader, 65536)
        return bytes(read)
