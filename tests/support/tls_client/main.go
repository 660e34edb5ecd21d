// A player of Go's: its own TLS, or with -hello chrome a browser's hello (uTLS). It has one line echoed and tells in JSON
// what was agreed.
//
//	tls_client [-hello go|chrome|firefox] [-cut 0] -name NAME -ca FILE HOST:PORT
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	utls "github.com/refraction-networking/utls"
)

const patience = 10 * time.Second

type told struct {
	Version string `json:"version"`
	Cipher  string `json:"cipher"`
	Group   uint16 `json:"group"` // of the key exchange, by its number
	Hello   int    `json:"hello"` // bytes of our first flight, in so many segments
	Pieces  int    `json:"pieces"`
	Echoed  string `json:"echoed"`
}

// Sends what is written first in pieces of cut bytes, each a segment of its own.
type wire struct {
	net.Conn
	cut, hello, pieces int
}

func (w *wire) Write(data []byte) (int, error) {
	if w.hello != 0 {
		return w.Conn.Write(data)
	}
	w.hello = len(data)
	size := w.cut
	if size == 0 {
		size = len(data)
	}
	for start := 0; start < len(data); start += size {
		if w.pieces++; w.pieces > 1 {
			time.Sleep(5 * time.Millisecond)
		}
		if _, err := w.Conn.Write(data[start:min(start+size, len(data))]); err != nil {
			return start, err
		}
	}
	return len(data), nil
}

func main() {
	hello := flag.String("hello", "go", "whose")
	cut := flag.Int("cut", 0, "bytes of each segment of the hello")
	name := flag.String("name", "", "of the server")
	ca := flag.String("ca", "", "PEM file of whom is trusted")
	flag.Parse()
	if err := play(*hello, *cut, *name, *ca, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func play(hello string, cut int, name, ca, address string) error {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return errors.New("no certificate in " + ca)
	}
	raw, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	to := &wire{Conn: raw, cut: cut}
	conn, agreed, err := shake(hello, to, name, roots)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "over TLS\n"); err != nil {
		return err
	}
	back := make([]byte, 9)
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if err := conn.Close(); err != nil {
		return err
	}
	agreed.Hello, agreed.Pieces, agreed.Echoed = to.hello, to.pieces, string(back)
	return json.NewEncoder(os.Stdout).Encode(agreed)
}

func shake(hello string, to net.Conn, name string, roots *x509.CertPool) (net.Conn, told, error) {
	if hello == "go" {
		conn := tls.Client(to, &tls.Config{ServerName: name, RootCAs: roots})
		err := conn.Handshake()
		state := conn.ConnectionState()
		agreed := told{Version: tls.VersionName(state.Version), Cipher: tls.CipherSuiteName(state.CipherSuite)}
		agreed.Group = uint16(state.CurveID)
		return conn, agreed, err
	}
	browsers := map[string]utls.ClientHelloID{"chrome": utls.HelloChrome_Auto, "firefox": utls.HelloFirefox_Auto}
	browser, known := browsers[hello]
	if !known {
		return nil, told{}, errors.New("nobody's hello: " + hello)
	}
	conn := utls.UClient(to, &utls.Config{ServerName: name, RootCAs: roots}, browser)
	err := conn.Handshake()
	state := conn.ConnectionState()
	agreed := told{Version: tls.VersionName(state.Version), Cipher: tls.CipherSuiteName(state.CipherSuite)}
	if answer := conn.HandshakeState.ServerHello; answer != nil {
		agreed.Group = uint16(answer.ServerShare.Group)
	}
	return conn, agreed, err
}
