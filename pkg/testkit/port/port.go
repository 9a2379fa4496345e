package port

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kept is a port that nobody else gets.
type Kept struct {
	// Addr is host:port.
	Addr string
	// Number is that of the port.
	Number int

	keeper int // the socket that is bound and does not listen
}

// Keep takes a free port of the loopback interface.
func Keep() (*Kept, error) {
	keeper, err := bound()
	if err != nil {
		return nil, fmt.Errorf("keep a port: %w", err)
	}
	address, err := unix.Getsockname(keeper)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask for the number of a port: %w", err), unix.Close(keeper))
	}
	in, isIPv4 := address.(*unix.SockaddrInet4)
	if !isIPv4 {
		return nil, errors.Join(fmt.Errorf("a socket for IPv4 is bound to %T", address), unix.Close(keeper))
	}
	return &Kept{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(in.Port)), Number: in.Port, keeper: keeper}, nil
}

// bound has a port that others may share who say so.
func bound() (int, error) {
	syscall.ForkLock.RLock()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(socket)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, err
	}
	if err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err == nil {
		err = unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(socket))
	}
	return socket, nil
}

// Listen listens there. Whoever closes the listener can listen again.
func (k *Kept) Listen() (net.Listener, error) {
	share := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(socket uintptr) {
			failed = unix.SetsockoptInt(int(socket), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return errors.Join(err, failed)
	}}
	listener, err := share.Listen(context.Background(), "tcp4", k.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen on a port that was kept: %w", err)
	}
	return listener, nil
}

// Close gives the port back. A listener goes on.
func (k *Kept) Close() error { return unix.Close(k.keeper) }
