package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
)

const (
	headerAuthorization = "Authorization"
	headerForwarded     = "X-Forwarded-For"

	// knownFor is how long credentials that were right are taken for right: a changed password, a deleted token or a deleted user is
	// of use for that long where it was used just before.
	knownFor = 30 * time.Second
	// mostKnown credentials are remembered.
	mostKnown = 1_000
	// askWait bounds the question whose credentials these are. After wrong ones the answer is made to take long.
	askWait = 30 * time.Second
)

// caller is who made a request. The zero value is nobody.
type caller struct {
	id   int64
	name string
}

// administrator is everybody where there are no users.
var administrator = caller{id: 1, name: "admin"}

// callers tells who makes a request.
type callers struct {
	access accessv1.AccessServiceClient // nil: everybody is the administrator
	log    *slog.Logger
	// refuseWellKnown lets nobody in whose password everybody knows.
	refuseWellKnown bool

	// secret keeps credentials unreadable in memory.
	secret []byte
	// asking lets the same credentials be asked about once at a time: a page of a browser asks for many things at the same time.
	asking singleflight.Group

	mu sync.Mutex
	// known are those that were right, by what stands for them. What was wrong is asked about again: the delay that this has is
	// the access service's.
	known map[[sha256.Size]byte]knownCaller
}

type knownCaller struct {
	caller caller
	until  time.Time
}

func newCallers(access grpc.ClientConnInterface, refuseWellKnown bool, log *slog.Logger) *callers {
	c := &callers{
		log: log, refuseWellKnown: refuseWellKnown, secret: make([]byte, sha256.Size), known: map[[sha256.Size]byte]knownCaller{},
	}
	_, _ = rand.Read(c.secret) // crypto/rand.Read never returns an error since Go 1.24
	if access != nil {
		c.access = accessv1.NewAccessServiceClient(access)
	}
	return c
}

// identify tells who makes a request for a path below the API root. What may be asked by anybody is answered for nobody, whatever
// credentials come with it.
func (c *callers) identify(r *http.Request, path string) (caller, *refusal) {
	switch {
	case c.access == nil:
		return administrator, nil
	case isOpen(r, path):
		return caller{}, nil
	}
	given, wrong := readCredentials(r)
	if wrong != nil {
		return caller{}, wrong
	}
	if who, known := c.remembered(c.digest(given)); known {
		return who, nil
	}
	return c.ask(r, given)
}

// isOpen reports whether a path below the API root may be asked for by anybody. The path has no slash at its end.
func isOpen(r *http.Request, path string) bool {
	segments := strings.Split(strings.TrimPrefix(path, "/api/v"), "/")
	switch {
	case path == pathIndex:
		return true
	case len(segments) == 2 && segments[1] == "status", len(segments) == 2 && segments[1] == "livez":
		return true
	case len(segments) >= 2 && segments[1] == "docs":
		return true
	case len(segments) == 5 && segments[1] == "tasks" && segments[3] == "profile_artifacts":
		// The address names a key that only its task's readers know; who answers compares it.
		return r.URL.Query().Get("key") != ""
	}
	return false
}

// credentials are what a request says of its caller: a token, or a name and a password.
type credentials struct {
	token, username, password string
}

func (g credentials) request(client string) *accessv1.AuthenticateRequest {
	if g.token != "" {
		return &accessv1.AuthenticateRequest{Credentials: &accessv1.AuthenticateRequest_Token{Token: g.token}, Client: client}
	}
	return &accessv1.AuthenticateRequest{
		Credentials: &accessv1.AuthenticateRequest_Password{Password: &accessv1.Password{Username: g.username, Password: g.password}},
		Client:      client,
	}
}

// denied is the answer to who gave these.
func (g credentials) denied(r *http.Request) *refusal {
	if g.token != "" {
		return unauthorized(r, "Invalid token.")
	}
	return unauthorized(r, "Invalid username/password.")
}

