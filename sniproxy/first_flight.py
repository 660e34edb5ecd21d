"""What comes first on a connection: the PROXY header, where the listener wants one, and the ClientHello.

Both are read within one deadline, total, and within their bounds. Who closes without a byte, or after a LOCAL header, was a
load balancer looking whether we are there.
"""

from sniproxy.client_hello import BrokenHello, ClientHello, ClientHelloReader, HelloClass
from sniproxy.deadline import Deadline
from sniproxy.errors import CloseReason, SessionEnded
from sniproxy.proxy_protocol import BrokenHeader, ProxyHeader, ProxyHeaderReader
from sniproxy.refusals import hello_refusal
from sniproxy.relay import Accepted
from sniproxy.relay.sockets import Lost, receive
from sniproxy.settings import Proxy

READ_SIZE = 16 * 1024  # bytes per read


class FirstFlight:
    """The first bytes of one connection, and what they say."""

    def __init__(self, settings: Proxy, accepted: Accepted) -> None:
        self.client = (
            accepted.peer
        )  # address and port, as accept() gives them; the header's from then on
        self._settings = settings
        self._listener = accepted.listener
        self._sock = accepted.sock
        self._since = accepted.since
        self._failure = accepted.failure
        self._header = b""  # what was read of it, until it is whole
        self._early = b""  # what was read beyond it
        self._unread = accepted.said  # what somebody else has read
        self._hello: ClientHelloReader | None = None
        self.local = False  # a balancer's own connection, by its header
        self._silent = True  # nothing was said yet, or LOCAL only
        self.split = accepted.split  # the hello has come in several pieces
        self.broken: HelloClass | None = None  # what the hello is, where it is none

    @property
    def received(self) -> bytes:
        """Every byte that was read after the PROXY header, in order: what the upstream gets."""
        early = self._early + self._unread
        return early if self._hello is None else self._hello.received

    @property
    def seen(self) -> bytes:
        """The same, or what was read of a PROXY header that did not become whole: what a record shows."""
        return self._header or self.received

    def deadline(self) -> Deadline:
        """For all of it."""
        seconds = self._settings.hello_timeout
        late = CloseReason.HELLO_TIMEOUT
        return Deadline(seconds, late, "not complete in {:g} s", since=self._since)

    async def read_proxy_header(self) -> None:
        """Learns who the client is: the peer itself where no header is wanted, and after LOCAL."""
        if not self._listener.proxy_protocol:
            return
        if not self._settings.trusts(self.client[0]):
            raise SessionEnded(CloseReason.PROXY_UNTRUSTED, "not in proxy.trusted")
        reader = ProxyHeaderReader()
        header: ProxyHeader | None = None
        try:
            while header is None:
                data = await self._receive()
                self._header += data
                header = reader.feed(data)
                self._silent = False
        except BrokenHeader as broken:
            detail = f"{broken.header_class}: {broken.detail}"
            raise SessionEnded(CloseReason.PROXY_BROKEN, detail) from None
        self._header, self._early = b"", reader.rest
        self.local = header.local
        self._silent = header.local and not self._early
        self.client = header.source or self.client

    async def read_hello(self) -> ClientHello | None:
        """The ClientHello; None on a listener for plain TCP."""
        if not self._listener.is_tls:
            return None
        settings = self._settings
        self._hello = ClientHelloReader(
            max_hello=settings.max_hello, max_raw=settings.max_hello_raw
        )
        try:
            hello = self._hello.feed(self._early) if self._early else None
            begun = bool(self._early)
            while hello is None:
                hello = self._hello.feed(await self._receive())
                self._silent = False
                self.split |= begun
                begun = True
        except BrokenHello as broken:
            self.broken = broken.hello_class
            detail = f"{broken.hello_class}: {broken.detail}"
            raise SessionEnded(hello_refusal(broken.hello_class), detail) from None
        return hello

    async def _receive(self) -> bytes:
        reason = CloseReason.PROBE if self._silent else CloseReason.HELLO_ABANDONED
        if self._unread:
            said, self._unread = self._unread, b""
            return said
        try:
            if self._failure is not None:
                raise Lost(self._sock, self._failure)
            data = await receive(self._sock, READ_SIZE)
        except Lost as lost:
            raise SessionEnded(reason, lost.cause) from None
        if not data:
            raise SessionEnded(reason, "closed by the client")
        return data
