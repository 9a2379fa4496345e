package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// keyPair writes a certificate of one's own for 127.0.0.1.
func keyPair(t *testing.T) (certificate, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	made, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, bytes []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificate, key = write("cert.pem", "CERTIFICATE", made), write("key.pem", "PRIVATE KEY", secret)
	roots = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(made)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(parsed)
	return certificate, key, roots
}

func TestAGatewaySaysWhichDoorsItDoesNotOpen(t *testing.T) {
	certificate, key, _ := keyPair(t)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no port":                {[]string{"--rest-addr", "localhost"}, "--rest-addr: "},
		"anonymous and open":     {[]string{"--anonymous", "--rest-addr", "0.0.0.0:0"}, "--anonymous: whoever can connect could run commands"},
		"anonymous and open, v6": {[]string{"--anonymous", "--rest-addr", "[::]:0"}, "--anonymous: whoever can connect could run commands"},
		"half of TLS":            {[]string{"--tls-cert", certificate}, "--tls-cert and --tls-key: give both or none"},
		"other half":             {[]string{"--tls-key", key}, "--tls-cert and --tls-key: give both or none"},
		"no certificate":         {[]string{"--tls-cert", key, "--tls-key", key}, "--tls-cert, --tls-key: "},
	} {
		t.Run(name, func(t *testing.T) {
			got := sluice(t, nil, append([]string{"gateway"}, c.args...)...)
			if got.code != exitUsage || !strings.HasPrefix(got.stderr, "sluice: "+c.want) {
				t.Errorf("%d %s", got.code, got.stderr)
			}
		})
	}
}

// opened is a system that opens a door before some users.
func opened(t *testing.T, d door, m *members) (net.Listener, error) {
	t.Helper()
	conn, err := rpc.Dial(m.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s := &system{log: slog.New(slog.DiscardHandler)}
	listener, err := d.open(t.Context(), s, conn)
	if listener != nil {
		t.Cleanup(func() { _ = listener.Close() })
	}
	return listener, err
}

func TestADoorForOtherMachinesOpensOnlyIfNobodyHasThePasswordThatEverybodyKnows(t *testing.T) {
	m := newMembers(t)
	outside := door{addr: "0.0.0.0:0"}
	if _, err := opened(t, outside, m); err != nil {
		t.Errorf("without users: %v", err)
	}
	m.user(t, "correct horse", "add", "ada", "--password-stdin")
	if _, err := opened(t, outside, m); err != nil {
		t.Errorf("with a user: %v", err)
	}
	m.user(t, "password", "add", "admin", "--password-stdin")
	_, err := opened(t, outside, m)
	var own *failure
	if !errors.As(err, &own) || own.code != exitNo || !strings.Contains(err.Error(), "everybody knows the password of admin") ||
		!strings.Contains(err.Error(), "sluice user password admin --addr") || !strings.Contains(err.Error(), "0.0.0.0:0") {
		t.Errorf("got %v", err)
	}
	if _, err := opened(t, door{addr: "127.0.0.1:0", local: true}, m); err != nil {
		t.Errorf("on loopback: %v", err)
	}
}

func TestADoorForOtherMachinesWaitsUntilItIsKnownWhoHasALogin(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	conn, err := rpc.Dial("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	waits := make(chan struct{}, 1)
	s := &system{log: slog.New(slog.NewTextHandler(told(func() { // it says what it waits for
		select {
		case waits <- struct{}{}:
		default:
		}
	}), nil))}
	ended := make(chan error)
	go func() { ended <- s.everybodyHasAnOwnPassword(ctx, "0.0.0.0:0", accessv1.NewAccessServiceClient(conn)) }()
	<-waits
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// told is called for each line.
type told func()

func (f told) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func TestADoorWithACertificateSpeaksTLS(t *testing.T) {
	certificate, key, roots := keyPair(t)
	d, err := (&GatewayCmd{RESTAddr: "127.0.0.1:0", TLSCert: certificate, TLSKey: key}).door()
	if err != nil || d.scheme() != "https" {
		t.Fatalf("%s, %v", d.scheme(), err)
	}
	listener, err := opened(t, d, newMembers(t))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			err = errors.Join(conn.(*tls.Conn).HandshakeContext(t.Context()), conn.Close())
		}
		served <- err
	}()
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}}}
	conn, err := dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.(*tls.Conn).ConnectionState(); got.NegotiatedProtocol != "h2" || got.Version < tls.VersionTLS12 {
		t.Errorf("speaks %s, %x", got.NegotiatedProtocol, got.Version)
	}
	_ = conn.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestGalaxyRootsCanBeNone(t *testing.T) {
	if got := given([]string{"", "/", "/x/"}); !slices.Equal(got, []string{"/x/"}) {
		t.Errorf("got %q", got)
	}
	if got := given(nil); got == nil || len(got) != 0 {
		t.Errorf("got %#v: nil would mean the default", got)
	}
}
