package access

import (
	"context"
	"crypto/sha256"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	accessv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/access/v1"
)

// Register adds the service to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	accessv1.RegisterAccessServiceServer(r, server{service: s})
}

// server is the gRPC face. Limits were checked before it is reached.
type server struct {
	accessv1.UnimplementedAccessServiceServer

	service *Service
}

// Authenticate tells whose credentials these are.
func (s server) Authenticate(ctx context.Context, req *accessv1.AuthenticateRequest) (*accessv1.AuthenticateResponse, error) {
	var user User
	var err error
	switch given := req.GetCredentials().(type) {
	case *accessv1.AuthenticateRequest_Password:
		user, err = s.service.byPassword(ctx, given.Password.GetUsername(), given.Password.GetPassword(), req.GetClient())
	case *accessv1.AuthenticateRequest_Token:
		user, err = s.service.byToken(ctx, given.Token)
	default:
		err = errs.Invalid(errs.Violation{Field: "credentials", Rule: "is required"})
	}
	if err != nil {
		return nil, err
	}
	return &accessv1.AuthenticateResponse{User: shown(user)}, nil
}

// CreateToken makes a token.
func (s server) CreateToken(ctx context.Context, req *accessv1.CreateTokenRequest) (*accessv1.CreateTokenResponse, error) {
	token, expires, err := s.service.newToken(ctx, req.GetUserId())
	if err != nil {
		return nil, err
	}
	return &accessv1.CreateTokenResponse{Token: token, ExpiresAt: timestamppb.New(expires)}, nil
}

// DeleteToken ends a token.
func (s server) DeleteToken(ctx context.Context, req *accessv1.DeleteTokenRequest) (*accessv1.DeleteTokenResponse, error) {
	if err := s.service.db.DeleteToken(ctx, sha256.Sum256([]byte(req.GetToken()))); err != nil {
		return nil, err
	}
	return &accessv1.DeleteTokenResponse{}, nil
}

// CreateUser makes a user.
func (s server) CreateUser(ctx context.Context, req *accessv1.CreateUserRequest) (*accessv1.CreateUserResponse, error) {
	user, err := s.service.create(ctx, req.GetUsername(), req.GetPassword())
	if err != nil {
		return nil, err
	}
	return &accessv1.CreateUserResponse{User: shown(user)}, nil
}

// ListUsers lists users.
func (s server) ListUsers(ctx context.Context, _ *accessv1.ListUsersRequest) (*accessv1.ListUsersResponse, error) {
	users, err := s.service.db.Users(ctx)
	if err != nil {
		return nil, err
	}
	answer := &accessv1.ListUsersResponse{}
	for _, user := range users {
		answer.Users = append(answer.Users, shown(user))
	}
	return answer, nil
}

// SetPassword changes a password.
func (s server) SetPassword(ctx context.Context, req *accessv1.SetPasswordRequest) (*accessv1.SetPasswordResponse, error) {
	if err := s.service.setPassword(ctx, req.GetUsername(), req.GetPassword()); err != nil {
		return nil, err
	}
	return &accessv1.SetPasswordResponse{}, nil
}

// DeleteUser removes a user.
func (s server) DeleteUser(ctx context.Context, req *accessv1.DeleteUserRequest) (*accessv1.DeleteUserResponse, error) {
	if err := s.service.remove(ctx, req.GetUsername()); err != nil {
		return nil, err
	}
	return &accessv1.DeleteUserResponse{}, nil
}

func shown(u User) *accessv1.User {
	return &accessv1.User{Id: u.ID, Username: u.Username, CreatedAt: timestamppb.New(u.CreatedAt), WellKnownPassword: u.WellKnown}
}
