"""Catches the first flight of the TLS clients on this machine: `python -m bench.corpus.capture` writes captured.json anew.

Done once: a client's random differs in each run, so the hex is kept. Clients that are not installed keep what there is.
"""

import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.corpus.rows import NAME
from sniproxy.client_hello import ClientHelloReader

CAPTURED = Path(__file__).with_name("captured.json")
DEADLINE = 60.0  # seconds for a client to start; `go run` compiles

PYTHON = """
import socket, ssl, sys
context = ssl.create_default_context()
context.minimum_version = getattr(ssl.TLSVersion, sys.argv[2])
context.maximum_version = getattr(ssl.TLSVersion, sys.argv[3])
if sys.argv[4:]: context.set_alpn_protocols(sys.argv[4:])
context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))), server_hostname="%s")
""".replace("%s", NAME)
NODE = "require('tls').connect({host:'127.0.0.1', port:PORT, servername:'%s', ALPNProtocols:['h2']})".replace(
    "%s", NAME
)
GO = """package main
import ("crypto/tls"; "os")
func main() { tls.Dial("tcp", "127.0.0.1:"+os.Args[1], &tls.Config{ServerName: "%s"}) }
""".replace("%s", NAME)
JAVA = """import javax.net.ssl.*; import java.util.List;
class Hello { public static void main(String[] args) throws Exception {
  SSLSocket s = (SSLSocket) SSLSocketFactory.getDefault().createSocket("127.0.0.1", Integer.parseInt(args[0]));
  SSLParameters p = s.getSSLParameters(); p.setServerNames(List.of(new SNIHostName("%s")));
  s.setSSLParameters(p); s.startHandshake(); } }
""".replace("%s", NAME)

OPENSSL = {
    "tls13": "-tls1_3",
    "tls12": "-tls1_2",
    "tls11": "-tls1_1 -cipher ALL:@SECLEVEL=0",
    "tls10": "-tls1 -cipher ALL:@SECLEVEL=0",
    "any": "",
    "alpn": "-alpn game,h2",
    "status": "-status",
    "no_ticket": "-no_ticket -tls1_2",
    "groups": "-groups P-521:P-384:X448",
    "no_middlebox": "-no_middlebox -tls1_3",
    "all_ciphers": "-cipher ALL:COMPLEMENTOFALL:@SECLEVEL=0",
    "max_fragment": "-maxfraglen 512",
}


def _commands(port: int, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A name and a command for each client, in an order that stays."""
    for row, options in OPENSSL.items():
        address = f"127.0.0.1:{port}"
        yield (
            f"openssl_{row}",
            [
                *("openssl", "s_client", "-connect", address, "-servername", NAME),
                *options.split(),
            ],
        )
    for row, *more in (("tls12", "TLSv1_2", "TLSv1_2"), ("tls13", "TLSv1_3", "TLSv1_3", "h2")):
        yield f"python_{row}", ["python3", "-c", PYTHON, str(port), *more]
    resolve, url = f"{NAME}:{port}:127.0.0.1", f"https://{NAME}:{port}/"
    yield "curl", ["curl", "--noproxy", "*", "--resolve", resolve, url]
    git = ["git", "-c", f"http.curloptResolve={resolve}", "-c", "http.proxy=", "ls-remote", url]
    yield "git_gnutls", git
    yield "node", ["node", "-e", NODE.replace("PORT", str(port))]
    for row, program, source in (("go", ["go", "run"], GO), ("java", ["java"], JAVA)):
        file = folder / f"Hello.{row}"
        file.write_text(source)
        yield row, [*program, str(file), str(port)]


def _first_flight(command: list[str], server: socket.socket) -> bytes:
    """The bytes up to the end of the hello that the command sends to the server."""
    nothing = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing) as process:
        try:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(DEADLINE)
                reader = ClientHelloReader()
                while (data := connection.recv(65_536)) and reader.feed(data) is None:
                    pass
        finally:
            process.kill()
    return reader.received


def main() -> None:
    """Every client that is there."""
    found: dict[str, str] = json.loads(CAPTURED.read_text()) if CAPTURED.exists() else {}
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE)
        for row, command in _commands(server.getsockname()[1], Path(folder)):
            if shutil.which(command[0]) is None:
                print(f"{command[0]}: not here")
                continue
            try:
                found[row] = _first_flight(command, server).hex()
            except TimeoutError:
                print(f"{row}: says nothing")
                continue
            print(f"{row}: {len(found[row]) // 2} bytes")
    CAPTURED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
