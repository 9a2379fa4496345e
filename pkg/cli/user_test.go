package cli

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
)

// members plays the access service: names and passwords in the order in which they were made.
type members struct {
	accessv1.UnimplementedAccessServiceServer

	addr string

	mu    sync.Mutex
	users []*accessv1.User
	// passwords by name.
	passwords map[string]string
}

func newMembers(t *testing.T) *members {
	t.Helper()
	m := &members{passwords: map[string]string{}}
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer(slog.New(slog.DiscardHandler))
	accessv1.RegisterAccessServiceServer(server, m)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop(0)
		<-served
	})
	m.addr = listener.Addr().String()
	return m
}

func (m *members) CreateUser(_ context.Context, r *accessv1.CreateUserRequest) (*accessv1.CreateUserResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.passwords[r.GetUsername()]; taken {
		return nil, errs.Exists(errs.UserExists, "there is a user %q already", r.GetUsername())
	}
	user := &accessv1.User{
		Id: int64(len(m.users) + 1), Username: r.GetUsername(), WellKnownPassword: r.GetPassword() == "password",
		CreatedAt: timestamppb.New(time.Date(2026, time.January, 2, 3, 4, 5, 123456000, time.UTC)),
	}
	m.users, m.passwords[r.GetUsername()] = append(m.users, user), r.GetPassword()
	return &accessv1.CreateUserResponse{User: user}, nil
}

func (m *members) ListUsers(context.Context, *accessv1.ListUsersRequest) (*accessv1.ListUsersResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &accessv1.ListUsersResponse{Users: m.users}, nil
}

func (m *members) SetPassword(_ context.Context, r *accessv1.SetPasswordRequest) (*accessv1.SetPasswordResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.passwords[r.GetUsername()]; !known {
		return nil, errs.NotFound(errs.UserNotFound, "no user %q", r.GetUsername())
	}
	m.passwords[r.GetUsername()] = r.GetPassword()
	return &accessv1.SetPasswordResponse{}, nil
}

func (m *members) DeleteUser(_ context.Context, r *accessv1.DeleteUserRequest) (*accessv1.DeleteUserResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.passwords[r.GetUsername()]; !known {
		return nil, errs.NotFound(errs.UserNotFound, "no user %q", r.GetUsername())
	}
	delete(m.passwords, r.GetUsername())
	return &accessv1.DeleteUserResponse{}, nil
}

// user runs `sluice user`, with something on standard input.
func (m *members) user(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, said bytes.Buffer
	code = Main(t.Context(), append([]string{"user"}, args...), Environment{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &said, LookupEnv: lookup(map[string]string{"SLUICE_ADDR": m.addr}),
		Now: func() time.Time { return time.Date(2026, time.January, 2, 4, 4, 5, 0, time.UTC) },
	})
	return out.String(), said.String(), code
}

func TestUsersAreMadeListedChangedAndDeleted(t *testing.T) {
	m := newMembers(t)
	for _, step := range []struct {
		stdin, args, stdout, stderr string
		code                        int
	}{
		{"", "list", "", "there is no user; `sluice user add` makes one\n", 0},
		{"correct horse\n", "add ada --password-stdin", "made user ada\n", "", 0},
		{"correct horse", "add ada --password-stdin", "", "sluice: there is a user \"ada\" already\n", 1},
		{"password\r\n", "add admin --password-stdin", "made user admin\n", "everybody knows this password: REST is only served on loopback addresses with it\n", 0},
		{
			"", "list",
			"ID  NAME   AGE     PASSWORD\n1   ada    59m59s  own\n2   admin  59m59s  well known\n", "", 0,
		},
		{"battery staple", "password ada --password-stdin", "changed the password of ada\n", "", 0},
		{"battery staple", "password eve --password-stdin", "", "sluice: no user \"eve\"\n", 1},
		{"", "delete ada eve", "ada deleted\n", "sluice: no user \"eve\"\n", 1},
	} {
		stdout, stderr, code := m.user(t, step.stdin, strings.Fields(step.args)...)
		if stdout != step.stdout || stderr != step.stderr || code != step.code {
			t.Errorf("sluice user %s\n got %d %q %q\nwant %d %q %q", step.args, code, stdout, stderr, step.code, step.stdout, step.stderr)
		}
		if step.args == "password ada --password-stdin" && m.passwords["ada"] != "battery staple" {
			t.Errorf("the password is %q", m.passwords["ada"])
		}
	}
	if got := fmt.Sprint(m.passwords); got != "map[admin:password]" {
		t.Errorf("what is left: %s", got)
	}
}

func TestUsersAreShownAsJSON(t *testing.T) {
	m := newMembers(t)
	const ada = `{
  "id": 1,
  "username": "ada",
  "created_at": "2026-01-02T03:04:05.123456Z",
  "well_known_password": false
}
`
	if stdout, _, _ := m.user(t, "correct horse", "add", "ada", "--password-stdin", "-o", "json"); stdout != ada {
		t.Errorf("made %s", stdout)
	}
	if stdout, _, _ := m.user(t, "", "list", "-o", "json"); strings.Join(strings.Fields(stdout), "") != "["+strings.Join(strings.Fields(ada), "")+"]" {
		t.Errorf("listed %s", stdout)
	}
	for _, c := range [][2]string{
		{"password ada --password-stdin -o json", "{\n  \"username\": \"ada\"\n}\n"},
		{"delete ada -o json", "[\n  {\n    \"username\": \"ada\"\n  }\n]\n"},
	} {
		if stdout, _, _ := m.user(t, "battery staple", strings.Fields(c[0])...); stdout != c[1] {
			t.Errorf("%s: %s", c[0], stdout)
		}
	}
}

func TestAPasswordComesFromATerminalOrStandardInputAndNothingElse(t *testing.T) {
	m := newMembers(t)
	for _, c := range []struct {
		stdin, args, stderr string
	}{
		{"correct horse", "add ada", "sluice: there is no terminal to ask at: give --password-stdin and the password on standard input\n"},
		{"", "add ada --password-stdin", "sluice: --password-stdin: there is nothing on standard input\n"},
		{"\n", "add ada --password-stdin", "sluice: --password-stdin: there is nothing on standard input\n"},
		{"short", "add ada --password-stdin", "sluice: password: must have at least 8 bytes\n"},
		{"adaadaada", "add adaadaada --password-stdin", "sluice: password: must not be the name of the user\n"},
		{strings.Repeat("x", 5000), "add ada --password-stdin", "sluice: password: must be at most 1024 bytes, has 1027\n"},
		{"correct horse", "add a/da --password-stdin", "sluice: name: must be 1 to 150 letters, digits and any of @ . + - _\n"},
	} {
		stdout, stderr, code := m.user(t, c.stdin, strings.Fields(c.args)...)
		if stdout != "" || stderr != c.stderr || code != exitUsage {
			t.Errorf("sluice user %s\n got %d %q %q\nwant %d %q", c.args, code, stdout, stderr, exitUsage, c.stderr)
		}
	}
	if len(m.users) != 0 {
		t.Errorf("made %v", m.users)
	}
}