// readCredentials reads the header. The texts of its refusals are Django's.
func readCredentials(r *http.Request) (credentials, *refusal) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(r.Header.Get(headerAuthorization)), " ")
	rest = strings.TrimSpace(rest)
	switch strings.ToLower(scheme) {
	case "basic":
		return readBasic(r, rest)
	case "token", "bearer":
		given := credentials{token: rest}
		switch {
		case rest == "":
			return given, unauthorized(r, "Invalid token header. No credentials provided.")
		case strings.ContainsAny(rest, " \t"):
			return given, unauthorized(r, "Invalid token header. Token string should not contain spaces.")
		case len(rest) > limits.MaxToken || !utf8.ValidString(rest):
			return given, given.denied(r)
		}
		return given, nil
	default:
		return credentials{}, unauthorized(r, "Authentication credentials were not provided.")
	}
}

func readBasic(r *http.Request, encoded string) (given credentials, wrong *refusal) {
	switch {
	case encoded == "":
		return given, unauthorized(r, "Invalid basic header. No credentials provided.")
	case strings.ContainsAny(encoded, " \t"):
		return given, unauthorized(r, "Invalid basic header. Credentials string should not contain spaces.")
	}
	bytes, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return given, unauthorized(r, "Invalid basic header. Credentials not correctly base64 encoded.")
	}
	given.username, given.password, _ = strings.Cut(decoded(bytes), ":")
	if len(given.username) > limits.MaxUsername || len(given.password) > limits.MaxPassword {
		return given, given.denied(r) // nobody has those
	}
	return given, nil
}

// decoded reads what is not UTF-8 as Latin-1, as old browsers send it.
func decoded(bytes []byte) string {
	if utf8.Valid(bytes) {
		return string(bytes)
	}
	runes := make([]rune, len(bytes))
	for i, b := range bytes {
		runes[i] = rune(b)
	}
	return string(runes)
}

// unauthorized asks for credentials. A browser would show a dialog for those of a page's script; with a scheme that it does not know
// it leaves them to the script.
func unauthorized(r *http.Request, text string) *refusal {
	answer := detail(http.StatusUnauthorized, text)
	answer.challenge = `Basic realm="api"`
	if strings.EqualFold(r.Header.Get("X-Requested-With"), "XMLHttpRequest") {
		answer.challenge = "x" + answer.challenge
	}
	return answer
}

// ask asks the access service, together with those who ask the same at the same time from the same address.
func (c *callers) ask(r *http.Request, given credentials) (caller, *refusal) {
	ctx, client, digest := r.Context(), clientAddress(r), c.digest(given)
	//nolint:spancheck // of who is not known there are no spans: one that is not ended is never shown
	_, span := trace.SpanFromContext(ctx).TracerProvider().Tracer(scopeName).Start(ctx, "authenticate")
	asked := c.asking.DoChan(client+" "+string(digest[:]), func() (any, error) {
		// Whoever asked first may go away, the others still want to know. And it is below nobody's trace: who is not known yet
		// gets no spans, see observer.end.
		ctx := trace.ContextWithSpanContext(context.WithoutCancel(ctx), trace.SpanContext{})
		ctx, cancel := context.WithTimeout(ctx, askWait)
		defer cancel()
		answer, err := c.access.Authenticate(ctx, given.request(client))
		if err != nil {
			return nil, err
		}
		user := answer.GetUser()
		if c.refuseWellKnown && user.GetWellKnownPassword() {
			c.log.WarnContext(ctx, "somebody was refused whose password everybody knows: sluice user password", slog.Int64("user", user.GetId()))
			return nil, errs.Denied(errs.BadCredentials, "a password that everybody knows")
		}
		who := caller{id: user.GetId(), name: user.GetUsername()}
		c.remember(digest, who)
		return who, nil
	})
	select {
	case answer := <-asked:
		if who, ok := answer.Val.(caller); ok {
			span.End()
			return who, nil
		}
		return caller{}, c.refused(r, given, answer.Err)
	case <-ctx.Done():
		return caller{}, detail(statusClientGone, "The client closed the request.") //nolint:spancheck // the same
	}
}

