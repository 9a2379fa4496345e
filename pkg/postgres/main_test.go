package postgres_test

import (
	"log/slog"
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
