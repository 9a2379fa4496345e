package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"google.golang.org/grpc"

	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
)

// MostKnown is how many credentials are remembered.
const MostKnown = mostKnown

// asked plays the access service without a connection.
type asked struct {
	accessv1.AccessServiceClient

	answer func() error
}

// Authenticate recognizes everybody unless the answer is an error.
func (a asked) Authenticate(context.Context, *accessv1.AuthenticateRequest, ...grpc.CallOption) (*accessv1.AuthenticateResponse, error) {
	if err := a.answer(); err != nil {
		return nil, err
	}
	return &accessv1.AuthenticateResponse{User: &accessv1.User{Id: 7, Username: "ada"}}, nil
}

// NewCallers asks answer who makes a request, and reports whether somebody was recognized by a header.
func NewCallers(answer func() error) (known func(authorization string) bool) {
	c := newCallers(nil, false, slog.New(slog.DiscardHandler))
	c.access = asked{answer: answer}
	return func(authorization string) bool {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set(headerAuthorization, authorization)
		who, refused := c.identify(r, "/api/v3/tasks")
		return refused == nil && who.id == 7
	}
}
