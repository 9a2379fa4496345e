package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/sluice-tasks/sluice/pkg/errs"
)

const (
	// WellKnownPassword is the one that `sluice dev` gives its first user.
	WellKnownPassword = "password"
	// tokenSize is in random bytes, a token shows each as two hexadecimal digits.
	tokenSize = 24
	// tokenLife is how long a token is good after its last use.
	tokenLife = 30 * 24 * time.Hour
	// usedEvery is how exactly that is known.
	usedEvery = time.Hour
	// mostTokens of one user are kept.
	mostTokens = 100
)

// User may use Sluice.
type User struct {
	// ID counts from 1.
	ID        int64
	Username  string
	CreatedAt time.Time
	// WellKnown: the password is one that everybody knows.
	WellKnown bool
}

// Account is a user together with the password as it is kept.
type Account struct {
	User

	// Secret is in PHC form.
	Secret string
}

// Database is the SQL that the service needs. What does not exist is reported with false, not as an error.
type Database interface {
	// ByName returns an account.
	ByName(ctx context.Context, username string) (Account, bool, error)
	// ByToken returns whose token has the digest, if it was used within its life. That is written if it is not known to within every.
	ByToken(ctx context.Context, digest [sha256.Size]byte, life, every time.Duration) (User, bool, error)
	// Users returns all, by name.
	Users(ctx context.Context) ([]User, error)
	// Create makes an account; with alone only if there is no other. It reports false if there is, or the name is taken.
	Create(ctx context.Context, a Account, alone bool) (User, bool, error)
	// Replace changes how a password is kept, unless it was changed itself.
	Replace(ctx context.Context, id int64, before, after string) error
	// SetSecret changes a password, and ends the tokens of the user.
	SetSecret(ctx context.Context, username, secret string, wellKnown bool) (bool, error)
	// Delete removes an account with its tokens.
	Delete(ctx context.Context, username string) (bool, error)
	// AddToken gives a user a token, and keeps the newest.
	AddToken(ctx context.Context, user int64, digest [sha256.Size]byte, keep int, life time.Duration) (expires time.Time, found bool, err error)
	// DeleteToken ends a token.
	DeleteToken(ctx context.Context, digest [sha256.Size]byte) error
}

// Service is one access service. Several know the same users, and count wrong guesses each for itself.
type Service struct {
	db   Database
	log  *slog.Logger
	gate *gate
	// computing holds a place for each password that is computed.
	computing chan struct{}
}