// refused makes the answer for who was not recognized, or could not be.
func (c *callers) refused(r *http.Request, given credentials, err error) *refusal {
	var own *errs.Error
	if !errors.As(errs.From(err), &own) {
		own = &errs.Error{}
	}
	//nolint:exhaustive // whatever else happened, it was not told who it is
	switch own.Code {
	case codes.Unauthenticated, codes.InvalidArgument, codes.NotFound: // what no user can have, or a user that is just deleted
		return given.denied(r)
	case codes.ResourceExhausted:
		return later(http.StatusTooManyRequests, "Too many wrong passwords. Try again later.", own.RetryAfter)
	}
	c.log.WarnContext(r.Context(), "can't ask who makes a request", slog.Any("error", err))
	return later(http.StatusServiceUnavailable, "It can't be told right now who you are.", own.RetryAfter)
}

// digest stands for credentials, however the header spells them: a token that is ended must not live on as "Bearer" for having been
// sent as "Token".
func (c *callers) digest(given credentials) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, c.secret)
	_, _ = fmt.Fprintf(mac, "%q %q %q", given.token, given.username, given.password) // a hash takes everything
	mac.Sum(sum[:0])
	return sum
}

func (c *callers) remembered(digest [sha256.Size]byte) (caller, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, found := c.known[digest]
	if !found || time.Now().After(known.until) {
		return caller{}, false
	}
	return known.caller, true
}

func (c *callers) remember(digest [sha256.Size]byte, who caller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if _, known := c.known[digest]; !known && len(c.known) >= mostKnown {
		for other, k := range c.known {
			if now.After(k.until) {
				delete(c.known, other)
			}
		}
		for other := range c.known { // none was old: any will do, it only has to be asked about again
			if len(c.known) < mostKnown {
				break
			}
			delete(c.known, other)
		}
	}
	c.known[digest] = knownCaller{caller: who, until: now.Add(knownFor)}
}

func (c *callers) forget(digest [sha256.Size]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, digest)
}

// clientAddress is where a request comes from, an IP address. A proxy on this machine is believed where its own requests come from;
// what others say could be anything.
func clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	peer := net.ParseIP(host)
	if peer == nil {
		return ""
	}
	if peer.IsLoopback() {
		// Each proxy appends whom it heard from: the last one is what ours has seen itself.
		said := strings.Split(strings.Join(r.Header.Values(headerForwarded), ","), ",")
		if ip := net.ParseIP(strings.TrimSpace(said[len(said)-1])); ip != nil {
			return ip.String()
		}
	}
	return peer.String()
}

// newToken gives the caller of a request a token. Credentials that were right before don't count here: what comes of it is good for
// longer.
func (c *callers) newToken(r *http.Request) (string, *refusal) {
	if c.access == nil {
		return rand.Text() + rand.Text(), nil // any will do
	}
	given, wrong := readCredentials(r)
	if wrong != nil {
		return "", wrong
	}
	who, wrong := c.ask(r, given)
	if wrong != nil {
		return "", wrong
	}
	made, err := c.access.CreateToken(r.Context(), &accessv1.CreateTokenRequest{UserId: who.id})
	if err != nil {
		return "", c.refused(r, given, fmt.Errorf("make a token: %w", err))
	}
	return made.GetToken(), nil
}

// deleteToken ends the token that the request came with.
func (c *callers) deleteToken(r *http.Request) *refusal {
	if c.access == nil {
		return nil
	}
	given, wrong := readCredentials(r)
	if wrong != nil {
		return wrong
	}
	if given.token == "" {
		return detail(http.StatusBadRequest, "Send the token that is to end: \"Authorization: Token <token>\".")
	}
	if _, wrong := c.ask(r, given); wrong != nil {
		return wrong
	}
	if _, err := c.access.DeleteToken(r.Context(), &accessv1.DeleteTokenRequest{Token: given.token}); err != nil {
		return c.refused(r, given, fmt.Errorf("end a token: %w", err))
	}
	c.forget(c.digest(given))
	return nil
}
