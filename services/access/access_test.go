package access_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/access"
)

// world is an access service on a database of the test's own, behind gRPC.
type world struct {
	postgres.Querier

	store   *access.Store
	service *access.Service
	client  accessv1.AccessServiceClient
	logs    *logs
}

// logs collects log lines.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pool, lines := pgtest.New(t), &logs{}
	store := access.NewStore(pool)
	service := access.New(store, slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the service ended with %v", err)
		}
	})
	conn, _ := rpctest.Serve(t, service.Register)
	return &world{Querier: pool, store: store, service: service, client: accessv1.NewAccessServiceClient(conn), logs: lines}
}

func (w *world) create(t *testing.T, username, password string) *accessv1.User {
	t.Helper()
	made, err := w.client.CreateUser(t.Context(), &accessv1.CreateUserRequest{Username: username, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return made.GetUser()
}

func (w *world) byPassword(t *testing.T, username, password string) (*accessv1.User, error) {
	t.Helper()
	answer, err := w.client.Authenticate(t.Context(), &accessv1.AuthenticateRequest{
		Credentials: &accessv1.AuthenticateRequest_Password{Password: &accessv1.Password{Username: username, Password: password}}, Client: here,
	})
	return answer.GetUser(), err
}

func (w *world) byToken(t *testing.T, token string) (*accessv1.User, error) {
	t.Helper()
	answer, err := w.client.Authenticate(t.Context(), &accessv1.AuthenticateRequest{
		Credentials: &accessv1.AuthenticateRequest_Token{Token: token}, Client: here,
	})
	return answer.GetUser(), err
}

func (w *world) token(t *testing.T, user int64) string {
	t.Helper()
	made, err := w.client.CreateToken(t.Context(), &accessv1.CreateTokenRequest{UserId: user})
	if err != nil {
		t.Fatal(err)
	}
	return made.GetToken()
}

func denied(t *testing.T, what string, err error) {
	t.Helper()
	if !errs.Is(err, errs.BadCredentials) || status.Code(err) != codes.Unauthenticated {
		t.Errorf("%s: got %v", what, err)
	}
}

func TestUsersAreKnownByTheirPasswordOnly(t *testing.T) {
	w := newWorld(t)
	made := w.create(t, "ada", "correct horse")
	w.create(t, "Ada", "battery staple")
	if made.GetId() != 1 || made.GetUsername() != "ada" || made.GetWellKnownPassword() || made.GetCreatedAt().AsTime().IsZero() {
		t.Errorf("made %v", made)
	}
	got, err := w.byPassword(t, "ada", "correct horse")
	if err != nil || got.GetId() != made.GetId() || got.GetUsername() != "ada" || !got.GetCreatedAt().AsTime().Equal(made.GetCreatedAt().AsTime()) {
		t.Errorf("got %v, %v", got, err)
	}
	if other, err := w.byPassword(t, "Ada", "battery staple"); err != nil || other.GetId() == made.GetId() {
		t.Errorf("got %v, %v", other, err)
	}
	for _, wrong := range [][2]string{
		{"ada", "battery staple"}, {"ada", ""}, {"nobody", "correct horse"}, {"", ""}, {"ada\x00", "correct horse"}, {"a' or true --", "x"},
	} {
		_, err := w.byPassword(t, wrong[0], wrong[1])
		denied(t, fmt.Sprintf("%q", wrong), err)
	}
}

func TestNamesAndPasswordsHaveRules(t *testing.T) {
	w := newWorld(t)
	w.create(t, "ada", "correct horse")
	for _, c := range []struct {
		username, password string
		reason             errs.Reason
	}{
		{"ada", "another password", errs.UserExists},
		{"", "correct horse", errs.InvalidInput},
		{"with space", "correct horse", errs.InvalidInput},
		{strings.Repeat("x", 151), "correct horse", errs.InvalidInput},
		{"bob", "short", errs.InvalidInput},
		{"bobbobbob", "bobBOBbob", errs.InvalidInput},
		{"bob", strings.Repeat("x", 1025), errs.InvalidInput},
	} {
		_, err := w.client.CreateUser(t.Context(), &accessv1.CreateUserRequest{Username: c.username, Password: c.password})
		if !errs.Is(err, c.reason) {
			t.Errorf("%q with %q: got %v, want %s", c.username, c.password, err, c.reason)
		}
		if err != nil && c.password != "" && strings.Contains(err.Error(), c.password) {
			t.Errorf("the refusal shows the password: %v", err)
		}
	}
}

func TestPasswordsAreKeptAsArgon2idWithTheirParameters(t *testing.T) {
	w := newWorld(t)
	w.create(t, "ada", "correct horse")
	w.create(t, "bob", "correct horse")
	ada := pgtest.One[string](t, w, `select password from account where username = 'ada'`)
	bob := pgtest.One[string](t, w, `select password from account where username = 'bob'`)
	if !strings.HasPrefix(ada, "$argon2id$v=19$m=19456,t=2,p=1$") || ada == bob || strings.Contains(ada, "horse") {
		t.Errorf("kept as %q and %q", ada, bob)
	}
}

// Parameters of later must not lock out, nor leave as they are, passwords of before.
func TestAPasswordKeptByParametersOfBeforeIsKeptAnewAtTheNextLogin(t *testing.T) {
	w := newWorld(t)
	w.create(t, "ada", "correct horse")
	before := access.ConcealCheaply("correct horse")
	pgtest.Must(t, w, 1, `update account set password = $1`, before)
	_, err := w.byPassword(t, "ada", "wrong horse")
	denied(t, "wrong", err)
	if got := pgtest.One[string](t, w, `select password from account`); got != before {
		t.Errorf("a wrong password changed it to %q", got)
	}
	for range 2 {
		if _, err := w.byPassword(t, "ada", "correct horse"); err != nil {
			t.Fatal(err)
		}
	}
	if got := pgtest.One[string](t, w, `select password from account`); !strings.HasPrefix(got, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("still kept as %q", got)
	}
	if err := w.store.Replace(t.Context(), 1, before, access.ConcealCheaply("older")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.byPassword(t, "ada", "correct horse"); err != nil {
		t.Errorf("a renewal that came late undid a change: %v", err)
	}
}

func TestBrokenSecretsLetNobodyIn(t *testing.T) {
	good := access.Conceal("correct horse")
	if ok, err := access.Matches(good, "correct horse"); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	for _, broken := range []string{
		"", "correct horse", "$argon2i$" + strings.TrimPrefix(good, "$argon2id$"), strings.Replace(good, "v=19", "v=16", 1),
		strings.Replace(good, "m=19456", "m=99999999", 1), strings.Replace(good, "t=2", "t=0", 1), strings.Replace(good, "p=1", "p=0", 1),
		strings.Replace(good, "m=19456,", "", 1), good[:len(good)-4], good + "=", good + "$", good[:strings.LastIndex(good, "$")+1],
	} {
		ok, err := access.Matches(broken, "correct horse")
		if ok || err == nil {
			t.Errorf("%q: %v, %v", broken, ok, err)
		} else if strings.Contains(err.Error(), "$") {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func TestAWrongPasswordIsRememberedUntilItIsRight(t *testing.T) {
	w := newWorld(t)
	for range 2 { // the second is known to be wrong
		_, err := w.byPassword(t, "ada", "correct horse")
		denied(t, "before there is such a user", err)
	}
	w.create(t, "ada", "another password")
	for range 2 {
		_, err := w.byPassword(t, "ada", "correct horse")
		denied(t, "while it is wrong", err)
	}
	if _, err := w.client.SetPassword(t.Context(), &accessv1.SetPasswordRequest{Username: "ada", Password: "correct horse"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.byPassword(t, "ada", "correct horse"); err != nil {
		t.Errorf("once it is right: %v", err)
	}
	_, err := w.byPassword(t, "ada", "another password")
	denied(t, "the one of before", err)
}

func TestTokensAreKnownUntilTheyAreDeletedOrThePasswordChanges(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.create(t, "ada", "correct horse"), w.create(t, "bob", "battery staple")
	first, second, bobs := w.token(t, ada.GetId()), w.token(t, ada.GetId()), w.token(t, bob.GetId())
	if first == second || len(first) < 40 || strings.Trim(first, "0123456789abcdef") != "" {
		t.Errorf("tokens %q and %q", first, second)
	}
	if n := pgtest.One[int](t, w, `select count(*)::int from account_token where encode(digest, 'hex') like '%' || $1 || '%'`, first); n != 0 {
		t.Error("a token is kept as it is")
	}
	for _, token := range []string{first, second} {
		if got, err := w.byToken(t, token); err != nil || got.GetUsername() != "ada" {
			t.Errorf("got %v, %v", got, err)
		}
	}
	for _, wrong := range []string{"", first[:47], first + "0", strings.ToUpper(first), "' or true --", "\xf0\x9f\x98\x80"} {
		_, err := w.byToken(t, wrong)
		denied(t, wrong, err)
	}
	for range 2 {
		if _, err := w.client.DeleteToken(t.Context(), &accessv1.DeleteTokenRequest{Token: first}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.byToken(t, first)
	denied(t, "a deleted token", err)
	if _, err := w.byToken(t, second); err != nil {
		t.Errorf("the other token: %v", err)
	}
	if _, err := w.client.SetPassword(t.Context(), &accessv1.SetPasswordRequest{Username: "ada", Password: "another one"}); err != nil {
		t.Fatal(err)
	}
	_, err = w.byToken(t, second)
	denied(t, "a token of before the password was changed", err)
	if _, err := w.byToken(t, bobs); err != nil {
		t.Errorf("somebody else's token: %v", err)
	}
	if _, err := w.client.CreateToken(t.Context(), &accessv1.CreateTokenRequest{UserId: 999}); !errs.Is(err, errs.UserNotFound) {
		t.Errorf("a token for nobody: %v", err)
	}
}

func TestATokenIsGoodForThirtyDaysFromItsLastUse(t *testing.T) {
	w := newWorld(t)
	ada := w.create(t, "ada", "correct horse")
	made, err := w.client.CreateToken(t.Context(), &accessv1.CreateTokenRequest{UserId: ada.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	token := made.GetToken()
	created := pgtest.One[time.Time](t, w, `select used_at from account_token`)
	if got := made.GetExpiresAt().AsTime(); !got.Equal(created.Add(30 * 24 * time.Hour)) {
		t.Errorf("it expires at %s, was made at %s", got, created)
	}
	age := func(by string) (used time.Time) {
		t.Helper()
		pgtest.Must(t, w, 1, `update account_token set used_at = now() - $1::text::interval`, by)
		return pgtest.One[time.Time](t, w, `select used_at from account_token`)
	}
	// Within the hour a use writes nothing.
	before := age("50 minutes")
	if _, err := w.byToken(t, token); err != nil {
		t.Fatal(err)
	}
	if after := pgtest.One[time.Time](t, w, `select used_at from account_token`); !after.Equal(before) {
		t.Errorf("used at %s, then at %s", before, after)
	}
	before = age("29 days 23 hours")
	if _, err := w.byToken(t, token); err != nil {
		t.Fatal(err)
	}
	if after := pgtest.One[time.Time](t, w, `select used_at from account_token`); !after.After(before.Add(29 * 24 * time.Hour)) {
		t.Errorf("used at %s, then at %s", before, after)
	}
	age("30 days 1 minute")
	for range 2 { // the first must not have made it young again
		_, err := w.byToken(t, token)
		denied(t, "after thirty days", err)
	}
	w.token(t, ada.GetId())
	if n := pgtest.One[int](t, w, `select count(*)::int from account_token`); n != 1 {
		t.Errorf("%d tokens are kept, the one that is over among them", n)
	}
}

func TestOfOneUserTheNewestHundredTokensAreKept(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.create(t, "ada", "correct horse"), w.create(t, "bob", "battery staple")
	bobs := w.token(t, bob.GetId())
	first := w.token(t, ada.GetId())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range (access.MostTokens - 1 + 7) / 8 {
				w.token(t, ada.GetId())
			}
		})
	}
	all.Wait()
	last := w.token(t, ada.GetId())
	if n := pgtest.One[int](t, w, `select count(*)::int from account_token where account_id = $1`, ada.GetId()); n != access.MostTokens {
		t.Errorf("%d tokens are kept, want %d", n, access.MostTokens)
	}
	_, err := w.byToken(t, first)
	denied(t, "the oldest", err)
	for _, token := range []string{last, bobs} {
		if _, err := w.byToken(t, token); err != nil {
			t.Error(err)
		}
	}
}

func TestDeletedUsersAreUnknownAndTheirNumbersAreNotGivenAgain(t *testing.T) {
	w := newWorld(t)
	ada := w.create(t, "ada", "correct horse")
	token := w.token(t, ada.GetId())
	if _, err := w.client.DeleteUser(t.Context(), &accessv1.DeleteUserRequest{Username: "ada"}); err != nil {
		t.Fatal(err)
	}
	_, err := w.byToken(t, token)
	denied(t, "the token", err)
	_, err = w.byPassword(t, "ada", "correct horse")
	denied(t, "the password", err)
	if _, err := w.client.DeleteUser(t.Context(), &accessv1.DeleteUserRequest{Username: "ada"}); !errs.Is(err, errs.UserNotFound) {
		t.Errorf("deleted again: %v", err)
	}
	if _, err := w.client.SetPassword(t.Context(), &accessv1.SetPasswordRequest{Username: "ada", Password: "another one"}); !errs.Is(err, errs.UserNotFound) {
		t.Errorf("a password for nobody: %v", err)
	}
	if again := w.create(t, "ada", "correct horse"); again.GetId() == ada.GetId() {
		t.Error("her number was given again: the tasks of the first would be hers")
	}
}

func TestTheFirstUserIsMadeOnceAndOnlyIfThereIsNone(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := w.service.CreateFirst(t.Context(), "admin", access.WellKnownPassword); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	users, err := w.service.CreateFirst(t.Context(), "second", "another password")
	if err != nil || len(users) != 1 || users[0].ID != 1 || users[0].Username != "admin" || !users[0].WellKnown {
		t.Errorf("%+v, %v", users, err)
	}
	got, err := w.byPassword(t, "admin", "password")
	if err != nil || !got.GetWellKnownPassword() {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := w.client.SetPassword(t.Context(), &accessv1.SetPasswordRequest{Username: "admin", Password: "a good one"}); err != nil {
		t.Fatal(err)
	}
	if got, err := w.byPassword(t, "admin", "a good one"); err != nil || got.GetWellKnownPassword() {
		t.Errorf("%v, %v", got, err)
	}
	if other := w.create(t, "other", access.WellKnownPassword); !other.GetWellKnownPassword() {
		t.Error("whoever chooses it, everybody knows it")
	}
	listed, err := w.client.ListUsers(t.Context(), &accessv1.ListUsersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, user := range listed.GetUsers() {
		names = append(names, fmt.Sprint(user.GetUsername(), user.GetWellKnownPassword()))
	}
	if fmt.Sprint(names) != "[adminfalse othertrue]" {
		t.Errorf("listed %v", names)
	}
}

func TestNoPasswordNoTokenAndNoUnknownNameIsLogged(t *testing.T) {
	w := newWorld(t)
	ada := w.create(t, "ada", "correct horse")
	token := w.token(t, ada.GetId())
	for range 2 {
		_, _ = w.byPassword(t, "ada", "battery staple")
		_, _ = w.byPassword(t, "mistyped secret", "battery staple")
	}
	_, _ = w.byPassword(t, "ada", "correct horse")
	_, _ = w.byToken(t, token)
	_, _ = w.byToken(t, "0123456789")
	if _, err := w.client.SetPassword(t.Context(), &accessv1.SetPasswordRequest{Username: "ada", Password: "tr0ub4dor&3"}); err != nil {
		t.Fatal(err)
	}
	said := w.logs.String()
	if !strings.Contains(said, "a wrong password was given") || !strings.Contains(said, here) {
		t.Errorf("wrong passwords are not logged:\n%s", said)
	}
	for _, secret := range []string{"horse", "battery", token, "0123456789", "mistyped", "tr0ub4dor", "argon2"} {
		if strings.Contains(said, secret) {
			t.Errorf("%q is logged:\n%s", secret, said)
		}
	}
}

// away is a database that nobody reaches.
type away struct{ access.Database }

func (away) ByName(context.Context, string) (access.Account, bool, error) {
	return access.Account{}, false, errs.Away(errs.DatabaseAway, errors.New("refused"), "the database can't be reached")
}

func TestWhenTheDatabaseIsAwayNobodyIsCalledUnknown(t *testing.T) {
	service := access.New(away{}, slog.New(slog.DiscardHandler))
	conn, _ := rpctest.Serve(t, service.Register)
	client := accessv1.NewAccessServiceClient(conn)
	for range 5 { // which is no failure of who asks
		_, err := client.Authenticate(t.Context(), &accessv1.AuthenticateRequest{
			Credentials: &accessv1.AuthenticateRequest_Password{Password: &accessv1.Password{Username: "ada", Password: "correct horse"}},
		})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
	}
}

func TestNotMorePasswordsThanProcessorsAreComputedAtATime(t *testing.T) {
	if got, most := cap(access.New(away{}, slog.New(slog.DiscardHandler)).Computing()), max(1, runtime.GOMAXPROCS(0)/2); got != most {
		t.Errorf("%d at a time, want %d", got, most)
	}
}

func BenchmarkPassword(b *testing.B) {
	kept := access.Conceal("correct horse")
	for b.Loop() {
		if ok, err := access.Matches(kept, "correct horse"); !ok {
			b.Fatal(err)
		}
	}
}
