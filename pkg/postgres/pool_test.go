package postgres_test

import (
	"encoding/json"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/sluice-tasks/sluice/pkg/postgres"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestOpenTakesURLsAndKeywords(t *testing.T) {
	url := pgtest.URL(t)
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	keywords := "host=" + cfg.Host + " user=" + cfg.User + " dbname=" + cfg.Database + " password='" + cfg.Password + "'"
	for _, dsn := range []string{url, keywords} {
		pool := pgtest.Open(t, dsn)
		var name string
		if err := pool.QueryRow(t.Context(), "select current_database()").Scan(&name); err != nil {
			t.Fatal(err)
		}
		if name != cfg.Database {
			t.Errorf("connected to %s, want %s", name, cfg.Database)
		}
	}
}

// with adds a setting to a database URL.
func with(t *testing.T, database, setting, value string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set(setting, value)
	u.RawQuery = query.Encode()
	return u.String()
}

func TestOpenBoundsThePoolUnlessTheURLSaysOtherwise(t *testing.T) {
	url := pgtest.URL(t)
	for _, tc := range []struct {
		url  string
		opts postgres.Options
		want int32
	}{
		{url, postgres.Options{}, postgres.DefaultMaxConns},
		{url, postgres.Options{MaxConns: 3}, 3},
		{with(t, url, "pool_max_conns", "5"), postgres.Options{MaxConns: 3}, 5},
	} {
		pool, err := postgres.Open(t.Context(), tc.url, tc.opts)
		if err != nil {
			t.Fatal(err)
		}
		if got := pool.Config().MaxConns; got != tc.want {
			t.Errorf("MaxConns with %+v = %d, want %d", tc.opts, got, tc.want)
		}
		pool.Close()
	}
}

func TestApplicationNameIsShown(t *testing.T) {
	url := pgtest.URL(t)
	for _, tc := range []struct{ url, option, want string }{
		{url, "", "sluice"},
		{url, "sluice status", "sluice status"},
		{with(t, url, "application_name", "mine"), "sluice status", "mine"},
	} {
		pool, err := postgres.Open(t.Context(), tc.url, postgres.Options{ApplicationName: tc.option})
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := pool.QueryRow(t.Context(), "show application_name").Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != tc.want {
			t.Errorf("application_name = %q, want %q", got, tc.want)
		}
		pool.Close()
	}
}

func TestOpenPreparesNothingEvenIfTheURLAsksForIt(t *testing.T) {
	url := pgtest.URL(t)
	statements := pgtest.LogStatements(t, url)
	pool := pgtest.Open(t, with(t, url, "default_query_exec_mode", "cache_statement"))
	for range 3 {
		if _, err := pool.Exec(t.Context(), "select $1::int", 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range statements() {
		if strings.HasPrefix(s, "execute ") && !strings.HasPrefix(s, "execute <unnamed>: ") {
			t.Errorf("a statement was prepared by name: %s", s)
		}
	}
}

func TestErrorsDoNotShowThePassword(t *testing.T) {
	const secret = "hunter2"
	for _, url := range []string{
		"postgres://user:" + secret + "@127.0.0.1:1/db",                                      // nobody listens
		"postgres://user:" + secret + "@127.0.0.1:port/db",                                   // not a port
		"postgres://user:a/" + secret + "@host/db",                                           // an unescaped slash ends the host
		"postgres://user:%zz" + secret + "@host/db",                                          // not an escape
		"postgres://user:" + secret + "#@[::1/db",                                            // not a host
		"postgres://h/db?password=" + secret + "&sslmode=maybe",                              // not a mode
		"host=127.0.0.1 port=1 user=u password=" + secret,                                    // nobody listens
		"host=h port=x password=" + secret,                                                   // not a port
		"host=h password='" + secret,                                                         // not closed
		"host=h password = '" + secret + "' sslmode=maybe",                                   // spaces around the sign
		"postgres://u@h/db?sslrootcert=/nowhere&password=" + secret + "&sslmode=verify-full", // no file
		secret,
	} {
		_, err := postgres.Open(t.Context(), url, postgres.Options{})
		if err == nil {
			t.Fatalf("%s: opened", url)
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error shows the password: %v", url, err)
		}
		if err := postgres.Migrate(t.Context(), url, quiet()); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: migrate shows the password: %v", url, err)
		}
	}
}

func TestOpenNamesAFileThatTheURLNeeds(t *testing.T) {
	_, err := postgres.Open(t.Context(), "postgres://u@h/db?sslmode=verify-full&sslrootcert=/nowhere/ca.pem", postgres.Options{})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/ca.pem") {
		t.Errorf("error = %v, want the file in it", err)
	}
}