// New makes an access service.
func New(db Database, log *slog.Logger) *Service {
	return &Service{db: db, log: log, gate: newGate(), computing: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// errWrong is the one answer to everything that is wrong: the password, the name, the token, its age.
func errWrong() error { return errs.Denied(errs.BadCredentials, "wrong credentials") }

// errUnknown names who does not exist.
func errUnknown(username string) error {
	return errs.NotFound(errs.UserNotFound, "no user %q", username)
}

// byPassword tells whose password that is. client is an IP address, or empty.
func (s *Service) byPassword(ctx context.Context, username, password, client string) (User, error) {
	q := s.gate.guess(username, password, client)
	if again, err := s.repeats(ctx, q); err != nil || again {
		return User{}, err
	}
	leave, err := s.gate.enter(ctx, q)
	if err != nil {
		return User{}, err
	}
	came := unknown
	defer func() { leave(came) }()

	// Read now, not before: who waited must not come in with what was changed meanwhile.
	account, known, err := s.find(ctx, username)
	if err != nil {
		return User{}, err
	}
	kept := nobodys
	if known {
		if kept, err = parseSecret(account.Secret); err != nil {
			return User{}, fmt.Errorf("compare the password of user %d: %w", account.ID, err)
		}
	}
	matches, err := s.matches(ctx, kept, password)
	if err != nil {
		return User{}, err
	}
	if !matches || !known {
		came = wrong
		s.gate.wasWrong(q, account.Secret)
		s.log.InfoContext(ctx, "a wrong password was given", slog.Int64("user", account.ID), slog.String("client", client))
		return User{}, errWrong()
	}
	came = right
	if kept.cost != usual {
		s.renew(ctx, account, password)
	}
	return account.User, nil
}

// repeats answers who gives the same wrong password again.
func (s *Service) repeats(ctx context.Context, q guess) (again bool, err error) {
	kept, known := s.gate.knowsWrong(q)
	if !known {
		return false, nil
	}
	account, _, err := s.find(ctx, q.name)
	if err != nil || account.Secret != kept {
		return false, err
	}
	if err := s.gate.repeat(ctx, q); err != nil {
		return true, err
	}
	return true, errWrong()
}

// find returns an account. A name that nobody can have is not looked for.
func (s *Service) find(ctx context.Context, username string) (Account, bool, error) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@.+-_"
	if username == "" || strings.Trim(username, letters) != "" {
		return Account{}, false, nil
	}
	return s.db.ByName(ctx, username)
}

// matches compares when there is a place for it.
func (s *Service) matches(ctx context.Context, kept secret, password string) (bool, error) {
	leave, err := enter(ctx, s.computing)
	if err != nil {
		return false, err
	}
	defer leave()
	return kept.matches(password), nil
}

// conceal computes when there is a place for it.
func (s *Service) conceal(ctx context.Context, password string) (string, error) {
	leave, err := enter(ctx, s.computing)
	if err != nil {
		return "", err
	}
	defer leave()
	return conceal(password), nil
}

// renew keeps a password in today's way. The user need not know if that fails.
func (s *Service) renew(ctx context.Context, account Account, password string) {
	kept, err := s.conceal(ctx, password)
	if err == nil {
		err = s.db.Replace(ctx, account.ID, account.Secret, kept)
	}
	if err != nil {
		s.log.WarnContext(ctx, "can't keep a password in today's way", slog.Int64("user", account.ID), slog.Any("error", err))
	}
}

// byToken tells whose token that is. Wrong ones are not counted: nobody guesses one of 192 bits.
func (s *Service) byToken(ctx context.Context, token string) (User, error) {
	user, known, err := s.db.ByToken(ctx, sha256.Sum256([]byte(token)), tokenLife, usedEvery)
	if err != nil {
		return User{}, err
	}
	if !known {
		return User{}, errWrong()
	}
	return user, nil
}

// newToken gives a user a token.
func (s *Service) newToken(ctx context.Context, user int64) (token string, expires time.Time, err error) {
	random := make([]byte, tokenSize)
	_, _ = rand.Read(random) // crypto/rand.Read never returns an error since Go 1.24
	token = hex.EncodeToString(random)
	expires, found, err := s.db.AddToken(ctx, user, sha256.Sum256([]byte(token)), mostTokens, tokenLife)
	if err != nil {
		return "", time.Time{}, err
	}
	if !found {
		return "", time.Time{}, errs.NotFound(errs.UserNotFound, "no user %d", user)
	}
	return token, expires, nil
}

// create makes a user.
func (s *Service) create(ctx context.Context, username, password string) (User, error) {
	kept, err := s.conceal(ctx, password)
	if err != nil {
		return User{}, err
	}
	user, made, err := s.db.Create(ctx, Account{User: User{Username: username, WellKnown: password == WellKnownPassword}, Secret: kept}, false)
	if err != nil {
		return User{}, err
	}
	if !made {
		return User{}, errs.Exists(errs.UserExists, "there is a user %q already", username)
	}
	s.log.InfoContext(ctx, "made a user", slog.String("username", username), slog.Int64("user", user.ID))
	return user, nil
}

// CreateFirst makes a user if there is none, and returns all that there are. It may be called by several processes at a time.
func (s *Service) CreateFirst(ctx context.Context, username, password string) ([]User, error) {
	users, err := s.db.Users(ctx)
	if err != nil || len(users) > 0 {
		return users, err
	}
	kept, err := s.conceal(ctx, password)
	if err != nil {
		return nil, err
	}
	account := Account{User: User{Username: username, WellKnown: password == WellKnownPassword}, Secret: kept}
	if _, _, err := s.db.Create(ctx, account, true); err != nil {
		return nil, err
	}
	return s.db.Users(ctx)
}

// setPassword changes a password.
func (s *Service) setPassword(ctx context.Context, username, password string) error {
	kept, err := s.conceal(ctx, password)
	if err != nil {
		return err
	}
	found, err := s.db.SetSecret(ctx, username, kept, password == WellKnownPassword)
	if err != nil {
		return err
	}
	if !found {
		return errUnknown(username)
	}
	s.log.InfoContext(ctx, "changed a password", slog.String("username", username))
	return nil
}

// remove deletes a user.
func (s *Service) remove(ctx context.Context, username string) error {
	found, err := s.db.Delete(ctx, username)
	if err != nil {
		return err
	}
	if !found {
		return errUnknown(username)
	}
	s.log.InfoContext(ctx, "deleted a user", slog.String("username", username))
	return nil
}

// Run waits for the end. Then nobody waits for a turn any longer.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	close(s.gate.stopped)
	return nil
}

// Ready always reports nil: who can't be told is told so.
func (s *Service) Ready(context.Context) error { return nil }

// enter takes one of the places, and leave gives it back.
func enter(ctx context.Context, places chan struct{}) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
