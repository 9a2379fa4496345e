package cli

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/run"
)

// door is where a gateway lets people in.
type door struct {
	addr string
	// local: only this machine can reach it.
	local bool
	// tls is nil without TLS.
	tls *tls.Config
}

// door reads the flags that say so.
func (c *GatewayCmd) door() (door, error) {
	local, err := rpc.IsLocal(c.RESTAddr)
	if err != nil {
		return door{}, usage("--rest-addr: %s", err)
	}
	d := door{addr: c.RESTAddr, local: local}
	switch {
	case c.Anonymous && !local:
		return door{}, usage("--anonymous: whoever can connect could run commands; use a loopback --rest-addr such as 127.0.0.1:24817, is %s", c.RESTAddr)
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return door{}, usage("--tls-cert and --tls-key: give both or none")
	case c.TLSCert == "":
		return d, nil
	}
	certificate, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return door{}, usage("--tls-cert, --tls-key: %s", err)
	}
	d.tls = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	return d, nil
}

// given leaves out what is empty: --galaxy-roots= means none.
func given(paths []string) []string {
	return slices.DeleteFunc(append([]string{}, paths...), func(path string) bool { return strings.Trim(path, "/ ") == "" })
}

func (d door) scheme() string {
	if d.tls != nil {
		return "https"
	}
	return "http"
}

// open opens the door. One that others than this machine can reach only opens if nobody has the password that everybody knows.
func (d door) open(ctx context.Context, s *system, access grpc.ClientConnInterface) (net.Listener, error) {
	if d.local {
		listener, err := rpc.Listen(ctx, d.addr)
		return d.wrap(listener), err
	}
	if err := s.everybodyHasAnOwnPassword(ctx, d.addr, accessv1.NewAccessServiceClient(access)); err != nil {
		return nil, err
	}
	if d.tls == nil {
		s.log.WarnContext(ctx, "REST answers without TLS: passwords can be read on their way; put a proxy with TLS before it, or give --tls-cert")
	}
	listener, err := rpc.ListenOpenly(ctx, d.addr)
	return d.wrap(listener), err
}

func (d door) wrap(listener net.Listener) net.Listener {
	if d.tls == nil || listener == nil {
		return listener
	}
	return tls.NewListener(listener, d.tls)
}

// everybodyHasAnOwnPassword asks who has a login, as soon as somebody can say: the order in which processes are started must not
// matter.
func (s *system) everybodyHasAnOwnPassword(ctx context.Context, addr string, access accessv1.AccessServiceClient) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		answer, err := access.ListUsers(ctx, &accessv1.ListUsersRequest{})
		if err == nil {
			for _, user := range answer.GetUsers() {
				if user.GetWellKnownPassword() {
					return refuse("refusing to answer REST at %s: everybody knows the password of %s, and whoever has it can run commands; "+
						"change it with `sluice user password %[2]s --addr <the dispatcher's>`, or use a loopback address such as 127.0.0.1", addr, user.GetUsername())
				}
			}
			return nil
		}
		s.log.WarnContext(ctx, "waiting for the dispatcher, to know who has a login", slog.Any("error", err))
		if !run.Pause(ctx, pause) {
			return fmt.Errorf("ask who has a login: %w", ctx.Err())
		}
	}
}
