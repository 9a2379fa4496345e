package access_test

import (
	"testing"

	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
