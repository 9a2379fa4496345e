package port_test

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/port"
)

func TestAKeptPortRefusesUntilSomebodyListensAgain(t *testing.T) {
	kept, err := port.Keep()
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	for range 3 {
		if conn, err := net.Dial("tcp", kept.Addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("nobody listens, and a connection is %v, %v", conn, err)
		}
		if other, err := net.Listen("tcp", kept.Addr); err == nil {
			other.Close()
			t.Fatal("somebody else got the port")
		}
		listener, err := kept.Listen()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", kept.Addr)
		if err != nil {
			t.Fatalf("somebody listens: %v", err)
		}
		conn.Close()
		listener.Close()
	}
}