func TestOpenGivesUpOnAServerThatDoesNotAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, err = postgres.Open(t.Context(), "postgres://u@"+silent.Addr().String()+"/db?sslmode=disable",
		postgres.Options{PingTimeout: 50 * time.Millisecond})
	if !postgres.IsUnavailable(err) {
		t.Errorf("error = %v, want one that is unavailable", err)
	}
}

// TestExecModeCarriesOurTypes holds what the package doc says about parameters: their types come from the Go types,
// with no word from the server.
func TestExecModeCarriesOurTypes(t *testing.T) {
	pool := pgtest.New(t)
	now := time.Date(2026, 11, 22, 13, 14, 15, 123456000, time.UTC)
	id := uuid.MustParse("0198c0de-0000-7000-8000-000000000001")
	var none *string
	for _, tc := range []struct {
		sql  string
		arg  any
		want string
	}{
		{"select ($1::text[])[2]", []string{"a", `quo"te, comma`}, `quo"te, comma`},
		{"select cardinality($1::text[])::text", []string{}, "0"},
		{"select ($1::uuid)::text", id, id.String()},
		{"select ($1::uuid[])[1]::text", []uuid.UUID{id}, id.String()},
		{"select ($1::bigint + 1)::text", int64(1) << 40, "1099511627777"},
		{"select ($1::bigint[])[1]::text", []int64{7}, "7"},
		{"select ($1::jsonb->>'a')", `{"a": "b"}`, "b"},
		{"select ($1::jsonb->>'a')", json.RawMessage(`{"a": "b"}`), "b"},
		{"select encode($1::bytea, 'hex')", []byte{0, 255}, "00ff"},
		{"select ($1::timestamptz at time zone 'utc')::text", now, "2026-11-22 13:14:15.123456"},
		{"select ($1::interval * 2)::text", 90 * time.Second, "00:03:00"},
		{"select ($1::boolean)::text", true, "true"},
		{"select coalesce($1::text, 'null')", none, "null"},
		{"select coalesce($1::text, 'null')", nil, "null"},
		{"select coalesce($1::text[], array['none'])::text", []string(nil), "{none}"},
	} {
		var got string
		if err := pool.QueryRow(t.Context(), tc.sql, tc.arg).Scan(&got); err != nil {
			t.Errorf("%s with %T: %v", tc.sql, tc.arg, err)
			continue
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s with %T (-want +got):\n%s", tc.sql, tc.arg, diff)
		}
	}
}

func TestUUIDsComeBackAlsoInArraysAndNull(t *testing.T) {
	pool := pgtest.New(t)
	want := []uuid.UUID{uuid.MustParse("0198c0de-0000-7000-8000-000000000001"), uuid.MustParse("0198c0de-0000-7000-8000-000000000002")}
	var one uuid.UUID
	var none *uuid.UUID
	var all []uuid.UUID
	err := pool.QueryRow(t.Context(), "select $1::uuid, null::uuid, array_agg(u order by u) from unnest($2::uuid[]) u", want[0], want).
		Scan(&one, &none, &all)
	if err != nil {
		t.Fatal(err)
	}
	if one != want[0] || none != nil || !cmp.Equal(all, want) {
		t.Errorf("got %v, %v, %v", one, none, all)
	}
}
